"""Pages: one file each, no network, no script, every text escaped."""

import base64
import copy
import io
import re

import matplotlib
import nbformat
import pytest
from matplotlib.figure import Figure

from helpers import pages
from helpers.paths import ROOT, Folders
from helpers.stages import STAGES

matplotlib.use("agg")

LOADS = re.compile(r"<(?:script|link|iframe|object|embed)\b|(?:src|srcset)=\"(?!data:)|url\((?!data:)|@import")
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def picture() -> str:
    buffer = io.BytesIO()
    Figure((5, 3)).savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """The page of a notebook with prose, a formula, a plot, a widget, an error and a colourful print."""
    folder = tmp_path_factory.mktemp("page")
    output = nbformat.v4.new_output
    cells = [
        nbformat.v4.new_markdown_cell(
            "# 4 · QLoRA: $r \\ll d$\n\n$$\\frac{1}{n}\\sum_i x_i$$\n\n[next](5_test_qlora.ipynb), "
            "[the README](../README.md#start), [a paper](https://arxiv.org/abs/2305.14314), broken $\\frac{$ formula"
        ),
        nbformat.v4.new_code_cell(
            "plot()  # a comment\nx = 'text'",
            execution_count=1,
            outputs=[
                output("display_data", {"image/png": picture(), "text/plain": "<Figure>"}),
                output(
                    "display_data",
                    {
                        "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
                        "application/javascript": "alert(1)",
                        "text/plain": "Bar(value=3)",
                    },
                ),
                output("display_data", {"text/markdown": "training `███` 3 of 4"}),
                output("stream", name="stdout", text="\x1b[31mred\x1b[0m <b>not bold</b>"),
                output("error", ename="E", evalue="v", traceback=["CourseError: it is wrong", "→ do this"]),
            ],
        ),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {"no state": 1}})
    nbformat.write(notebook, folder / "report.ipynb")
    pages.render(folder / "report.ipynb", folder / "page.html", STAGES[3])
    return (folder / "page.html").read_text()


def test_a_page_needs_no_network_and_runs_no_script(page):
    assert not LOADS.search(page)
    assert "Content-Security-Policy" in page and "default-src 'none'" in page


def test_a_page_shows_code_plots_and_fallbacks(page):
    for expected in ("data:image/png;base64,", "Bar(value=3)", "3 of 4", "→ do this", "plot", "# a comment"):
        assert expected in page, expected
    assert "&lt;b&gt;not bold" in page and "alert(1)" not in page


def test_formulas_are_mathml_and_a_broken_one_is_shown_as_written(page):
    assert page.count("<math") == 2 and "<mfrac>" in page and "ns0:" not in page
    assert "<code>\\frac{</code>" in page


def test_a_page_links_to_its_neighbours_and_out_of_the_reports_folder(page, tmp_path):
    for link in ("3_download_papers.html", "5_test_qlora.html", "index.html", "https://arxiv.org/abs/2305.14314"):
        assert f'href="{link}"' in page, link
    reports = ROOT / "reports" / "x"
    assert 'href="../../README.md#start"' in pages.prose("[r](../README.md#start)", reports)
    assert 'href="#here"' in pages.prose("[r](#here)", reports)


def test_both_ends_of_the_course_have_pages(tmp_path):
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "empty.ipynb")
    for stage in (STAGES[0], STAGES[-1]):
        pages.render(tmp_path / "empty.ipynb", tmp_path / "empty.html", stage)
        text = (tmp_path / "empty.html").read_text()
        assert ("← " in text) != (" →" in text) and f"{stage.number} · {stage.title}" in text


SCORES = {
    "rows": {
        "base_4bit": {
            "rubric": {"mean": 0.25, "n": 10},
            "answers": {"n": 10, "truncated": 3, "empty": 1, "words_mean": 70.4, "seconds_mean": 2.5},
            "bits_per_byte": {"mean": 1.23456, "n": 40, "papers": {}},
        },
        "full": {"rubric": None, "answers": None, "bits_per_byte": None},
    },
    "comparisons": [
        {
            "instrument": "bits_per_byte",
            "a": "qlora",
            "b": "base_4bit",
            "n": 40,
            "items": "papers",
            "mean_difference": -0.0512,
            "low": -0.07,
            "high": -0.03,
            "p_value": 0.001,
            "minimum_detectable_effect": 0.01,
            "verdict": "better",
        },
        {
            "instrument": "rubric",
            "a": "qlora",
            "b": "base_4bit",
            "n": 2,
            "items": "questions",
            "mean_difference": 0.5,
            "low": None,
            "high": None,
            "p_value": None,
            "minimum_detectable_effect": None,
            "verdict": "too few items to decide",
        },
    ],
    "skipped": [{"what": "full − base_bf16", "instrument": "rubric", "reason": f"full has no questions {EVIL}"}],
    "conclusion": f"rubric: no measurable difference (n = 10; less would go unseen); papers: better (n = 40). {EVIL}",
}
RECEIPT = {
    "status": "done",
    "reason": "",
    "finished": "2026-11-22T10:00:00+00:00",
    "seconds": 61.0,
    "peak_memory": 2**30,
    "profile": "smoke",
    "python": "3.11.7",
    "versions": {"torch": "2.13.0"},
}
RECEIPTS = {
    STAGES[0].name: RECEIPT | {"model": EVIL, "source": "somewhere"},
    STAGES[2].name: RECEIPT
    | {
        "route": {
            "name": "sample",
            "why": "asked for",
            "files": {},
            "sources": {"PubMed": {"asked": 42, "got": 42}},
            "incomplete": None,
        },
        "counts": {"found": 50, "kept": 29, "rows": 72, "held_out": 9},
    },
    STAGES[3].name: RECEIPT | {"tokens": 1200, "train_seconds": 30},
    STAGES[5].name: RECEIPT | {"status": "skipped", "reason": "it does not fit"},
}


def index(tmp_path, scores, receipts, plots=None) -> str:
    pages.write_index(Folders("smoke"), scores, receipts, plots, tmp_path / "index.html")
    return (tmp_path / "index.html").read_text()


def test_the_index_says_what_was_found_from_what_and_at_what_cost(tmp_path):
    text = index(tmp_path, SCORES, RECEIPTS, {"Differences": picture()})
    for expected in (
        "29 kept",
        "a test, not science",
        "1.2346",
        "−0.070 to −0.030",
        "too few items to decide",
        "it does not fit",
        "1:01",
        "4:04",
        "1.0 GiB",
        "1,200 tokens",
        "medical advice",
    ):
        assert expected in text, expected
    assert "<p>Rubric: no measurable difference (n = 10; less would go unseen).</p>" in text
    assert all(stage.title in text for stage in STAGES)


def test_the_index_escapes_everything_and_loads_nothing(tmp_path):
    text = index(tmp_path, SCORES, RECEIPTS, {EVIL: picture()})
    assert "<script" not in text and "<img src=x" not in text and text.count("&lt;script&gt;") == 5
    assert not LOADS.search(text)


def test_the_index_copes_with_little(tmp_path):
    little = copy.deepcopy(SCORES) | {"rows": {}, "comparisons": [], "skipped": [], "conclusion": "Nothing."}
    assert "Nothing could be compared" in index(tmp_path, little, {})


def test_the_template_is_part_of_the_package():
    for name in ("page.html", "index.html"):
        assert (ROOT / "helpers" / name).exists()
