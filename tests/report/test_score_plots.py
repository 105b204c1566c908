"""Pictures of what was found: declared first, right is better, and nothing drawn that was not measured."""

import xml.etree.ElementTree as xml

import matplotlib
import pytest
from matplotlib.collections import PathCollection
from support import experiment

from helpers.evaluation import simulation
from helpers.evaluation.scores import score_run
from helpers.report import format, score_plots, score_tables

matplotlib.use("agg")


@pytest.fixture(scope="module")
def scores():
    answers, items = experiment.evidence(0.4, papers=12)
    return score_run(answers, experiment.ASKED, items, seed=42)


def test_the_forest_has_every_comparison_declared_first_and_better_on_the_right(scores):
    made = score_plots.plot_forest(scores["comparisons"])
    told = [[tick.get_text() for tick in axis.get_yticklabels()] for axis in made.axes]
    assert sum(map(len, told)) == len(scores["comparisons"])
    assert told[0][0] == "recall: QLoRA adapter − base, 4-bit · declared: primary"
    shares, _, bits = made.axes
    for axis in made.axes:
        top, bottom = axis.get_ylim()
        assert top > bottom  # the first comparison is drawn at the top
        roles = [text.rpartition(" · ")[2] for text in (tick.get_text() for tick in axis.get_yticklabels())]
        order = [list(format.ROLES.values()).index(role) for role in roles]
        assert order == sorted(order)
    assert shares.get_xlim()[0] < shares.get_xlim()[1] and bits.get_xlim()[0] > bits.get_xlim()[1]
    colours = {tick.get_text(): tick.get_color() for axis in made.axes for tick in axis.get_yticklabels()}
    assert {colour for text, colour in colours.items() if "exploratory" in text} == {score_plots.GREY}


def test_a_dot_is_filled_only_where_the_interval_leaves_zero_out(scores):
    made = score_plots.plot_forest(scores["comparisons"])
    dots = [line for axis in made.axes for line in axis.lines if line.get_marker() == "o"]
    filled = sum(line.get_markerfacecolor() != "none" for line in dots)
    assert len(dots) == len(scores["comparisons"]) and 0 < filled < len(dots)
    assert filled == sum(not c["low"] <= 0 <= c["high"] for c in scores["comparisons"])


def test_the_heat_map_has_every_score_and_the_papers_beside_it(scores):
    papers = {q["id"]: {"diseases": ["lupus"], "papers": 7} for q in experiment.ASKED}
    rubric = score_tables.rubric_scores(scores)
    (axis, _) = score_plots.plot_heat_map(rubric, papers).axes
    assert len(axis.texts) == sum(map(len, rubric.values()))
    assert axis.get_yticklabels()[0].get_text() == "Q001 · lupus · 7 papers"


def test_the_spread_shows_every_sample(scores):
    sampled = score_tables.sampled_scores(scores)
    dots = [
        one
        for axis in score_plots.plot_spread(score_tables.rubric_scores(scores), sampled).axes
        for one in axis.collections
    ]
    count = sum(len(one.get_offsets()) for one in dots if isinstance(one, PathCollection))
    assert count == sum(len(s) for values in sampled.values() for s in values.values()) == 7 * 10 * 4


def test_forgetting_is_held_against_learning(scores):
    (axis,) = score_plots.plot_forgetting(scores).axes
    points = {line.get_label(): line.get_xydata()[0] for line in axis.lines if line.get_marker() == "o"}
    learnt, kept = (score_tables.find_comparison(scores, name, "qlora", "base_4bit") for name in ("recall", "cloze"))
    expected = [100 * learnt["mean_difference"], 100 * kept["mean_difference"]]
    assert points["QLoRA adapter − base, 4-bit"].tolist() == pytest.approx(expected)
    assert len(points) == 3


def test_the_alarms_show_what_was_promised():
    rows = simulation.simulate_procedure(experiments=50, papers=40)
    made = score_plots.plot_alarms(rows)
    assert [axis.get_legend().texts[0].get_text() for axis in made.axes] == [
        "promised: at most 2.5 %",
        "promised: at least 78 %",
        "promised: at least 93 %",
    ]
    widths = [bar.get_width() for bar in made.axes[1].patches]
    assert widths == pytest.approx([100 * row["better at the MDE"] for row in rows])


def test_nothing_measured_is_nothing_drawn():
    empty = score_run({}, experiment.ASKED, {})
    assert score_plots.plot_forest(empty["comparisons"]) is None and score_plots.plot_forgetting(empty) is None
    assert score_plots.plot_heat_map({}, {}) is None and score_plots.plot_spread({}, {}) is None


def test_a_picture_in_a_page_is_text_in_the_pages_own_colours(scores):
    drawn = score_plots.figure_svg(score_plots.plot_forest(scores["comparisons"]), 'what "it" shows <here>')
    root = xml.fromstring(drawn)
    assert root.get("role") == "img" and root.get("aria-label") == 'what "it" shows <here>'
    assert "currentColor" in drawn and "#000000" not in drawn
    assert any(
        "declared: primary" in "".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")
    )


def test_numbers_are_written_for_reading():
    written = [
        (0.1234, "share", "", "12.3 %"),
        (0.1234, "share", "+", "+12.3"),
        (-0.0004, "share", "+", "0.0"),
        (-0.0512, "bits", "+", "−0.0512"),
        (0.5, "score", "", "0.50"),
        (0.5, "score", "+", "+0.500"),
        (12345, "whole", "", "12,345"),
        (None, "share", "", "–"),
    ]
    for value, unit, sign, text in written:
        assert format.format_figure(value, unit, sign) == text
    assert (
        format.format_interval(0.1, 0.2, "share") == "10.0 to 20.0 %"
        and format.format_interval(None, None, "bits") == "–"
    )
    assert format.model_label("full_s43") == "full fine-tune, seed 43"


def test_rows_of_tables_have_the_same_columns(scores):
    for group in (format.LEARNED, format.ANSWERS, format.KEPT):
        rows = score_tables.score_rows(scores, group)
        assert rows and len({tuple(row) for row in rows}) == 1
        assert (rows[-1]["model"] == "guessing") == (group != format.ANSWERS)
    assert len(score_tables.comparison_rows(scores, ("primary", "family"))) == 3
    assert len(score_tables.answer_rows(scores)) == 7
