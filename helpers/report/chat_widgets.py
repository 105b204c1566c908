"""Boxes to ask the models of a run a question of one's own; in a rendered page an answer of the run stands there."""

from collections.abc import Mapping
from html import escape
from types import SimpleNamespace

import ipywidgets
from IPython.display import HTML

from helpers.core import Run, base_model_folder, read_json, read_receipt, stage_of
from helpers.evaluation import Candidate
from helpers.models import generate_answers, load_tokenizer
from helpers.report.format import model_label
from helpers.report.tables import html_table
from helpers.report.widgets import input_box

TRIED = {"base_4bit": 5, "qlora": 5, "full": 7}  # who is asked side by side, and the notebook that examined them


def question_box(candidate: Candidate, max_new_tokens: int = 120) -> ipywidgets.VBox | HTML:
    """A box to ask the candidate your own question; the model is loaded at the first one.

    Under the runner there is nobody to type, so an answer of this run stands there instead.
    """
    if candidate.absent:
        return HTML("<p>There is no such model in this run to ask.</p>")

    def ask(question: str) -> HTML:
        return HTML(
            side_by_side(question, {candidate.row: ask_candidate(candidate, candidate.row, question, max_new_tokens)})
        )

    saved = candidate.folders.results(candidate.row)
    given = {candidate.row: read_json(saved)} if saved.exists() else {}
    return input_box("your question", "Ask", ask, "ask this model a question of your own", lambda: last_asked(given))


def ask_all(run: Run, max_new_tokens: int = 120) -> ipywidgets.VBox | HTML:
    """A box whose question goes to the 4-bit base, the adapter and the full model; answers stand side by side.

    Models are loaded at the first question; the adapter lies on the same base in memory. One that was skipped is left
    out. Under the runner the three answers to a question of this run stand there instead.
    """
    done = {row: read_receipt(stage_of(number), run.folders) for row, number in TRIED.items()}
    there = [row for row, receipt in done.items() if receipt and receipt["status"] == "done"]
    candidates = {}  # by notebook: the base and the adapter are one candidate, with one model

    def ask(question: str) -> HTML:
        for row in there:
            candidates[TRIED[row]] = candidates.get(TRIED[row]) or examined_candidate(done[row], run)
        said = {row: ask_candidate(candidates[TRIED[row]], row, question, max_new_tokens) for row in there}
        return HTML(side_by_side(question, said))

    def saved() -> str:
        return last_asked({row: read_json(run.folders.results(row)) for row in there})

    return input_box("your question", "Ask all", ask, "ask these models a question of your own", saved)


def examined_candidate(receipt: Mapping, run: Run) -> Candidate:
    """Who sat the exam behind a receipt, made of the settings it was run with."""
    then = SimpleNamespace(**receipt["key"]["settings"])
    return Candidate(then.WHICH, then, run.folders, load_tokenizer(base_model_folder(then.MODEL_NAME)))


def ask_candidate(candidate: Candidate, row: str, question: str, max_new_tokens: int) -> str:
    """What `row` answers."""
    with candidate.sitting(row) as model:
        (said,) = generate_answers(model, candidate.tokenizer, [question], max_new_tokens)
    return whole_answer(said)


def whole_answer(said: Mapping) -> str:
    """An answer as it is shown: with a mark where it was cut, and never nothing."""
    return (said["response"].strip() or "(empty)") + (" …" if said.get("finish_reason") == "length" else "")


def last_asked(given: Mapping[str, list[Mapping]]) -> str:
    """The answers of every row to the run's last question."""
    if not given or not all(given.values()):
        return ""
    last = {row: answers[-1] for row, answers in given.items()}
    return side_by_side(
        next(iter(last.values()))["question"], {row: whole_answer(said) for row, said in last.items()}
    )


def side_by_side(question: str, said: Mapping[str, str]) -> str:
    """HTML of one question and what each row said to it."""
    columns = html_table([{model_label(row): text for row, text in said.items()}]).data
    even = columns.replace("<table ", '<table style="table-layout:fixed; width:100%" ', 1)
    return f"<p><b>{escape(question)}</b></p>{even}"
