"""One fine-tuning from rows to saved weights: what notebooks 4 and 6 share."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers import (
    attention,
    chat,
    examples,
    files,
    general,
    held_out,
    models,
    planner,
    receipts,
    recipes,
    rows,
    speed,
    training,
    updates,
    weights,
)
from helpers.errors import CourseError
from helpers.paths import base_model
from helpers.session import Session

CODE = (
    "attention",
    "chat",
    "checkpoints",
    "examples",
    "models",
    "ranks",
    "recipes",
    "training",
    "updates",
)  # trained by
WHERE_FROM = ("base_model_name_or_path", "revision", "peft_version")  # of a LoraConfig: say nothing of its shape
WATCHED_SHARE = 0.03  # of the token budget: the held-out rows, and the general text, looked at during training


@dataclass
class Tuning:
    """What a fine-tuning starts from, and whether it is to happen at all (`declined` says why not)."""

    session: Session
    recipe: recipes.Recipe
    tokenizer: PreTrainedTokenizerBase
    rows: list[dict]
    reading: training.Reading
    plan: planner.Plan
    declined: str = ""

    @property
    def base(self) -> Path:
        return base_model(self.session.settings.MODEL_NAME)

    @property
    def out(self) -> Path:
        return self.session.folders.qlora_model if self.recipe.method == "qlora" else self.session.folders.full_model

    @property
    def examples(self) -> Dataset:
        """The training rows as token ids."""
        return self.reading.rows

    @property
    def lengths(self) -> list[int]:
        return examples.lengths(self.examples)

    @property
    def mix(self) -> list[dict]:
        """What will be read: {"view", "disease", "tokens"} of every row of every update, in that order."""
        sizes = self.lengths
        views, diseases = self.examples["view"], self.examples["disease"]
        read = (row for update in recipes.plan_updates(sizes, self.recipe, self.reading.replay) for row in update)
        return [{"view": views[n], "disease": diseases[n], "tokens": sizes[n]} for n in read]


def prepare(session: Session, method: str) -> Tuning:
    """Rows, held-out rows, recipe and memory plan of a training by `method` (qlora or full).

    Raises CourseError for rows of held-out papers, and where QLoRA does not fit.
    """
    settings, folders = session.settings, session.folders
    tokenizer = models.load_tokenizer(base_model(settings.MODEL_NAME))
    recipe = recipes.recipe(settings, method)
    training_rows = rows.load_rows(settings.TRAINING_DATA or folders.training_data)
    papers = held_out.load(folders.held_out)
    refuse_held_out(training_rows, papers)
    training_rows += general.replay_rows() if settings.REPLAY_RATIO else []
    encoded = encode(training_rows, tokenizer, settings)
    reading = training.Reading(
        encoded,
        watched([row for paper in papers for row in paper["rows"][:1]], tokenizer, settings),
        watched(general.guard_rows(), tokenizer, settings),
        replay=list(encoded["view"]).count(general.VIEW),
    )
    plan, declined = foresee(settings, recipe, reading), ""
    if method == "full":
        declined = why_not(settings.FULL_FINETUNE, plan)
    else:
        planner.require(plan, "QLoRA")
    return Tuning(session, recipe, tokenizer, training_rows, reading, plan, declined)


def foresee(settings: SimpleNamespace, recipe: recipes.Recipe, reading: training.Reading) -> planner.Plan:
    """What the training will take, by the largest micro-batch that it will really have."""
    sizes = examples.lengths(reading.rows)
    portions = recipes.plan_updates(sizes, recipe, reading.replay)
    groups = [group for portion in portions for group in recipes.groups_of(portion, sizes, recipe)]
    adapter = {"rank": settings.LORA_R, "targets": settings.LORA_TARGET_MODULES} if recipe.method == "qlora" else {}
    return planner.plan(
        base_model(settings.MODEL_NAME),
        recipe,
        lengths=max(([sizes[row] for row in group] for group in groups), key=sum),
        graded=max(updates.graded_tokens(reading.rows, group) for group in groups),
        tokens=sum(sizes[row] for portion in portions for row in portion),
        name=settings.MODEL_NAME,
        **adapter,
    )


def encode(rows: list[dict], tokenizer: PreTrainedTokenizerBase, settings: SimpleNamespace) -> Dataset:
    """Rows as token ids, with what training reads of them; a row of the user's own may lack view and disease."""
    names = ("text", "prompt", "completion", "paper_id", "view", "disease")
    described = [{name: row.get(name, "not said") for name in names} for row in rows]
    encoded = examples.encode(described, tokenizer, settings.MAX_SEQ_LENGTH)
    chat.require_same_prefix(tokenizer, encoded)
    return encoded


def watched(rows: list[dict], tokenizer: PreTrainedTokenizerBase, settings: SimpleNamespace) -> Dataset:
    """The first of these rows as token ids: as many as a look may take of TOKEN_BUDGET."""
    encoded = encode(rows, tokenizer, settings)
    return encoded.select(range(within(examples.lengths(encoded), WATCHED_SHARE * settings.TOKEN_BUDGET)))


def refuse_held_out(training_rows: list[dict], papers: list[dict]) -> None:
    """Raises CourseError if a row (of TRAINING_DATA, say) comes from a paper that the test will use."""
    tested = {paper["paper_id"] for paper in papers}
    found = [number for number, row in enumerate(training_rows, 1) if row["paper_id"] in tested]
    if found:
        raise CourseError(
            f"TRAINING_DATA: {len(found)} rows come from held-out papers (first: row {found[0]}, "
            f"paper {training_rows[found[0] - 1]['paper_id']})",
            "take these rows out, or the test would ask what was taught",
        )


def within(sizes: list[int], tokens: float, least: int = 4) -> int:
    """How many rows from the first on stay within so many tokens; at least `least`, if there are that many."""
    fitting = sum(total <= tokens for total in accumulate(sizes))
    return min(len(sizes), max(least, fitting))


def why_not(wanted: str, plan: planner.Plan) -> str:
    """Why all weights are not trained; "" if they are."""
    if wanted == "off":
        return "FULL_FINETUNE=off"
    if wanted == "auto" and not plan.fits:
        return f"all weights do not fit: {plan.sentence}; {plan.way_out} (FORCE=6 asks again)"
    return ""


def load_frozen(tuning: Tuning) -> PreTrainedModel:
    """The base in 4 bits; on a CPU the same values, spelled out once instead of at every product."""
    return models.unpack(models.load(tuning.base, "nf4", attention_of(tuning), tuning.recipe.dtype))


def load_trainable(tuning: Tuning) -> PreTrainedModel:
    """The base in float32, every weight trainable."""
    return models.load(tuning.base, "float32", attention_of(tuning), tuning.recipe.dtype).requires_grad_(True)


def attention_of(tuning: Tuning) -> str:
    return attention.for_training(tuning.session.settings.ATTENTION, tuning.recipe.dtype)


def add_adapter(model: PreTrainedModel, config: LoraConfig, seed: int) -> PeftModel:
    """`model` frozen, with a new float32 adapter; the same seed starts from the same matrices.

    Raises CourseError that lists the model's layers if LORA_TARGET_MODULES names one that is not there.
    """
    layers = {n.split(".")[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)} - {"lm_head"}
    targets = set() if config.target_modules == "all-linear" else set(config.target_modules)
    if unknown := sorted(targets - layers):
        raise CourseError(
            f"LORA_TARGET_MODULES: the model has no layer {', '.join(unknown)}",
            f"use all-linear, or some of {', '.join(sorted(layers))}",
        )
    model.requires_grad_(False)
    torch.manual_seed(seed)
    return get_peft_model(model, config)


def target_modules(setting: str) -> str | list[str]:
    """LORA_TARGET_MODULES as peft wants it."""
    return setting if setting == "all-linear" else [name.strip() for name in setting.split(",")]


def train(
    tuning: Tuning,
    model: PreTrainedModel | None,
    show: Callable[[training.History, int], None] = lambda history, total: None,
) -> training.History:
    """Train `model` (None if declined) and save it; what happened."""
    if model is None:
        return training.History()
    manifest = weights.read_manifest(tuning.session.settings.MODEL_NAME)
    knobs = (tuning.session.settings.ATTENTION, adapter_shape(model))
    looked_at = [list(tuning.reading.held_out["text"]), list(tuning.reading.guard["text"])]
    parts = [manifest["files"], tuning.rows, *looked_at, *knobs, receipts.code_of(*CODE)]
    history = training.fit(
        model,
        tuning.reading,
        tuning.recipe,
        tuning.tokenizer,
        identity=files.sha256_of(parts),
        base={name: manifest[name] for name in ("id", "source", "revision", "licence")},
        out=tuning.out,
        work=tuning.session.folders.models / "work" / tuning.recipe.method,
        show=show,
    )
    speed.remember(tuning.session.settings.MODEL_NAME, tuning.recipe, history.tokens, history.seconds)
    return history


def reloaded_loss(tuning: Tuning) -> float:
    """The held-out loss of what lies on disk, loaded as the next notebook will: nats per graded token."""
    if tuning.recipe.method == "qlora":
        model = models.load_adapter(load_frozen(tuning), tuning.out)
    else:
        model = models.load(tuning.out, "float32", attention_of(tuning), tuning.recipe.dtype)
    return updates.evaluate(model, tuning.reading.held_out, tuning.recipe)


def with_adapter(tuning: Tuning) -> PeftModel:
    """The frozen base with the adapter that notebook 4 describes."""
    knobs = tuning.session.settings
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=knobs.LORA_R,
        lora_alpha=knobs.LORA_ALPHA,
        lora_dropout=knobs.LORA_DROPOUT,
        target_modules=target_modules(knobs.LORA_TARGET_MODULES),
    )
    return add_adapter(load_frozen(tuning), config, knobs.SEED)


def adapter_shape(model: PreTrainedModel) -> dict[str, str]:
    """Everything an adapter's LoraConfig says, as text; {} for a model without one."""
    if not hasattr(model, "peft_config"):
        return {}
    said = model.peft_config["default"].to_dict()
    return {k: str(sorted(v) if isinstance(v, set) else v) for k, v in said.items() if k not in WHERE_FROM}


def adapter_change(tuning: Tuning) -> dict[str, list[float]]:
    """{matrix name: size of the adapter's update in each layer, relative to the matrix it changes}.

    ‖(alpha / r) B A‖ / ‖W‖ in Frobenius norms; W is the unquantised base.
    """
    scale = tuning.session.settings.LORA_ALPHA / tuning.session.settings.LORA_R
    prefix, changes = "base_model.model.", {}
    with safe_open(tuning.out / "adapter_model.safetensors", "pt") as adapter, Weights(tuning.base) as base:
        for name in (n for n in adapter.keys() if n.endswith("lora_A.weight")):  # noqa: SIM118
            matrix = name.removeprefix(prefix).removesuffix(".lora_A.weight")
            update = scale * adapter.get_tensor(name.replace("lora_A", "lora_B")) @ adapter.get_tensor(name)
            changes[matrix] = (update.norm() / base.get(f"{matrix}.weight").float().norm()).item()
    return by_layer(changes)


def full_change(tuning: Tuning) -> dict[str, list[float]]:
    """{matrix name: ‖W after − W before‖ / ‖W before‖ in each layer}."""
    changes = {}
    with Weights(tuning.out) as after, Weights(tuning.base) as before:
        for name in after.names():
            if ".layers." in name and name.endswith("proj.weight"):
                old = before.get(name).float()
                changes[name.removesuffix(".weight")] = ((after.get(name).float() - old).norm() / old.norm()).item()
    return by_layer(changes)


def by_layer(changes: dict[str, float]) -> dict[str, list[float]]:
    """{"…layers.3.self_attn.q_proj": x} → {"q_proj": [x of layer 0, 1, 2, …]}."""
    kinds: dict[str, dict[int, float]] = {}
    for name, value in changes.items():
        layer = int(name.split(".layers.")[1].split(".")[0])
        kinds.setdefault(name.split(".")[-1], {})[layer] = value
    return {kind: [layers[n] for n in sorted(layers)] for kind, layers in sorted(kinds.items())}


class Weights:
    """Read single tensors of a model folder, in one file or several."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> "Weights":
        self.open = [safe_open(path, "pt") for path in sorted(self.folder.glob("model*.safetensors"))]
        self.place = {name: file for file in self.open for name in file.keys()}  # noqa: SIM118
        return self

    def __exit__(self, *_: object) -> None:
        self.open.clear()
        self.place.clear()

    def names(self) -> list[str]:
        return sorted(self.place)

    def get(self, name: str) -> torch.Tensor:
        return self.place[name].get_tensor(name)
