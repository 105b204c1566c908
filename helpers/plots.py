"""One plotting style, one function a picture; every axis is named."""

from collections import Counter
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.planner import Plan

if TYPE_CHECKING:
    from helpers.papers import Paper
    from helpers.topics import Topic

# Okabe and Ito's palette: told apart with any kind of colour vision
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#767676"
ROW_COLOURS = {"base_4bit": GREY, "base_bf16": GREY, "qlora": BLUE, "full": ORANGE}
STYLE = {
    "figure.figsize": (7, 3.2),
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "font.size": 10,
    "legend.frameon": False,
}


def figure(columns: int = 1, **options: object) -> tuple[Figure, np.ndarray]:
    """A figure in the course's style and its axes, always as an array."""
    with plt.rc_context(STYLE):
        made, axes = plt.subplots(1, columns, squeeze=False, **options)
    made.set_layout_engine("constrained")
    return dress(made), axes[0]


def mosaic(layout: list[list[str]], places: dict[str, float], **options: object) -> tuple[Figure, dict[str, Axes]]:
    """A figure in the course's style whose panels lie as their names do in `layout`.

    `places` are the margins in shares of the figure, as GridSpec names them: nothing moves from drawing to drawing.
    """
    with plt.rc_context(STYLE | {"figure.constrained_layout.use": False}):
        made, axes = plt.subplot_mosaic(layout, gridspec_kw=places, **options)
    return dress(made), axes


def dress(made: Figure) -> Figure:
    """The parts of the style that are set on a figure itself; it is not shown until a cell ends with it."""
    for axis in made.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
    plt.close(made)
    return made


def footprints(megabytes: dict[str, float]) -> Figure:
    """Bars: what each precision of the same model takes in memory."""
    made, (axis,) = figure(figsize=(7, 2.2))
    names = list(megabytes)[::-1]
    bars = axis.barh(names, [megabytes[name] for name in names], color=BLUE)
    axis.bar_label(bars, fmt="%.0f MB", padding=4)
    axis.set(xlabel="weights in memory (MB)", xlim=(0, max(megabytes.values()) * 1.15))
    return made


def precisions(seconds: dict[str, float]) -> Figure:
    """Bars: how long one matrix product takes in each precision."""
    made, (axis,) = figure(figsize=(7, 1.7))
    bars = axis.barh(list(seconds), [1000 * s for s in seconds.values()], color=GREEN)
    axis.bar_label(bars, fmt="%.1f ms", padding=4)
    axis.set(xlabel="one 768 × 768 × 768 product (ms, median)", xlim=(0, 1150 * max(seconds.values())))
    return made


def quantisation(original: np.ndarray, rounded: np.ndarray, block: int = 64) -> Figure:
    """Left: the values of one block of weights before and after NF4. Right: all values, before and after."""
    original, rounded = np.asarray(original), np.asarray(rounded)
    made, (one, every) = figure(2, figsize=(10, 3.2))
    one.scatter(original[:block], rounded[:block], s=18, color=BLUE)
    one.set(xlabel="weight as stored", ylabel="weight after NF4")
    one.set_title(f"one block of {block} weights: {len(np.unique(rounded[:block]))} values left", fontsize=10)
    limit = np.quantile(np.abs(original), 0.999)
    bins = np.linspace(-limit, limit, 161)
    every.hist(original, bins=bins, color=GREY, alpha=0.5, label="as stored")
    every.hist(rounded, bins=bins, histtype="step", color=BLUE, label="after NF4")
    every.set(xlabel="weight", ylabel="number of weights")
    every.legend()
    return made


def answer_lengths(answers: list[dict]) -> Figure | None:
    """Bars: tokens of each answer; cut ones stand out. None without answers."""
    if not answers:
        return None
    made, (axis,) = figure()
    cut = [a["finish_reason"] == "length" for a in answers]
    axis.bar([a["id"] for a in answers], [a["tokens"] for a in answers], color=[ORANGE if c else BLUE for c in cut])
    axis.set(xlabel="question", ylabel="answer length (tokens)")
    axis.legend(
        [plt.Rectangle((0, 0), 1, 1, color=BLUE), plt.Rectangle((0, 0), 1, 1, color=ORANGE)],
        ["ended by itself", "cut at the limit"],
        loc="upper left",
        bbox_to_anchor=(1, 1),
    )
    return made


def funnel(found: int, kept: int, reasons: dict[str, int]) -> Figure:
    """Bars: records found, dropped for each reason, kept (logarithmic, because most are off topic)."""
    names = ["found", *reasons, "kept"]
    counts = [found, *reasons.values(), kept]
    made, (axis,) = figure(figsize=(7, 0.6 + 0.32 * len(names)))
    colours = [BLUE, *[GREY] * len(reasons), GREEN]
    bars = axis.barh(names[::-1], counts[::-1], color=colours[::-1])
    axis.bar_label(bars, fmt="{:,.0f}", padding=4)
    axis.set(xlabel="records (logarithmic scale)", xscale="log", xlim=(0.8, max(counts) * 4))
    return made


def corpus(papers: list["Paper"], top: int = 10) -> Figure:
    """Two panels: abstract length, and the most frequent journals."""
    made, (words, journals) = figure(2, figsize=(10, 3.2))
    words.hist([len(paper.text.split()) for paper in papers], bins=20, color=BLUE)
    words.set(xlabel="abstract length (words)", ylabel="papers")
    common = Counter(paper.journal for paper in papers).most_common(top)[::-1]
    journals.barh([shortened(name, 40) for name, _ in common], [n for _, n in common], color=BLUE)
    journals.set(xlabel="papers")
    journals.set_title("most frequent journals", fontsize=10)
    return made


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def coverage(papers: list["Paper"], topic: "Topic") -> Figure:
    """Heat map: papers by disease (most frequent first) and year; a paper that names two diseases counts for both."""
    counts: dict[str, Counter] = {}
    for paper in papers:
        for disease in topic.diseases_of(paper) or ["none named"]:
            counts.setdefault(disease, Counter())[str(paper.year or "?")] += 1
    counts = dict(sorted(counts.items(), key=lambda item: (-item[1].total(), item[0])))
    years = sorted({year for by_year in counts.values() for year in by_year})
    grid = np.array([[by_year[year] for year in years] for by_year in counts.values()])
    made, (axis,) = figure(figsize=(2.6 + 0.5 * len(years), 0.9 + 0.27 * len(counts)))
    axis.imshow(np.sqrt(grid), cmap="Blues", aspect="auto")
    axis.grid(False)
    for row, column in zip(*np.nonzero(grid), strict=True):
        dark = grid[row, column] > 0.35 * grid.max()
        axis.text(column, row, grid[row, column], ha="center", va="center", color="white" if dark else "black")
    axis.set_xticks(range(len(years)), years)
    axis.set_yticks(range(len(counts)), [f"{name} ({by_year.total()})" for name, by_year in counts.items()])
    axis.set(xlabel="year of publication", ylabel="disease (papers)")
    return made


def mix(read: list[dict], unit: str, top: int = 12) -> Figure:
    """Two panels: how much of the text, in `unit` (words, tokens), each view and each disease contributes."""
    parts = [("view", len({row["view"] for row in read})), ("disease", top)]
    totals = {name: Counter() for name, _ in parts}
    for row in read:
        for name in totals:
            totals[name][row[name]] += row[unit]
    longest = max(min(n, len(totals[name])) for name, n in parts)
    made, axes = figure(2, figsize=(10, 0.9 + 0.27 * longest))
    for axis, (name, most) in zip(axes, parts, strict=True):
        shown = totals[name].most_common(most)[::-1]
        bars = axis.barh([key for key, _ in shown], [n for _, n in shown], color=BLUE)
        axis.bar_label(bars, fmt="{:,.0f}", padding=4)
        axis.set(xlabel=f"{unit} by {name}", xlim=(0, 1.2 * shown[-1][1]))
    return made


def row_lengths(sizes: list[int], limit: int) -> Figure:
    """Histogram: tokens of the training rows, and where they are cut."""
    made, (axis,) = figure(figsize=(7, 2.6))
    axis.hist(sizes, bins=30, color=BLUE)
    axis.axvline(limit, color=ORANGE, linestyle="--", label=f"MAX_SEQ_LENGTH = {limit}")
    axis.set(xlabel="row length (tokens)", ylabel="rows")
    axis.legend()
    return made


def memory(plan: Plan) -> Figure:
    """Stacked bar: what the training will take, part by part, against what is there."""
    return fits({"needed": plan})


def fits(plans: dict[str, Plan]) -> Figure:
    """One stacked bar for each plan of {name: plan}: its parts of memory, against what this machine has."""
    made, (axis,) = figure(figsize=(8, 1.6 + 0.6 * len(plans)))
    names = list(dict.fromkeys(part for plan in plans.values() for part in plan.parts))
    shades = dict(zip(names, plt.get_cmap("viridis")(np.linspace(0.1, 0.95, len(names))), strict=True))
    left = dict.fromkeys(plans, 0.0)
    for part in names:
        sizes = [plan.parts.get(part, 0) / 2**30 for plan in plans.values()]
        axis.barh(list(plans), sizes, left=list(left.values()), color=shades[part], label=part)
        left = {name: left[name] + size for name, size in zip(plans, sizes, strict=True)}
    there = max(plan.available for plan in plans.values()) / 2**30
    axis.axvline(there, color=ORANGE, linestyle="--", label="there is")
    axis.set(xlabel="memory (GiB, estimated)", xlim=(0, 1.05 * max(there, *left.values())))
    axis.invert_yaxis()
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return made


def change_by_layer(changes: dict[str, list[float]]) -> Figure | None:
    """Lines: how far each layer's matrices moved, relative to their own size. None without changes."""
    if not changes:
        return None
    made, (axis,) = figure()
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(changes)))
    for (name, values), shade in zip(changes.items(), shades, strict=True):
        axis.plot(range(len(values)), [100 * v for v in values], "o-", markersize=3, color=shade, label=name)
    axis.set(xlabel="layer", ylabel="change of the weights (% of their norm)")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return made


def bits_per_byte(per_row: dict[str, list[float]]) -> Figure | None:
    """Dots: every held-out paper under every model; the bar is the mean. None without papers."""
    if not per_row:
        return None
    made, (axis,) = figure()
    for place, (row, values) in enumerate(per_row.items()):
        wobble = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else [0]
        axis.scatter(place + np.array(wobble), sorted(values), s=12, alpha=0.6, color=ROW_COLOURS.get(row, PURPLE))
        axis.hlines(np.mean(values), place - 0.3, place + 0.3, color="black")
    axis.set(ylabel="bits per byte of held-out papers", xlabel="model")
    axis.set_xticks(range(len(per_row)), list(per_row))
    return made
