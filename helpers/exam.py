"""The same exam for every model: the questions, and the papers that no training has seen."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers import answers, files, held_out, models, receipts, trained, weights
from helpers.errors import CourseError
from helpers.hardware import compute_dtype
from helpers.paths import Folders, base_model
from helpers.session import Session
from helpers.stages import stage_of

CODE = ("answers", "chat", "held_out", "likelihood", "models")


@dataclass
class Candidate:
    """Who sits the exam: the model `which` names, and beside it the untouched model it came from."""

    which: str
    settings: SimpleNamespace
    folders: Folders
    tokenizer: PreTrainedTokenizerBase
    absent: str = ""  # why there is nobody to examine
    loaded: dict[str, PreTrainedModel] = field(default_factory=dict, repr=False)

    @property
    def row(self) -> str:
        """The model's name in every table: base_4bit, qlora or full."""
        return "base_4bit" if self.which == "base" else self.which

    @property
    def base_row(self) -> str:
        """The untouched model in the same precision, so that only the training differs."""
        return "base_bf16" if self.which == "full" else "base_4bit"

    def trained(self) -> PreTrainedModel:
        """The model under examination."""
        return self.loaded_once(self.row)

    @contextmanager
    def sitting(self, row: str) -> Iterator[PreTrainedModel]:
        """The model behind `row`, the candidate's or its base's; no model is loaded twice in a notebook.

        With the adapter switched off, what stage 4 trained is its base to the last bit.
        """
        if self.which == "qlora" and row == self.base_row:
            with self.trained().disable_adapter():
                yield self.trained()
        else:
            yield self.loaded_once(row)

    def loaded_once(self, row: str) -> PreTrainedModel:
        if row not in self.loaded:
            self.loaded[row] = self.load(row)
        return self.loaded[row]

    def load(self, row: str) -> PreTrainedModel:
        """A model by its name in the tables: in 4 bits with or without the adapter, or unquantised."""
        base, wanted = base_model(self.settings.MODEL_NAME), self.settings
        if row in ("base_bf16", "full"):
            return models.load(self.folder if row == "full" else base, wanted.DTYPE, wanted.ATTENTION)
        model = models.unpack(models.load(base, "nf4", wanted.ATTENTION, wanted.DTYPE))
        return models.load_adapter(model, self.folder) if row == "qlora" else model

    @property
    def folder(self) -> Path:
        """Where the trained weights are."""
        return self.folders.qlora_model if self.which == "qlora" else self.folders.full_model

    def chosen_by(self) -> list[str]:
        """The held-out papers whose loss decided which of the trained weights were kept."""
        return files.read_json(self.folder / trained.RECORD)["history"]["chosen_by"]

    def identity(self, row: str) -> str:
        """Hash of the weights behind `row` and of the code that asks, to know noted work again."""
        base = weights.read_manifest(self.settings.MODEL_NAME)["files"]
        parts = [row, compute_dtype(self.settings.DTYPE), self.settings.ATTENTION, base]
        if row in ("qlora", "full"):
            parts.append(list(receipts.fingerprints(self.folder).values()))
        return files.sha256_of([*parts, receipts.code_of(*CODE)])


def candidate(session: Session) -> Candidate:
    """The candidate this notebook examines (its parameter WHICH)."""
    tokenizer = models.load_tokenizer(base_model(session.settings.MODEL_NAME))
    absent = ""
    if session.settings.WHICH == "full":
        receipt = receipts.read(stage_of(6), session.folders)
        absent = receipt["reason"] if receipt["status"] == "skipped" else ""
    return Candidate(session.settings.WHICH, session.settings, session.folders, tokenizer, absent)


def answer(candidate: Candidate, questions: list[dict]) -> list[dict]:
    """The candidate's answers, also written to its results file; [] if there is nobody to ask.

    Beside a full fine-tune the unquantised base is asked too: stage 2 asked the 4-bit one, and the difference
    between the two precisions must not pass for learning.
    """
    if candidate.absent:
        return []
    if candidate.which == "full":
        write_answers(candidate, "base_bf16", questions)
    return write_answers(candidate, candidate.row, questions)


def write_answers(candidate: Candidate, row: str, questions: list[dict]) -> list[dict]:
    with candidate.sitting(row) as model:
        rows = answers.ask(
            model,
            candidate.tokenizer,
            questions,
            row=row,
            identity=candidate.identity(row),
            max_new_tokens=candidate.settings.MAX_NEW_TOKENS,
            notes=candidate.folders.notes / f"answers_{row}.jsonl",
        )
    files.write_json(candidate.folders.results("base" if row == "base_4bit" else row), rows)
    return rows


def read_papers(candidate: Candidate) -> dict[str, list[float]]:
    """Bits per byte of every held-out paper, {row: values}, for the candidate and its untouched base.

    Papers that chose the candidate's checkpoint are left out for both, since they flatter it.
    {} for the base's own notebook, which comes before the papers, and if there is nobody to examine.
    The items are written to reports/items/.
    """
    if candidate.absent or candidate.which == "base":
        return {}
    papers, measured = unchosen(candidate), {}
    for row in (candidate.base_row, candidate.row):
        with candidate.sitting(row) as model:
            items = held_out.measure(
                model,
                candidate.tokenizer,
                papers,
                row=row,
                identity=candidate.identity(row),
                max_length=candidate.settings.MAX_SEQ_LENGTH,
                notes=candidate.folders.notes / f"held_out_{row}.jsonl",
            )
        files.write_jsonl(candidate.folders.items / f"{row}.jsonl", items)
        measured[row] = [held_out.bits_per_byte([item]) for item in items]
    return measured


def unchosen(candidate: Candidate) -> list[dict]:
    """The held-out papers that had no say in which weights were kept; a printed line tells how many had.

    Raises CourseError if all of them had.
    """
    papers, chosen = held_out.load(candidate.folders.held_out), set(candidate.chosen_by())
    if not chosen:
        return papers
    left = [paper for paper in papers if paper["paper_id"] not in chosen]
    if not left:
        raise CourseError(
            f"all {len(papers)} held-out papers chose the weights of {candidate.row}, so none can test them",
            "set EARLY_STOPPING=off or guard, or collect more papers (MAX_PAPERS), and train again",
        )
    print(f"{len(papers) - len(left)} of {len(papers)} held-out papers chose the checkpoint and are left out")
    return left


def evidence(folders: Folders) -> tuple[dict[str, list[dict]], dict[str, list[dict]]]:
    """({row: answers}, {row: per-paper items}) of every model that was examined in this run.

    What a skipped stage left behind in an earlier run does not count.
    """
    places = {
        "base_4bit": (5, "base"),
        "qlora": (5, "qlora"),
        "base_bf16": (7, "base_bf16"),
        "full": (7, "full"),
    }
    examined = {
        r: place for r, (n, place) in places.items() if receipts.read(stage_of(n), folders)["status"] == "done"
    }
    results = {row: files.read_json(folders.results(place)) for row, place in examined.items()}
    return results, {row: files.read_jsonl(folders.items / f"{row}.jsonl") for row in examined}
