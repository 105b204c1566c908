"""The training loop: the same one for an adapter and for all weights, resumable to the bit."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers import checkpoints, examples, files, trained
from helpers.errors import CourseError
from helpers.hardware import compute_dtype, device, give_back_memory, memory_peak
from helpers.paths import relative
from helpers.progress import Line, forced
from helpers.trained import History

SECONDS_BETWEEN_CHECKPOINTS = 120
EVALUATIONS = 6
OPTIMIZER_PARTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's; its count leaves out what float16 skipped


@dataclass(frozen=True)
class Recipe:
    """Everything a training's result depends on besides the model and the rows."""

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
    micro_batch_tokens: int = 1024  # on a CPU larger products are no faster and need more memory
    warmup_share: float = 0.05
    clip: float = 1.0


def recipe(settings: SimpleNamespace, method: str) -> Recipe:
    """The recipe for `method` (qlora or full) that the settings describe."""
    prefix = method.upper()
    wanted = settings.GRADIENT_CHECKPOINTING
    return Recipe(
        method=method,
        epochs=getattr(settings, f"{prefix}_EPOCHS"),
        batch_size=getattr(settings, f"{prefix}_BATCH_SIZE"),
        accumulation=settings.GRAD_ACCUMULATION,
        learning_rate=getattr(settings, f"{prefix}_LR"),
        token_budget=settings.TOKEN_BUDGET,
        max_length=settings.MAX_SEQ_LENGTH,
        seed=settings.SEED,
        dtype=compute_dtype(settings.DTYPE),
        checkpointing=device() == "cuda" if wanted == "auto" else wanted == "on",
        replay_ratio=settings.REPLAY_RATIO,
        micro_batch_tokens=10**9 if device() == "cuda" else 1024,
    )


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """The rate of update `step` (from 0) of `total`: linear warm-up, then half a cosine down to 0."""
    warmup = max(1, round(recipe.warmup_share * total))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def answer_loss(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """(summed cross-entropy in nats, number of graded tokens) of a batch.

    Logits are computed only at places from which some row's next token is graded: with a vocabulary of
    50,000 they are the largest tensor of a small model.
    """
    targets = batch["labels"][:, 1:]
    places = (targets != examples.IGNORED).any(0).nonzero().squeeze(1)
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        use_cache=False,
        logits_to_keep=places,
    ).logits
    wanted = targets[:, places]
    graded = wanted != examples.IGNORED
    loss = torch.nn.functional.cross_entropy(logits[graded].float(), wanted[graded], reduction="sum")
    return loss, int(graded.sum())


def fit(
    model: PreTrainedModel,
    rows: Dataset,
    held_out: Dataset,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    *,
    identity: str,
    base: dict,
    out: Path,
    work: Path,
    replay: int = 0,
    show: Callable[[History, int], None] = lambda history, total: None,
) -> History:
    """Train what requires gradients, save the result to `out` and return what happened.

    The last `replay` of `rows` are general text, of which the recipe mixes in its share.
    `identity` is a hash of the model, the rows and the code: with the recipe it decides whether `out` or a
    checkpoint below `work` already is this training. `base` is the base model's manifest.

    Ctrl-C and SIGTERM save a checkpoint after the update in hand, then raise KeyboardInterrupt. Raises
    CourseError if the loss stops being a number.
    """
    key = files.sha256_of([identity, asdict(recipe)])
    if (done := trained.finished(out, key, work)) and not forced():
        files.remove_folder(work)
        show(done, len(done.updates))
        return done
    if read_key(work) != key:
        files.remove_folder(work)
    work.mkdir(parents=True, exist_ok=True)
    files.write_json(work / "key.json", key)
    files.sweep(work)

    sizes = examples.lengths(rows)
    updates = plan_updates(sizes, recipe, replay)
    weights = {name: w for name, w in model.named_parameters() if w.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=recipe.learning_rate, weight_decay=0.0, fused=True)
    scaler = torch.amp.GradScaler(device(), enabled=recipe.dtype == "float16")
    if recipe.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    history = resume(work, key, weights, optimizer, scaler)
    start, began = len(history.updates), time.perf_counter() - history.seconds
    looks = {round(part * len(updates) / EVALUATIONS) for part in range(EVALUATIONS + 1)}
    line, saved_at = Line(), time.monotonic()

    with stop_requested() as asked_to_stop:
        for step in range(start, len(updates) + 1):
            if step in looks and (not history.held_out or history.held_out[-1]["step"] < step):
                history.held_out.append({"step": step, "loss": evaluate(model, held_out, recipe, tokenizer)})
                show(history, len(updates))
            if step == len(updates):
                break
            groups = examples.micro_batches(updates[step], sizes, recipe.batch_size, recipe.micro_batch_tokens)
            loss = update(model, rows, groups, recipe, tokenizer, optimizer, scaler, step, len(updates))
            tokens = sum(sizes[row] for row in updates[step])
            rate = learning_rate(recipe, step, len(updates))
            history.updates.append({"step": step + 1, "tokens": tokens, "loss": loss, "learning_rate": rate})
            history.seconds = time.perf_counter() - began
            speed = history.tokens / history.seconds
            note = f"· loss {loss:.2f} · {speed:,.0f} tokens/s · {memory_peak() / 2**30:.1f} GiB at most"
            line.show(f"{recipe.method}: updates", step + 1, len(updates), note)
            stop = asked_to_stop()
            if stop or time.monotonic() - saved_at > SECONDS_BETWEEN_CHECKPOINTS:
                save_checkpoint(work, key, step + 1, weights, optimizer, scaler, history)
                saved_at = time.monotonic()
            if stop:
                raise KeyboardInterrupt(f"stopped after update {step + 1}; run again to go on from there")
        history.peak_memory = max(history.peak_memory, memory_peak())
        trained.save(model, tokenizer, asdict(recipe), history, key, base, out)
        trained.save_measured(history, key, work)
        files.remove_folder(work)
        if asked_to_stop():
            raise KeyboardInterrupt("stopped after the last update; the result is saved")
    return history


def plan_updates(sizes: list[int], recipe: Recipe, replay: int) -> list[list[int]]:
    """The row numbers of every update of this recipe; the last `replay` rows are general text."""
    return examples.schedule(
        sizes,
        rows_per_update=recipe.batch_size * recipe.accumulation,
        epochs=recipe.epochs,
        token_budget=recipe.token_budget,
        seed=recipe.seed,
        replay=replay,
        replay_ratio=recipe.replay_ratio,
    )


def update(
    model: PreTrainedModel,
    rows: Dataset,
    groups: list[list[int]],
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    step: int,
    total: int,
) -> float:
    """One update from all micro-batches in `groups`; the mean loss per graded token in nats."""
    model.train()
    torch.manual_seed(recipe.seed * 1_000_003 + step)  # dropout depends on the place, so that a resume repeats it
    batches = [examples.collate(rows, group, tokenizer.pad_token_id, device()) for group in groups]
    graded = sum(int((b["labels"][:, 1:] != examples.IGNORED).sum()) for b in batches)
    summed = 0.0
    for batch in batches:
        with arithmetic(recipe.dtype):
            loss, _ = answer_loss(model, batch)
        scaler.scale(loss / graded).backward()
        summed += loss.item()
    if not math.isfinite(summed):
        raise CourseError(
            f"{recipe.method}: the loss is {summed} at update {step + 1}",
            f"lower {recipe.method.upper()}_LR (now {recipe.learning_rate:g}) or set DTYPE=float32",
        )
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_([w for g in optimizer.param_groups for w in g["params"]], recipe.clip)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe, step, total)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    give_back_memory()
    return summed / graded


def arithmetic(dtype: str) -> torch.autocast:
    """Matrix products in `dtype`; weights that are trained stay float32.

    At a rate of 1e-5 an update to a bfloat16 weight rounds away for nearly every weight, so the float32
    weights are the ones that are updated and bfloat16 copies are made for each product.
    """
    return torch.autocast(device(), dtype=getattr(torch, dtype), enabled=dtype != "float32")


def evaluate(model: PreTrainedModel, rows: Dataset, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> float:
    """Mean loss in nats per graded token over `rows`, nothing trained."""
    model.eval()
    sizes = examples.lengths(rows)
    summed = graded = 0
    with torch.no_grad(), arithmetic(recipe.dtype):
        every = list(range(len(rows)))
        for group in examples.micro_batches(every, sizes, recipe.batch_size, recipe.micro_batch_tokens):
            loss, n = answer_loss(model, examples.collate(rows, group, tokenizer.pad_token_id, device()))
            summed, graded = summed + loss.item(), graded + n
    return summed / graded


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


def save_checkpoint(
    work: Path,
    key: str,
    step: int,
    weights: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    history: History,
) -> None:
    tensors = dict(weights)
    for name, weight in weights.items():
        tensors |= {f"{part}|{name}": value for part, value in optimizer.state[weight].items()}
    checkpoints.save(work, step, tensors, {"key": key, "history": asdict(history), "scaler": scaler.state_dict()})


def resume(
    work: Path,
    key: str,
    weights: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> History:
    """Put the newest whole checkpoint of this training back; its history, or an empty one."""
    found = checkpoints.newest(work)
    if found is None or found[1]["key"] != key:
        return History()
    tensors, state = found
    history = History(**state["history"])
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(tensors[name])
            parts = {p: tensors[f"{p}|{name}"].to(weight.device) for p in OPTIMIZER_PARTS if f"{p}|{name}" in tensors}
            if parts:  # a weight that never had a gradient has no state
                optimizer.state[weight] = parts
    scaler.load_state_dict(state["scaler"])
    print(f"going on after update {len(history.updates)}, from a checkpoint in {relative(work)}")
    return history


def read_key(work: Path) -> str | None:
    path = work / "key.json"
    return files.read_json(path) if path.exists() else None
