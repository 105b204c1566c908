"""How fast a machine trains: measured on it where it has trained before, else worked out from its products."""

import os
from dataclasses import dataclass

from transformers import PretrainedConfig

from helpers.core import RAW, CourseError, cpu_precisions, describe_machine, device_name, read_json, write_cache
from helpers.models import count_weights
from helpers.training.config import TrainConfig
from helpers.training.gpus import Gpu

MEASURED = RAW / "speed.json"
SIDE = 768  # of the square matrices whose product hardware.matmul_seconds times
CPU_SHARE = 0.5  # of that product's speed: measured with the embedded model, QLoRA and full
GPU_SHARE = 0.25  # of the data sheet's peak: a stated figure, not measured


@dataclass(frozen=True)
class Speed:
    """Tokens a second, and in words where that comes from."""

    tokens_per_second: float
    source: str


def expected_speed(
    config: PretrainedConfig,
    recipe: TrainConfig,
    rank: int,
    lengths: tuple[int, ...],
    graded: int,
    card: Gpu,
    name: str = "",
) -> Speed:
    """How fast `recipe` will train on `card`; `name` is the model's in earlier records of this machine."""
    if known := remembered_speed(name, recipe) if card.name in ("CPU", "GPU") else None:
        return Speed(known, "measured in an earlier training on this machine")
    work = operations_per_token(config, recipe, rank, lengths, graded)
    if card.memory:
        return Speed(GPU_SHARE * card.peak / work, f"{GPU_SHARE:.0%} of the data sheet's peak, not measured")
    product = cpu_precisions((recipe.dtype,))[recipe.dtype]
    return Speed(CPU_SHARE * 2 * SIDE**3 / product / work, f"{CPU_SHARE:.0%} of the products' speed here")


def operations_per_token(
    config: PretrainedConfig, recipe: TrainConfig, rank: int, lengths: tuple[int, ...], graded: int
) -> float:
    """Floating-point operations per token: 2 a weight forward, 2 back to the inputs, 2 for a trained weight.

    Kaplan et al. 2020 (arXiv 2001.08361), section 2.1, with the products of attention and, of the output matrix,
    only the graded places. Recomputed activations are one more way forward.
    """
    weights = count_weights(config)
    output, adapter = weights.output * graded / sum(lengths), weights.adapter(rank)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head
    attention = 4 * config.num_hidden_layers * width * sum(n * n for n in lengths) / sum(lengths)
    forward = 2 * (weights.inner + adapter + output) + attention
    trained = 2 * adapter if rank else forward - attention
    return forward * (3 if recipe.checkpointing else 2) + attention + trained


def speed_key(name: str, recipe: TrainConfig) -> dict[str, object]:
    """What a speed belongs to."""
    return {"model": name, "method": recipe.method, "dtype": recipe.dtype, "checkpointing": recipe.checkpointing} | {
        "device": device_name()
    }


def remember_speed(name: str, recipe: TrainConfig, tokens: int, seconds: float) -> None:
    """Note the speed of a training of model `name` on this machine, in place of the last one of its kind."""
    if not seconds or int(os.environ.get("WORLD_SIZE", 1)) > 1:  # several processes are another machine
        return
    here = {"machine": describe_machine()} | speed_key(name, recipe)
    others = [entry for entry in read_speeds() if {k: entry.get(k) for k in here} != here]
    write_cache(MEASURED, [*others, here | {"tokens_per_second": tokens / seconds}])


def remembered_speed(name: str, recipe: TrainConfig) -> float | None:
    """Tokens a second of the last such training on this machine."""
    here = {"machine": describe_machine()} | speed_key(name, recipe)
    found = [e["tokens_per_second"] for e in read_speeds() if {k: e.get(k) for k in here} == here]
    return found[-1] if found and name else None


def read_speeds() -> list[dict]:
    """What is noted so far."""
    try:
        return [entry for entry in read_json(MEASURED) if isinstance(entry, dict)]
    except (CourseError, TypeError):
        return []
