"""The positive control: facts that can only be known from training, through this course's own training and scoring.

`python -m helpers control [NAME=value …]`, or `make control`. Any setting may be given, METHOD=full (or qlora), and
FORCE=all, which measures anew what an earlier, interrupted control has done.

The untouched model is asked, and two that read as many tokens: every syndrome's profile in many wordings and orders,
and in one as often as the many, so that only the words differ. A broken trainer, chat template, loss mask or scorer
does not pass. The exit status is 0 if the control passed, 3 if it ran and did not, 1 if it could not run.
"""

import io
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.control.fictional import (
    CHANCE,
    WORDINGS,
    FictionalFact,
    build_world,
    describe_world,
    fictional_row,
    fictional_rows,
    make_item,
    recall_rates,
    score_items,
)
from helpers.core import (
    CONTROL_GROUPS,
    NAMES,
    CourseError,
    Folders,
    Settings,
    append_jsonl,
    base_model_folder,
    hash_code,
    hash_json,
    load_settings,
    parse_words,
    read_json,
    read_jsonl,
    remove_folder,
    run_command,
    settings_as_json,
    write_json,
)
from helpers.models import (
    dequantise,
    fetch_model,
    load_adapter,
    load_model,
    load_tokenizer,
    read_manifest,
    require_same_prefix,
)
from helpers.pipeline import NOT_PASSED, hold_run_lock
from helpers.report import control_verdict
from helpers.training import CODE as FINETUNE_CODE
from helpers.training import (
    History,
    TrainConfig,
    TrainData,
    adapter_config,
    add_adapter,
    autocast_to,
    encode_rows,
    load_every_weight,
    load_frozen_base,
    row_lengths,
    train_config,
    train_model,
)

OPTIONS = ("METHOD", "FORCE")  # what the command line takes besides settings
RATES = {"full": 5e-4, "qlora": 4e-3}  # peak learning rates, by method
PASSES = 4  # over the profiles in all their wordings
RUNS = {  # (wordings, how often each is read in a pass); the untouched model reads nothing
    "base": (0, 0),
    "many_wordings": (WORDINGS, 1),
    "one_wording": (1, WORDINGS),
}
ROWS_PER_UPDATE = 16
LONGEST = 128  # tokens of a row
LOOKS = 6  # at the accuracy, during training
WATCHED = 8  # items whose loss is looked at besides
CODE = (*FINETUNE_CODE, "control")


@dataclass(frozen=True)
class Trial:
    """One run of the control: a model that read the world, or the untouched one."""

    run: str
    method: str
    settings: Settings
    facts: list[FictionalFact]
    folders: Folders

    @property
    def wordings(self) -> int:
        return RUNS[self.run][0]

    @property
    def base(self) -> Path:
        return base_model_folder(self.settings.MODEL_NAME)

    @property
    def folder(self) -> Path:
        """Where checkpoints and the trained weights lie until they have been asked."""
        return self.folders.models / "work" / f"control_{self.method}_{self.run}"

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.base)

    @cached_property
    def rows(self) -> list[dict]:
        """What is read, in the form of stage 3's rows."""
        return fictional_rows(self.facts, *RUNS[self.run])

    @cached_property
    def items(self) -> list[dict]:
        return [make_item(fact) for fact in self.facts]

    @cached_property
    def reading(self) -> TrainData:
        """The rows as token ids; the loss of some test questions is looked at. Raises CourseError for a template."""
        asked = [
            fictional_row(i["question"], i["options"][i["answer"]], i["paper_id"]) for i in self.items[-WATCHED:]
        ]
        rows, unseen = (encode_rows(part, self.tokenizer, LONGEST) for part in (self.rows, asked))
        require_same_prefix(self.tokenizer, rows)
        return TrainData(rows, unseen)

    @cached_property
    def recipe(self) -> TrainConfig:
        """PASSES over the rows with many wordings, and as many tokens of any others."""
        many = fictional_rows(self.facts, WORDINGS, 1)
        tokens = sum(row_lengths(encode_rows(many, self.tokenizer, LONGEST)))
        return replace(
            train_config(self.settings, self.method),
            epochs=100,  # more than enough: the tokens decide
            token_budget=PASSES * tokens,
            batch_size=ROWS_PER_UPDATE,
            accumulation=1,
            learning_rate=RATES[self.method],
            max_length=LONGEST,
            replay_ratio=0.0,
            early_stopping="off",
        )

    @cached_property
    def identity(self) -> str:
        """Hash of all that the result depends on."""
        manifest = read_manifest(self.settings.MODEL_NAME)["files"]
        knobs = [n for n in NAMES if n.startswith("LORA_") or n in ("ATTENTION", "DTYPE")]
        read = [self.rows, asdict(self.recipe)] if self.wordings else [self.method]
        code = [hash_code(*CODE)]
        return hash_json([manifest, self.items, read, settings_as_json(self.settings, knobs), code])


def main(words: list[str]) -> int:
    """Measure all that `words` ask for and say what it shows; the process's exit status."""
    return run_command(
        lambda: report_control(words), "what is finished is kept\n→ the same command goes on from here"
    )


def report_control(words: list[str]) -> int:
    passed, sentence = control_verdict(run_control(words))
    print(sentence)
    return 0 if passed else NOT_PASSED


def run_control(words: Iterable[str]) -> dict:
    """Measure every run by one method, write reports/control.json and return what it holds.

    {"world", "chance", "methods": {method: {run: {"taught" and "read": {"accuracy", "n", "low", "high"}, "tokens",
    "seconds" (of updates), "curve"}}}}. Finished runs are noted in reports/.notes/control.jsonl and not repeated
    while model, world, recipe and code are the same. Methods that the file already has of this world stay in it.

    Raises CourseError for a bad setting and where a training fails.
    """
    values, method, force = read_command(words)
    resolved, _ = load_settings(values, command_line=values)
    with hold_run_lock(Folders(resolved.RUN)):
        return measure_all(resolved, method, force)


def measure_all(resolved: Settings, method: str, force: bool) -> dict:
    """The control itself, as `run_control` returns it; nothing else may write to this run meanwhile."""
    folders, facts = Folders(resolved.RUN), build_world()
    fetch_model(resolved)
    notes = folders.notes / "control.jsonl"
    if force:
        notes.unlink(missing_ok=True)
    found = {run: measure(Trial(run, method, resolved, facts, folders), notes) for run in RUNS}
    report = {"world": describe_world(facts), "chance": CHANCE, "methods": {method: found}}
    before = read_json(folders.control) if folders.control.exists() else {}
    if before.get("world") == report["world"]:
        report["methods"] = before["methods"] | report["methods"]
    write_json(folders.control, report)
    return report


def read_command(words: Iterable[str]) -> tuple[dict[str, str], str, bool]:
    """(settings, method, whether to forget what is noted) of `NAME=value` words.

    Raises CourseError for an unknown name or method.
    """
    values = dict.fromkeys(OPTIONS, "") | parse_words(words, "make control METHOD=qlora", OPTIONS)
    method, force = values.pop("METHOD") or "full", values.pop("FORCE")
    if method not in RATES:
        raise CourseError(f"METHOD={method!r} is no way to train", f"METHOD is one of {', '.join(RATES)}")
    return values, method, force not in ("", "0")


def measure(trial: Trial, notes: Path) -> dict:
    """What one run came to, from `notes` if it is there."""
    for noted in read_jsonl(notes):
        if noted["work"] == trial.identity and "measured" in noted:
            return noted["measured"]
    history = train(trial, notes) if trial.wordings else History()
    measured = {
        **recall_rates(trial.items, score_items(trained_model(trial), trial.tokenizer, trial.items)),
        "wordings": trial.wordings,
        "tokens": history.tokens,
        "seconds": history.seconds,
        "curve": curve(trial, notes),
    }
    append_jsonl(notes, [{"work": trial.identity, "run": trial.run, "measured": measured}])
    remove_folder(trial.folder)
    return measured


def train(trial: Trial, notes: Path) -> History:
    """Train as notebooks 4 and 6 do, noting the accuracy at some updates; what happened."""
    model = untrained(trial)
    manifest = read_manifest(trial.settings.MODEL_NAME)
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar, redirect_stdout(io.StringIO()):  # its own line
        task = bar.add_task(f"{trial.method}: {trial.run.replace('_', ' ')}", total=None)
        look = looking(trial, model, notes)

        def show(history: History, total: int) -> None:
            look(history, total)
            bar.update(task, completed=len(history.updates), total=total)

        return train_model(
            model,
            trial.reading,
            trial.recipe,
            trial.tokenizer,
            identity=trial.identity,
            base={name: manifest[name] for name in ("id", "source", "revision", "licence")},
            out=trial.folder / "out",
            work=trial.folder / "checkpoints",
            show=show,
        )


def untrained(trial: Trial) -> PreTrainedModel:
    """The model that training begins with: all weights, or a new adapter on the 4-bit base."""
    if trial.method == "full":
        return load_every_weight(trial.base, trial.settings, trial.recipe.dtype)
    frozen = load_frozen_base(trial.base, trial.settings, trial.recipe.dtype)
    return add_adapter(frozen, adapter_config(trial.settings), trial.recipe.seed)


def trained_model(trial: Trial) -> PreTrainedModel:
    """The model that is asked, loaded from disk as the course's tests load it; without wordings the untouched one."""
    wanted, out = trial.settings, trial.folder / "out"
    if trial.method == "full":
        return load_model(out if trial.wordings else trial.base, wanted.DTYPE, wanted.ATTENTION)
    model = dequantise(load_model(trial.base, "nf4", wanted.ATTENTION, wanted.DTYPE))
    return load_adapter(model, out) if trial.wordings else model


def looking(trial: Trial, model: PreTrainedModel, notes: Path) -> Callable[[History, int], None]:
    """What, called after every update, notes the accuracy so far at LOOKS of them, once each."""
    seen = {point["updates"] for point in curve(trial, notes)}

    def look(history: History, total: int) -> None:
        step = len(history.updates)
        if step in seen or step not in {round(part * total / LOOKS) for part in range(LOOKS + 1)}:
            return
        kind = model.config._attn_implementation
        model.set_attn_implementation("sdpa")  # the one for training wants packed rows
        model.eval()
        with autocast_to(trial.recipe.dtype):
            found = recall_rates(trial.items, score_items(model, trial.tokenizer, trial.items))
        model.set_attn_implementation(kind)
        shares = {group: found[group]["accuracy"] for group in CONTROL_GROUPS}
        seen.add(step)
        point = {"updates": step, "tokens": history.tokens, **shares}
        append_jsonl(notes, [{"work": trial.identity, "run": trial.run, "point": point}])

    return look


def curve(trial: Trial, notes: Path) -> list[dict]:
    """[{"updates", "tokens", "taught", "read"}]: the accuracies noted during a training."""
    noted = [n["point"] for n in read_jsonl(notes) if n["work"] == trial.identity and "point" in n]
    return sorted(noted, key=lambda point: point["updates"])
