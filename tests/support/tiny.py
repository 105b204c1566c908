"""Makers that tests share: a random Llama of a few thousand weights that reads bytes, and trainings of it."""

import os
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from multiprocessing import forkserver, get_context
from types import SimpleNamespace

import pytest
import tokenizers
import torch
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from helpers.core import paths, settings
from helpers.core.paths import ROOT, base_model_folder
from helpers.models import download, load
from helpers.training import batches, loop, model
from helpers.training import config as recipes

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ROWS = [
    {
        "prompt": f"What does study {n} conclude?" * (n % 3 > 0),
        "completion": f"α ≥ {n} µg/L" + " and more" * (n % 4),
        "paper_id": f"paper {n}",
    }
    for n in range(14)
]
RECIPE = recipes.TrainConfig("full", 2, 2, 2, 1e-3, 10**6, 256, 1, "float32", False)
LORA = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": "all-linear"}
BASE = {"id": "tester/tiny", "source": "a test", "revision": "0" * 40, "licence": "none"}


@cache
def embedded():
    """The folder of the real embedded model, fetched as stage 1 does."""
    download.fetch_model(SimpleNamespace(MODEL_NAME=download.EMBEDDED, MODEL_REVISION=None))
    return base_model_folder(download.EMBEDDED)


@cache
def embedded_tokenizer():
    return load.load_tokenizer(embedded())


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


def write_model(folder, manifest=True):
    """A tiny random model, its tokenizer and their manifest in `folder`, as a base model is kept."""
    tokenizer = byte_tokenizer()
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
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if manifest:
        download.manifest_of(folder, **BASE)
    return folder


def contents(folder):
    """{name: bytes} of every file in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def model_for(method, folder, seed=1):
    """What notebooks 4 and 6 train: NF4 and an adapter, or every weight in float32."""
    if method == "full":
        return load.load_model(folder, "float32").requires_grad_(True)
    return model.add_adapter(load.load_model(folder, "nf4", dtype="float32"), LoraConfig(**LORA), seed)


def fit(method, folder, place, *, out=None, show=lambda history, total: None, identity="test", force=False, **recipe):
    """Train the tiny model in `folder`; the result in `place`/out unless `out` says where, work in `place`/work."""
    tokenizer = load.load_tokenizer(folder)
    wanted = replace(RECIPE, method=method, **recipe)
    rows = batches.encode_rows(ROWS, tokenizer, wanted.max_length)
    return loop.train_model(
        model_for(method, folder),
        loop.TrainData(rows, held_out=rows.select(range(3)), guard=rows.select(range(3, 5))),
        wanted,
        tokenizer,
        identity=identity,
        base=BASE,
        out=out or place / "out",
        work=place / "work",
        show=show,
        force=force,
    )


@contextmanager
def small_disk(folder, size):
    """A disk of `size` mounted on `folder`; skips the test where that is not permitted."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted here: {getattr(error, 'stderr', None) or error}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@cache
def processes():
    """Makes processes that start in a moment and can be killed: forked from one that has imported everything."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["helpers", "support.tiny"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        patch.setenv("PYTHONWARNINGS", "ignore:resource_tracker")  # who is killed does not clean up
        forkserver.ensure_running()
    return context


def fit_with_checkpoints(method, folder, place, **recipe):
    """`fit`, with a checkpoint after every update; for a process of its own that may be killed."""
    loop.SECONDS_BETWEEN_CHECKPOINTS = -1
    fit(method, folder, place, **recipe)


def fetch(folder, values):
    """Stage 1's fetch into `folder`; for a process of its own."""
    paths.BASE_MODELS = folder
    download.fetch_model(resolve(**values))


def resolve(**values):
    """Settings of profile smoke with these values."""
    return settings.load_settings(values, environment={"PROFILE": "smoke", "ENV_FILE": ""})[0]
