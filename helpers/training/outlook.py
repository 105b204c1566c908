"""Plans side by side: before a download, on rented GPUs, and for the whole course."""

from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace

from transformers import PretrainedConfig

from helpers.core import base_model_folder
from helpers.models import config_of_settings, known_config
from helpers.training.config import MICRO_BATCH_TOKENS, TrainConfig, train_config
from helpers.training.finetune import WATCHED_SHARE
from helpers.training.gpus import GPUS, Gpu
from helpers.training.loop import LOOKS as LOOP_LOOKS
from helpers.training.planner import Plan, plan_training

GIB = 2**30
COMPARED = (
    "Qwen/Qwen2.5-1.5B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct",
    "meta-llama/Llama-3.1-8B-Instruct",
    "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B",
    "Qwen/Qwen3-14B",
)
# What a stage takes beside training, in stated figures that were not measured on a GPU.
NOTEBOOK = 45  # seconds to start one, import, and load a model
DOWNLOAD = 20e6  # bytes a second
PAPERS = 180  # seconds for asking PubMed and arXiv, who answer a few requests a second
STEP = 0.06  # seconds a generated token of a batch: the launch of some thousand kernels, whatever the model
QUESTIONS, TOGETHER = 10, 4  # asked, and so many in one batch
SCORED = 400_000  # tokens that the probes and the held-out papers read, without a way back
LOOKS = 1 + (LOOP_LOOKS + 1) * 2 * WATCHED_SHARE / 3  # seven looks at two sets, forward only


def plan_both(settings: SimpleNamespace) -> dict[str, Plan]:
    """{"qlora", "full"}: the plans of both trainings on this machine; no weights are needed.

    Raises CourseError where config.json has to come from the Hub and does not.
    """
    name, folder = settings.MODEL_NAME, base_model_folder(settings.MODEL_NAME)
    model = folder if (folder / "config.json").exists() else config_of_settings(settings)
    knobs = {"targets": settings.LORA_TARGET_MODULES, "name": name}
    ranks = {"qlora": settings.LORA_R, "full": 0}
    return {m: plan_training(model, train_config(settings, m), rank, **knobs) for m, rank in ranks.items()}


def plan_rows(plans: dict[str, Plan]) -> list[dict]:
    """One line a plan, for a table."""
    return [
        {
            "training": name,
            "memory": f"{made.total / GIB:.1f} of {made.available / GIB:.1f} GiB",
            "disk": f"{made.disk_total / GIB:.1f} of {made.disk_free / GIB:.1f} GiB",
            "time": f"{made.seconds / 60:,.0f} min for {made.tokens:,} tokens ({made.pace.source})",
            "fits": "yes" if made.fits else f"no: {made.way_out}",
        }
        for name, made in plans.items()
    ]


def on_cards(
    settings: SimpleNamespace, method: str, names: Iterable[str] = COMPARED, cards: Iterable[Gpu] = GPUS
) -> list[dict]:
    """One line for each public model: does a training by `method` fit on each card, and how long is a million tokens?

    The settings' batch, length and rank, with gradient checkpointing; nothing of it was run on these cards.
    """
    rank, lines = settings.LORA_R if method == "qlora" else 0, []
    for name in names:
        config = known_config(name)
        made = {card.name: describe_plan(plan_on(config, settings, method, rank, card)) for card in cards}
        lines.append({"model": name} | made)
    return lines


def plan_on(config: PretrainedConfig, settings: SimpleNamespace, method: str, rank: int, card: Gpu) -> Plan:
    """The plan of a training by these settings on a card."""
    wanted = on_card(train_config(settings, method), card)
    return plan_training(config, replace(wanted, token_budget=10**6), rank, card=card, seek=False)


def on_card(wanted: TrainConfig, card: Gpu) -> TrainConfig:
    """A recipe as it resolves on a GPU."""
    size = MICRO_BATCH_TOKENS["cuda"]
    return replace(wanted, dtype=card.dtype, checkpointing=True, micro_batch_tokens=size)


def describe_plan(made: Plan) -> str:
    said = f"{made.total / GIB:.1f} GiB"
    return f"{said}, {made.seconds / 3600:.1f} h" if made.total <= made.available else f"{said}: does not fit"


def course_seconds(settings: SimpleNamespace, card: Gpu) -> dict[str, float]:
    """{stage: seconds} of the whole course on a card, by the plans and the stated figures above."""
    config = config_of_settings(settings)
    knobs = {"card": card, "targets": settings.LORA_TARGET_MODULES}
    qlora, full = (
        plan_training(config, on_card(train_config(settings, method), card), rank, **knobs)
        for method, rank in (("qlora", settings.LORA_R), ("full", 0))
    )
    asked = -(-QUESTIONS // TOGETHER) * settings.MAX_NEW_TOKENS * STEP
    read = SCORED / (3 * qlora.pace.tokens_per_second)  # forward is a third of forward and back, or less
    trains = full.fits and settings.FULL_FINETUNE != "off"
    return {
        "1": NOTEBOOK + qlora.disk["base model"] / DOWNLOAD,
        "2": NOTEBOOK + asked,
        "3": NOTEBOOK + PAPERS,
        "4": NOTEBOOK + LOOKS * qlora.seconds,
        "5": NOTEBOOK + asked + 2 * read,
        "6": NOTEBOOK + trains * LOOKS * full.seconds,
        "7": NOTEBOOK + trains * (asked + 2 * read),
        "8": NOTEBOOK,
    }
