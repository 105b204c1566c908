"""Makers that tests share: a random Llama of a few thousand weights that reads bytes, and trainings of it."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import tokenizers
import torch
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from helpers import examples, models, settings, training, tuning, weights
from helpers.paths import base_model

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ROWS = [
    {"prompt": f"What does study {n} conclude?" * (n % 3 > 0), "completion": f"α ≥ {n} µg/L" + " and more" * (n % 4)}
    for n in range(14)
]
RECIPE = training.Recipe("full", 2, 2, 2, 1e-3, 10**6, 256, 1, "float32", False)
LORA = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": "all-linear"}
BASE = {"id": "tester/tiny", "source": "a test", "revision": "0" * 40, "licence": "none"}


@cache
def embedded():
    """The folder of the real embedded model, fetched as stage 1 does."""
    weights.fetch(SimpleNamespace(MODEL_NAME=weights.EMBEDDED, MODEL_REVISION=None))
    return base_model(weights.EMBEDDED)


@cache
def embedded_tokenizer():
    return models.load_tokenizer(embedded())


def byte_tokenizer(template=CHATML):
    """One token a byte, three special ones, and a chat template."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *letters])}
    bytewise = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    bytewise.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = tokenizers.decoders.ByteLevel()
    bytewise.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in SPECIAL])
    start, end = SPECIAL[1:]
    return PreTrainedTokenizerFast(
        tokenizer_object=bytewise, bos_token=start, eos_token=end, pad_token=end, chat_template=template
    )


def write_model(folder, template=CHATML, **shape):
    """A tiny random model and its tokenizer in `folder`, as a base model is kept; its manifest beside them."""
    tokenizer = byte_tokenizer(template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        **shape,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights.manifest_of(folder, **BASE)
    return folder


def contents(folder):
    """{name: bytes} of every file in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def model_for(method, folder, *, seed=1, **lora):
    """What notebooks 4 and 6 train: NF4 and an adapter, or every weight in float32."""
    if method == "full":
        return models.load(folder, "float32").requires_grad_(True)
    return tuning.add_adapter(models.load(folder, "nf4", dtype="float32"), LoraConfig(**LORA | lora), seed)


def fit(method, folder, place, *, show=lambda history, total: None, identity="test", lora=None, **recipe):
    """Train the tiny model in `folder`; the result in `place`/out, work in `place`/work."""
    tokenizer = models.load_tokenizer(folder)
    wanted = replace(RECIPE, method=method, **recipe)
    rows = examples.encode(ROWS, tokenizer, wanted.max_length)
    return training.fit(
        model_for(method, folder, **lora or {}),
        rows,
        rows.select(range(3)),
        wanted,
        tokenizer,
        identity=identity,
        base=BASE,
        out=place / "out",
        work=place / "work",
        show=show,
    )


def fit_with_checkpoints(method, folder, place, **recipe):
    """`fit`, with a checkpoint after every update; for a process of its own that may be killed."""
    training.SECONDS_BETWEEN_CHECKPOINTS = -1
    fit(method, folder, place, **recipe)


def resolve(**values):
    """Settings of profile smoke with these values."""
    return settings.load(values, environment={"PROFILE": "smoke", "ENV_FILE": ""})[0]
