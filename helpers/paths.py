"""Where things are: the repository and the folders of one run."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
BENCHMARK = ROOT / "data" / "benchmark"
TOPICS = ROOT / "data" / "topics"
SAMPLE = ROOT / "data" / "sample"
GENERAL = ROOT / "data" / "general"
RAW = ROOT / "data" / "raw"
BASE_MODELS = ROOT / "models" / "base"


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
    def qlora_model(self) -> Path:
        return self.models / "qlora_model"

    @property
    def full_model(self) -> Path:
        return self.models / "full_finetuned_model"

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

    def results(self, which: str) -> Path:
        """The answers of one model, in the seed's format: base (4-bit), qlora, full, base_bf16."""
        return self.reports / f"results_{'baseline' if which == 'base' else which}.json"

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


def base_model(name: str) -> Path:
    """The folder of a base model: its Hugging Face id with the slash replaced, as the Hub's cache does."""
    return BASE_MODELS / name.replace("/", "--")


def relative(path: Path) -> str:
    """`path` as it is written in receipts and messages: relative to the repository where it lies inside it."""
    path = Path(path).absolute()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()
