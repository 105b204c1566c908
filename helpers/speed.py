"""How fast a machine trains: measured on it where it has trained before, else worked out from its products."""

import os
from dataclasses import dataclass

from transformers import PretrainedConfig

from helpers import hardware
from helpers.architectures import count
from helpers.cards import Card
from helpers.errors import CourseError
from helpers.files import read_json, write_json
from helpers.paths import RAW
from helpers.recipes import Recipe

MEASURED = RAW / "speed.json"
SIDE = 768  # of the square matrices whose product hardware.matmul_seconds times
CPU_SHARE = 0.5  # of that product's speed: measured with the embedded model, QLoRA and full
GPU_SHARE = 0.25  # of the data sheet's peak: a stated figure, not measured


@dataclass(frozen=True)
class Pace:
    """Tokens a second, and in words where that comes from."""

    tokens_per_second: float
    source: str


def pace(
    config: PretrainedConfig,
    recipe: Recipe,
    rank: int,
    lengths: tuple[int, ...],
    graded: int,
    card: Card,
    name: str = "",
) -> Pace:
    """How fast `recipe` will train on `card`; `name` is the model's in earlier records of this machine."""
    if known := remembered(name, recipe) if card.name in ("CPU", "GPU") else None:
        return Pace(known, "measured in an earlier training on this machine")
    work = operations(config, recipe, rank, lengths, graded)
    if card.memory:
        return Pace(GPU_SHARE * card.peak / work, f"{GPU_SHARE:.0%} of the data sheet's peak, not measured")
    product = hardware.cpu_precisions((recipe.dtype,))[recipe.dtype]
    return Pace(CPU_SHARE * 2 * SIDE**3 / product / work, f"{CPU_SHARE:.0%} of the products' speed here")


def operations(config: PretrainedConfig, recipe: Recipe, rank: int, lengths: tuple[int, ...], graded: int) -> float:
    """Floating-point operations per token: 2 a weight forward, 2 back to the inputs, 2 for a trained weight.

    Kaplan et al. 2020 (arXiv 2001.08361), section 2.1, with the products of attention and, of the output matrix,
    only the graded places. Recomputed activations are one more way forward.
    """
    weights = count(config)
    output, adapter = weights.output * graded / sum(lengths), weights.adapter(rank)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head
    attention = 4 * config.num_hidden_layers * width * sum(n * n for n in lengths) / sum(lengths)
    forward = 2 * (weights.inner + adapter + output) + attention
    trained = 2 * adapter if rank else forward - attention
    return forward * (3 if recipe.checkpointing else 2) + attention + trained


def kind(name: str, recipe: Recipe) -> dict[str, object]:
    """What a speed belongs to."""
    return {"model": name, "method": recipe.method, "dtype": recipe.dtype, "checkpointing": recipe.checkpointing} | {
        "device": hardware.device()
    }


def remember(name: str, recipe: Recipe, tokens: int, seconds: float) -> None:
    """Note the speed of a training of model `name` on this machine, in place of the last one of its kind."""
    if not seconds or int(os.environ.get("WORLD_SIZE", 1)) > 1:  # several processes are another machine
        return
    here = {"machine": hardware.machine()} | kind(name, recipe)
    others = [entry for entry in entries() if {k: entry.get(k) for k in here} != here]
    write_json(MEASURED, [*others, here | {"tokens_per_second": tokens / seconds}])


def remembered(name: str, recipe: Recipe) -> float | None:
    """Tokens a second of the last such training on this machine."""
    here = {"machine": hardware.machine()} | kind(name, recipe)
    found = [e["tokens_per_second"] for e in entries() if {k: e.get(k) for k in here} == here]
    return found[-1] if found and name else None


def entries() -> list[dict]:
    """What is noted so far."""
    try:
        return [entry for entry in read_json(MEASURED) if isinstance(entry, dict)]
    except (CourseError, TypeError):
        return []
