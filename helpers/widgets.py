"""Things to try in JupyterLab; in a rendered report each shows something that was asked in the run."""

import os
from collections.abc import Callable, Iterable, Mapping
from html import escape
from types import SimpleNamespace
from typing import TYPE_CHECKING

import ipywidgets
from IPython.display import HTML

from helpers import files, harvest, labels, tables
from helpers.course import stage_of
from helpers.errors import CourseError
from helpers.papers import Paper
from helpers.results import answered
from helpers.run import read_receipt

if TYPE_CHECKING:
    from helpers.exam import Candidate
    from helpers.run import Run
    from helpers.settings import Settings

LONGEST = 2000  # characters of a question: some 500 tokens of English, which any model can read
BEGINNING = 240  # characters of each answer in a page, where all of them stand below each other
EXAMPLE = '"lupus nephritis"[ti] AND mice'
TRIED = {"base_4bit": 5, "qlora": 5, "full": 7}  # who is asked side by side, and the notebook that examined them


def question_box(candidate: "Candidate", max_new_tokens: int = 120) -> ipywidgets.VBox | HTML:
    """A box to ask the candidate your own question; the model is loaded at the first one.

    Under the runner there is nobody to type, so an answer of this run stands there instead.
    """
    if candidate.absent:
        return HTML("<p>There is no such model in this run to ask.</p>")

    def ask(question: str) -> HTML:
        return HTML(
            side_by_side(question, {candidate.row: reply(candidate, candidate.row, question, max_new_tokens)})
        )

    saved = candidate.folders.results(candidate.row)
    given = {candidate.row: files.read_json(saved)} if saved.exists() else {}
    return box("your question", "Ask", ask, "ask this model a question of your own", lambda: last_asked(given))


def ask_all(run: "Run", max_new_tokens: int = 120) -> ipywidgets.VBox | HTML:
    """A box whose question goes to the 4-bit base, the adapter and the full model; answers stand side by side.

    Models are loaded at the first question; the adapter lies on the same base in memory. One that was skipped is left
    out. Under the runner the three answers to a question of this run stand there instead.
    """
    done = {row: read_receipt(stage_of(number), run.folders) for row, number in TRIED.items()}
    there = [row for row, receipt in done.items() if receipt and receipt["status"] == "done"]
    candidates = {}  # by notebook: the base and the adapter are one candidate, with one model

    def ask(question: str) -> HTML:
        for row in there:
            candidates[TRIED[row]] = candidates.get(TRIED[row]) or examined(done[row], run)
        said = {row: reply(candidates[TRIED[row]], row, question, max_new_tokens) for row in there}
        return HTML(side_by_side(question, said))

    def saved() -> str:
        return last_asked({row: files.read_json(run.folders.results(row)) for row in there})

    return box("your question", "Ask all", ask, "ask these models a question of your own", saved)


def examined(receipt: Mapping, run: "Run") -> "Candidate":
    """Who sat the exam behind a receipt, made of the settings it was run with."""
    from helpers import exam, models
    from helpers.paths import base_model

    then = SimpleNamespace(**receipt["key"]["settings"])
    return exam.Candidate(then.WHICH, then, run.folders, models.load_tokenizer(base_model(then.MODEL_NAME)))


def reply(candidate: "Candidate", row: str, question: str, max_new_tokens: int) -> str:
    """What `row` answers."""
    from helpers.generation import generate  # notebook 3 has no model, and need not wait for torch

    with candidate.sitting(row) as model:
        (said,) = generate(model, candidate.tokenizer, [question], max_new_tokens)
    return whole(said)


def whole(said: Mapping) -> str:
    """An answer as it is shown: with a mark where it was cut, and never nothing."""
    return (said["response"].strip() or "(empty)") + (" …" if said.get("finish_reason") == "length" else "")


def last_asked(given: Mapping[str, list[Mapping]]) -> str:
    """The answers of every row to the run's last question."""
    if not given or not all(given.values()):
        return ""
    last = {row: answers[-1] for row, answers in given.items()}
    return side_by_side(next(iter(last.values()))["question"], {row: whole(said) for row, said in last.items()})


def side_by_side(question: str, said: Mapping[str, str]) -> str:
    """HTML of one question and what each row said to it."""
    columns = tables.table([{labels.model(row): text for row, text in said.items()}]).data
    even = columns.replace("<table ", '<table style="table-layout:fixed; width:100%" ', 1)
    return f"<p><b>{escape(question)}</b></p>{even}"


def query_box(settings: "Settings", papers: Iterable[Paper], online: bool) -> ipywidgets.VBox | HTML:
    """A box to try another PubMed query: which of `papers` it finds and, `online`, how many records of all PubMed."""
    papers = list(papers)

    def look(query: str, online: bool = online) -> HTML:
        found = harvest.try_query(query, papers)
        told = f"{escape(query)}: {len(found)} of the {len(papers)} papers kept"
        told += f"; {harvest.count(settings, query):,} records in PubMed" if online else ""
        return HTML(f"<p>{told}</p>{tables.table(tables.papers(found[:8])).data}")

    return box(EXAMPLE, "Look", look, "try a query of your own", lambda: look(EXAMPLE, online=False).data)


def answer_browser(scores: Mapping, questions: Iterable[Mapping], results: Mapping) -> ipywidgets.VBox | HTML:
    """A list of the questions; choosing one shows what every model answered, its score and what earned it.

    Under the runner there is nobody to choose: the first question stands there, and the report's first page has all.
    """
    asked = {question["id"]: question for question in questions}
    names = {id: f"{id}: {question['question']}" for id, question in asked.items()}
    if not asked:
        return HTML("<p>No question was asked in this run.</p>")
    if "COURSE_EXECUTION" in os.environ:
        first = next(iter(asked))
        more = (
            "In JupyterLab a list of all questions stands here; the report has them, too. How the first was answered:"
        )
        own = {row: given for row, given in results.items() if row != "base_rag"}  # that one repeats abstracts
        rows = answered(scores, asked[first], own)
        shown = tables.table([row | {"answer": beginning(row["answer"])} for row in rows]).data
        return HTML(f"<p>{more}</p><p><b>{escape(names[first])}</b></p>{shown}")
    menu = ipywidgets.Dropdown(options=[(name, id) for id, name in names.items()], layout={"width": "95%"})
    shown = ipywidgets.HTML()

    def choose(_: object) -> None:
        shown.value = spaced(tables.table(answered(scores, asked[menu.value], results)))

    menu.observe(choose, names="value")
    choose(None)
    return ipywidgets.VBox([menu, shown])


def beginning(text: str) -> str:
    return text if len(text) <= BEGINNING else f"{text[:BEGINNING].rpartition(' ')[0]} …"


def box(
    hint: str, action: str, respond: Callable[[str], HTML], purpose: str, example: Callable[[], str]
) -> ipywidgets.VBox | HTML:
    """A line to type in, a button, and below them what `respond` returns, or what went wrong in one line.

    Under the runner: a sentence, and below it `example()`, HTML of something that was asked.
    """
    if "COURSE_EXECUTION" in os.environ:
        shown = example()
        return HTML(f"<p>In JupyterLab a box stands here, to {purpose}.{' For example:' * bool(shown)}</p>{shown}")
    text = ipywidgets.Text(placeholder=hint, layout={"width": "70%"})
    button, shown = ipywidgets.Button(description=action), ipywidgets.HTML()

    def click(_: object) -> None:
        button.disabled, shown.value = True, "<p>One moment …</p>"
        try:
            shown.value = spaced(respond(checked(text.value)))
        except CourseError as error:
            shown.value = f"<pre>{escape(str(error))}</pre>"
        except Exception as error:  # whatever it is (no memory, no disk), a reader needs the line and no traceback
            shown.value = f"<pre>{escape(f'that did not work: {type(error).__name__}: {error}')}</pre>"
        finally:
            button.disabled = False

    button.on_click(click)
    return ipywidgets.VBox([ipywidgets.HBox([text, button]), shown])


def spaced(shown: HTML) -> str:
    """HTML with lines as far apart as in the rest of a notebook: a widget's own are made for its buttons."""
    return f'<div style="line-height: 1.4">{shown.data}</div>'


def checked(typed: str) -> str:
    """What was typed, without the spaces around it. Raises CourseError if that is nothing, or more than is read."""
    typed = typed.strip()
    if not typed:
        raise CourseError("nothing is typed", "write something into the box first")
    if len(typed) > LONGEST:
        raise CourseError(f"{len(typed):,} characters are too many", f"write at most {LONGEST:,}")
    return typed
