"""Pages: one file each, no network, no script, every text escaped."""

import base64
import io
import itertools
import math
import os
import re
import subprocess

import matplotlib
import nbformat
import numpy as np
import pytest
from lxml import html
from matplotlib.figure import Figure
from scipy import stats
from support import experiment, made_up
from support.chromium import find_chromium

from helpers.core import STAGES
from helpers.core.paths import ROOT, Folders
from helpers.evaluation.scores import score_run
from helpers.grading import rubric
from helpers.papers.topic import load_topic
from helpers.pipeline.stages import code_cells
from helpers.report import format, pages, score_tables
from helpers.report.alt_texts import UNKNOWN, alt_text

matplotlib.use("agg")

LOADS = re.compile(r"<(?:script|link|iframe|object|embed)\b|(?:src|srcset)=\"(?!data:)|url\((?!data:|#)|@import")
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
    pages.render_page(folder / "report.ipynb", folder / "page.html", STAGES[3])
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


def test_code_is_folded_and_its_last_line_says_what_it_does(page):
    (code,) = html.fromstring(page).xpath("//details[@class='code']")
    assert not code.get("open") and code.xpath("string(summary/code)") == "x = 'text'"
    assert "# a comment" in code.xpath("string(div)")
    assert "details::details-content { content-visibility: visible" in page.split("@media print")[1]


def test_contents_lead_to_every_section(tmp_path):
    text = "# 1 · Title\n\n## What is *r*?\n\nWords.\n\n## Check\n\n## $r \\ll d$\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]), tmp_path / "a.ipynb")
    pages.render_page(tmp_path / "a.ipynb", tmp_path / "a.html", STAGES[0])
    tree = html.fromstring((tmp_path / "a.html").read_text())
    links = tree.xpath("//details[@class='contents']//a")
    assert [link.text_content() for link in links][:2] == ["What is r?", "Check"] and len(links) == 3
    assert [link.get("href")[1:] for link in links] == tree.xpath("//h2/@id")
    assert tree.xpath("//div[@class='wide'][@tabindex='0']/table") and "¶" not in tree.text_content()
    assert tree.xpath("string(//nav[@class='course']//a[@aria-current]/@href)") == f"{STAGES[0].name}.html"
    assert len(tree.xpath("//nav[@class='course']//a")) == 1 + len(STAGES)


def test_answers_stay_hidden(tmp_path):
    text = "**1. Why?**\n\n<details><summary>Answer</summary>\n\nSo.\n\n```python\nx = 1\n```\n\n</details>\n\nSeen."
    tree = html.fromstring(f"<div>{pages.render_prose(text, tmp_path)}</div>")
    (hidden,) = tree.xpath("//details")
    assert "So." in hidden.text_content() and "x = 1" in hidden.text_content()
    assert "Seen." in tree.text_content() and "Seen." not in hidden.text_content()


def test_a_badge_is_not_fetched(tmp_path):
    said = pages.render_prose(
        "[![Open in Colab](https://x.org/badge.svg)](https://colab.research.google.com/a)", tmp_path
    )
    assert "<img" not in said and ">Open in Colab</a>" in said


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_picture_of_a_notebook_has_words(stage):
    """What draws is known by its docstring; every cell that draws has an alt text of its own."""
    drawn = re.compile(r"plot_\w+\(|stage\.map\(")
    cells = [source for _, source in code_cells(stage.notebook) if drawn.match(source.strip().splitlines()[-1])]
    assert cells
    for source in cells:
        words = alt_text(source)
        assert words != UNKNOWN and 15 < len(words) < 250, source


def test_pictures_that_are_live_unknown_or_behind_something_else():
    assert "raining" in alt_text("history = run_finetuning(job, model, LiveCurves(), declared['hash'])")
    assert alt_text("plot_answer_lengths(a) or 'Nobody.'") == "Bars: tokens of each answer; cut ones stand out."
    assert "None" not in alt_text("plot_forest(scores['comparisons'])")
    assert alt_text("%matplotlib inline") == alt_text("draw()") == alt_text("nothing.here()") == UNKNOWN


def test_a_page_links_to_its_neighbours_and_out_of_the_reports_folder(page, tmp_path):
    for link in ("3_download_papers.html", "5_test_qlora.html", "index.html", "https://arxiv.org/abs/2305.14314"):
        assert f'href="{link}"' in page, link
    reports = ROOT / "reports" / "x"
    assert 'href="../../README.md#start"' in pages.render_prose("[r](../README.md#start)", reports)
    assert 'href="#here"' in pages.render_prose("[r](#here)", reports)


def test_both_ends_of_the_course_have_pages(tmp_path):
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "empty.ipynb")
    for stage in (STAGES[0], STAGES[-1]):
        pages.render_page(tmp_path / "empty.ipynb", tmp_path / "empty.html", stage)
        text = (tmp_path / "empty.html").read_text()
        assert ("← " in text) != (" →" in text) and f"{stage.number} · {stage.title}" in text


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
    STAGES[3].name: RECEIPT
    | {
        "tokens": 1200,
        "train_seconds": 30,
        "train_peak_memory": 2**31,
        "others": {"placebo_qlora": {"tokens": 1190, "train_seconds": 29, "train_peak_memory": 2**31}},
    },
    STAGES[5].name: RECEIPT | {"status": "skipped", "reason": "it does not fit"},
}

TRAINING = [
    {
        "paper_id": "30000001",
        "source": "PubMed",
        "title": "Rituximab in lupus nephritis",
        "text": "User: q\n\nAssistant: a",
    },
    {
        "paper_id": "30000001",
        "source": "PubMed",
        "title": "Rituximab in lupus nephritis",
        "text": "User: r\n\nAssistant: b",
    },
    {
        "paper_id": "30000002",
        "source": "PubMed",
        "title": "A cohort",
        "text": "User: q\n\nAssistant: Crohn's disease",
    },
]
PAPERS = score_tables.papers_on(experiment.ASKED, TRAINING, load_topic("autoimmune"))
CONTROL = {
    "world": {},
    "chance": 0.125,
    "methods": {
        "full": {
            run: {
                "taught": {"accuracy": taught, "n": 80, "low": taught / 2, "high": 1.0},
                "read": {"accuracy": taught / 3, "n": 80, "low": 0.0, "high": 0.9},
                "tokens": 1000,
                "seconds": 90.0,
                "curve": [],
                "wordings": 6,
            }
            for run, taught in (("base", 0.11), ("one_wording", 0.96), ("many_wordings", 0.99))
        }
    },
}
KINDS = {  # what each fixture must be called
    "win": ({"gain": 0.4}, "better_than_placebo"),
    "tie": ({"gain": 0.0}, "no_difference"),
    "loss": ({"gain": -0.4}, "worse"),
    "few": ({"gain": 0.3, "papers": 3}, "too_few"),
    "without": ({"gain": 0.4, "rows": ("base_4bit", "base_rag", "qlora", "placebo_qlora")}, "better_than_placebo"),
}


@pytest.fixture(scope="module")
def made():
    """{kind: (answers, items, scores)} of every fixture; 12 papers, so that every sign pattern can be listed."""
    found = {}
    for kind, (options, _) in KINDS.items():
        answers, items = experiment.evidence(**{"papers": 12} | options)
        said = made_up.declared(items)
        found[kind] = answers, items, score_run(answers, experiment.ASKED, items, seed=42, declared=said)
    return found


def index(tmp_path, scores, receipts=RECEIPTS, answers=None, **more) -> str:
    place = tmp_path / "index.html"
    pages.write_index(Folders("smoke"), scores, receipts, experiment.ASKED, answers or {}, PAPERS, path=place, **more)
    return place.read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_every_outcome_renders_as_what_it_is(made, tmp_path, kind):
    answers, _, scores = made[kind]
    assert scores["verdict"]["code"] == KINDS[kind][1]
    text = index(tmp_path, scores, answers=answers, control=None)
    tree = html.fromstring(text)
    (box,) = tree.xpath("//div[contains(@class, 'verdict')]")
    assert box.xpath("string(p[1])") == scores["verdict"]["headline"]
    assert ("good" in box.get("class")) == KINDS[kind][1].startswith("better")
    assert ("bad" in box.get("class")) == (kind == "loss")
    told = tree.text_content()
    assert ("learned facts" in told) == (KINDS[kind][1] == "better_than_placebo")
    assert all(sentence in told for sentence in scores["verdict"]["sentences"])
    if kind == "without":
        assert any("full" in gap["what"] for gap in scores["skipped"])
        assert "Not compared: full − base_bf16" in told and "it does not fit" in told


def test_the_page_can_be_recomputed_from_the_saved_items(made, tmp_path):
    """Every mean, count, chance and difference, and each interval and p of the few papers, from the items alone."""
    answers, items, scores = made["win"]
    tree = html.fromstring(index(tmp_path, scores, answers=answers))
    measured = values_of(answers, items)
    (table,) = tree.xpath("//table[contains(@class, 'scores')]")
    titles = [format.task_label(name).title for name in score_tables.measured_tasks(scores)]
    assert table.xpath("thead/tr[2]/th/text()")[1:] == titles
    rows = {tr.xpath("string(th)"): tr.xpath("td") for tr in table.xpath("tbody/tr")}
    checked = 0
    for row, mine in measured.items():
        for name, cell in zip(score_tables.measured_tasks(scores), rows[format.model_label(row)], strict=True):
            if name not in mine:
                assert cell.text_content() == "–"
                continue
            value, paper, chance = mine[name]
            numbers, count = (
                shown(cell),
                [len(value)] + [len(set(paper.values()))] * (len(set(paper.values())) != len(value)),
            )
            mean = np.mean(list(value.values()))
            assert numbers[0] == pytest.approx(mean, abs=1e-9) and numbers[3:] == count
            assert numbers[1] <= mean <= numbers[2]
            saved = scores["rows"][row]["measures"][name]
            assert saved["mean"] == pytest.approx(mean, abs=1e-9) and saved["items"] == pytest.approx(value, abs=1e-9)
            assert saved["chance"] == (None if chance is None else pytest.approx(chance, abs=1e-9))
            if chance is not None and len(count) == 1:
                z, n = stats.norm.ppf(0.975), len(value)
                middle, half = mean + z**2 / 2 / n, z * math.sqrt(mean * (1 - mean) / n + z**2 / 4 / n**2)
                bounds = [(middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)]
                assert numbers[1:3] == pytest.approx(bounds, abs=1e-9)
            checked += 1
    assert checked == sum(len(mine) for mine in measured.values()) > 40

    found = {
        (tr.xpath("string(th/text())"), tr.xpath("string(td[1])")): [shown(td) for td in tr.xpath("td")[1:]]
        for table in tree.xpath("//table[contains(@class, 'differences')]")
        for tr in table.xpath("tbody/tr")
    }
    assert len(found) == len(scores["comparisons"])
    for c in scores["comparisons"]:
        name, a, b = c["instrument"], measured[c["a"]], measured[c["b"]]
        (difference, low, high), p, _, count, turned, _ = found[format.pair_label(c), format.task_label(name).title]
        each = {item: value - b[name][0][item] for item, value in a[name][0].items() if item in b[name][0]}
        paper = a[name][1]
        assert difference == pytest.approx(np.mean(list(each.values())), abs=1e-9)
        assert count[0] == len(each) and count[-1] == len({paper[item] for item in each})
        if a[name][2] is not None:
            gained, lost = (sum(side * d > 0 for d in each.values()) for side in (1, -1))
            assert turned == [gained, lost]
            test = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
            assert c["p_mcnemar"] == pytest.approx(test, abs=1e-9)
        if count[-1] <= 12:
            assert [low, high, p[0]] == pytest.approx(sign_flips(each, paper), abs=1e-9), c["name"]
    family = sorted(
        (c for c in scores["comparisons"] if c["role"] in ("primary", "family")), key=lambda c: c["p_value"]
    )
    holm = list(itertools.accumulate((min(1, (3 - k) * c["p_value"]) for k, c in enumerate(family)), max))
    assert len(family) == 3 and [c["p_holm"] for c in family] == pytest.approx(holm, abs=1e-9)


def values_of(answers, items) -> dict:
    """{row: {instrument: ({item: value}, {item: paper}, chance)}} by arithmetic alone; answers by the rubric."""
    found = {row: {} for row in {**answers, **items}}
    for row, lines in items.items():
        for line in lines:
            value, paper, guess = found[row].setdefault(line["instrument"], ({}, {}, []))
            paper[line["item"]] = line["paper_id"] if "scores" in line else line["item"]
            if "scores" in line:
                by_byte = np.array(line["scores"]) / np.array(line["bytes"])
                value[line["item"]] = float(by_byte.argmax() == line["answer"])
                guess.append(1 / len(by_byte))
            else:
                value[line["item"]] = line["nll"] / np.log(2) / line["bytes"]
    for row, mine in found.items():
        for name, (value, paper, guess) in mine.items():
            mine[name] = value, paper, np.mean(guess) if guess else None
        greedy, sampled = {}, {}
        for answer, asked in zip(answers.get(row, []), experiment.ASKED, strict=True):
            greedy[asked["id"]] = rubric.grade_answer(answer["response"], asked).score
            each = [rubric.grade_answer(sample["response"], asked).score for sample in answer["samples"]]
            sampled[asked["id"]] = np.mean(each)
        alone = {id: id for id in greedy}
        mine |= {"rubric": (greedy, alone, None), "rubric_sampled": (sampled, alone, None)}
    return found


def sign_flips(each, paper) -> list[float]:
    """The 95 % interval and the two-sided p of a mean by listing every way to flip the signs of whole papers."""
    sums, sizes = {}, {}
    for item, difference in each.items():
        sums[paper[item]] = sums.get(paper[item], 0) + round(difference, 13)
        sizes[paper[item]] = sizes.get(paper[item], 0) + 1
    total, patterns = sum(sums.values()), list(itertools.product((1, -1), repeat=len(sums)))
    flipped = np.array(patterns) @ np.array(list(sums.values()))
    p = min(1, 2 * min(np.mean(flipped >= total - 1e-9), np.mean(flipped <= total + 1e-9)))
    chosen = np.array(patterns)[1:] < 0
    typical = np.sort(chosen @ np.array(list(sums.values())) / (chosen @ np.array(list(sizes.values()))))
    cut = int(0.025 * len(patterns))
    return [typical[cut - 1], typical[-cut], p]


def shown(cell) -> list[float]:
    """The unrounded numbers behind a cell."""
    return [float(value) for value in cell.xpath(".//data/@value")]


def test_what_is_read_is_the_rounded_number_behind_it(made, tmp_path):
    answers, _, scores = made["tie"]
    tree = html.fromstring(index(tmp_path, scores, answers=answers, control=CONTROL))
    found = [(float(one.get("value")), one.text) for one in tree.iter("data")]
    assert len(found) > 400
    for value, text in found:
        read = float(text.replace("−", "-").replace(",", "").replace(" %", ""))
        step = 10.0 ** -len(text.replace(" %", "").partition(".")[2])
        assert min(abs(read - value), abs(read - 100 * value)) <= step / 2 + 1e-9, (value, text)


def test_the_first_screen_has_the_route_and_the_data(made, tmp_path):
    answers, _, scores = made["win"]
    text = index(tmp_path, scores, answers=answers)
    first = html.fromstring(text[: text.index("How sure are we?</h2>")]).text_content()
    for expected in (
        "29 kept",
        "a test, not science",
        "1,200 tokens",
        "it does not fit",
        "recall 36 of 12 papers",
        "profile smoke",
    ):
        assert expected in first, expected


@pytest.mark.parametrize(
    ("kept", "told"), [(None, "exploratory"), (True, "were fixed before"), (False, "changed after")]
)
def test_whether_the_declaration_was_kept_is_said(made, tmp_path, kept, told):
    answers, items, _ = made["tie"]
    said = made_up.declared(items, kept)
    text = index(tmp_path, score_run(answers, experiment.ASKED, items, declared=said if kept is not None else None))
    assert told in text[: text.index("How sure are we?</h2>")]
    assert (said["hash"][:12] in text) == (kept is not None)


def test_questions_stand_beside_the_papers_on_them_and_open_to_the_answers(made, tmp_path):
    answers, _, scores = made["win"]
    tree = html.fromstring(index(tmp_path, scores, answers=answers))
    assert [PAPERS[id]["papers"] for id in ("Q001", "Q002", "Q006", "Q010")] == [1, 0, 1, 2]
    for asked in experiment.ASKED:
        (body,) = tree.xpath(f"//tbody[@id='{asked['id']}']")
        assert shown(body.xpath("tr[1]/td[1]")[0]) == [PAPERS[asked["id"]]["papers"]]
        (more,) = body.xpath(".//details")
        assert more.xpath("string(summary)") == asked["question"] and asked["reference"] in more.text_content()
        said = [one.text_content() for one in more.iter("blockquote")]
        assert said == [
            next(a["response"] for a in answers[row] if a["id"] == asked["id"]).strip() or "(empty)"
            for row in scores["rows"]
        ]


def test_a_recorded_control_is_called_recorded(made, tmp_path):
    scores = made["tie"][2]
    own, recorded = (index(tmp_path, scores, control=CONTROL | {"own": own}) for own in (True, False))
    assert "recorded with the course" in recorded and "recorded with the course" not in own
    assert "was not run" in index(tmp_path, scores) and "was not run" not in own


def test_costs_stand_beside_gains(made, tmp_path):
    answers, _, scores = made["win"]
    tree = html.fromstring(index(tmp_path, scores, answers=answers))
    (row,) = tree.xpath("//h2[starts-with(., 'What it cost')]/following::table[1]/tbody/tr[th='QLoRA adapter']")
    gain = score_tables.find_comparison(scores, "recall", "qlora", "base_4bit")
    numbers = [number for cell in row.xpath("td") for number in shown(cell)]
    assert numbers[:7] == [0.5, 2.0, 1200, 40.0, gain["mean_difference"], gain["low"], gain["high"]]


def test_the_index_is_accessible_and_small(made, tmp_path):
    answers, _, scores = made["win"]
    text = index(tmp_path, scores, answers=answers, control=CONTROL)
    tree = html.fromstring(text)
    levels = [int(one.tag[1]) for one in tree.iter("h1", "h2", "h3")]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert all(cell.get("scope") for cell in tree.iter("th"))
    pictures = tree.xpath("//figure/*[name()='svg']")
    assert len(pictures) >= 2 and all(one.get("role") == "img" and one.get("aria-label") for one in pictures)
    ids = tree.xpath("//*[not(ancestor-or-self::*[name()='svg'])]/@id")
    assert len(ids) == len(set(ids)) and len(text.encode()) < 3_000_000
    assert "prefers-color-scheme: dark" in text and "@media print" in text and not LOADS.search(text)


def test_the_index_escapes_everything_and_loads_nothing(made, tmp_path):
    answers, items, scores = made["tie"]
    answers = {row: [one | {"response": EVIL} for one in said] for row, said in answers.items()}
    scores = score_run(answers, experiment.ASKED, items) | {
        "skipped": [{"what": EVIL, "instrument": EVIL, "reason": EVIL}]
    }
    scores["verdict"] = {"code": "nothing", "headline": EVIL, "sentences": [EVIL]}
    text = index(tmp_path, scores, RECEIPTS, answers)
    assert "<script" not in text and "<img" not in text and text.count("&lt;script&gt;") >= 10
    assert not LOADS.search(text)


def test_the_index_copes_with_little(tmp_path):
    text = index(tmp_path, score_run({}, experiment.ASKED, {}), {})
    assert "Nothing could be compared" in text and "Nothing was measured" in text


@pytest.mark.browser
def test_a_browser_prints_the_index(made, tmp_path):
    answers, _, scores = made["win"]
    index(tmp_path, scores, answers=answers)
    words = [
        find_chromium(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    words += [f"--print-to-pdf={tmp_path / 'page.pdf'}", f"file://{tmp_path / 'index.html'}"]
    subprocess.run(words, check=True, capture_output=True, timeout=60, env=os.environ | {"HOME": str(tmp_path)})
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_the_template_is_part_of_the_package():
    for name in ("page.html", "index.html", "cells.html"):
        assert (ROOT / "helpers" / "report" / name).exists()
