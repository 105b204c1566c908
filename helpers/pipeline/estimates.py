"""How long a stage will take: told from receipts of this machine, else from the recorded run; and whether it fits."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from helpers.core import (
    NAMES,
    ROOT,
    CourseError,
    Settings,
    Stage,
    check_receipt,
    describe_machine,
    device_name,
    hash_json,
    make_command,
    read_json,
    trainings_of,
    variants_asked,
)
from helpers.pipeline.stages import EXAMS, TRAINS

RECORDED = ROOT / "reports" / "recorded" / "receipts"
SCALES = dict.fromkeys(TRAINS, "TOKEN_BUDGET") | dict.fromkeys(EXAMS, "MAX_NEW_TOKENS")
LEAST = 100  # tokens: less is not worth suggesting
START = 15  # seconds of a stage that no setting changes: a process that imports everything, and a page


@dataclass(frozen=True)
class Estimate:
    """How long a stage will take; `seconds` is None where nothing is known, `sure` where it was measured here."""

    seconds: float | None = None
    sure: bool = False
    source: str = "no such stage has run here yet: nobody knows how long"

    def __str__(self) -> str:
        return self.source if self.seconds is None else f"about {format_minutes(self.seconds)}, {self.source}"


def estimate_stage(stage: Stage, settings: Settings) -> Estimate:
    """The time of a stage under these settings, from the newest receipt of the same stage, model and machine.

    Training is scaled by its tokens, an exam by the tokens of its answers. Reads MODEL_NAME, and what the SCALES and
    the lists of trainings and variants read.
    """
    here = [receipt for receipt in receipts_of(stage) if receipt["machine"] == machine_id()]
    for receipt in sorted(here, key=lambda receipt: receipt["finished"], reverse=True):
        if ratio := work_ratio(stage, receipt, settings):
            took = format_minutes(duration(receipt))
            source = "as it took here last time" if ratio == 1 else f"scaled from {took} here"
            return Estimate(scale(duration(receipt), ratio), True, source)
    if (path := RECORDED / f"{stage.name}.json").exists():
        recorded = read_json(path, dict)
        if ratio := work_ratio(stage, recorded, settings):
            source = "by the recorded run on two cores; here it may differ"
            return Estimate(scale(duration(recorded), ratio), False, source)
    return Estimate()


def work_ratio(stage: Stage, receipt: dict, settings: Settings) -> float:
    """How many times the work of this receipt's stage is to be done now; 0 where they cannot be compared."""
    before = {name: value for name, value in receipt["key"]["settings"].items() if name in NAMES}
    try:
        then = Settings(**(settings.model_dump() | before))
    except ValidationError:  # of a time when other values were allowed
        return 0
    if then.MODEL_NAME != settings.MODEL_NAME:
        return 0
    return amount_of_work(stage, settings) / amount_of_work(stage, then)


def scale(seconds: float, ratio: float) -> float:
    """What took so many seconds, with `ratio` times the work."""
    start = min(START, seconds)
    return start + (seconds - start) * ratio


def amount_of_work(stage: Stage, settings: Settings) -> float:
    """What the time of a stage grows with: tokens trained on or answered, over all models; 1 for other stages."""
    if stage.number in TRAINS:
        return settings.TOKEN_BUDGET * len(trainings_of(TRAINS[stage.number], settings))
    if stage.number in EXAMS:
        rows = variants_asked(EXAMS[stage.number], settings)
        return settings.MAX_NEW_TOKENS * (1 + settings.SAMPLES) * len(rows)
    return 1


def duration(receipt: dict) -> float:
    """Seconds of a stage's work. One that found its training done took no time of its own for it."""
    return max(receipt["seconds"], receipt.get("train_seconds") or 0)


def receipts_of(stage: Stage) -> Iterator[dict]:
    """The receipts that this stage left here in any run; those that cannot be read, and of skipped ones, left out."""
    name = f"receipts/{stage.name}.json"
    for path in (*(ROOT / "reports").glob(name), *(ROOT / "reports").glob(f"*/{name}")):
        if path.parent == RECORDED:
            continue
        try:
            receipt = check_receipt(path)
        except CourseError:
            continue
        if receipt["status"] == "done":
            yield receipt


def machine_id() -> str:
    """What tells this kind of machine from another in a receipt, without its name."""
    machine = describe_machine()
    return hash_json([machine["kind"], machine["cores"], machine["limits"], device_name()])[:12]


def require_time(stage: Stage, estimate: Estimate, settings: Settings, spent: float) -> str:
    """A warning where the stage may not fit into what is left of TIME_LIMIT after `spent` seconds; "" if it fits.

    Raises CourseError, with what would fit, where it surely does not. Reads TIME_LIMIT and the stage's scale.
    """
    if settings.TIME_LIMIT is None or estimate.seconds is None:
        return ""
    left = settings.TIME_LIMIT * 60 - spent
    if estimate.seconds <= left:
        return ""
    if not estimate.sure:
        return "it may not fit into TIME_LIMIT"
    ways = [make_command(settings, TIME_LIMIT=str(math.ceil((spent + estimate.seconds) / 60)))]
    if spent and estimate.seconds <= settings.TIME_LIMIT * 60:
        ways.insert(0, f"run the same command again: it begins with stage {stage.number}")
    name = SCALES.get(stage.number)
    smaller = int(getattr(settings, name) * left / estimate.seconds * 0.9) if name else 0
    if smaller >= LEAST:
        ways.append(make_command(settings, **{name: str(smaller)}))
    raise CourseError(
        f"stage {stage.number} ({stage.title}) takes {estimate}, and {format_minutes(max(left, 0))} of"
        f" TIME_LIMIT={settings.TIME_LIMIT:g} minutes are left",
        ", or ".join(ways),
    )


def format_minutes(seconds: float) -> str:
    """90 → "2 min"; below a minute in seconds, above two hours in hours."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
