"""One plotting style, one function a picture; every axis is named."""

from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from helpers.papers import Paper, Topic

# Okabe and Ito's palette: told apart with any kind of colour vision
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#767676"
SKY, RED, YELLOW, PALE = "#56B4E9", "#D55E00", "#F0E442", "#CCCCCC"
ROW_COLOURS = {"base_4bit": GREY, "base_bf16": GREY, "qlora": BLUE, "full": ORANGE}
NF4 = (  # the sixteen values, for a largest weight of 1 (Dettmers et al. 2023, "QLoRA", appendix E)
    *(-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
)
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


def new_figure(columns: int = 1, **options: object) -> tuple[Figure, np.ndarray]:
    """A figure in the course's style and its axes, always as an array."""
    with plt.rc_context(STYLE):
        made, axes = plt.subplots(1, columns, squeeze=False, **options)
    made.set_layout_engine("constrained")
    return style_figure(made), axes[0]


def new_mosaic(
    layout: list[list[str]], places: dict[str, float], **options: object
) -> tuple[Figure, dict[str, Axes]]:
    """A figure in the course's style whose panels lie as their names do in `layout`.

    `places` are the margins in shares of the figure, as GridSpec names them: nothing moves from drawing to drawing.
    """
    with plt.rc_context(STYLE | {"figure.constrained_layout.use": False}):
        made, axes = plt.subplot_mosaic(layout, gridspec_kw=places, **options)
    return style_figure(made), axes


def style_figure(made: Figure) -> Figure:
    """The parts of the style that are set on a figure itself; it is not shown until a cell ends with it."""
    for axis in made.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
    plt.close(made)
    return made


def plot_footprints(megabytes: dict[str, float]) -> Figure:
    """Bars: what each precision of the same model takes in memory."""
    made, (axis,) = new_figure(figsize=(7, 1.9))
    names = list(megabytes)[::-1]
    bars = axis.barh(names, [megabytes[name] for name in names], color=BLUE)
    axis.bar_label(bars, fmt="{:,.0f} MB", padding=4)
    axis.set(xlabel="weights in memory (MB)", ylabel="precision", xlim=(0, max(megabytes.values()) * 1.15))
    return made


def plot_precisions(seconds: dict[str, float]) -> Figure:
    """Bars: how long one matrix product takes in each precision."""
    made, (axis,) = new_figure(figsize=(7, 1.6))
    names = list(seconds)[::-1]
    bars = axis.barh(names, [1000 * seconds[name] for name in names], color=BLUE)
    axis.bar_label(bars, fmt="%.1f ms", padding=4)
    axis.set(xlabel="time of one product of 768 × 768 matrices (ms, median)", ylabel="precision")
    axis.set_xlim(0, 1150 * max(seconds.values()))
    return made


def plot_quantisation(original: np.ndarray, rounded: np.ndarray, block: int = 64) -> Figure:
    """Left: one block of weights before and after NF4, and the values open to it. Right: how often each is taken."""
    original, rounded = np.asarray(original), np.asarray(rounded)
    made, (one, every) = new_figure(2, figsize=(7.6, 3.4))
    first, kept = original[:block], rounded[:block]
    values = np.array(NF4) * np.abs(kept).max()
    one.hlines(values, first.min(), first.max(), color=ORANGE, linewidth=0.8, zorder=1, label="values there are")
    one.plot([first.min(), first.max()], [first.min(), first.max()], "--", color=GREY, linewidth=1, zorder=2)
    one.scatter(first, kept, s=18, color=BLUE, zorder=3)
    one.grid(False)
    one.set(xlabel="weight as stored", ylabel="weight after NF4")
    one.legend(loc="upper left", fontsize=8)
    one.set_title(f"one block: {len(np.unique(first))} values before, {len(np.unique(kept))} after", fontsize=10)
    every.bar(range(len(NF4)), 100 * level_shares(rounded, block), color=BLUE)
    every.axhline(100 / len(NF4), color=ORANGE, linestyle="--", label="if each were taken equally often")
    every.set_xticks([0, 7, 15], ["smallest", "0", "largest"])
    every.set(xlabel="the sixteen values of NF4", ylabel="weights of the matrix (%)")
    every.margins(y=0.2)
    every.legend(loc="upper center", fontsize=8)
    return made


def level_shares(rounded: np.ndarray, block: int) -> np.ndarray:
    """The share of the weights that each value of NF4 stands for, the smallest value first."""
    blocks = rounded[: len(rounded) // block * block].reshape(-1, block)
    scales = np.abs(blocks).max(axis=1, keepdims=True)
    between = (np.array(NF4[1:]) + np.array(NF4[:-1])) / 2
    codes = np.searchsorted(between, blocks / np.where(scales == 0, 1, scales))
    return np.bincount(codes.ravel(), minlength=len(NF4)) / codes.size


def plot_answer_lengths(answers: list[dict]) -> Figure | None:
    """Bars: tokens of each answer; cut ones stand out. None without answers."""
    if not answers:
        return None
    made, (axis,) = new_figure()
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


def plot_funnel(found: int, kept: int, reasons: dict[str, int]) -> Figure:
    """Bars: the records found, and after each reason to drop some those still left; grey are the ones it drops."""
    names = ["found", *(f"− {reason.replace('_', ' ')}" for reason in reasons), "kept"]
    dropped = [0, *reasons.values(), 0]
    left = found - np.cumsum(dropped)
    made, (axis,) = new_figure(figsize=(7, 0.7 + 0.3 * len(names)))
    axis.barh(names, left, color=[*[BLUE] * (len(names) - 1), GREEN])
    axis.barh(names, dropped, left=left, color=PALE)
    for place, (rest, gone) in enumerate(zip(left, dropped, strict=True)):
        said = f"{rest:,}" if not gone else f"−{gone:,} → {rest:,}"
        axis.annotate(said, (rest + gone, place), (5, 0), textcoords="offset points", va="center", fontsize=9)
    assert left[-1] == kept, "a record was neither kept nor dropped"
    axis.set(xlabel="records (grey: dropped for this reason)", xlim=(0, 1.28 * max(found, 1)))
    axis.invert_yaxis()
    return made


def plot_corpus(papers: list[Paper], top: int = 10) -> Figure:
    """Two panels: abstract length, and the most frequent journals."""
    made, (words, journals) = new_figure(2, figsize=(7.6, 3.2))
    words.hist([len(paper.text.split()) for paper in papers], bins=20, color=BLUE)
    words.set(xlabel="abstract length (words)", ylabel="papers")
    words.yaxis.get_major_locator().set_params(integer=True)
    common = Counter(paper.journal or "(none)" for paper in papers).most_common(top)[::-1]
    journals.barh([escape_dollars(shorten_label(name, 32)) for name, _ in common], [n for _, n in common], color=BLUE)
    journals.set(xlabel="papers")
    journals.xaxis.get_major_locator().set_params(integer=True)
    journals.set_title("most frequent journals", fontsize=10)
    return made


def shorten_label(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def escape_dollars(text: str) -> str:
    """`text` for a label, its dollar signs taken for what they are and not for the marks of a formula."""
    return text.replace("$", r"\$")


def plot_coverage(papers: list[Paper], topic: Topic) -> Figure:
    """Heat map: papers by disease (most frequent first) and year; a paper that names two diseases counts for both."""
    counts: dict[str, Counter] = {}
    for paper in papers:
        for disease in topic.diseases_of(paper) or ["none named"]:
            counts.setdefault(disease, Counter())[str(paper.year or "?")] += 1
    counts = dict(sorted(counts.items(), key=lambda item: (-item[1].total(), item[0])))
    years = sorted({year for by_year in counts.values() for year in by_year})
    grid = np.array([[by_year[year] for year in years] for by_year in counts.values()])
    made, (axis,) = new_figure(figsize=(2.6 + 0.5 * len(years), 0.9 + 0.27 * len(counts)))
    axis.imshow(np.sqrt(grid), cmap="Blues", aspect="auto")
    axis.grid(False)
    for row, column in zip(*np.nonzero(grid), strict=True):
        dark = grid[row, column] > 0.35 * grid.max()
        axis.text(column, row, grid[row, column], ha="center", va="center", color="white" if dark else "black")
    axis.set_xticks(range(len(years)), years)
    axis.set_yticks(
        range(len(counts)), [escape_dollars(f"{name} ({by_year.total()})") for name, by_year in counts.items()]
    )
    axis.set(xlabel="year of publication", ylabel="disease (papers)")
    return made


def plot_mix(read: list[dict], unit: str, top: int = 12) -> Figure:
    """Two panels: how much of the text, in words or tokens, each view and each disease contributes."""
    parts = [("view", len({row["view"] for row in read})), ("disease", top)]
    totals = {name: Counter() for name, _ in parts}
    for row in read:
        for name in totals:
            totals[name][row[name]] += row[unit]
    longest = max(min(n, len(totals[name])) for name, n in parts)
    made, axes = new_figure(2, figsize=(7.6, 0.9 + 0.27 * longest))
    for axis, (name, most) in zip(axes, parts, strict=True):
        shown = totals[name].most_common(most)[::-1]
        bars = axis.barh([escape_dollars(key) for key, _ in shown], [n for _, n in shown], color=BLUE)
        axis.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=9)
        axis.tick_params(labelsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.set(xlabel=f"{unit} by {name}", xlim=(0, 1.4 * shown[-1][1]))
    return made


def plot_row_lengths(sizes: list[int], limit: int) -> Figure:
    """Histogram: tokens of the training rows, and where they are cut."""
    made, (axis,) = new_figure(figsize=(7, 2.6))
    axis.hist(sizes, bins=30, color=BLUE)
    axis.axvline(limit, color=ORANGE, linestyle="--", label=f"MAX_SEQ_LENGTH = {limit}")
    axis.set(xlabel="row length (tokens)", ylabel="rows")
    axis.legend()
    return made


def plot_change_by_layer(changes: dict[str, list[float]]) -> Figure | None:
    """Lines: how far each layer's matrices moved, relative to their own size. None without changes."""
    if not changes:
        return None
    made, (axis,) = new_figure()
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(changes)))
    for (name, values), shade in zip(changes.items(), shades, strict=True):
        axis.plot(range(len(values)), [100 * v for v in values], "o-", markersize=3, color=shade, label=name)
    axis.set(xlabel="layer", ylabel="change of the weights (% of their norm)")
    axis.set_ylim(bottom=0)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return made


def plot_bits_per_byte(per_row: dict[str, list[float]]) -> Figure | None:
    """Dots: every held-out paper under every model; the bar is the mean. None without papers."""
    if not per_row:
        return None
    made, (axis,) = new_figure()
    for place, (row, values) in enumerate(per_row.items()):
        wobble = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else [0]
        axis.scatter(place + np.array(wobble), sorted(values), s=12, alpha=0.6, color=ROW_COLOURS.get(row, PURPLE))
        axis.hlines(np.mean(values), place - 0.3, place + 0.3, color="black")
    axis.set(ylabel="bits per byte of held-out papers", xlabel="model")
    axis.set_xticks(range(len(per_row)), list(per_row))
    return made
