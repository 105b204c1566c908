"""The reports as web pages: each one file that needs no network, runs no script and prints well."""

import os
import re
from pathlib import Path

import jinja2
from latex2mathml.converter import convert as to_mathml
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets.config import Config

from helpers.files import write_text
from helpers.paths import NOTEBOOKS
from helpers.stages import STAGES, Stage

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
)
SHOWN = ["text/html", "image/png", "image/jpeg", "image/svg+xml", "text/markdown", "text/latex", "text/plain"]
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
    body, _ = exporter.from_filename(str(report))
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
