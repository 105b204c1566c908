"""One fine-tuning from rows to saved weights: what notebooks 4 and 6 share."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.core import (
    PLACEBO,
    CourseError,
    Run,
    Training,
    base_model_folder,
    hash_code,
    hash_json,
    relative_path,
    trainings_of,
)
from helpers.dataset import VIEW, guard_rows, load_held_out, load_rows, replay_rows
from helpers.models import load_adapter, load_tokenizer, read_manifest, require_same_prefix
from helpers.training.batches import encode_rows, row_lengths
from helpers.training.config import TrainConfig, micro_batches_of, plan_updates, train_config
from helpers.training.loop import TrainData, train_model
from helpers.training.model import add_adapter, load_every_weight, load_frozen_base
from helpers.training.planner import Plan, plan_training, require_plan
from helpers.training.run_record import History
from helpers.training.step import evaluate_loss, graded_tokens
from helpers.training.throughput import remember_speed

CODE = (
    "models/chat_template",
    "models/load",
    *(f"training/{name}" for name in ("attention", "batches", "checkpoints", "config", "distributed")),
    *(f"training/{name}" for name in ("loop", "model", "step")),
)  # what the trained weights depend on
WHERE_FROM = ("base_model_name_or_path", "revision", "peft_version")  # of a LoraConfig: say nothing of its shape
MANY = 10**6  # passes at most, where the tokens decide
WATCHED_SHARE = 0.03  # of the token budget: the held-out rows, and the general text, looked at during training


@dataclass
class Finetuning:
    """What a fine-tuning starts from, and whether it is to happen at all (`declined` says why not)."""

    run: Run
    arm: Training
    recipe: TrainConfig
    tokenizer: PreTrainedTokenizerBase
    rows: list[dict]
    reading: TrainData
    plan: Plan
    declined: str = ""

    @property
    def base(self) -> Path:
        return base_model_folder(self.run.settings.MODEL_NAME)

    @property
    def out(self) -> Path:
        return self.run.folders.model(self.arm.row)

    @property
    def examples(self) -> Dataset:
        """The training rows as token ids."""
        return self.reading.rows

    @property
    def lengths(self) -> list[int]:
        return row_lengths(self.examples)

    @property
    def mix(self) -> list[dict]:
        """What will be read: {"view", "disease", "tokens"} of every row of every update, in that order."""
        sizes = self.lengths
        views, diseases = self.examples["view"], self.examples["disease"]
        read = (row for update in plan_updates(sizes, self.recipe, self.reading.replay) for row in update)
        return [{"view": views[n], "disease": diseases[n], "tokens": sizes[n]} for n in read]


def prepare_finetuning(run: Run, method: str) -> Finetuning:
    """Rows, held-out rows, recipe and memory plan of a training by `method` (qlora or full).

    Raises CourseError for rows of held-out papers, where nothing is left to read, and where QLoRA does not fit.
    """
    made = prepare_training(run, trainings_of(method, run.settings)[0], train_config(run.settings, method))
    if method == "full":
        return replace(made, declined=explain_declined(run.settings.FULL_FINETUNE, made.plan))
    require_plan(made.plan, "QLoRA")
    return made


def planned_rows(tuning: Finetuning) -> list[dict]:
    """The training rows that will be read before the tokens run out, general text left out."""
    papers = len(tuning.lengths) - tuning.reading.replay
    planned = plan_updates(tuning.lengths, tuning.recipe, tuning.reading.replay)
    numbers = tuning.examples["number"]
    return [tuning.rows[n] for n in sorted({numbers[row] for update in planned for row in update if row < papers})]


def other_trainings(tuning: Finetuning, history: History) -> list[Finetuning]:
    """The same training again: the placebo, which reads as many tokens of papers of other fields, and other seeds."""
    run, recipe = tuning.run, tuning.recipe
    made = []
    for arm in trainings_of(recipe.method, run.settings)[1:] if history.updates else ():
        again = replace(recipe, seed=arm.seed)
        if arm.row == PLACEBO:  # as many tokens as were read, which early stopping may have ended
            again = replace(again, token_budget=history.tokens, epochs=MANY, early_stopping="off")
        made.append(prepare_training(run, arm, again))
    return made


def prepare_training(run: Run, arm: Training, recipe: TrainConfig) -> Finetuning:
    """What one arm of the experiment starts from."""
    settings, folders = run.settings, run.folders
    tokenizer = load_tokenizer(base_model_folder(settings.MODEL_NAME))
    own = settings.TRAINING_DATA if arm.rows == "rows" else None
    data = folders.placebo_data if arm.rows == "placebo_data" else folders.training_data
    training_rows = load_rows(own or data)
    papers = load_held_out(folders.held_out)
    unseen = [row for paper in papers for row in paper["rows"][:1]]
    if not unseen:
        raise CourseError(
            f"{relative_path(folders.held_out)} holds no rows",
            "run stage 3 with a larger MAX_PAPERS",
            "too-few-papers",
        )
    refuse_held_out(training_rows, papers)
    training_rows += replay_rows() if settings.REPLAY_RATIO else []
    encoded = encode_for_training(training_rows, tokenizer, settings)
    reading = TrainData(
        encoded,
        encode_watched(unseen, tokenizer, settings),
        encode_watched(guard_rows(), tokenizer, settings),
        replay=list(encoded["view"]).count(VIEW),
    )
    if len(encoded) == reading.replay:
        raise CourseError(
            f"no row of a paper has an answer within MAX_SEQ_LENGTH={settings.MAX_SEQ_LENGTH} tokens",
            "raise MAX_SEQ_LENGTH",
            "rows-are-too-long",
        )
    return Finetuning(run, arm, recipe, tokenizer, training_rows, reading, plan_memory(settings, recipe, reading))


def plan_memory(settings: SimpleNamespace, recipe: TrainConfig, reading: TrainData) -> Plan:
    """What the training will take, by the largest micro-batch that it will really have."""
    sizes = row_lengths(reading.rows)
    portions = plan_updates(sizes, recipe, reading.replay)
    groups = [group for portion in portions for group in micro_batches_of(portion, sizes, recipe)]
    adapter = {"rank": settings.LORA_R, "targets": settings.LORA_TARGET_MODULES} if recipe.method == "qlora" else {}
    return plan_training(
        base_model_folder(settings.MODEL_NAME),
        recipe,
        lengths=max(([sizes[row] for row in group] for group in groups), key=sum),
        graded=max(graded_tokens(reading.rows, group) for group in groups),
        tokens=sum(sizes[row] for portion in portions for row in portion),
        name=settings.MODEL_NAME,
        **adapter,
    )


def encode_for_training(rows: list[dict], tokenizer: PreTrainedTokenizerBase, settings: SimpleNamespace) -> Dataset:
    """Rows as token ids, with what training reads of them; a row of the user's own may lack view and disease."""
    names = ("text", "prompt", "completion", "paper_id", "view", "disease")
    described = [{name: row.get(name, "not said") for name in names} for row in rows]
    encoded = encode_rows(described, tokenizer, settings.MAX_SEQ_LENGTH)
    require_same_prefix(tokenizer, encoded)
    return encoded


def encode_watched(rows: list[dict], tokenizer: PreTrainedTokenizerBase, settings: SimpleNamespace) -> Dataset:
    """The first of these rows as token ids: as many as a look may take of TOKEN_BUDGET."""
    encoded = encode_for_training(rows, tokenizer, settings)
    return encoded.select(range(count_within(row_lengths(encoded), WATCHED_SHARE * settings.TOKEN_BUDGET)))


def refuse_held_out(training_rows: list[dict], papers: list[dict]) -> None:
    """Raises CourseError if a row (of TRAINING_DATA, say) comes from a paper that the test will use."""
    tested = {paper["paper_id"] for paper in papers}
    found = [number for number, row in enumerate(training_rows, 1) if row["paper_id"] in tested]
    if found:
        raise CourseError(
            f"TRAINING_DATA: {len(found)} rows come from held-out papers (first: row {found[0]}, "
            f"paper {training_rows[found[0] - 1]['paper_id']})",
            "take these rows out, or the test would ask what was taught",
            "your-own-rows-are-refused",
        )


def count_within(sizes: list[int], tokens: float, least: int = 4) -> int:
    """How many rows from the first on stay within so many tokens; at least `least`, if there are that many."""
    fitting = sum(total <= tokens for total in accumulate(sizes))
    return min(len(sizes), max(least, fitting))


def explain_declined(wanted: str, plan: Plan) -> str:
    """Why all weights are not trained; "" if they are."""
    if wanted == "off":
        return "FULL_FINETUNE=off"
    if wanted == "auto" and not plan.fits:
        return f"all weights do not fit: {plan.sentence}; {plan.way_out} (FORCE=6 asks again)"
    return ""


def load_frozen(tuning: Finetuning) -> PreTrainedModel:
    """The base in 4 bits."""
    return load_frozen_base(tuning.base, tuning.run.settings, tuning.recipe.dtype)


def load_trainable(tuning: Finetuning) -> PreTrainedModel:
    """The base in float32, every weight trainable."""
    return load_every_weight(tuning.base, tuning.run.settings, tuning.recipe.dtype)


def run_finetuning(
    tuning: Finetuning,
    model: PreTrainedModel | None,
    show: Callable[[History, int], None] = lambda history, total: None,
    declared: str = "",
) -> History:
    """Train `model` (None if declined) and save it; what happened. `declared`: hash of what counts as success."""
    if model is None:
        return History()
    manifest = read_manifest(tuning.run.settings.MODEL_NAME)
    knobs = (tuning.run.settings.ATTENTION, adapter_shape(model))
    looked_at = [list(tuning.reading.held_out["text"]), list(tuning.reading.guard["text"])]
    parts = [manifest["files"], tuning.rows, *looked_at, *knobs, hash_code(*CODE)]
    history = train_model(
        model,
        tuning.reading,
        tuning.recipe,
        tuning.tokenizer,
        identity=hash_json(parts),
        base={name: manifest[name] for name in ("id", "source", "revision", "licence")},
        out=tuning.out,
        work=tuning.run.folders.models / "work" / tuning.arm.row,
        show=show,
        declared=declared,
        force=tuning.run.force,
    )
    remember_speed(tuning.run.settings.MODEL_NAME, tuning.recipe, history.tokens, history.seconds)
    return history


def train_other_variants(
    tuning: Finetuning, history: History, config: LoraConfig | None = None
) -> dict[str, History]:
    """{row: what happened} of the trainings that the experiment needs besides `tuning`, whose history is given;
    `config` shapes adapters."""
    done = {}
    for other in other_trainings(tuning, history):
        if other.recipe.method == "qlora":
            model = add_adapter(load_frozen(other), config, other.recipe.seed)
        else:
            model = load_trainable(other)
        done[other.arm.row] = run_finetuning(other, model)
    return done


def compare_histories(histories: dict[str, History]) -> list[dict]:
    """A table: each training's tokens, updates, and losses on what it was not trained on, before and after."""
    return [
        {
            "model": row,
            "tokens": f"{history.tokens:,}",
            "updates": len(history.updates),
            "held-out loss": f"{history.held_out[0]['loss']:.3f} → {history.kept['loss']:.3f}",
            "general text": f"{history.held_out[0]['guard']:.3f} → {history.kept['guard']:.3f}",
        }
        for row, history in histories.items()
        if history.updates
    ]


def training_costs(histories: dict[str, History]) -> dict[str, dict]:
    """{row: {"tokens", "train_seconds", "train_peak_memory"}} of several trainings, for a receipt."""
    return {
        row: {"tokens": h.tokens, "train_seconds": h.seconds, "train_peak_memory": h.peak_memory}
        for row, h in histories.items()
    }


def reloaded_loss(tuning: Finetuning) -> float:
    """The held-out loss of what lies on disk, loaded as the next notebook will: nats per graded token."""
    if tuning.recipe.method == "qlora":
        model = load_adapter(load_frozen(tuning), tuning.out)
    else:
        model = load_every_weight(tuning.out, tuning.run.settings, tuning.recipe.dtype)
    return evaluate_loss(model, tuning.reading.held_out, tuning.recipe)


def adapter_shape(model: PreTrainedModel) -> dict[str, str]:
    """Everything an adapter's LoraConfig says, as text; {} for a model without one."""
    if not hasattr(model, "peft_config"):
        return {}
    said = model.peft_config["default"].to_dict()
    return {k: str(sorted(v) if isinstance(v, set) else v) for k, v in said.items() if k not in WHERE_FROM}
