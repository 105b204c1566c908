"""The eight stages: which notebook each is, and which stages it needs."""

from dataclasses import dataclass
from pathlib import Path

from helpers.core.errors import CourseError
from helpers.core.paths import NOTEBOOKS, Folders


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
