"""Things to try in JupyterLab; in a rendered report each says in words what is missing."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import ipywidgets
from IPython.display import HTML, display

from helpers import harvest, tables
from helpers.errors import CourseError
from helpers.papers import Paper
from helpers.results import answered

if TYPE_CHECKING:
    from helpers.exam import Candidate
    from helpers.settings import Settings


def question_box(candidate: "Candidate", max_new_tokens: int = 120) -> ipywidgets.VBox | HTML:
    """A box to ask the candidate your own question; the model is loaded at the first one.

    Under the runner there is nobody to type, so a sentence stands there instead.
    """
    if candidate.absent:
        return HTML("<p>There is no such model in this run to ask.</p>")
    loaded = []

    def ask(question: str) -> HTML:
        from helpers.answers import generate  # notebook 3 has no model, and need not wait for torch

        if not loaded:
            print("loading the model …")
            loaded.append(candidate.trained())
        (reply,) = generate(loaded[0], candidate.tokenizer, [question], max_new_tokens)
        return tables.table([{"question": question, candidate.row: reply["response"]}])

    return box("your question", "Ask", ask, "ask this model a question of your own")


def query_box(settings: "Settings", papers: Iterable[Paper], online: bool) -> ipywidgets.VBox | HTML:
    """A box to try another PubMed query: which of `papers` it finds and, `online`, how many records of all PubMed."""
    papers = list(papers)

    def look(query: str) -> HTML:
        found = harvest.try_query(query, papers)
        print(f"{len(found)} of the {len(papers)} papers kept", end="")
        print(f"; {harvest.count(settings, query):,} records in PubMed" if online else "")
        return tables.table(tables.papers(found[:8]))

    return box('"lupus nephritis"[ti] AND mice', "Look", look, "try a query of your own")


def answer_browser(scores: Mapping, questions: Iterable[Mapping], results: Mapping) -> ipywidgets.VBox | HTML:
    """A list of the questions; choosing one shows what every model answered, its score and what earned it.

    Under the runner there is nobody to choose: the report's first page has the same answers behind each question.
    """
    if "COURSE_EXECUTION" in os.environ:
        return HTML("<p>In JupyterLab a list of the questions appears here; the report has the same answers.</p>")
    asked = {question["id"]: question for question in questions}
    menu = ipywidgets.Dropdown(options=[(f"{id}: {q['question']}", id) for id, q in asked.items()])
    menu.layout.width = "95%"
    shown = ipywidgets.HTML()

    def choose(_: object) -> None:
        shown.value = tables.table(answered(scores, asked[menu.value], results)).data

    menu.observe(choose, names="value")
    choose(None)
    return ipywidgets.VBox([menu, shown])


def box(hint: str, action: str, respond: Callable[[str], HTML], purpose: str) -> ipywidgets.VBox | HTML:
    """A line to type in, a button, and below them what `respond` returns or the error it raises."""
    if "COURSE_EXECUTION" in os.environ:
        return HTML(f"<p>In JupyterLab a box appears here, to {purpose}.</p>")
    text = ipywidgets.Text(placeholder=hint, layout={"width": "70%"})
    button, output = ipywidgets.Button(description=action), ipywidgets.Output()

    def click(_: object) -> None:
        output.clear_output()
        with output:
            try:
                display(respond(text.value))
            except CourseError as error:
                print(error)

    button.on_click(click)
    return ipywidgets.VBox([ipywidgets.HBox([text, button]), output])
