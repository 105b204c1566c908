"""One timed run, in a process of its own: a training, ten answers or a set of probes, by us or by a reference.

What is counted. Training: tokens of the rows, padding left out, in every update but the first, and the seconds of
those updates; neither loading, nor looks at held-out rows, nor saving. Model FLOPs: 6N a token for all weights, 4N
for an adapter on frozen ones, whose gradients are not computed (Kaplan et al. 2020, "Scaling laws for neural language
models", section 2.1). N is, as that convention has it, the model's parameters, tied ones once, the adapter's left
out; attention scores, recomputation and the products that one side manages to leave out do not change it.
Memory: the most bytes that the process held while it loaded and trained or answered.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, set_peft_model_state_dict
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.bench.baselines import SIDES as BASELINES_SIDES
from helpers.bench.baselines import Generate, llama, one_by_one, score_one_by_one, trainer, weights_of
from helpers.bench.baselines import train as baselines_train
from helpers.core import Settings, base_model_folder, device_name, peak_memory
from helpers.models import (
    generate_answers,
    load_model,
    load_outline,
    load_tokenizer,
    prompt_ids,
    read_manifest,
    score_options,
)
from helpers.training import (
    TrainConfig,
    TrainData,
    adapter_config,
    add_adapter,
    encode_rows,
    evaluate_loss,
    load_every_weight,
    load_frozen_base,
    plan_updates,
    row_lengths,
    train_config,
    train_model,
)

SIDES = {  # ours first
    "qlora": ("ours", *BASELINES_SIDES),
    "full": ("ours", *BASELINES_SIDES),
    "answers": ("ours", "one_by_one", "llama.cpp"),
    "probes": ("ours", "one_by_one"),
}
UNIT = {"qlora": "tokens", "full": "tokens", "answers": "tokens", "probes": "items"}
FLOPS_PER_WEIGHT = {"full": 6, "qlora": 4}  # and token
NOT_TIMED = 1  # updates: the first one warms up
NEW_TOKENS = 64  # an answer, at most
SECONDS_OF_PRODUCTS = 0.3  # in each precision, before a training and after it
PRODUCT = {"cpu": 1024, "cuda": 8192}  # rows and columns of the matrices whose product is the peak


@dataclass(frozen=True)
class BenchJob:
    """One training as all sides make it."""

    settings: Settings
    config: TrainConfig
    tokenizer: PreTrainedTokenizerBase
    rows: Dataset
    held_out: Dataset

    @property
    def base(self) -> Path:
        return base_model_folder(self.settings.MODEL_NAME)

    @property
    def updates(self) -> list[list[int]]:
        """Row numbers of every update."""
        return plan_updates(row_lengths(self.rows), self.config, 0)

    @property
    def lora(self) -> LoraConfig | None:
        """The adapter's shape; None where all weights are trained."""
        return adapter_config(self.settings) if self.config.method == "qlora" else None


def job(task: str, settings: Settings, given: dict) -> BenchJob:
    """The training of `given`'s rows, each read once."""
    tokenizer = load_tokenizer(base_model_folder(settings.MODEL_NAME))
    once = replace(
        train_config(settings, task), epochs=1, token_budget=10**12, replay_ratio=0.0, early_stopping="off"
    )
    rows, held_out = (encode_rows(given[part], tokenizer, once.max_length) for part in (task, "held_out"))
    return BenchJob(settings, once, tokenizer, rows, held_out)


def run(task: str, side: str, settings: Settings, given: dict) -> dict:
    """One run: {"seconds", "count" (of UNIT), "memory" (bytes), "result"} and, of a training, more.

    `given` holds the rows ("qlora", "full", "held_out"), the "questions" and the "items"; `result` is what every
    side must reach alike: the held-out loss after training, the mean log-probability of all options, or None.
    """
    torch.manual_seed(settings.SEED)
    if task in FLOPS_PER_WEIGHT:
        return train(side, job(task, settings, given))
    return {"answers": answer, "probes": score}[task](side, settings, given)


def train(side: str, job: BenchJob) -> dict:
    """A training, timed; and the held-out loss before and after, by the same function for every side."""
    peaks = [matmul_peaks()]
    with tempfile.TemporaryDirectory() as folder:
        pace, trained = (ours if side == "ours" else reference)(side, job, Path(folder))
    memory = peak_memory()
    peaks.append(matmul_peaks())
    sizes = row_lengths(job.rows)
    tokens = [sum(sizes[row] for row in update) for update in job.updates]
    before, after = held_out_losses(job, trained)
    count = sum(tokens[NOT_TIMED:])
    return {
        "seconds": sum(update["seconds"] for update in pace[NOT_TIMED:]),
        "count": count,
        "memory": memory,
        "result": after,
        "untrained": before,
        "flops": FLOPS_PER_WEIGHT[job.config.method] * parameters(job.base) * count,
        "peaks": {name: [peak[name] for peak in peaks] for name in peaks[0]},
        "pace": pace,
    }


def ours(side: str, job: BenchJob, folder: Path) -> tuple[list[dict], dict]:
    """Our training, as notebooks 4 and 6 make it: (pace, weights)."""
    model = untrained(job)
    manifest = read_manifest(job.settings.MODEL_NAME)
    history = train_model(
        model,
        TrainData(job.rows, job.held_out.select(range(1))),
        job.config,
        job.tokenizer,
        identity="bench",
        base={name: manifest[name] for name in ("id", "source", "revision", "licence")},
        out=folder / "out",
        work=folder / "work",
    )
    return history.pace, weights_of(model)


def reference(side: str, job: BenchJob, folder: Path) -> tuple[list[dict], dict]:
    """The same training by TRL: (pace, weights)."""
    made = trainer(side, job.base, job.rows, job.updates, job.config, job.tokenizer, job.lora, folder)
    return baselines_train(made), weights_of(made.model)


def untrained(job: BenchJob) -> PreTrainedModel:
    """The model that we train: the 4-bit base with a new adapter, or all weights."""
    if job.lora is None:
        return load_every_weight(job.base, job.settings, job.config.dtype)
    frozen = load_frozen_base(job.base, job.settings, job.config.dtype)
    return add_adapter(frozen, job.lora, job.settings.SEED)


def held_out_losses(job: BenchJob, trained: dict) -> list[float]:
    """The held-out loss of the untouched model, and with `trained` put into it."""
    model = untrained(job)
    before = evaluate_loss(model, job.held_out, job.config)
    if job.lora is None:
        model.load_state_dict(trained, strict=False)
    else:
        set_peft_model_state_dict(model, trained)
    return [before, evaluate_loss(model, job.held_out, job.config)]


def parameters(base: Path) -> int:
    """N: the parameters of the model in `base`, tied ones counted once."""
    return sum(weight.numel() for weight in load_outline(base).parameters())


def matmul_peaks() -> dict[str, float]:
    """{dtype: FLOPs a second} of the fastest of the square matrix products tried."""
    size, peaks = PRODUCT[device_name()], {}
    for dtype in ("bfloat16", "float32"):
        a = torch.ones(size, size, dtype=getattr(torch, dtype), device=device_name())
        best, end = float("inf"), time.perf_counter() + SECONDS_OF_PRODUCTS
        while time.perf_counter() < end or best == float("inf"):
            best = min(best, timed(lambda a=a: a @ a)[0])
        peaks[dtype] = 2 * size**3 / best
    return peaks


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """(seconds, what `work` returned)."""
    start = time.perf_counter()
    done = work()
    if device_name() == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, done


def answer(side: str, settings: Settings, given: dict) -> dict:
    """The questions answered greedily; tokens generated are counted, the one that ends an answer among them."""
    tokenizer = load_tokenizer(base_model_folder(settings.MODEL_NAME))
    most = min(NEW_TOKENS, settings.MAX_NEW_TOKENS)
    if side == "llama.cpp":
        tokens = sum(len(prompt_ids(tokenizer, question)) + most for question in given["questions"])
        generate = llama(tokenizer, tokens)
    else:
        generate = {"ours": batched, "one_by_one": one_by_one}[side](untouched(settings), tokenizer)
    generate(given["questions"], 2)
    seconds, count = timed(lambda: generate(given["questions"], most))
    return {"seconds": seconds, "count": count, "memory": peak_memory(), "result": None}


def untouched(settings: Settings) -> PreTrainedModel:
    """The base in 16 bits, or what the hardware does best."""
    return load_model(base_model_folder(settings.MODEL_NAME), settings.DTYPE, settings.ATTENTION)


def batched(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Generate:
    """Our way to answer: all questions together. What is returned gives the number of tokens."""

    def generate(questions: list[str], most: int) -> int:
        given = generate_answers(model, tokenizer, questions, most)
        return sum(a["tokens"] + (a["finish_reason"] == "stop") for a in given)

    return generate


def score(side: str, settings: Settings, given: dict) -> dict:
    """Multiple-choice items scored; `result` is the mean log-probability (nats) of an option."""
    tokenizer = load_tokenizer(base_model_folder(settings.MODEL_NAME))
    model = untouched(settings)
    scored = {"ours": score_options, "one_by_one": score_one_by_one}[side]
    items = [(item["context"], item["options"]) for item in given["items"]]
    scored(model, tokenizer, items[:1])
    seconds, scores = timed(lambda: scored(model, tokenizer, items))
    every = [value for options in scores for value in options]
    return {"seconds": seconds, "count": len(items), "memory": peak_memory(), "result": sum(every) / len(every)}
