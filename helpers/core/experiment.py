"""The arms of the experiment: which models are trained, and which rows of every table each notebook examines."""

from dataclasses import dataclass

from helpers.core.settings import Settings

METHOD_STAGES = {"qlora": 4, "full": 6}  # the notebook that trains by each
EXAMS = {2: "base", 5: "qlora", 7: "full"}  # the WHICH of each notebook that asks
PLACEBO = "placebo_qlora"
CONTROL_GROUPS = ("taught", "read")  # of the positive control's invented facts


@dataclass(frozen=True)
class Training:
    """One training: its name in every table, how it is done, the artefact its rows come from, and its seed."""

    row: str
    method: str
    rows: str
    seed: int


def trainings_of(method: str, settings: Settings) -> tuple[Training, ...]:
    """What is trained by `method`: first the model that the course is about, then its controls and repeats.

    The placebo reads papers of other fields; a repeat differs by its seed alone.
    """
    arms = [Training(method, method, "rows", settings.SEED)]
    if method == "qlora" and settings.CONTROLS != "off":
        arms.append(Training(PLACEBO, method, "placebo_data", settings.SEED))
    seeds = range(settings.SEED + 1, settings.SEED + settings.SEEDS)
    return (*arms, *(Training(f"{method}_s{seed}", method, "rows", seed) for seed in seeds))


def variants_examined(which: str, settings: Settings) -> tuple[str, ...]:
    """The rows that the notebook with this WHICH examines: the untouched model first."""
    if which == "base":
        return ("base_4bit",)
    if which == "full":
        return ("base_bf16", *(arm.row for arm in trainings_of("full", settings)))
    again = ("base_aa",) if settings.CONTROLS == "full" else ()
    return ("base_4bit", *again, "base_rag", *(arm.row for arm in trainings_of("qlora", settings)))


def variants_asked(which: str, settings: Settings) -> tuple[str, ...]:
    """The rows that are asked the questions there: 2 has asked the 4-bit base already."""
    rows = variants_examined(which, settings)
    return rows[1:] if which == "qlora" else rows


def variants_measured(which: str, settings: Settings) -> tuple[str, ...]:
    """The rows that leave items there: 2 comes before there are papers, and A/A differs in its samples alone."""
    return () if which == "base" else tuple(row for row in variants_examined(which, settings) if row != "base_aa")
