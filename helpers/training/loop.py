"""The training loop: one for an adapter and for all weights, in one process or several, resumable to the bit."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.core import (
    CourseError,
    ProgressLine,
    device_name,
    hash_json,
    peak_memory,
    relative_path,
    remove_folder,
    sweep_temporary,
    write_text,
)
from helpers.training.allocator import keep_freed_memory
from helpers.training.batches import row_lengths
from helpers.training.checkpoints import list_checkpoints, newest_checkpoint, save_checkpoint
from helpers.training.config import TrainConfig, learning_rate_at, micro_batches_of, plan_updates
from helpers.training.distributed import Ranks, shard_like, unwrap_model
from helpers.training.run_record import History, find_finished, save_pace, save_trained
from helpers.training.step import evaluate_loss, keep_input_dtype, train_step

SECONDS_BETWEEN_CHECKPOINTS = 120
BEST = "best"  # below the folder of the checkpoints
LOOKS = 6  # at rows that are not trained on, besides the one before training
PATIENCE = 2  # looks without a new best after which early stopping ends the training
WATCHED = {"held_out": "loss", "guard": "guard"}  # what EARLY_STOPPING goes by, and its name in a look


@dataclass(frozen=True)
class TrainData:
    """What a training reads, as token ids: rows to learn from and rows only to look at."""

    rows: Dataset
    held_out: Dataset
    guard: Dataset | None = None  # general text, to see what is forgotten
    replay: int = 0  # so many of the last rows are general text, mixed in by the recipe's share


def train_model(
    model: PreTrainedModel,
    reading: TrainData,
    recipe: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    identity: str,
    base: dict,
    out: Path,
    work: Path,
    show: Callable[[History, int], None] = lambda history, total: None,
    declared: str = "",
    force: bool = False,
) -> History:
    """Train what requires gradients, save the result to `out` and return what happened.

    `identity` is a hash of the model, the rows and the code: with the recipe it decides whether `out` or a
    checkpoint below `work` already is this training, unless `force`. `base` is the base model's manifest.
    `show(history, number of updates)` is called after every update and every look. `declared` is kept from the first
    update on: who runs this again with another one gets the weights that are there, and the declaration under which
    they were trained.

    Ctrl-C and SIGTERM save a checkpoint after the update in hand, then raise KeyboardInterrupt. Raises
    CourseError if the loss stops being a number or the disk is full; the newest checkpoint stays.
    """
    ranks = Ranks()
    key = hash_json([identity, asdict(recipe)])
    done = None if force else find_finished(out, key, work)
    ranks.wait()
    if done:
        if ranks.main:
            remove_folder(work)
        show(done, len(done.updates))
        return done
    if ranks.main:
        open_work(work, key, force)
    ranks.wait()
    with stop_requested() as asked_to_stop, keep_freed_memory(), keep_input_dtype(model, recipe.dtype):
        run = TrainingRun(model, reading, recipe, work, key, ranks)
        if not run.history.updates:
            run.history.declared = declared
        run.go(show if ranks.main else lambda history, total: None, asked_to_stop)
        trained_weights = ranks.collect(run.weights)
        if ranks.main:
            state = trained_weights if ranks.sharded else None
            save_trained(unwrap_model(run.model), tokenizer, asdict(recipe), run.history, key, base, out, state)
            save_pace(run.history, key, work)
            remove_folder(work)
        ranks.wait()
        if ranks.any(asked_to_stop()):
            raise KeyboardInterrupt("stopped after the last update; the result is saved")
    return run.history


def open_work(work: Path, key: str, force: bool = False) -> None:
    """An empty folder for this training's checkpoints, or the one that already holds some; `force` begins anew."""
    known = work / "key"
    if force or not known.exists() or known.read_text(encoding="utf-8").strip() != key:
        remove_folder(work)
    write_text(known, key)
    sweep_temporary(work)
    sweep_temporary(work / BEST)


class TrainingRun:
    """A training under way: weights, optimizer and history, and how they go to the disk and come back."""

    def __init__(
        self, model: PreTrainedModel, reading: TrainData, recipe: TrainConfig, work: Path, key: str, ranks: Ranks
    ):
        self.reading, self.recipe, self.work, self.key, self.ranks = reading, recipe, work, key, ranks
        self.sizes = row_lengths(reading.rows)
        self.updates = plan_updates(self.sizes, recipe, reading.replay)
        if recipe.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model = ranks.prepare(model, recipe.dtype)
        self.weights = {name: w for name, w in unwrap_model(self.model).named_parameters() if w.requires_grad}
        weights = list(self.weights.values())
        self.optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.0, fused=True)
        self.scaler = torch.amp.GradScaler(device_name(), enabled=recipe.dtype == "float16")
        self.history = self.resume()

    def go(self, show: Callable[[History, int], None], asked_to_stop: Callable[[], bool]) -> None:
        """All updates that are left, a look now and then, and a checkpoint every two minutes."""
        total, line, saved_at = len(self.updates), ProgressLine(), time.monotonic()
        looks = {round(part * total / LOOKS) for part in range(LOOKS + 1)}
        for step in range(len(self.history.updates), total + 1):
            if step in looks and all(look["step"] < step for look in self.history.held_out):
                self.look(step)
                show(self.history, total)
            if step == total or self.is_over():
                break
            self.take(step)
            show(self.history, total)
            if self.ranks.main:
                line.show(f"{self.recipe.method}: updates", step + 1, total, describe_update(self.history))
            stop = self.ranks.any(asked_to_stop())
            if self.ranks.any(stop or time.monotonic() - saved_at > SECONDS_BETWEEN_CHECKPOINTS):
                self.save()
                saved_at = time.monotonic()
            if stop:
                raise KeyboardInterrupt(f"stopped after update {step + 1}; run again to go on from there")
        self.choose()
        show(self.history, len(self.history.updates))

    def take(self, step: int) -> None:
        """Update number `step` (from 0), and a line of history on it."""
        began, total = time.perf_counter(), len(self.updates)
        rows = self.updates[step]
        groups = micro_batches_of(rows, self.sizes, self.recipe)
        loss = train_step(
            self.model, self.reading.rows, groups, self.recipe, self.optimizer, self.scaler, step, total, self.ranks
        )
        rate, tokens = learning_rate_at(self.recipe, step, total), sum(self.sizes[row] for row in rows)
        self.history.updates.append({"step": step + 1, "tokens": tokens, "loss": loss, "learning_rate": rate})
        seconds = time.perf_counter() - began
        self.history.pace.append({"step": step + 1, "seconds": seconds, "memory": peak_memory()})

    def look(self, step: int) -> None:
        """The losses on what is not trained on; the best weights so far are kept if early stopping goes by them."""
        seen = {"step": step, "loss": evaluate_loss(self.model, self.reading.held_out, self.recipe, self.ranks)}
        if self.reading.guard is not None:
            seen["guard"] = evaluate_loss(self.model, self.reading.guard, self.recipe, self.ranks)
        self.history.held_out.append(seen)
        if self.watches() and self.best(self.history) == step:
            self.save()  # first: who goes on from here has these weights, or can keep them again
            self.keep_best(step)

    def keep_best(self, step: int) -> None:
        """Put these weights aside as the best so far."""
        weights = self.ranks.collect(self.weights)
        if self.ranks.main:
            remove_folder(self.work / BEST)
            save_checkpoint(self.work / BEST, step, weights, {"step": step}, keep=1)
        self.ranks.wait()

    def watches(self) -> bool:
        """Whether looks decide when to stop and which weights to keep."""
        return self.recipe.early_stopping != "off"

    def best(self, history: History) -> int:
        """The step of the lowest watched loss, the first of several."""
        name = WATCHED[self.recipe.early_stopping]
        return min(history.held_out, key=lambda look: look[name])["step"]

    def is_over(self) -> bool:
        """Whether early stopping has seen enough looks without a new best."""
        looks = self.history.held_out if self.watches() else []
        return sum(look["step"] > self.best(self.history) for look in looks) >= PATIENCE

    def choose(self) -> None:
        """Settle which weights are the result: the last, or with early stopping the best that a look has seen."""
        self.history.chosen = len(self.history.updates)
        papers = len(self.sizes) - self.reading.replay
        done = {row for update in self.updates[: self.history.chosen] for row in update if row < papers}
        self.history.read = sorted(self.reading.rows[row]["number"] for row in done)
        watched = {"held_out": self.reading.held_out, "guard": self.reading.guard}.get(self.recipe.early_stopping)
        self.history.chosen_by = sorted(set(watched["paper_id"])) if watched is not None else []
        if not self.watches() or self.best(self.history) == self.history.chosen:
            return
        self.history.chosen = self.best(self.history)
        kept = self.kept_best()
        if kept is None or kept[1]["step"] != self.history.chosen:
            raise CourseError(
                f"the best weights, of update {self.history.chosen}, were damaged on disk",
                "run again: training begins anew",
            )
        self.put_back(kept[0])

    def kept_best(self) -> tuple[dict[str, torch.Tensor], dict] | None:
        with self.ranks.main_first():
            return newest_checkpoint(self.work / BEST)

    def save(self) -> None:
        """A checkpoint of everything, complete or absent."""
        tensors = dict(self.weights)
        for name, weight in self.weights.items():
            parts = self.optimizer.state.get(weight, {})  # a weight that never had a gradient has none
            tensors |= {f"{part}|{name}": value for part, value in parts.items()}
        tensors = self.ranks.collect(tensors)
        if self.ranks.main:
            state = {"key": self.key, "history": asdict(self.history), "scaler": self.scaler.state_dict()}
            save_checkpoint(self.work, len(self.history.updates), tensors, state)
        self.ranks.wait()

    def resume(self) -> History:
        """Put the newest whole checkpoint of this training back; its history, or an empty one."""
        with self.ranks.main_first():
            found = newest_checkpoint(self.work)
        if found is None:
            return History()
        tensors, state = found
        history = History(**state["history"])
        step = len(history.updates)
        if self.watches() and history.held_out and self.best(history) != step:
            kept = self.kept_best()
            if kept is None or kept[1]["step"] != self.best(history):
                self.clear()
                return History()
        self.put_back(tensors)
        for stored, tensor in tensors.items():
            part, bar, name = stored.partition("|")
            if bar:
                self.optimizer.state[self.weights[name]][part] = shard_like(tensor, self.weights[name])
        self.scaler.load_state_dict(state["scaler"])
        if self.watches() and self.best(history) == step:
            self.keep_best(step)
        self.ranks.say(f"going on after update {step}, from a checkpoint in {relative_path(self.work)}")
        return history

    def clear(self) -> None:
        """Begin anew, with nothing on disk that newer checkpoints would have to give way to."""
        self.ranks.say("the best weights that were kept are damaged or gone: training begins anew")
        if self.ranks.main:
            for folder in (*list_checkpoints(self.work), self.work / BEST):
                remove_folder(folder)
        self.ranks.wait()

    def put_back(self, tensors: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(shard_like(tensors[name], weight))


def describe_update(history: History) -> str:
    """The last update in a few words."""
    last, speed = history.updates[-1], history.tokens / history.seconds
    return (
        f"· loss {last['loss']:.2f} · rate {last['learning_rate']:.1e} · {speed:,.0f} tokens/s "
        f"· {history.pace[-1]['memory'] / 2**30:.1f} GiB at most"
    )


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C and SIGTERM only raise a flag that the yielded function reads."""
    flag = []
    try:
        before = {s: signal.signal(s, lambda *_: flag.append(True)) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals cannot be caught here, and go where they always go
        before = {}
    try:
        yield lambda: bool(flag)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
