"""Things to try in JupyterLab; in a rendered report each shows something that was asked in the run."""

from collections.abc import Callable, Iterable, Mapping
from html import escape

import ipywidgets
from IPython.display import HTML

from helpers.core import CourseError, Settings, is_executed
from helpers.papers import Paper, count_hits, try_query
from helpers.report.score_tables import answers_by_variant
from helpers.report.tables import html_table, paper_table

LONGEST = 2000  # characters of a question: some 500 tokens of English, which any model can read
BEGINNING = 240  # characters of each answer in a page, where all of them stand below each other
EXAMPLE = '"lupus nephritis"[ti] AND mice'


def query_box(settings: Settings, papers: Iterable[Paper], online: bool) -> ipywidgets.VBox | HTML:
    """A box to try another PubMed query: which of `papers` it finds and, `online`, how many records of all PubMed."""
    papers = list(papers)

    def look(query: str, online: bool = online) -> HTML:
        found = try_query(query, papers)
        told = f"{escape(query)}: {len(found)} of the {len(papers)} papers kept"
        told += f"; {count_hits(settings, query):,} records in PubMed" if online else ""
        return HTML(f"<p>{told}</p>{html_table(paper_table(found[:8])).data}")

    return input_box(EXAMPLE, "Look", look, "try a query of your own", lambda: look(EXAMPLE, online=False).data)


def answer_browser(scores: Mapping, questions: Iterable[Mapping], results: Mapping) -> ipywidgets.VBox | HTML:
    """A list of the questions; choosing one shows what every model answered, its score and what earned it.

    Under the runner there is nobody to choose: the first question stands there, and the report's first page has all.
    """
    asked = {question["id"]: question for question in questions}
    names = {id: f"{id}: {question['question']}" for id, question in asked.items()}
    if not asked:
        return HTML("<p>No question was asked in this run.</p>")
    if is_executed():
        first = next(iter(asked))
        more = (
            "In JupyterLab a list of all questions stands here; the report has them, too. How the first was answered:"
        )
        own = {row: given for row, given in results.items() if row != "base_rag"}  # that one repeats abstracts
        rows = answers_by_variant(scores, asked[first], own)
        shown = html_table([row | {"answer": first_words(row["answer"])} for row in rows]).data
        return HTML(f"<p>{more}</p><p><b>{escape(names[first])}</b></p>{shown}")
    menu = ipywidgets.Dropdown(options=[(name, id) for id, name in names.items()], layout={"width": "95%"})
    shown = ipywidgets.HTML()

    def choose(_: object) -> None:
        shown.value = space_lines(html_table(answers_by_variant(scores, asked[menu.value], results)))

    menu.observe(choose, names="value")
    choose(None)
    return ipywidgets.VBox([menu, shown])


def first_words(text: str) -> str:
    return text if len(text) <= BEGINNING else f"{text[:BEGINNING].rpartition(' ')[0]} …"


def input_box(
    hint: str, action: str, respond: Callable[[str], HTML], purpose: str, example: Callable[[], str]
) -> ipywidgets.VBox | HTML:
    """A line to type in, a button, and below them what `respond` returns, or what went wrong in one line.

    Under the runner: a sentence, and below it `example()`, HTML of something that was asked.
    """
    if is_executed():
        shown = example()
        return HTML(f"<p>In JupyterLab a box stands here, to {purpose}.{' For example:' * bool(shown)}</p>{shown}")
    text = ipywidgets.Text(placeholder=hint, layout={"width": "70%"})
    button, shown = ipywidgets.Button(description=action), ipywidgets.HTML()

    def click(_: object) -> None:
        button.disabled, shown.value = True, "<p>One moment …</p>"
        try:
            shown.value = space_lines(respond(check_typed(text.value)))
        except CourseError as error:
            shown.value = f"<pre>{escape(str(error))}</pre>"
        except Exception as error:  # whatever it is (no memory, no disk), a reader needs the line and no traceback
            shown.value = f"<pre>{escape(f'that did not work: {type(error).__name__}: {error}')}</pre>"
        finally:
            button.disabled = False

    button.on_click(click)
    return ipywidgets.VBox([ipywidgets.HBox([text, button]), shown])


def space_lines(shown: HTML) -> str:
    """HTML with lines as far apart as in the rest of a notebook: a widget's own are made for its buttons."""
    return f'<div style="line-height: 1.4">{shown.data}</div>'


def check_typed(typed: str) -> str:
    """What was typed, without the spaces around it. Raises CourseError if that is nothing, or more than is read."""
    typed = typed.strip()
    if not typed:
        raise CourseError("nothing is typed", "write something into the box first")
    if len(typed) > LONGEST:
        raise CourseError(f"{len(typed):,} characters are too many", f"write at most {LONGEST:,}")
    return typed
