"""The eight stages, one run of them, and what each left in its receipt."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from helpers.core.errors import CourseError
from helpers.core.io import read_json
from helpers.core.paths import NOTEBOOKS, Folders, relative_path
from helpers.core.settings import Settings


@dataclass(frozen=True)
class Stage:
    """One notebook of the course and the stages that must be done before it."""

    number: int
    name: str
    title: str
    needs: tuple[int, ...]

    @property
    def notebook(self) -> Path:
        return NOTEBOOKS / f"{self.name}.ipynb"

    def receipt(self, folders: Folders) -> Path:
        return folders.receipts / f"{self.name}.json"

    def page(self, folders: Folders) -> Path:
        return folders.reports / f"{self.name}.html"


STAGES = (
    Stage(1, "1_download_and_test", "Download and test the base model", ()),
    Stage(2, "2_baseline_test", "Ask the untouched model", (1,)),
    Stage(3, "3_download_papers", "Papers from PubMed and arXiv", ()),
    Stage(4, "4_qlora_finetune", "QLoRA: train an adapter", (1, 3)),
    Stage(5, "5_test_qlora", "Ask the adapter", (1, 3, 4)),
    Stage(6, "6_full_finetune", "Full fine-tuning: train every weight", (1, 3)),
    Stage(7, "7_test_full_model", "Ask the fully tuned model", (1, 3, 6)),
    Stage(8, "8_score_results", "Score, compare, conclude", (2, 3, 5, 7)),
)


def stage_of(name_or_number: str | int) -> Stage:
    """The stage with this number or notebook name.

    Raises CourseError for anything else.
    """
    for stage in STAGES:
        if str(name_or_number) in (str(stage.number), stage.name):
            return stage
    raise CourseError(f"{name_or_number!r} is no stage", f"stages are {', '.join(s.name for s in STAGES)}")


@dataclass(frozen=True)
class Run:
    """What training and evaluation take from the stage that calls them.

    `settings` can be read where the stage declares them (its parameters cell), `force` asks for work that is done
    already to be done again.
    """

    stage: Stage
    settings: Settings
    folders: Folders
    force: bool = False


class Key(BaseModel):
    """What a stage's result depends on, each part by name; see helpers/pipeline/provenance.py."""

    model_config = ConfigDict(strict=True)

    settings: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    needs: dict[str, str] = {}
    code: dict[str, str] = {}


class Receipt(BaseModel):
    """What a finished stage leaves; the facts that a stage adds of its own are kept as they are."""

    model_config = ConfigDict(strict=True, extra="allow")

    status: Literal["done", "skipped"]
    reason: str = ""
    finished: str = ""
    seconds: float = 0.0
    execution: str = ""
    key: Key = Key()
    outputs: dict[str, str] = {}
    machine: str = ""
    profile: str = ""
    python: str = ""
    versions: dict[str, str] = {}


def check_receipt(path: Path) -> dict:
    """The receipt in `path`.

    Raises CourseError naming the file and what is wrong with it, also if it is not there.
    """
    try:
        return Receipt.model_validate(read_json(path, dict)).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise CourseError(
            f"{relative_path(path)} is no receipt: {place}: {first['msg']}", "remove it; its stage runs again"
        ) from None


def read_receipt(stage: Stage, folders: Folders) -> dict | None:
    """What a finished stage left in its receipt; None if it has not finished, or the file is no receipt."""
    try:
        return check_receipt(stage.receipt(folders)) if stage.receipt(folders).exists() else None
    except CourseError:
        return None


def explain_receipt(stage: Stage, folders: Folders) -> str:
    """Why a stage has no receipt that could be read; "" if it has one."""
    if not stage.receipt(folders).exists():
        return "not run yet"
    try:
        check_receipt(stage.receipt(folders))
    except CourseError as error:
        return error.problem
    return ""


def read_receipts(folders: Folders) -> dict[str, dict]:
    """{stage name: receipt} of every finished stage of a run."""
    found = {stage.name: read_receipt(stage, folders) for stage in STAGES}
    return {name: receipt for name, receipt in found.items() if receipt}
