"""Pictures of what stage 8 found: every difference with its interval, every question, what was kept and forgotten."""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.evaluation import number_labels, sign_patterns
from helpers.report.format import BASE_OF, ROLES, format_figure, model_label, pair_label, task_label, unit_of
from helpers.report.plots import BLUE, GREY, ORANGE, PURPLE, ROW_COLOURS, escape_dollars, new_figure
from helpers.report.score_tables import find_comparison, order_comparisons

INK = "#000000"  # in a page it is the colour of the page's own text
SHADES = {"primary": BLUE, "family": BLUE, "guard": ORANGE, "control": PURPLE, "exploratory": GREY}
UNITS = {
    "share": ("difference in percentage points", 100),
    "score": ("difference in rubric score (0 to 1)", 1),
    "bits": ("difference in bits per byte, axis turned round", 1),
}
DECLARED = ("primary", "family")
STEPS = {"primary": 0.45, "family": 0.45, "guard": 0.32, "control": 0.32, "exploratory": 0.21}  # inches of height
SIZES = {"primary": 10.5, "family": 10.5, "guard": 9, "control": 9, "exploratory": 8}  # points


def plot_forest(comparisons: Sequence[Mapping], roles: Iterable[str] = tuple(ROLES)) -> Figure | None:
    """Differences of these roles with their 95 % intervals, one panel a unit, right of 0 always better.

    What was declared stands first and large, what is exploratory last, small and grey. The pale bar around 0 is what
    would probably go unseen (the minimum detectable effect). None if there is nothing to draw.
    """
    roles = set(roles)
    shown = [c for c in order_comparisons(comparisons) if c["role"] in roles and c["mean_difference"] is not None]
    panels = {unit: [found for found in shown if unit_of(found) == unit] for unit in UNITS}
    panels = {unit: found for unit, found in panels.items() if found}
    if not panels:
        return None
    heights = [0.75 + sum(STEPS[c["role"]] for c in found) for found in panels.values()]
    made, _ = new_figure(figsize=(10, sum(heights)))
    made.clear()
    grid = made.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axis, (unit, found) in zip(grid, panels.items(), strict=True):
        draw_differences(axis, found, unit)
    made.align_ylabels()
    return made


def draw_differences(axis: Axes, comparisons: Sequence[Mapping], unit: str) -> None:
    """One panel of the forest; heights are in inches from its top."""
    label, scale = UNITS[unit]
    steps = [STEPS[c["role"]] for c in comparisons]
    places = np.cumsum(steps) - np.array(steps) / 2
    for place, step, found in zip(places, steps, comparisons, strict=True):
        colour, size = SHADES[found["role"]], SIZES[found["role"]]
        if unseen := found["minimum_detectable_effect"]:
            axis.barh(place, 2 * scale * unseen, left=-scale * unseen, height=0.7 * step, color=GREY, alpha=0.13)
        if found["low"] is not None:
            ends = [scale * found["low"], scale * found["high"]]
            width = 3 if found["role"] in DECLARED else 1.6
            axis.plot(ends, [place, place], color=colour, linewidth=width, solid_capstyle="butt")
        face = colour if found["verdict"] in ("better", "worse") else "none"
        axis.plot(
            scale * found["mean_difference"], place, "o", color=colour, markerfacecolor=face, markersize=0.7 * size
        )
        told = f"{format_figure(found['mean_difference'], unit, '+')} · {found['n']:,} / {found['clusters']:,}"
        axis.annotate(told, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=size, color=INK)
    head = "difference · items / clusters"
    axis.annotate(head, (1.01, -0.12), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=GREY)
    axis.axvline(0, color=INK, linewidth=1)
    axis.set_yticks(
        places, [f"{task_label(c['instrument']).title}: {pair_label(c)} · {ROLES[c['role']]}" for c in comparisons]
    )
    for tick, found in zip(axis.get_yticklabels(), comparisons, strict=True):
        tick.set_fontsize(SIZES[found["role"]])
        tick.set_fontweight("bold" if found["role"] == "primary" else "normal")
        tick.set_color(GREY if found["role"] == "exploratory" else INK)
    axis.set(xlabel=f"{label}; better →", ylim=(sum(steps) + 0.05, -0.2))
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(left=False)
    axis.grid(axis="x", alpha=0.25)
    axis.locator_params(axis="x", nbins=7)
    if unit == "bits":
        axis.invert_xaxis()


def plot_flips(
    scores: Mapping, items: Mapping[str, Iterable[Mapping]], place: tuple[str, str, str], seed: int
) -> Figure | None:
    """Bars: the mean differences that chance makes by flipping signs, how often each, and a line for the one found.

    `place` is (instrument, a, b); `items`: measurements of each row, for the papers behind them. What lies as far
    from 0 as the mean is in colour. None where the comparison was not made.
    """
    found = find_comparison(scores, *place)
    if not found or not found["n"] or unit_of(found) != "share":
        return None
    name, a, b = place
    ours, theirs = (scores["rows"][row]["measures"][name]["items"] for row in (a, b))
    paper = {line["item"]: line["paper_id"] for line in items[a] if line["instrument"] == name}
    both = [item for item in ours if item in theirs]
    totals = np.bincount(number_labels([paper[item] for item in both]), [ours[item] - theirs[item] for item in both])
    patterns, _ = sign_patterns(len(totals), seed)
    means = 100 * (totals.sum() - 2 * (patterns @ totals)) / len(both)
    mean, step = 100 * found["mean_difference"], 100 / len(both)  # one item is the smallest change there is
    values, counts = np.unique(np.round(means / step).astype(int), return_counts=True)
    far = np.abs(values) >= round(abs(mean) / step)
    made, (axis,) = new_figure(figsize=(7, 2.8))
    for chosen, colour, told in ((~far, GREY, "closer to 0"), (far, ORANGE, "as far from 0, or farther")):
        if chosen.any():
            shares = 100 * counts[chosen] / len(means)
            axis.bar(step * values[chosen], shares, width=0.85 * step, color=colour, label=told)
    axis.axvline(mean, color=BLUE, linewidth=2, label="the difference found")
    reach = 1.1 * step * max(4, *np.abs(values))
    axis.set(xlabel="mean difference after flipping signs (percentage points)", xlim=(-reach, reach))
    axis.set(ylabel="% of the sign patterns")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=9)
    return made


def plot_heat_map(scores: Mapping[str, Mapping[str, float]], papers: Mapping[str, Mapping]) -> Figure | None:
    """Rubric score of every question (rows) under every model (columns), beside the training papers on it."""
    columns, asked = list(scores), list(dict.fromkeys(q for values in scores.values() for q in values))
    if not asked:
        return None
    made, (axis,) = new_figure(figsize=(3.4 + 0.85 * len(columns), 1.2 + 0.34 * len(asked)))
    grid = np.array([[scores[row].get(question, np.nan) for row in columns] for question in asked], dtype=float)
    shown = axis.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axis.grid(False)
    names = [f"{q} · {', '.join(papers[q]['diseases'])} · {papers[q]['papers']} papers" for q in asked]
    axis.set_yticks(range(len(asked)), [escape_dollars(name) for name in names], fontsize=9)
    axis.set_xticks(range(len(columns)), [model_label(row).replace(" ", "\n") for row in columns], fontsize=8)
    axis.xaxis.tick_top()
    for y, x in np.argwhere(~np.isnan(grid)):
        colour = "white" if grid[y, x] < 0.55 else "black"
        axis.text(x, y, f"{grid[y, x]:.2f}".replace("-", "−"), ha="center", va="center", color=colour, fontsize=9)
    made.colorbar(shown, ax=axis, label="rubric score", extend="min")
    return made


def plot_spread(
    greedy: Mapping[str, Mapping[str, float]], sampled: Mapping[str, Mapping[str, list]]
) -> Figure | None:
    """One panel a model: per question the score of every sampled answer (dots) and of the greedy one (bar)."""
    if not sampled:
        return None
    asked = list(dict.fromkeys(q for values in sampled.values() for q in values))
    made, axes = new_figure(len(sampled), figsize=(10, 2.8), sharey=True)
    for axis, (row, values) in zip(axes, sampled.items(), strict=True):
        colour = ROW_COLOURS.get(row, PURPLE)
        for place, question in enumerate(asked):
            said = values.get(question, [])
            axis.scatter([place] * len(said), said, s=16, alpha=0.5, color=colour, linewidths=0)
        bars = [greedy.get(row, {}).get(question, np.nan) for question in asked]
        axis.hlines(bars, np.arange(len(asked)) - 0.4, np.arange(len(asked)) + 0.4, color=INK, linewidth=1.5)
        axis.set_title(model_label(row).replace(" (", "\n("), fontsize=9)
        axis.set_xticks([0, len(asked) - 1], [asked[0], asked[-1]], fontsize=8)
    axes[0].set(ylabel="rubric score")
    made.supxlabel("question", fontsize=10)
    return made


def plot_forgetting(scores: Mapping) -> Figure | None:
    """Each tuned model against its own base: what was gained on recall (right) and on plain knowledge (up).

    A cross is a 95 % interval in both directions; None where no model sat both.
    """
    made, (axis,) = new_figure(figsize=(7, 4.2))
    for width, (row, base) in zip((5, 3, 1.5), BASE_OF.items(), strict=True):  # where they cover each other, all show
        learnt, kept = find_comparison(scores, "recall", row, base), find_comparison(scores, "cloze", row, base)
        if not learnt or not kept or None in (learnt["low"], kept["low"]):
            continue
        colour = ROW_COLOURS.get(row, PURPLE)
        x, y = 100 * learnt["mean_difference"], 100 * kept["mean_difference"]
        axis.plot([100 * learnt["low"], 100 * learnt["high"]], [y, y], color=colour, linewidth=width)
        axis.plot([x, x], [100 * kept["low"], 100 * kept["high"]], color=colour, linewidth=width)
        axis.plot(x, y, "o", color=colour, markersize=7, label=f"{model_label(row)} − {model_label(base)}")
    if not axis.lines:
        return None
    axis.axhline(0, color=INK, linewidth=1, zorder=0)
    axis.axvline(0, color=INK, linewidth=1, zorder=0)
    axis.margins(0.12)
    for x, y, told in ((0.99, 0.98, "learned and kept"), (0.99, 0.02, "learned, but forgot"), (0.01, 0.02, "forgot")):
        side = "right" if x > 0.5 else "left"
        level = "top" if y > 0.5 else "bottom"
        axis.text(x, y, told, ha=side, va=level, color=GREY, fontsize=9, transform=axis.transAxes)
    axis.set(xlabel="recall of the papers, change in points", ylabel="plain knowledge, change in points")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=9)
    return made


def plot_alarms(simulated: Sequence[Mapping]) -> Figure:
    """What the procedure says of invented experiments whose truth is known, beside what was promised of it."""
    promises = (
        ("better without effect", 0.025, "at most"),
        ("better at the MDE", 0.78, "at least"),
        ("coverage", 0.93, "at least"),
    )
    titles = (
        "“better”, though there is no effect",
        "“better”, where the effect is the MDE",
        "intervals that hold the truth",
    )
    plain = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # a figure is not crossed by the promise's line
    made, axes = new_figure(3, figsize=(10, 0.9 + 0.5 * len(simulated)), sharey=True)
    for axis, (name, promised, side), title in zip(axes, promises, titles, strict=True):
        values = [100 * one[name] for one in simulated]
        bars = axis.barh([f"{one['design']}\nn = {one['n']}" for one in simulated], values, color=BLUE, height=0.5)
        axis.bar_label(bars, fmt="%.1f %%", padding=5, fontsize=9, bbox=plain)
        axis.axvline(100 * promised, color=ORANGE, linestyle="--", label=f"promised: {side} {100 * promised:g} %")
        axis.set(xlabel="% of experiments", xlim=(0, max(*values, 100 * promised) * 1.35))
        axis.set_title(title, fontsize=10)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.32), frameon=False, fontsize=9)
    axes[0].invert_yaxis()
    return made


def figure_svg(picture: Figure, alt: str) -> str:
    """The figure as SVG to stand inside a page: its text is text, and black is the page's own colour."""
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        picture.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)  # two pictures in one page must not share an id
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
