"""Will it fit? Memory, disk and time of a training, foretold from the model's configuration alone."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from transformers import PretrainedConfig

from helpers.core import ROOT, CourseError, available_memory, existing_parent
from helpers.models import SHAPES, count_weights, known_config, read_config, width_stored
from helpers.training.config import TrainConfig
from helpers.training.gpus import Gpu, this_gpu
from helpers.training.rehearsal import rehearse_step
from helpers.training.throughput import Speed, expected_speed

GIB = 2**30
WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # 4 bits; a byte of scale for 64 weights, 4 bytes for 256 scales
MOMENTS = 8  # bytes a trained weight: AdamW's two running averages in float32
CUDA = 0.6 * GIB  # context, kernels and the workspace of cuBLAS: a stated figure, not measured here
LIBRARIES = 0.15 * GIB  # bitsandbytes, and what quantising left in the heap: RSS measured before and after
HOLES = 0.33  # of what comes and goes: freed blocks that the next one does not fit into, mallinfo2 at the peak
CHECKPOINTS = 3  # two are kept while the next is written
RECORDED = 12  # bytes a trained weight in a checkpoint: itself and AdamW's two moments, in float32


@dataclass(frozen=True)
class Plan:
    """What a training needs (bytes, seconds) and what there is.

    `parts` are bytes of memory at the fullest moment; `ways` are up to three settings with which it would fit,
    each of them planned as well.
    """

    parts: dict[str, float]
    available: float
    disk: dict[str, float]
    disk_free: float
    tokens: int
    pace: Speed
    ways: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def disk_total(self) -> float:
        return sum(self.disk.values())

    @property
    def seconds(self) -> float:
        return self.tokens / self.pace.tokens_per_second

    @property
    def fits(self) -> bool:
        return self.total <= self.available and self.disk_total <= self.disk_free

    @property
    def sentence(self) -> str:
        memory = f"about {self.total / GIB:.1f} GiB needed, {self.available / GIB:.1f} GiB free"
        if self.disk_total > self.disk_free:
            memory += f"; {self.disk_total / GIB:.1f} GiB of disk, {self.disk_free / GIB:.1f} GiB free"
        return f"{memory}: it {'fits' if self.fits else 'does not fit'}"

    @property
    def way_out(self) -> str:
        """What would make it fit, in words."""
        return f"it would with {', or with '.join(self.ways)}" if self.ways else "no setting here would make it fit"


def plan_training(
    model: Path | PretrainedConfig,
    recipe: TrainConfig,
    rank: int = 0,
    *,
    lengths: list[int] | None = None,
    graded: int | None = None,
    tokens: int | None = None,
    targets: str = "all-linear",
    card: Gpu | None = None,
    name: str = "",
    seek: bool = True,
) -> Plan:
    """What training `model` (a folder with config.json, or a configuration) by `recipe` takes on `card`.

    `rank` is the adapter's (QLoRA). `lengths` are the rows of the largest micro-batch and `graded` how many of its
    tokens have a loss; left out, it is as large as the recipe allows and all of it graded. `tokens` is how much is
    read, at most the recipe's budget. Without a `card` it is this machine. `name` is the model's, for its speed.
    `seek` looks for settings that would make it fit.
    """
    config = read_config(model) if isinstance(model, Path) else model
    card, folder = card or this_gpu(), model if isinstance(model, Path) else None
    lengths = tuple(sorted(lengths or longest_rows(recipe), reverse=True))
    graded = min(graded or sum(lengths), sum(lengths))
    first = estimate_memory(config, recipe, rank, lengths, graded, targets, card)
    free = card.memory if card.memory else available_memory() + psutil.Process().memory_info().rss
    disk = disk_of(config, folder, recipe, rank, targets)
    disk_free = shutil.disk_usage(existing_parent(ROOT)).free
    pace = expected_speed(config, recipe, rank, lengths, graded, card, name)
    made = Plan(first, free, disk, disk_free, min(recipe.token_budget, tokens or recipe.token_budget), pace)
    if made.fits or not seek or made.disk_total > made.disk_free:
        return made
    ways = []
    for said, other, changed, adapter in smaller_settings(config, recipe, rank):
        cut = changed.max_length < lengths[0]
        rows = tuple(longest_rows(changed)) if cut else lengths[: changed.batch_size]
        least = sum(resident_memory(other, changed, adapter, targets, card).values())
        if least < free and changed_settings(said) not in map(changed_settings, ways):
            parts = estimate_memory(other, changed, adapter, rows, min(graded, sum(rows)), targets, card)
            ways += [said] if sum(parts.values()) <= free else []
        if len(ways) == 3:
            break
    return replace(made, ways=tuple(ways))


def changed_settings(way: str) -> list[str]:
    """The settings that a way changes."""
    return [part.partition("=")[0] for part in way.split()]


def require_plan(made: Plan, what: str) -> None:
    """Refuse a training that does not fit, naming what would.

    Raises CourseError.
    """
    if not made.fits:
        raise CourseError(f"{what} does not fit: {made.sentence}", made.way_out, "a-training-does-not-fit")


def longest_rows(recipe: TrainConfig) -> list[int]:
    """The rows of the largest micro-batch a recipe allows, the longest first."""
    room = max(recipe.max_length, min(recipe.batch_size * recipe.max_length, recipe.micro_batch_tokens))
    whole, rest = divmod(room, recipe.max_length)
    return [recipe.max_length] * whole + [rest] * (rest > 0 and whole < recipe.batch_size)


def estimate_memory(
    config: PretrainedConfig,
    recipe: TrainConfig,
    rank: int,
    lengths: tuple[int, ...],
    graded: int,
    targets: str,
    card: Gpu,
) -> dict[str, float]:
    """Bytes by part at the fullest of these moments: loading, the loss, the way back, the optimizer's step."""
    held = resident_memory(config, recipe, rank, targets, card)
    on_cpu = card.memory == 0
    accumulating = on_cpu or recipe.accumulation > 1  # a heap's holes do not take the gradients, blocks of many MiB
    passed = rehearse_step(
        config,
        lengths,
        graded,
        recipe.dtype,
        rank=rank,
        targets=targets,
        checkpointing=recipe.checkpointing,
        accumulating=accumulating,
        eager=on_cpu,
    )
    trained, wide = count_trainable(config, rank, targets)
    gradients = 4 * trained * accumulating
    most = max(passed.at_the_loss, passed.in_the_layers, passed.at_the_embedding, 4 * trained)
    copies = min(2 * wide * (recipe.dtype != "float32"), passed.after_forward - gradients)
    activations = passed.after_forward - gradients - copies
    going = {"gradients": gradients, "16-bit copies": copies, "activations": activations}
    going["logits and what comes and goes"] = most - passed.after_forward
    holes = {"holes in the heap": HOLES * (most - gradients)} if on_cpu else {}
    training = held | going | holes
    loading = loading_of(config, recipe, rank, held) if on_cpu else {}
    return max(training, loading, key=lambda parts: sum(parts.values()))


def resident_memory(
    config: PretrainedConfig, recipe: TrainConfig, rank: int, targets: str, card: Gpu
) -> dict[str, float]:
    """Bytes held all the time: the process, the weights, and the optimizer's moments.

    On a CPU 4-bit weights are spelled out in the precision of the products; on a GPU they stay packed, and one
    matrix at a time is spelled out.
    """
    counted = count_weights(config)
    trained, _ = count_trainable(config, rank, targets)
    moments = {"optimizer": MOMENTS * trained}
    if card.memory == 0:
        process = {"Python and libraries": psutil.Process().memory_info().rss + (LIBRARIES if rank else 0)}
    else:
        process = {"CUDA": CUDA}
    if not rank:
        return process | {"weights": 4 * counted.total} | moments
    if card.memory == 0:
        return process | {"weights": WIDTH[recipe.dtype] * counted.total, "adapter": 4 * trained} | moments
    packed = {"4-bit weights": NF4_BYTES * counted.inner, "one matrix unpacked": 2 * counted.largest}
    return process | packed | {"embeddings": 2 * (counted.total - counted.inner), "adapter": 4 * trained} | moments


def loading_of(config: PretrainedConfig, recipe: TrainConfig, rank: int, held: dict[str, float]) -> dict[str, float]:
    """Bytes by part while the weights are read: the file's pages, and for QLoRA what is made of them."""
    stored = width_stored(config) * count_weights(config).total
    process = {name: held[name] for name in ("Python and libraries",)}
    made = {"weights": held["weights"]} if rank or stored != held["weights"] else {}
    return process | {"the file as it is read": stored} | made


def count_trainable(config: PretrainedConfig, rank: int, targets: str) -> tuple[int, int]:
    """(weights that are trained, those of them in matrices, of which autocast makes 16-bit copies)."""
    counted = count_weights(config)
    if rank:
        return counted.adapter(rank, targets), counted.adapter(rank, targets)
    return counted.total, counted.inner + counted.output


def disk_of(
    config: PretrainedConfig, folder: Path | None, recipe: TrainConfig, rank: int, targets: str
) -> dict[str, float]:
    """Bytes still to be written: the base model if it is not there, checkpoints, and the result in float32."""
    trained, _ = count_trainable(config, rank, targets)
    stored = width_stored(config) * count_weights(config).total
    there = folder is not None and any(folder.glob("*.safetensors"))
    best = 2 * 4 * trained if recipe.early_stopping != "off" else 0  # the best so far, and a better one being written
    return {
        "base model": 0 if there else stored,
        "checkpoints": CHECKPOINTS * RECORDED * trained + best,
        "result": 4 * trained,
    }


def smaller_settings(
    config: PretrainedConfig, recipe: TrainConfig, rank: int
) -> Iterator[tuple[str, PretrainedConfig, TrainConfig, int]]:
    """Settings that take less memory, as (words, configuration, recipe, rank): the least loss first."""
    prefix = recipe.method.upper()
    lean = replace(recipe, checkpointing=True)
    smaller = [2**n for n in range(12, -1, -1) if 2**n < recipe.batch_size]
    shorter = [n for n in (2048, 1024, 512, 256, 128) if n < recipe.max_length]
    if not recipe.checkpointing:
        yield "GRADIENT_CHECKPOINTING=on", config, lean, rank
    for n in smaller:
        yield f"{prefix}_BATCH_SIZE={n}", config, replace(recipe, batch_size=n), rank
    for n in shorter:
        yield f"MAX_SEQ_LENGTH={n}", config, replace(recipe, max_length=n), rank
    for n in smaller if not recipe.checkpointing else []:
        said = f"GRADIENT_CHECKPOINTING=on {prefix}_BATCH_SIZE={n}"
        yield said, config, replace(lean, batch_size=n), rank
    for n in shorter:
        said = f"GRADIENT_CHECKPOINTING=on {prefix}_BATCH_SIZE=1 MAX_SEQ_LENGTH={n}"
        yield said, config, replace(lean, batch_size=1, max_length=n), rank
    if not rank:
        yield "FULL_FINETUNE=off", config, replace(recipe, method="qlora"), 16
    for name in reversed(SHAPES):
        other = known_config(name)
        if count_weights(other).total < count_weights(config).total:
            yield f"MODEL_NAME={name}", other, recipe, rank
