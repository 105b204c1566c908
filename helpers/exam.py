"""The same exam for every model: the questions, and the papers that no training has seen."""

from dataclasses import dataclass
from types import SimpleNamespace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers import answers, files, held_out, models, receipts, weights
from helpers.hardware import compute_dtype
from helpers.paths import Folders, base_model
from helpers.session import Session
from helpers.stages import stage_of

CODE = ("answers", "chat", "held_out", "models")


@dataclass
class Candidate:
    """Who sits the exam: the model `which` names, and beside it the untouched model it came from."""

    which: str
    settings: SimpleNamespace
    folders: Folders
    tokenizer: PreTrainedTokenizerBase
    absent: str = ""  # why there is nobody to examine

    @property
    def row(self) -> str:
        """The model's name in every table: base_4bit, qlora or full."""
        return "base_4bit" if self.which == "base" else self.which

    @property
    def base_row(self) -> str:
        """The untouched model in the same precision, so that only the training differs."""
        return "base_bf16" if self.which == "full" else "base_4bit"

    def untouched(self) -> PreTrainedModel:
        """The base model, in 4 bits beside an adapter and unquantised beside a full fine-tune."""
        folder = base_model(self.settings.MODEL_NAME)
        if self.which == "full":
            return models.load(folder, self.settings.DTYPE, self.settings.ATTENTION)
        return models.unpack(models.load(folder, "nf4", self.settings.ATTENTION, self.settings.DTYPE))

    def trained(self) -> PreTrainedModel:
        """The model under examination."""
        if self.which == "base":
            return self.untouched()
        if self.which == "qlora":
            return models.load_adapter(self.untouched(), self.folders.qlora_model)
        return models.load(self.folders.full_model, self.settings.DTYPE, self.settings.ATTENTION)

    def identity(self, row: str) -> str:
        """Hash of the weights behind `row` and of the code that asks, to know noted work again."""
        base = weights.read_manifest(self.settings.MODEL_NAME)["files"]
        parts = [row, compute_dtype(self.settings.DTYPE), self.settings.ATTENTION, base]
        if row in ("qlora", "full"):
            folder = self.folders.qlora_model if row == "qlora" else self.folders.full_model
            parts.append(list(receipts.fingerprints(folder).values()))
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
        write_answers(candidate, "base_bf16", candidate.untouched(), questions)
    return write_answers(candidate, candidate.row, candidate.trained(), questions)


def write_answers(candidate: Candidate, row: str, model: PreTrainedModel, questions: list[dict]) -> list[dict]:
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

    {} for the base's own notebook, which comes before the papers, and if there is nobody to examine.
    The items are written to reports/items/.
    """
    if candidate.absent or candidate.which == "base":
        return {}
    papers = held_out.load(candidate.folders.held_out)
    measured = {}
    for row, load in ((candidate.base_row, candidate.untouched), (candidate.row, candidate.trained)):
        items = held_out.measure(
            load(),
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
