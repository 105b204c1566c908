"""What a training's result depends on besides the model and the rows, as the settings describe it."""

import math
from dataclasses import dataclass
from types import SimpleNamespace

from helpers.core import compute_dtype, device_name
from helpers.training.batches import schedule_updates, split_micro_batches

MICRO_BATCH_TOKENS = {"cpu": 1024, "cuda": 4096}  # products of more are no faster, and need more memory


@dataclass(frozen=True)
class TrainConfig:
    """One training: how much is read, in which portions, how it is computed, and when it ends."""

    method: str
    epochs: int
    batch_size: int
    accumulation: int
    learning_rate: float
    token_budget: int
    max_length: int
    seed: int
    dtype: str
    checkpointing: bool
    replay_ratio: float = 0.0
    micro_batch_tokens: int = MICRO_BATCH_TOKENS["cpu"]
    early_stopping: str = "off"
    warmup_share: float = 0.05
    clip: float = 1.0


def train_config(settings: SimpleNamespace, method: str) -> TrainConfig:
    """The recipe for `method` (qlora or full) that the settings describe."""
    prefix = method.upper()
    wanted = settings.GRADIENT_CHECKPOINTING
    return TrainConfig(
        method=method,
        epochs=getattr(settings, f"{prefix}_EPOCHS"),
        batch_size=getattr(settings, f"{prefix}_BATCH_SIZE"),
        accumulation=settings.GRAD_ACCUMULATION,
        learning_rate=getattr(settings, f"{prefix}_LR"),
        token_budget=settings.TOKEN_BUDGET,
        max_length=settings.MAX_SEQ_LENGTH,
        seed=settings.SEED,
        dtype=compute_dtype(settings.DTYPE),
        checkpointing=device_name() == "cuda" if wanted == "auto" else wanted == "on",
        replay_ratio=settings.REPLAY_RATIO,
        micro_batch_tokens=MICRO_BATCH_TOKENS[device_name()],
        early_stopping=settings.EARLY_STOPPING,
    )


def learning_rate_at(recipe: TrainConfig, step: int, total: int) -> float:
    """The rate of update `step` (from 0) of `total`: linear warm-up, then half a cosine down to 0."""
    warmup = max(1, round(recipe.warmup_share * total))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def plan_updates(sizes: list[int], recipe: TrainConfig, replay: int) -> list[list[int]]:
    """The row numbers of every update of this recipe; the last `replay` rows are general text."""
    return schedule_updates(
        sizes,
        rows_per_update=recipe.batch_size * recipe.accumulation,
        epochs=recipe.epochs,
        token_budget=recipe.token_budget,
        seed=recipe.seed,
        replay=replay,
        replay_ratio=recipe.replay_ratio,
    )


def micro_batches_of(rows: list[int], sizes: list[int], recipe: TrainConfig) -> list[list[int]]:
    """`rows` in the micro-batches of this recipe."""
    return split_micro_batches(rows, sizes, recipe.batch_size, recipe.micro_batch_tokens)
