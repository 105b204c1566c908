"""The reports as web pages: each one file that needs no network, runs no script and prints well."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import jinja2
import nbformat
from latex2mathml.converter import convert as to_mathml
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets.config import Config

from helpers.files import write_text
from helpers.paths import NOTEBOOKS, Folders
from helpers.progress import clock
from helpers.stages import STAGES, Stage

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
)
SHOWN = ["text/html", "image/png", "image/jpeg", "image/svg+xml", "text/markdown", "text/latex", "text/plain"]
MODELS = {
    "base_4bit": "untouched, 4-bit",
    "base_bf16": "untouched, unquantised",
    "qlora": "QLoRA adapter",
    "full": "fully tuned",
}
INSTRUMENTS = {"rubric": "rubric score", "bits_per_byte": "bits per byte"}
LOCAL_LINK = re.compile(r'href="(?![a-z]+:|#|/)([^"#]+)')


class Prose(IPythonRenderer):
    """Markdown to HTML, with formulas as MathML: browsers draw it by themselves."""

    def block_math(self, body: str) -> str:
        return mathml(body, "block")

    def inline_math(self, body: str) -> str:
        return mathml(body, "inline")


def mathml(formula: str, display: str) -> str:
    """A LaTeX formula as MathML; as it is written, where the converter cannot read it."""
    try:
        return to_mathml(formula, display=display).replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")
    except Exception:  # whatever the converter raises, a page with the formula's source beats no page
        return f"<code>{jinja2.filters.escape(formula)}</code>"


def render(report: Path, page: Path, stage: Stage) -> None:
    """Turn an executed notebook into a page that links to its neighbours. Widgets are left out."""
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        filters={"markdown2html": lambda text: prose(text, page.parent)},
        config=Config({"NbConvertBase": {"display_data_priority": SHOWN}}),
    )
    notebook = nbformat.read(report, as_version=4)
    notebook.metadata.pop("widgets", None)  # Colab's have no state, which nbconvert stumbles over
    body, _ = exporter.from_notebook_node(notebook)
    place = stage.number - 1
    html = TEMPLATES.get_template("page.html").render(
        title=f"{stage.number} · {stage.title}",
        previous=STAGES[place - 1] if place else None,
        following=STAGES[place + 1] if place + 1 < len(STAGES) else None,
        body=body,
    )
    write_text(page, html)


def prose(text: str, folder: Path) -> str:
    """A Markdown cell as HTML whose links work from `folder`, with pictures from notebooks/ embedded."""
    renderer = Prose(escape=False, embed_images=True, path=str(NOTEBOOKS))
    html = MarkdownWithMath(renderer=renderer).render(text)
    return LOCAL_LINK.sub(lambda found: f'href="{moved(found[1], folder)}', html)


def moved(link: str, folder: Path) -> str:
    """A notebook's link as its page in `folder` needs it: another notebook's page, or the way to a file."""
    name = Path(link)
    if name.suffix == ".ipynb" and any(stage.name == name.stem for stage in STAGES):
        return f"{name.stem}.html"
    return Path(os.path.relpath(NOTEBOOKS / link, folder)).as_posix()


def write_index(
    folders: Folders,
    scores: Mapping,
    receipts: Mapping[str, Mapping],
    plots: Mapping[str, str] | None = None,
    path: Path | None = None,
) -> None:
    """Write the report's first page from stage 8's scores and all receipts ({stage name: receipt}).

    `plots` are base64 PNGs by title. Nothing is fetched by the page, and every text is escaped.
    """
    html = TEMPLATES.get_template("index.html").render(
        title="",
        run=folders.run,
        conclusion=sentences(scores["conclusion"]),
        facts=facts(receipts),
        finished=max((receipt["finished"][:10] for receipt in receipts.values()), default=""),
        rows=[score_row(name, row) for name, row in scores["rows"].items()],
        comparisons=[comparison_row(found) for found in scores["comparisons"]],
        skipped=[
            {**gap, "instrument": INSTRUMENTS.get(gap["instrument"], gap["instrument"])} for gap in scores["skipped"]
        ],
        plots=plots or {},
        stages=[stage_row(stage, receipts.get(stage.name), folders) for stage in STAGES],
        total=clock(sum(receipt["seconds"] for receipt in receipts.values())),
        made_with=versions(receipts),
    )
    write_text(path or folders.index, html)


def sentences(conclusion: str) -> list[str]:
    """The conclusion's clauses, one a line."""
    return [part[0].upper() + part[1:].rstrip(".") + "." for part in re.split(r"(?<=\)); ", conclusion)]


def facts(receipts: Mapping[str, Mapping]) -> list[str]:
    """The model and the data in a few sentences, from the receipts of stages 1, 3, 4 and 6."""
    from helpers.harvest import describe

    said = []
    if base := receipts.get(STAGES[0].name):
        said.append(f"Base model: {base['model']} ({base['source']}), profile {base['profile']}.")
    if papers := receipts.get(STAGES[2].name):
        n = papers["counts"]
        said.append(describe(papers["route"]))
        said.append(
            f"{n['found']:,} records found, {n['kept']:,} kept: {n['rows']:,} training rows, "
            f"and {n['held_out']:,} papers held out for the test."
        )
    for stage in (STAGES[3], STAGES[5]):
        if (receipt := receipts.get(stage.name)) and receipt["status"] == "done" and "tokens" in receipt:
            said.append(f"{stage.title}: {receipt['tokens']:,} tokens in {clock(receipt.get('train_seconds', 0))}.")
    return said


def score_row(name: str, row: Mapping) -> dict[str, object]:
    """One model's figures as they are shown; "–" for what was not measured."""
    rubric, bits, answers = (row.get(part) or {} for part in ("rubric", "bits_per_byte", "answers"))
    return {
        "name": MODELS.get(name, name),
        "rubric": number(rubric.get("mean"), 2),
        "questions": rubric.get("n", "–"),
        "bits": number(bits.get("mean"), 4),
        "papers": bits.get("n", "–"),
        "words": number(answers.get("words_mean"), 0),
        "cut": answers.get("truncated", "–"),
        "empty": answers.get("empty", "–"),
        "seconds": number(answers.get("seconds_mean"), 1),
    }


def comparison_row(found: Mapping) -> dict[str, object]:
    """One paired comparison as it is shown."""
    bounded = found["low"] is not None
    return {
        "pair": f"{MODELS.get(found['a'], found['a'])} − {MODELS.get(found['b'], found['b'])}",
        "instrument": INSTRUMENTS.get(found["instrument"], found["instrument"]),
        "difference": number(found["mean_difference"], 3, sign="+"),
        "interval": f"{number(found['low'], 3, '+')} to {number(found['high'], 3, '+')}" if bounded else "–",
        "p": number(found["p_value"], 3),
        "n": f"{found['n']} {found['items']}",
        "verdict": found["verdict"],
    }


def stage_row(stage: Stage, receipt: Mapping | None, folders: Folders) -> dict[str, object]:
    """One notebook: its page, if there is one, and what it cost. Stage 8 is still running when this is written."""
    page = stage.page(folders)
    coming = stage is STAGES[-1] and "COURSE_EXECUTION" in os.environ
    state = "this report" if stage is STAGES[-1] else "not run"
    if receipt and stage is not STAGES[-1]:
        state = f"{receipt['status']}: {receipt['reason']}" if receipt["reason"] else receipt["status"]
    return {
        "number": stage.number,
        "title": stage.title,
        "link": page.name if page.exists() or coming else "",
        "state": state,
        "time": clock(receipt["seconds"]) if receipt else "–",
        "memory": f"{receipt['peak_memory'] / 2**30:.1f} GiB" if receipt and receipt.get("peak_memory") else "–",
    }


def number(value: float | None, digits: int, sign: str = "") -> str:
    """A figure with a real minus; "–" for None, and no sign for 0."""
    if value is None:
        return "–"
    return f"{value:{sign if round(value, digits) else ''}.{digits}f}".replace("-", "−")


def versions(receipts: Mapping[str, Mapping]) -> str:
    """What the newest receipt was made with."""
    if not receipts:
        return ""
    newest = max(receipts.values(), key=lambda receipt: receipt["finished"])
    return f"Python {newest['python']}, " + ", ".join(f"{name} {v}" for name, v in newest["versions"].items())
