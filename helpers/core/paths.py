"""Where things are: the repository and the folders of one run."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
BENCHMARK = ROOT / "data" / "benchmark"
TOPICS = ROOT / "data" / "topics"
SAMPLE = ROOT / "data" / "sample"
GENERAL = ROOT / "data" / "general"
RAW = ROOT / "data" / "raw"
BASE_MODELS = ROOT / "models" / "base"


RECORD = "training.json"  # what a trained model's folder says of its training


@dataclass(frozen=True)
class Folders:
    """What the stages of one run write to; `run` is "" for the unnamed run.

    The benchmark, topics, sample, raw downloads and base models above are shared between runs.
    """

    run: str = ""

    @property
    def data(self) -> Path:
        return ROOT / "data" / self.run

    @property
    def models(self) -> Path:
        return ROOT / "models" / self.run

    @property
    def reports(self) -> Path:
        return ROOT / "reports" / self.run

    @property
    def papers(self) -> Path:
        return self.data / "papers.jsonl"

    @property
    def dropped(self) -> Path:
        return self.data / "dropped.jsonl"

    @property
    def training_data(self) -> Path:
        return self.data / "training_data.json"

    @property
    def held_out(self) -> Path:
        return self.data / "heldout.json"

    @property
    def probes(self) -> Path:
        return self.data / "probes.json"

    @property
    def placebo_data(self) -> Path:
        return self.data / "placebo_data.json"

    def model(self, row: str) -> Path:
        """The trained model behind a row of the tables; what is trained beside the course's two lies in controls/."""
        return self.models / {"qlora": "qlora_model", "full": "full_finetuned_model"}.get(row, f"controls/{row}")

    def exported(self, row: str) -> Path:
        """The folder that make export makes of a trained model."""
        return self.models / "export" / row

    @property
    def scores(self) -> Path:
        return self.reports / "scores.json"

    @property
    def index(self) -> Path:
        return self.reports / "index.html"

    @property
    def notes(self) -> Path:
        """Answers and measurements of a stage in progress, appended as they come."""
        return self.reports / ".notes"

    @property
    def control(self) -> Path:
        """What the positive control measured."""
        return self.reports / "control.json"

    @property
    def declarations(self) -> Path:
        """Every declaration that a training of this run began with, in the order they were made."""
        return self.reports / "declarations.jsonl"

    @property
    def cards(self) -> Path:
        return self.reports / "cards"

    def results(self, row: str) -> Path:
        """The answers behind a row, in the seed's format; the untouched 4-bit model's are the baseline."""
        return self.reports / f"results_{'baseline' if row == 'base_4bit' else row}.json"

    def items_of(self, row: str) -> Path:
        """Every measurement behind a row, an item a line."""
        return self.items / f"{row}.jsonl"

    @property
    def receipts(self) -> Path:
        return self.reports / "receipts"

    @property
    def items(self) -> Path:
        return self.reports / "items"

    @property
    def progress(self) -> Path:
        """The running stage says here what it is doing."""
        return self.reports / ".progress.json"


def base_model_folder(name: str) -> Path:
    """The folder of a base model: its Hugging Face id with the slash replaced, as the Hub's cache does."""
    return BASE_MODELS / name.replace("/", "--")


def topic_file(topic: str) -> Path:
    """A topic's file: a path, or a name in data/topics."""
    return ROOT / topic if topic.endswith(".json") else TOPICS / f"{topic}.json"


def relative_path(path: Path) -> str:
    """`path` as it is written in receipts and messages: relative to the repository where it lies inside it."""
    path = Path(path).absolute()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()
