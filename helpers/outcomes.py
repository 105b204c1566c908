"""Pictures of what stage 8 found: every difference with its interval, every question, what was kept and forgotten."""

import io
import re
from collections.abc import Mapping, Sequence
from html import escape

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.labels import BASE_OF, ROLES, instrument, model, pair, unit_of
from helpers.labels import figure as figured
from helpers.plots import BLUE, GREY, ORANGE, PURPLE, ROW_COLOURS, figure
from helpers.results import find, ordered

INK = "#000000"  # in a page it is the colour of the page's own text
SHADES = {"primary": BLUE, "family": BLUE, "guard": ORANGE, "control": PURPLE, "exploratory": GREY}
UNITS = {
    "share": ("difference in percentage points", 100),
    "score": ("difference in rubric score (0 to 1)", 1),
    "bits": ("difference in bits per byte, axis turned round", 1),
}
INCH = 0.36  # of height for one comparison


def forest(comparisons: Sequence[Mapping]) -> Figure | None:
    """Differences with their 95 % intervals, one panel a unit, right of 0 always better; None if there are none.

    What was declared stands first and strong, what is exploratory last and grey. The pale bar around 0 is what would
    probably go unseen (the minimum detectable effect).
    """
    shown = [found for found in ordered(comparisons) if found["mean_difference"] is not None]
    panels = {unit: [found for found in shown if unit_of(found) == unit] for unit in UNITS}
    panels = {unit: found for unit, found in panels.items() if found}
    if not panels:
        return None
    rows = [len(found) + 1.6 for found in panels.values()]
    made, _ = figure(figsize=(10, INCH * sum(rows)))
    made.clear()
    grid = made.subplots(len(rows), 1, squeeze=False, gridspec_kw={"height_ratios": rows})[:, 0]
    for axis, (unit, found) in zip(grid, panels.items(), strict=True):
        draw_differences(axis, found, unit)
    made.align_ylabels()
    return made


def draw_differences(axis: Axes, comparisons: Sequence[Mapping], unit: str) -> None:
    """One panel of the forest."""
    label, scale = UNITS[unit]
    for place, found in enumerate(comparisons):
        colour, declared = SHADES[found["role"]], found["role"] in ("primary", "family")
        if unseen := found["minimum_detectable_effect"]:
            axis.barh(place, 2 * scale * unseen, left=-scale * unseen, height=0.7, color=GREY, alpha=0.13)
        if found["low"] is not None:
            ends = [scale * found["low"], scale * found["high"]]
            axis.plot(ends, [place, place], color=colour, linewidth=3 if declared else 1.6, solid_capstyle="butt")
        face = colour if found["verdict"] in ("better", "worse") else "none"
        axis.plot(scale * found["mean_difference"], place, "o", color=colour, markerfacecolor=face, markersize=7)
        told = f"{figured(found['mean_difference'], unit, '+')} · n {found['n']:,} / {found['clusters']:,}"
        axis.annotate(told, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=9, color=INK)
    axis.axvline(0, color=INK, linewidth=1)
    names = [f"{instrument(c['instrument']).title}: {pair(c)} · {ROLES[c['role']]}" for c in comparisons]
    axis.set_yticks(range(len(comparisons)), names, fontsize=9)
    for tick, found in zip(axis.get_yticklabels(), comparisons, strict=True):
        tick.set_fontweight("bold" if found["role"] == "primary" else "normal")
        tick.set_color(GREY if found["role"] == "exploratory" else INK)
    axis.set(xlabel=f"{label}; better →", ylim=(len(comparisons) - 0.4, -0.6))
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(left=False)
    axis.grid(axis="x", alpha=0.25)
    axis.locator_params(axis="x", nbins=7)
    if unit == "bits":
        axis.invert_xaxis()


def heat(scores: Mapping[str, Mapping[str, float]], papers: Mapping[str, Mapping]) -> Figure | None:
    """Rubric score of every question (rows) under every model (columns), beside the training papers on it."""
    columns, asked = list(scores), list(dict.fromkeys(q for values in scores.values() for q in values))
    if not asked:
        return None
    made, (axis,) = figure(figsize=(3.4 + 0.85 * len(columns), 1.2 + 0.34 * len(asked)))
    grid = np.array([[scores[row].get(question, np.nan) for row in columns] for question in asked], dtype=float)
    shown = axis.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axis.grid(False)
    names = [f"{q} · {', '.join(papers[q]['diseases'])} · {papers[q]['papers']} papers" for q in asked]
    axis.set_yticks(range(len(asked)), names, fontsize=9)
    axis.set_xticks(range(len(columns)), [model(row).replace(" ", "\n") for row in columns], fontsize=8)
    axis.xaxis.tick_top()
    for y, x in np.argwhere(~np.isnan(grid)):
        colour = "white" if grid[y, x] < 0.55 else "black"
        axis.text(x, y, f"{grid[y, x]:.2f}".replace("-", "−"), ha="center", va="center", color=colour, fontsize=9)
    made.colorbar(shown, ax=axis, label="rubric score")
    return made


def spread(greedy: Mapping[str, Mapping[str, float]], sampled: Mapping[str, Mapping[str, list]]) -> Figure | None:
    """One panel a model: per question the score of every sampled answer (dots) and of the greedy one (bar)."""
    if not sampled:
        return None
    asked = list(dict.fromkeys(q for values in sampled.values() for q in values))
    made, axes = figure(len(sampled), figsize=(10, 2.8), sharey=True)
    for axis, (row, values) in zip(axes, sampled.items(), strict=True):
        colour = ROW_COLOURS.get(row, PURPLE)
        for place, question in enumerate(asked):
            said = values.get(question, [])
            axis.scatter([place] * len(said), said, s=16, alpha=0.5, color=colour, linewidths=0)
        bars = [greedy.get(row, {}).get(question, np.nan) for question in asked]
        axis.hlines(bars, np.arange(len(asked)) - 0.4, np.arange(len(asked)) + 0.4, color=INK, linewidth=1.5)
        axis.set_title(model(row).replace(" (", "\n("), fontsize=9)
        axis.set_xticks([0, len(asked) - 1], [asked[0], asked[-1]], fontsize=8)
    axes[0].set(ylabel="rubric score")
    made.supxlabel("question", fontsize=10)
    return made


def forgetting(scores: Mapping) -> Figure | None:
    """Each tuned model against its own base: what was gained on recall (right) and on plain knowledge (up).

    A cross is a 95 % interval in both directions; None where no model sat both.
    """
    made, (axis,) = figure(figsize=(7, 4.2))
    for row, base in BASE_OF.items():
        learnt, kept = find(scores, "recall", row, base), find(scores, "cloze", row, base)
        if not learnt or not kept or None in (learnt["low"], kept["low"]):
            continue
        colour = ROW_COLOURS.get(row, PURPLE)
        x, y = 100 * learnt["mean_difference"], 100 * kept["mean_difference"]
        axis.plot([100 * learnt["low"], 100 * learnt["high"]], [y, y], color=colour, linewidth=2)
        axis.plot([x, x], [100 * kept["low"], 100 * kept["high"]], color=colour, linewidth=2)
        axis.plot(x, y, "o", color=colour, markersize=7, label=f"{model(row)} − {model(base)}")
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


def alarms(simulated: Sequence[Mapping]) -> Figure:
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
    made, axes = figure(3, figsize=(10, 0.9 + 0.5 * len(simulated)), sharey=True)
    for axis, (name, promised, side), title in zip(axes, promises, titles, strict=True):
        values = [100 * one[name] for one in simulated]
        bars = axis.barh([f"{one['design']}\nn = {one['n']}" for one in simulated], values, color=BLUE, height=0.5)
        axis.bar_label(bars, fmt="%.1f %%", padding=3, fontsize=9)
        axis.axvline(100 * promised, color=ORANGE, linestyle="--", label=f"promised: {side} {100 * promised:g} %")
        axis.set(xlabel="% of experiments", xlim=(0, max(*values, 100 * promised) * 1.35))
        axis.set_title(title, fontsize=10)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.32), frameon=False, fontsize=9)
    axes[0].invert_yaxis()
    return made


def svg(picture: Figure, alt: str) -> str:
    """The figure as SVG to stand inside a page: its text is text, and black is the page's own colour."""
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        picture.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)  # two pictures in one page must not share an id
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
