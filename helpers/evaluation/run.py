"""The same exam for every model: the questions, and every instrument whose items exist."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.core import (
    EXAMS,
    METHOD_STAGES,
    RECORD,
    CourseError,
    Folders,
    Run,
    base_model_folder,
    compute_dtype,
    fingerprint_files,
    hash_code,
    hash_json,
    read_json,
    read_jsonl,
    read_receipt,
    stage_of,
    trainings_of,
    variants_asked,
    variants_examined,
    variants_measured,
    write_json,
    write_jsonl,
)
from helpers.dataset import askable_items, load_held_out, load_rows, read_seen_rows
from helpers.evaluation.answers import ask_questions
from helpers.evaluation.instruments import LOOKED_UP, measure_items, paper_items, regression_items
from helpers.evaluation.items import TEXTS
from helpers.evaluation.public_benchmarks import check_benchmarks, measure_benchmarks
from helpers.evaluation.retrieval import FOUND, Library
from helpers.models import dequantise, load_adapter, load_model, load_tokenizer, read_manifest
from helpers.papers import load_topic, papers_from_json, read_papers

CODE = ("models", "evaluation/answers", "evaluation/instruments", "evaluation/retrieval")
UNTOUCHED = ("base_4bit", "base_aa", "base_rag")  # one model, asked in different ways
OTHER_DICE = 1000  # added to SEED for the samples of base_aa


@dataclass
class Candidate:
    """Who sits the exam: the model `which` names, its controls, and the untouched model it came from."""

    which: str
    settings: SimpleNamespace
    folders: Folders
    tokenizer: PreTrainedTokenizerBase
    absent: str = ""  # why there is nobody to examine
    force: bool = False  # ask and measure again what is noted already
    loaded: dict[str, PreTrainedModel] = field(default_factory=dict, repr=False)
    seconds: dict[str, float] = field(default_factory=dict)  # spent on answers and on measurements

    @property
    def row(self) -> str:
        """The model's name in every table: base_4bit, qlora or full."""
        return "base_4bit" if self.which == "base" else self.which

    @property
    def rows(self) -> tuple[str, ...]:
        """Everyone examined here: the untouched model in the same precision first."""
        return () if self.absent else variants_examined(self.which, self.settings)

    def trained(self) -> PreTrainedModel:
        """The model under examination."""
        with self.sitting(self.row) as model:
            return model

    @contextmanager
    def sitting(self, row: str) -> Iterator[PreTrainedModel]:
        """The model behind `row`; no model is loaded twice in a notebook.

        All adapters share one 4-bit base. With the adapter switched off, what stage 4 trained is that base to the
        last bit.
        """
        if self.which == "full":
            yield self.whole(row)
            return
        model = self.four_bit(row)
        if row in UNTOUCHED and isinstance(model, PeftModel):
            with model.disable_adapter():
                yield model
        else:
            yield model

    def whole(self, row: str) -> PreTrainedModel:
        """An unquantised model: the untouched one, or what stage 6 made of it."""
        if row not in self.loaded:
            place = base_model_folder(self.settings.MODEL_NAME) if row == "base_bf16" else self.folders.model(row)
            self.loaded[row] = load_model(place, self.settings.DTYPE, self.settings.ATTENTION)
        return self.loaded[row]

    def four_bit(self, row: str) -> PreTrainedModel:
        """The 4-bit base, under the adapter of `row` if that was trained."""
        if "base" not in self.loaded:
            place, wanted = base_model_folder(self.settings.MODEL_NAME), self.settings
            self.loaded["base"] = dequantise(load_model(place, "nf4", wanted.ATTENTION, wanted.DTYPE))
        model = self.loaded["base"]
        if row in UNTOUCHED:
            return model
        if isinstance(model, PeftModel) and row in model.peft_config:
            model.set_adapter(row)
            return model.requires_grad_(False)
        self.loaded["base"] = load_adapter(model, self.folders.model(row), row)
        return self.loaded["base"]

    def chosen_by(self) -> set[str]:
        """What decided which of the trained weights were kept: held-out papers, or pieces of general English."""
        tuned = (arm.row for arm in trainings_of(self.which, self.settings)) if self.which in METHOD_STAGES else ()
        records = (read_json(self.folders.model(row) / RECORD) for row in tuned)
        return {name for record in records for name in record["history"]["chosen_by"]}

    @cached_property
    def rows_taught(self) -> list[dict]:
        """The training rows, of stage 3 or the user's own."""
        return load_rows(self.settings.TRAINING_DATA or self.folders.training_data)

    @property
    def taught(self) -> set[str]:
        """The ids of the papers that they come from."""
        return {row["paper_id"] for row in self.rows_taught}

    @cached_property
    def library(self) -> Library:
        """The training papers, for the row that looks up instead of having learnt.

        Where a user's own rows come from papers that stage 3 has not collected, the rows' answers stand for them.
        """
        taught = self.taught
        found = [paper for paper in read_papers(self.folders.papers) if paper.paper_id in taught]
        return Library(found or papers_from_json(self.rows_taught))

    def before(self, row: str, papers: int = FOUND) -> Callable[[str], str]:
        """What `row` may read before a question: so many papers, if it looks things up."""
        return (lambda question: self.library.before(question, papers)) if row == "base_rag" else lambda question: ""

    def identity(self, row: str) -> str:
        """Hash of the weights behind `row` and of the code that asks, to know noted work again."""
        base = read_manifest(self.settings.MODEL_NAME)["files"]
        precision = "unquantised" if self.which == "full" else "nf4"
        parts = [precision, compute_dtype(self.settings.DTYPE), self.settings.ATTENTION, base]
        if row not in (*UNTOUCHED, "base_bf16"):
            parts.append(list(fingerprint_files(self.folders.model(row)).values()))
        return hash_json([*parts, hash_code(*CODE)])


def open_candidate(run: Run) -> Candidate:
    """The candidate this notebook examines (its parameter WHICH)."""
    tokenizer = load_tokenizer(base_model_folder(run.settings.MODEL_NAME))
    absent = ""
    if run.settings.WHICH == "full":
        receipt = read_receipt(stage_of(6), run.folders)
        absent = receipt["reason"] if receipt["status"] == "skipped" else ""
    return Candidate(run.settings.WHICH, run.settings, run.folders, tokenizer, absent, run.force)


def answer_questions(candidate: Candidate, questions: list[dict]) -> list[dict]:
    """The candidate's answers; [] if there is nobody to ask. All rows' answers are written to their results files.

    Beside a full fine-tune the unquantised base is asked too: stage 2 asked the 4-bit one, and the difference
    between the two precisions must not pass for learning.
    """
    given, began = {}, time.perf_counter()
    for row in () if candidate.absent else variants_asked(candidate.which, candidate.settings):
        with candidate.sitting(row) as model:
            given[row] = ask_questions(
                model,
                candidate.tokenizer,
                questions,
                row=row,
                identity=candidate.identity(row),
                max_new_tokens=candidate.settings.MAX_NEW_TOKENS,
                notes=candidate.folders.notes / f"answers_{row}.jsonl",
                samples=candidate.settings.SAMPLES,
                seed=candidate.settings.SEED + (OTHER_DICE if row == "base_aa" else 0),
                before=candidate.before(row),
                force=candidate.force,
            )
        write_json(candidate.folders.results(row), given[row])
    candidate.seconds["answers"] = time.perf_counter() - began
    return given.get(candidate.row, [])


def measure_variants(candidate: Candidate) -> dict[str, list[dict]]:
    """{row: its measurements} on every instrument whose items exist, also written to reports/items/.

    In notebook 2 there are no papers yet: the untouched model meets plain knowledge and general English only.
    """
    items, measured, settings, began = items_for_stage(candidate), {}, candidate.settings, time.perf_counter()
    benchmarks = (
        check_benchmarks(settings.PUBLIC_BENCHMARKS, settings.HF_ENDPOINT) if candidate.which != "base" else []
    )
    for row in (row for row in candidate.rows if row != "base_aa"):
        with candidate.sitting(row) as model:
            measured[row] = measure_items(
                model,
                candidate.tokenizer,
                items_given_to(candidate, row, items),
                row=row,
                identity=candidate.identity(row),
                max_length=settings.MAX_SEQ_LENGTH,
                notes=candidate.folders.notes / f"items_{row}.jsonl",
                force=candidate.force,
            )
            if benchmarks and row != "base_rag":
                measured[row] += measure_benchmarks(
                    model,
                    candidate.tokenizer,
                    benchmarks,
                    row=row,
                    topic=load_topic(settings.TOPIC),
                    training_ids=candidate.taught | placebo_ids(candidate.folders),
                    identity=candidate.identity(row),
                    notes=candidate.folders.notes / f"public_{row}.jsonl",
                    force=candidate.force,
                )
        if row in variants_measured(candidate.which, candidate.settings):
            write_jsonl(candidate.folders.items_of(row), measured[row])
    candidate.seconds["measurements"] = time.perf_counter() - began
    return measured


def placebo_ids(folders: Folders) -> set[str]:
    return {row["paper_id"] for row in read_json(folders.placebo_data)}


def items_for_stage(candidate: Candidate) -> list[dict]:
    """The items that exist, without what chose the candidate's weights, which would flatter it.

    Raises CourseError if that leaves no held-out paper or no general English.
    """
    if candidate.absent:
        return []
    folders, items = candidate.folders, regression_items(candidate.settings.MAX_ITEMS)
    if candidate.which != "base":
        was_read = read_seen_rows(folders.model(candidate.row), candidate.rows_taught)
        probes = askable_items(read_json(folders.probes), was_read)
        items = paper_items(probes, load_held_out(folders.held_out)) + items
    chosen = candidate.chosen_by()
    left = [item for item in items if item["paper_id"] not in chosen]
    for name in TEXTS:
        before, after = ([item for item in some if item["instrument"] == name] for some in (items, left))
        if before and not after:
            raise CourseError(
                f"all {len(before)} texts of {name} chose the weights of {candidate.row}, so none can test them",
                "set EARLY_STOPPING=off or collect more papers (MAX_PAPERS), and train again",
            )
        if len(after) < len(before):
            print(
                f"{len(before) - len(after)} of {len(before)} texts of {name} chose the checkpoint and are left out"
            )
    return left


def items_given_to(candidate: Candidate, row: str, items: list[dict]) -> list[dict]:
    """The items as `row` reads them: who looks things up reads what was found first, and only what can be found."""
    if row != "base_rag":
        return items
    before = candidate.before(row, papers=1)  # an item is of one paper
    asked = [item for item in items if item["instrument"] in LOOKED_UP]
    return [item | {"context": before(item["context"]) + item["context"]} for item in asked]


def read_evidence(run: Run) -> tuple[dict[str, list[dict]], dict[str, list[dict]]]:
    """({row: answers}, {row: measurements}) of every model that was examined in this run.

    What a skipped stage left behind in an earlier run does not count. What a reasoning model answered with its
    thoughts open is a row of its own, "<row>_thinking". Raises CourseError where a stage was run with other controls
    or seeds than this one: a control must not vanish between the two.
    """
    folders, settings, results, items = run.folders, run.settings, {}, {}
    for number, which in EXAMS.items():
        receipt = read_receipt(stage_of(number), folders)
        if receipt["status"] != "done":
            continue
        require_same_settings(receipt, settings)
        results |= {row: read_json(folders.results(row)) for row in variants_asked(which, settings)}
        items |= {row: read_jsonl(folders.items_of(row)) for row in variants_measured(which, settings)}
    aloud = {
        f"{row}_thinking": [a | a["aloud"] | {"samples": []} for a in given if "aloud" in a]
        for row, given in results.items()
    }
    return results | {row: given for row, given in aloud.items() if given}, items


def require_same_settings(receipt: dict, settings: SimpleNamespace) -> None:
    """Refuse to score what was examined under another CONTROLS, SEEDS or SEED."""
    for name in ("CONTROLS", "SEEDS", "SEED"):
        then, now = receipt["key"]["settings"].get(name), getattr(settings, name)
        if then != now:
            raise CourseError(
                f"{receipt['stage']} was run with {name}={then}, and this notebook has {name}={now}",
                f"give both the same: make pipeline {name}={then}, or run that stage again",
            )
