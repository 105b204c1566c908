"""The eight stages: what each needs, reads and leaves behind."""

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

from helpers import arms
from helpers.errors import CourseError
from helpers.paths import BENCHMARK, GENERAL, NOTEBOOKS, ROOT, TOPICS, Folders, base_model
from helpers.settings import SECRETS, Settings, check_names

AMBIENT = (
    "ENV_FILE",
    "ARTEFACTS_DIR",
    "NCBI_EMAIL",
    "NCBI_API_KEY",
    "HF_TOKEN",
    "NCBI_EUTILS_BASE",
    "ARXIV_API_BASE",
    "HF_ENDPOINT",
    "JUDGE_BASE_URL",
    "JUDGE_API_KEY",
)  # readable by every stage, never a notebook parameter, never part of a key
UNKEYED = ("PROFILE", "RUN")  # they choose values and folders, which are keyed themselves


@dataclass(frozen=True)
class Stage:
    """One notebook: the stages it needs, the artefacts it reads and those it leaves behind in every run.

    `reads` and `leaves` add those that depend on the settings; `artefact` turns a name into a path.
    """

    number: int
    name: str
    title: str
    needs: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = ()

    @property
    def notebook(self) -> Path:
        return NOTEBOOKS / f"{self.name}.ipynb"

    def receipt(self, folders: Folders) -> Path:
        return folders.receipts / f"{self.name}.json"

    def page(self, folders: Folders) -> Path:
        return folders.reports / f"{self.name}.html"

    def parameters(self) -> dict[str, object]:
        """The names and literal values of the notebook's parameters cell."""
        return read_parameters(self.notebook)

    def knobs(self) -> tuple[str, ...]:
        """The settings this stage may read, and that its key is made of."""
        return tuple(self.parameters())

    def reads(self, settings: Settings) -> tuple[str, ...]:
        """The names of all artefacts it reads under these settings."""
        if self.number in TRAINS:
            return (*self.inputs, *dict.fromkeys(arm.rows for arm in arms.trained(TRAINS[self.number], settings)))
        if self.number in (5, 7):
            return (*self.inputs, *models_of(EXAMS[self.number], settings))
        if self.number == 8:
            return (*self.inputs, *chain.from_iterable(STAGES[n - 1].leaves(settings) for n in EXAMS))
        return self.inputs

    def leaves(self, settings: Settings) -> tuple[str, ...]:
        """The names of all artefacts it leaves behind under these settings."""
        if self.number in TRAINS:
            return models_of(TRAINS[self.number], settings)
        if self.number in EXAMS:
            which = EXAMS[self.number]
            answers = (f"results_{row}" for row in arms.asked(which, settings))
            return (*answers, *(f"items_{row}" for row in arms.measured(which, settings)))
        return self.outputs


TRAINS = {notebook: method for method, notebook in arms.METHODS.items()}
EXAMS = {2: "base", 5: "qlora", 7: "full"}  # the WHICH of each notebook that asks


def models_of(method: str, settings: Settings) -> tuple[str, ...]:
    return tuple(f"model_{arm.row}" for arm in arms.trained(method, settings))


STAGES = (
    Stage(1, "1_download_and_test", "Download and test the base model", (), (), ("base",)),
    Stage(2, "2_baseline_test", "Ask the untouched model", (1,), ("base", "questions", "guard", "cloze")),
    Stage(
        3,
        "3_download_papers",
        "Papers from PubMed and arXiv",
        (),
        ("topic", "questions", "ids", "exclude", "archive"),
        ("papers", "dropped", "training_data", "placebo_data", "held_out", "probes"),
    ),
    Stage(
        4,
        "4_qlora_finetune",
        "QLoRA: train an adapter",
        (1, 3),
        ("base", "replay", "guard", "held_out", "questions", "probes"),
    ),
    Stage(
        5,
        "5_test_qlora",
        "Ask the adapter",
        (1, 3, 4),
        ("base", "questions", "guard", "cloze", "held_out", "probes", "papers", "rows", "placebo_data"),
    ),
    Stage(
        6,
        "6_full_finetune",
        "Full fine-tuning: train every weight",
        (1, 3),
        ("base", "replay", "guard", "held_out", "questions", "probes"),
    ),
    Stage(
        7,
        "7_test_full_model",
        "Ask the fully tuned model",
        (1, 3, 6),
        ("base", "questions", "guard", "cloze", "held_out", "probes", "rows", "placebo_data"),
    ),
    Stage(
        8,
        "8_score_results",
        "Score, compare, conclude",
        (2, 3, 5, 7),
        ("questions", "probes", "rows", "topic", "control"),
        ("scores", "index", "cards"),
    ),
)


def stage_of(name_or_number: str | int) -> Stage:
    """The stage with this number or notebook name.

    Raises CourseError for anything else.
    """
    for stage in STAGES:
        if str(name_or_number) in (str(stage.number), stage.name):
            return stage
    raise CourseError(f"{name_or_number!r} is no stage", f"stages are {', '.join(s.name for s in STAGES)}")


def artefact(name: str, settings: Settings, folders: Folders) -> Path | None:
    """Where the named artefact of a run lies; None for one that these settings do not use."""
    kind, _, row = name.partition("_")
    of_a_row = {"results": folders.results, "items": folders.items_of, "model": folders.model}
    if kind in of_a_row:
        return of_a_row[kind](row)
    places = {
        "base": base_model(settings.MODEL_NAME),
        "questions": settings.QUESTIONS_FILE or BENCHMARK / "questions.json",
        "topic": topic_file(settings.TOPIC),
        "ids": settings.PAPERS_IDS,
        "exclude": settings.PAPERS_EXCLUDE,
        "archive": settings.PAPERS_ARCHIVE,
        "rows": settings.TRAINING_DATA or folders.training_data,
        "replay": GENERAL / "replay.txt" if settings.REPLAY_RATIO else None,
        "guard": GENERAL / "guard.txt",
        "cloze": GENERAL / "cloze.json",
        "control": folders.control,
    }
    return places[name] if name in places else getattr(folders, name)


def topic_file(topic: str) -> Path:
    """A topic's file: a path, or a name in data/topics."""
    return ROOT / topic if topic.endswith(".json") else TOPICS / f"{topic}.json"


@cache
def notebook_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CourseError(f"{path.name} is missing from notebooks/", "restore it: git checkout notebooks") from error
    except ValueError as error:
        raise CourseError(f"{path.name} is not a notebook: {error}", "restore it: git checkout notebooks") from error


def code_cells(path: Path) -> Iterator[tuple[list[str], str]]:
    """(tags, source) of every code cell of a notebook."""
    for cell in notebook_json(path)["cells"]:
        if cell["cell_type"] == "code":
            yield cell["metadata"].get("tags", []), "".join(cell["source"])


def read_parameters(path: Path) -> dict[str, object]:
    """{name: literal} of the cell tagged `parameters`.

    Raises CourseError for a value that is not a literal or a name that is not a setting.
    """
    source = next((source for tags, source in code_cells(path) if "parameters" in tags), "")
    found = {}
    for statement in ast.parse(source).body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        try:
            found[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError) as error:
            raise CourseError(
                f"{path.name}: the parameters cell has a line that is no plain value: {ast.unparse(statement)}",
                "write NAME = a number, a text or None",
            ) from error
    check_names(found, f"the parameters cell of {path.name}")
    if ambient := sorted(set(found) & {*AMBIENT, *SECRETS}):
        raise CourseError(
            f"{ambient[0]} stands in the parameters cell of {path.name}, where reports would show it",
            "take it out of the notebook and put it into .env or the environment",
            "a-setting-is-refused",
        )
    return found
