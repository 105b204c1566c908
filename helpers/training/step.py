"""One update of the weights, and one look at rows that are not trained on."""

import math
from contextlib import AbstractContextManager

import torch
from datasets import Dataset
from peft.helpers import disable_input_dtype_casting
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from helpers.core import CourseError, device_name
from helpers.training.batches import IGNORED, collate_packed, row_lengths
from helpers.training.config import TrainConfig, learning_rate_at, micro_batches_of
from helpers.training.distributed import Ranks

PLACES_AT_ONCE = 256  # graded places whose logits are in float32 at one time


def answer_loss(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """(summed cross-entropy in nats, number of graded tokens) of a batch of packed rows.

    Logits are computed only at places whose next token is graded: with a vocabulary of 50,000 they are the
    largest tensor of a small model. Their float32 copies are made for a few places at a time, and made again on
    the way back rather than kept.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    targets = batch["labels"][0, 1:]
    places = (targets != IGNORED).nonzero().squeeze(1)
    logits = model(**inputs, use_cache=False, logits_to_keep=places).logits[0]
    return summed_loss(logits, targets[places]), len(places)


def summed_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of `logits` (places, words) at `targets` (places), in nats, summed in float32."""
    parts = zip(logits.split(PLACES_AT_ONCE), targets.split(PLACES_AT_ONCE), strict=True)
    return sum(checkpoint(loss_in_float32, *part, use_reentrant=False) for part in parts)


def loss_in_float32(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")


def train_step(
    model: PreTrainedModel,
    rows: Dataset,
    groups: list[list[int]],
    recipe: TrainConfig,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    step: int,
    total: int,
    ranks: Ranks,
) -> float:
    """One update from all micro-batches in `groups`; the mean loss per graded token in nats.

    Raises CourseError if the loss is not a number.
    """
    model.train()
    torch.manual_seed(recipe.seed * 1_000_003 + step + 7919 * ranks.number)  # dropout, the same after a resume
    graded = sum(graded_tokens(rows, group) for group in groups)
    share, summed = ranks.deal(groups), 0.0
    for number, (group, weight) in enumerate(share, 1):
        with ranks.gathering(model, last=number == len(share)):
            with autocast_to(recipe.dtype):
                loss, _ = answer_loss(model, collate_packed(rows, group, device_name()))
            scaler.scale(loss * (weight * ranks.count / graded)).backward()  # engines average over processes
        summed += weight * loss.item()
    (summed,) = ranks.total(summed)
    if not math.isfinite(summed):
        raise CourseError(
            f"{recipe.method}: the loss is {summed} at update {step + 1}",
            f"lower {recipe.method.upper()}_LR (now {recipe.learning_rate:g}) or set DTYPE=float32",
            "the-loss-is-nan",
        )
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_([w for g in optimizer.param_groups for w in g["params"]], recipe.clip)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(recipe, step, total)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return summed / graded


def evaluate_loss(model: PreTrainedModel, rows: Dataset, recipe: TrainConfig, ranks: Ranks | None = None) -> float:
    """Mean loss in nats per graded token over `rows`, nothing trained."""
    ranks = ranks or Ranks()
    model.eval()
    summed = graded = 0.0
    with torch.no_grad(), autocast_to(recipe.dtype):
        for group, weight in ranks.deal(micro_batches_of(list(range(len(rows))), row_lengths(rows), recipe)):
            loss, n = answer_loss(model, collate_packed(rows, group, device_name()))
            summed, graded = summed + weight * loss.item(), graded + weight * n
    summed, graded = ranks.total(summed, graded)
    return summed / graded


def graded_tokens(rows: Dataset, group: list[int]) -> int:
    """How many tokens of these rows have a loss."""
    chosen = rows[group]
    return sum(len(ids) - start for ids, start in zip(chosen["input_ids"], chosen["answer_from"], strict=True))


def autocast_to(dtype: str) -> torch.autocast:
    """Matrix products in `dtype`; weights that are trained stay float32.

    At a rate of 1e-5 an update to a bfloat16 weight rounds away for nearly every weight, so the float32
    weights are the ones that are updated and bfloat16 copies are made for each product.
    """
    return torch.autocast(device_name(), dtype=getattr(torch, dtype), enabled=dtype != "float32")


def keep_input_dtype(model: PreTrainedModel, dtype: str) -> AbstractContextManager:
    """Around a training: peft leaves the inputs of adapted layers as they are.

    It would copy each to the adapter's float32, only for autocast to turn it back.
    """
    return disable_input_dtype_casting(model, active=dtype != "float32")
