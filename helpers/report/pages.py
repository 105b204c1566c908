"""The reports as web pages: each one file that needs no network, runs no script and prints well."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import nbformat
from latex2mathml.converter import convert as to_mathml
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets.config import Config

from helpers.core import NOTEBOOKS, STAGES, Folders, Stage, format_clock, is_executed, make_visible, write_text
from helpers.evaluation import describe_preregistration
from helpers.papers import describe_route
from helpers.report.alt_texts import alt_text
from helpers.report.control_plots import describe_control, plot_control
from helpers.report.format import (
    ANSWERS,
    KEPT,
    LEARNED,
    PUBLIC,
    ROLES,
    format_count,
    format_figure,
    model_label,
    pair_label,
    plain_unit,
    task_label,
    unit_of,
)
from helpers.report.score_plots import figure_svg, plot_forest, plot_forgetting
from helpers.report.score_tables import (
    answer_rows,
    answers_to,
    chance_levels,
    measured_tasks,
    order_comparisons,
    training_costs_of,
)

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
)
SHOWN = ["text/html", "image/png", "image/jpeg", "image/svg+xml", "text/markdown", "text/latex", "text/plain"]
GROUPS = (LEARNED, ANSWERS, KEPT, PUBLIC)
MOODS = {"better_than_placebo": "good", "worse": "bad"}
MOST_QUESTIONS = 60  # shown with their answers
LOCAL_LINK = re.compile(r'href="(?![a-z]+:|#|/)([^"#]+)')
REMOTE_PICTURE = re.compile(r'<img\b[^>]*?src="https?:[^>]*>')  # the badge: a page loads nothing
PICTURES = ("image/png", "image/jpeg")
HEADING = re.compile(r"<h2(?: id=\"([^\"]*)\")?>(.*?)</h2>", re.DOTALL)
TAG = re.compile(r"<[^>]+>")
TABLE = re.compile(r"<table\b.*?</table>", re.DOTALL)
# what may be wider than a phone scrolls by itself, with the keyboard as well
WIDE = Markup('<div class="wide" role="group" tabindex="0" aria-label="table, scrolls sideways">')
TEMPLATES.globals["wide"] = WIDE


class Prose(IPythonRenderer):
    """Markdown to HTML, with formulas as MathML: browsers draw it by themselves."""

    def block_math(self, body: str) -> str:
        shown = formula_as_mathml(body, "block")
        return f'<div class="wide" role="group" tabindex="0" aria-label="formula">{shown}</div>'

    def inline_math(self, body: str) -> str:
        return formula_as_mathml(body, "inline")

    def block_html(self, html: str) -> str:
        """As it is written where there is no picture to embed: parsed alone, a <details> would end at once."""
        return super().block_html(html) if "<img" in html else html

    def heading(self, text: str, level: int, **attributes: object) -> str:
        """Without the pilcrow that a screen reader would read out."""
        return f'<h{level} id="{page_name(text)}">{text}</h{level}>\n'


def formula_as_mathml(formula: str, display: str) -> str:
    """A LaTeX formula as MathML; as it is written, where the converter cannot read it."""
    try:
        return to_mathml(formula, display=display).replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")
    except Exception:  # whatever the converter raises, a page with the formula's source beats no page
        return f"<code>{jinja2.filters.escape(formula)}</code>"


def render_page(report: Path, page: Path, stage: Stage) -> None:
    """Turn an executed notebook into a page that links to its neighbours. Widgets are left out."""
    exporter = HTMLExporter(
        raw_template=TEMPLATES.loader.get_source(TEMPLATES, "cells.html")[0],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        filters={
            "markdown2html": lambda text: render_prose(text, page.parent),
            "gist": gist_of,
            "scrolling": scroll_tables,
        },
        config=Config({"NbConvertBase": {"display_data_priority": SHOWN}}),
    )
    notebook = nbformat.read(report, as_version=4)
    notebook.metadata.pop("widgets", None)  # Colab's have no state, which nbconvert stumbles over
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if any(kind in output.get("data", {}) for kind in PICTURES):
                output.metadata.setdefault("alt", alt_text(cell.source))
    body, _ = exporter.from_notebook_node(notebook)
    place = stage.number - 1
    html = TEMPLATES.get_template("page.html").render(
        title=f"{stage.number} · {stage.title}",
        here=stage,
        course=[{"number": s.number, "title": s.title, "link": f"{s.name}.html"} for s in STAGES],
        previous=STAGES[place - 1] if place else None,
        following=STAGES[place + 1] if place + 1 < len(STAGES) else None,
        body=body,
    )
    write_text(page, make_visible(html))


def gist_of(source: str) -> str:
    """The line of a cell that says most of what it does: its last."""
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line[0] not in ")]}#"), "")


def scroll_tables(html: str) -> str:
    """Every table in a box of its own that scrolls."""
    return TABLE.sub(lambda found: f"{WIDE}{found[0]}</div>", html)


def with_contents(html: str) -> tuple[Markup, list[dict[str, str]]]:
    """The text of a page with a name on every h2, and the list of these: {"name", "title"}."""
    found = []

    def named(heading: re.Match) -> str:
        title = TAG.sub("", heading[2]).strip()
        found.append({"name": heading[1] or page_name(title), "title": Markup(title)})
        return f'<h2 id="{found[-1]["name"]}">{heading[2]}</h2>'

    return Markup(HEADING.sub(named, html)), found


def page_name(title: str) -> str:
    """A heading's name in the page's address."""
    return re.sub(r"[^\w-]+", "-", TAG.sub("", title)).strip("-")


def render_prose(text: str, folder: Path) -> str:
    """A Markdown cell as HTML whose links work from `folder`, with pictures from notebooks/ embedded."""
    renderer = Prose(escape=False, embed_images=True, path=str(NOTEBOOKS))
    html = scroll_tables(MarkdownWithMath(renderer=renderer).render(text))
    html = REMOTE_PICTURE.sub(lambda found: (re.search(r'alt="([^"]*)"', found[0]) or [""] * 2)[1], html)
    return LOCAL_LINK.sub(lambda found: f'href="{move_link(found[1], folder)}', html)


def move_link(link: str, folder: Path) -> str:
    """A notebook's link as its page in `folder` needs it: another notebook's page, or the way to a file."""
    name = Path(link)
    if name.suffix == ".ipynb" and any(stage.name == name.stem for stage in STAGES):
        return f"{name.stem}.html"
    return Path(os.path.relpath(NOTEBOOKS / link, folder)).as_posix()


def write_index(
    folders: Folders,
    scores: Mapping,
    receipts: Mapping[str, Mapping],
    questions: Sequence[Mapping],
    answers: Mapping[str, Sequence[Mapping]],
    papers: Mapping[str, Mapping],
    control: Mapping | None = None,
    judge: Mapping | None = None,
    path: Path | None = None,
) -> None:
    """Write the report's first page: `scores` of stage 8, all receipts ({stage name: receipt}), what was asked, the
    `answers` of every row, and the training `papers` on each question (results.papers_on).

    `control` is the positive control's record and `judge` the second grader's, where there are any. Nothing is
    fetched by the page, every text is escaped, and every figure carries its unrounded value (<data value=…>).
    """
    guessed = chance_levels(scores)
    names = {name: task_label(name, guessed.get(name)) for name in measured_tasks(scores)}
    html = TEMPLATES.get_template("index.html").render(
        title="",
        here=None,
        run=folders.run,
        verdict=scores["verdict"],
        mood=MOODS.get(scores["verdict"]["code"], "open") if scores["declaration"].get("kept") else "open",
        facts=run_facts(scores, receipts),
        finished=max((receipt["finished"][:10] for receipt in receipts.values()), default=""),
        rows=scores["rows"],
        model=model_label,
        groups={group: [n for n in names if names[n].group == group] for group in GROUPS},
        instruments=names,
        chance=guessed,
        comparisons=order_comparisons(scores["comparisons"]),
        controls=[c for c in order_comparisons(scores["comparisons"]) if control_of(c)],
        unit_of=unit_of,
        plain=plain_unit,
        pair=pair_label,
        roles=ROLES,
        title_of=lambda name: task_label(name, guessed.get(name)).title,
        skipped=scores["skipped"],
        answer_rows=answer_rows(scores),
        asked=[asked_row(question, scores, answers, papers) for question in questions[:MOST_QUESTIONS]],
        left_out=max(0, len(questions) - MOST_QUESTIONS),
        heads=[row for row, one in scores["rows"].items() if one["questions"]],
        costs=training_costs_of(scores, receipts),
        seeds=scores["seeds"],
        declared=describe_preregistration(scores["declaration"]) if "hash" in scores["declaration"] else [],
        kept=scores["declaration"].get("kept"),
        made=scores["declaration"].get("made", 0),
        n_questions=scores["questions"]["n"],
        control=control,
        control_says=describe_control(control) if control else "",
        judge=judge,
        pictures=draw_pictures(scores, control),
        course=(rows := [stage_row(stage, receipts.get(stage.name), folders) for stage in STAGES]),
        stages=rows,
        total=format_clock(sum(receipt["seconds"] for receipt in receipts.values())),
        made_with=package_versions(receipts),
    )
    write_text(path or folders.index, make_visible(html))


def control_of(found: Mapping) -> bool:
    """Whether a comparison tells training apart from what else may look like it."""
    pair = found["a"], found["b"]
    beside = pair in (("qlora", "placebo_qlora"), ("base_bf16", "base_4bit")) and found["instrument"] == "recall"
    return beside or found["role"] == "control"


def draw_pictures(scores: Mapping, control: Mapping | None) -> dict[str, Markup]:
    """{name: SVG, "" where there is nothing to draw}; each says in words what it shows."""
    drawn = {
        "forest": (
            plot_forest(scores["comparisons"], ("primary", "family", "guard", "control")),
            "Every declared difference with its 95 % interval; the table below has the numbers.",
        ),
        "exploratory": (
            plot_forest(scores["comparisons"], ["exploratory"]),
            "Exploratory differences with their 95 % intervals; the table below has the numbers.",
        ),
        "forgetting": (
            plot_forgetting(scores),
            "Change on recall against change on plain knowledge, each tuned model against its own base.",
        ),
        "control": (
            plot_control(control) if control else None,
            "Accuracy on the invented syndromes over the tokens trained on; the table has the final numbers.",
        ),
    }
    return {name: Markup(figure_svg(picture, alt) if picture else "") for name, (picture, alt) in drawn.items()}


def run_facts(scores: Mapping, receipts: Mapping[str, Mapping]) -> dict[str, str]:
    """The model, the data and the test in a few sentences, from the receipts and the scores."""
    said = {}
    if base := receipts.get(STAGES[0].name):
        said["Model"] = f"{base['model']} ({base['source']}), profile {base['profile']}."
    if papers := receipts.get(STAGES[2].name):
        n = papers["counts"]
        said["Papers"] = (
            f"{describe_route(papers['route'])} {n['found']:,} records found, {n['kept']:,} kept: "
            f"{n['rows']:,} rows for training, and {n['held_out']:,} papers held out for the test."
        )
    trained = [(model, receipts.get(STAGES[n].name) or {}) for n, model in ((3, "qlora"), (5, "full"))]
    told = [
        f"{model_label(model)}: {receipt['tokens']:,} tokens in {format_clock(receipt.get('train_seconds', 0))}"
        if "tokens" in receipt
        else f"{model_label(model)}: skipped, {receipt['reason']}"
        for model, receipt in trained
        if "tokens" in receipt or receipt.get("status") == "skipped"
    ]
    if told:
        said["Training"] = "; ".join(told) + "."
    sat = {name: one for row in scores["rows"].values() for name, one in row["measures"].items()}
    tests = [f"{task_label(n).title} {format_count(sat[n])}" for n in measured_tasks(scores) if n in sat]
    if tests:
        said["Test"] = f"{', '.join(tests)}."
    return said


def asked_row(question: Mapping, scores: Mapping, answers: Mapping, papers: Mapping) -> dict[str, object]:
    """One question of the heat map: the papers on it, every model's score, and what the models said."""
    said = answers_to(scores, question, answers)
    return {**question, "on": papers[question["id"]], "said": said, "scores": {a["row"]: a["graded"] for a in said}}


def stage_row(stage: Stage, receipt: Mapping | None, folders: Folders) -> dict[str, object]:
    """One notebook: its page, if there is one, and what it cost. Stage 8 is still running when this is written."""
    page = stage.page(folders)
    coming = stage is STAGES[-1] and is_executed()
    state = "this report" if stage is STAGES[-1] else "not run"
    if receipt and stage is not STAGES[-1]:
        state = f"{receipt['status']}: {receipt['reason']}" if receipt["reason"] else receipt["status"]
    return {
        "number": stage.number,
        "title": stage.title,
        "link": page.name if page.exists() or coming else "",
        "state": state,
        "time": format_clock(receipt["seconds"]) if receipt else "–",
        "memory": f"{receipt['peak_memory'] / 2**30:.1f} GiB" if receipt and receipt.get("peak_memory") else "–",
    }


def data_element(value: float | None, unit: str, sign: str = "") -> Markup:
    """A figure as it is read, with the number itself behind it; "–" for None."""
    if value is None:
        return Markup("–")
    return Markup('<data value="{}">{}</data>').format(repr(float(value)), format_figure(value, unit, sign))


def package_versions(receipts: Mapping[str, Mapping]) -> str:
    """What the newest receipt was made with."""
    if not receipts:
        return ""
    newest = max(receipts.values(), key=lambda receipt: receipt["finished"])
    return f"Python {newest['python']}, " + ", ".join(f"{name} {v}" for name, v in newest["versions"].items())


TEMPLATES.filters.update(data=data_element, with_contents=with_contents)
