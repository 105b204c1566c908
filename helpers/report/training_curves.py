"""A training as pictures that redraw themselves while it runs, and what they show in words."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from IPython.display import DisplayHandle
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter

from helpers.core import RECORD, read_json
from helpers.report.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure, new_mosaic
from helpers.training import History

SECONDS_BETWEEN_DRAWINGS = 10
REST = 50  # seconds of training to a second of drawing
WOBBLE = 0.01  # nats a token, about 1 % in perplexity
LAYOUT = [["loss", "rate"], ["loss", "speed"], ["loss", "memory"]]
PLACES = {"left": 0.075, "right": 0.985, "top": 0.98, "bottom": 0.1, "wspace": 0.66, "hspace": 0.16}
METHODS = {"qlora": (BLUE, "o-"), "full": (ORANGE, "s-")}


class LiveCurves:
    """`training`, redrawn in place: every ten seconds, at looks and at the end.

    Between two drawings the training gets REST times what a drawing takes; only the end does not wait.
    """

    def __init__(self) -> None:
        self.handle = DisplayHandle()
        self.looks = -1
        self.drawn = self.cost = 0.0

    def __call__(self, history: History, total: int) -> None:
        """Show a training of `total` updates as far as it has come."""
        looked = len(history.held_out) > self.looks
        ended = len(history.updates) == total == max((look["step"] for look in history.held_out), default=None)
        pause = REST * self.cost if looked else max(SECONDS_BETWEEN_DRAWINGS, REST * self.cost)
        began = time.monotonic()
        if self.looks >= 0 and not ended and began < self.drawn + pause:
            return
        show = self.handle.display if self.looks < 0 else self.handle.update
        show(plot_training(history))
        self.looks = len(history.held_out)
        self.drawn = time.monotonic()
        self.cost = self.drawn - began


def plot_training(history: History) -> Figure:
    """Losses, learning rate, speed and memory of a training, all over the tokens read so far."""
    made, panels = new_mosaic(LAYOUT, PLACES, figsize=(10, 4.8), width_ratios=(2, 1), sharex=True)
    read = tokens_after(history)
    draw_losses(panels["loss"], history, read)
    draw_pace(panels["speed"], panels["memory"], history, read)
    rates = [update["learning_rate"] for update in history.updates]
    panels["rate"].plot(read[1:], rates, color=GREEN, marker=line_marker(rates), clip_on=False)
    panels["rate"].set(ylabel="learning rate", ylim=(0, 1.15 * max(rates, default=1)))
    panels["rate"].yaxis.set_major_formatter(FuncFormatter(lambda rate, _: format_rate(rate)))
    for panel in (panels["rate"], panels["speed"], panels["memory"]):
        panel.locator_params(axis="y", nbins=4)
        panel.yaxis.set_label_coords(-0.22, 0.5)
    panels["loss"].yaxis.set_label_coords(-0.115, 0.5)
    for panel in (panels["loss"], panels["memory"]):
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.set(xlabel="tokens trained on", xlim=(0, read[-1] or 1000))
        panel.locator_params(axis="x", nbins=6 if panel is panels["loss"] else 4)
    for panel in panels.values():
        if not any(len(line.get_xdata()) for line in panel.lines):
            panel.text(0.5, 0.5, "nothing measured", ha="center", va="center", color=GREY, transform=panel.transAxes)
    return made


def tokens_after(history: History) -> np.ndarray:
    """(updates + 1,): tokens read before the first update (0) and after each."""
    return np.cumsum([0] + [update["tokens"] for update in history.updates])


def format_rate(rate: float) -> str:
    """0.00015 → "1.5e-4"."""
    mantissa, _, exponent = f"{rate:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}" if rate else "0"


def line_marker(values: list[float]) -> str | None:
    """The marker of a line: one that has few points would hardly be seen without."""
    return "." if len(values) < 20 else None


def draw_losses(axis: Axes, history: History, read: np.ndarray) -> None:
    """The loss of every update and its running mean, of the held-out rows and of general text at every look."""
    losses = [update["loss"] for update in history.updates]
    axis.plot(read[1:], losses, color=GREY, alpha=0.35, linewidth=0.8, marker=line_marker(losses), clip_on=False)
    ends = []
    if losses:
        means = running_mean(losses)
        axis.plot(read[1:], means, color=GREY, linewidth=1.8)
        ends.append((means[-1], "training", GREY))
    for name, label, colour, style in (("loss", "held-out", BLUE, "o-"), ("guard", "general text", PURPLE, "s--")):
        looks = [look for look in history.held_out if look.get(name) is not None]
        places, seen = [read[look["step"]] for look in looks], [look[name] for look in looks]
        axis.plot(places, seen, style, color=colour, markersize=4, clip_on=False)
        ends += [(seen[-1], label, colour)] if seen else []
    low, high = axis.get_ylim() if losses or history.held_out else (0, 1)
    axis.set(ylabel="loss (nats per graded token)", ylim=(low, high + 0.12 * (high - low)))  # room for a line of text
    mark_chosen(axis, history, read)
    label_ends(axis, ends)


def mark_chosen(axis: Axes, history: History, read: np.ndarray) -> None:
    """A ring around the look whose weights were kept, and a line of text above it."""
    for look in history.held_out:
        if look["step"] == history.chosen:
            place = read[look["step"]]
            late = place > read[-1] / 2
            axis.axvline(place, color=BLUE, linewidth=1, linestyle=":")
            axis.plot(place, look["loss"], "o", color=BLUE, fillstyle="none", markersize=11, clip_on=False)
            axis.annotate(
                f"kept: update {history.chosen:,}",
                (place, 0.965),
                (-5 if late else 5, 0),
                xycoords=axis.get_xaxis_transform(),
                textcoords="offset points",
                ha="right" if late else "left",
                va="center",
                color=BLUE,
            )


def label_ends(axis: Axes, ends: list[tuple[float, str, str]], gap: float = 0.06) -> None:
    """Names and last values of lines, (value, name, colour) each, right of the axis where their lines end."""
    low, high = axis.get_ylim()
    ends = sorted(ends, reverse=True)
    heights = [(value - low) / (high - low) for value, _, _ in ends]
    for below in range(1, len(heights)):
        heights[below] = min(heights[below], heights[below - 1] - gap)
    lift = max(0.0, -min(heights, default=0))
    for height, (value, name, colour) in zip(heights, ends, strict=True):
        dark = 0.75 * np.array(to_rgb(colour))  # letters are thin: the line's own colour would be too light for them
        axis.text(1.03, height + lift, f"{name} {value:.2f}", color=dark, va="center", transform=axis.transAxes)


def draw_pace(speed: Axes, memory: Axes, history: History, read: np.ndarray) -> None:
    """Tokens a second of every update and its running mean, and the memory held at most so far."""
    tokens = np.diff(read)
    places = [read[row["step"]] for row in history.pace]
    rates = [tokens[row["step"] - 1] / row["seconds"] for row in history.pace]
    held = [row["memory"] / 2**30 for row in history.pace]
    speed.plot(places, rates, color=ORANGE, alpha=0.4, linewidth=0.8, marker=line_marker(rates), clip_on=False)
    memory.plot(places, held, color=BLUE, marker=line_marker(held), clip_on=False)
    speed.plot(places, running_mean(rates), color=ORANGE, linewidth=1.8)
    speed.set(ylabel="tokens/s", ylim=(0, 1.15 * max(rates, default=1)))
    memory.set(ylabel="peak memory (GiB)", ylim=(0, 1.15 * max(held, default=1)))


def running_mean(values: list[float]) -> np.ndarray:
    """The mean of each value and those before it, of a fifteenth of all at once (five at least)."""
    sums, ends = np.cumsum([0, *values]), np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - max(5, len(values) // 15))
    return (sums[ends] - sums[starts]) / (ends - starts)


def describe_curves(history: History, early_stopping: str = "off") -> str:
    """What the losses show and which weights were kept, in two sentences.

    Every look reads the same rows, so looks differ by what was learnt and by the wobble from one update to the
    next (0.003 nats with the embedded model); a difference of no more than WOBBLE is called none.
    """
    if not history.updates:
        return "Nothing was trained."
    return f"{describe_trend(history)} {describe_kept(history, early_stopping)}"


def describe_trend(history: History) -> str:
    """Whether the held-out loss rose again, is still falling or has come to rest."""
    looks = history.held_out
    if len(looks) < 3:
        return f"Too few looks at the held-out rows ({len(looks)}) to say where the loss is going."
    best = lowest_look(history, "loss")
    rise, drop = looks[-1]["loss"] - looks[best]["loss"], looks[-2]["loss"] - looks[-1]["loss"]
    learnt = training_loss(history, best) - training_loss(history, len(looks) - 1)
    since = f"since update {looks[best]['step']:,}, where it was lowest ({looks[best]['loss']:.3f} nats)"
    if rise > WOBBLE and learnt > 0:
        return (
            f"It over-fits: the held-out loss rose by {rise:.3f} {since}, while the training loss fell "
            f"by {learnt:.3f}."
        )
    if rise > WOBBLE:
        return (
            f"The held-out loss rose by {rise:.3f} {since}, and the training loss did not fall: the steps are "
            "too large (a lower learning rate) or the rows changed."
        )
    if drop > WOBBLE:
        return f"The held-out loss was still falling at the end, by {drop:.3f} nats between the last two looks."
    return (
        f"The held-out loss is flat: it changed by {abs(drop):.3f} nats between the last two looks, "
        f"and {WOBBLE} is called nothing."
    )


def lowest_look(history: History, name: str) -> int:
    """The number, from 0, of the look whose `name` (loss or guard) is lowest; the first of equals."""
    return min(range(len(history.held_out)), key=lambda number: history.held_out[number][name])


def training_loss(history: History, look: int) -> float:
    """Mean loss of the updates between a look and the one before it (of the very first look: the one after)."""
    before, after = max(look, 1) - 1, max(look, 1)
    begin, end = history.held_out[before]["step"], history.held_out[after]["step"]
    return float(np.mean([update["loss"] for update in history.updates[begin:end]]))


def describe_kept(history: History, early_stopping: str) -> str:
    """Which update's weights were kept, and why."""
    last = history.updates[-1]["step"]
    where = f"The weights after update {history.chosen:,} of {last:,} were kept"
    reasons = {"held_out": "the held-out loss was lowest", "guard": "the loss on general text was lowest"}
    if early_stopping in reasons:
        return f"{where}: there {reasons[early_stopping]} (EARLY_STOPPING={early_stopping})."
    return f"{where}, the last: nothing was chosen by looking (EARLY_STOPPING=off)."


def answer_question(history: History, share: float, declined: str = "") -> str:
    """What this run says to a notebook's question: `share` of the weights were trained, and what came of it."""
    if not history.updates:
        return f"Nothing was trained in this run: {declined or 'there is no history'}."
    first, last = history.held_out[0], history.kept
    general = (
        f" The loss on general English {describe_change(first['guard'], last['guard'])}." if "guard" in first else ""
    )
    free = "all" if share == 1 else f"{share:.1%} of"
    return (
        f"With {free} its weights free to move, the model's held-out loss "
        f"{describe_change(first['loss'], last['loss'])}.{general} {describe_cost(history)}"
    )


def describe_change(first: float, last: float) -> str:
    """ "fell by 0.309 nats a token, 3.042 → 2.733"; within WOBBLE nothing is said to have changed."""
    if abs(last - first) <= WOBBLE:
        return f"did not change: {first:.3f} before, {last:.3f} after, and {WOBBLE} nats are called nothing"
    return f"{'fell' if last < first else 'rose'} by {abs(last - first):.3f} nats a token, {first:.3f} → {last:.3f}"


def describe_cost(history: History) -> str:
    """Updates, tokens, minutes and memory of a training, in a sentence."""
    read = f"That took {len(history.updates):,} updates on {history.tokens:,} tokens"
    if not history.seconds:
        return f"{read}; time and memory were not kept."
    return f"{read}, {history.seconds / 60:.1f} minutes and {history.peak_memory / 2**30:.1f} GiB at the peak."


def recorded_history(folder: Path) -> History:
    """The history of the training whose result lies in `folder`; an empty one where there is none."""
    record = folder / RECORD
    return History(**read_json(record)["history"]) if record.exists() else History()


def compare_cost(history: History, other: Mapping | None) -> str:
    """The cost of this training beside that in notebook 4's receipt (`other`, None if there is none)."""
    if not other or not other.get("train_seconds"):
        return "Notebook 4 has left no costs in this run, so there is nothing to put beside these."
    seconds, memory = other["train_seconds"], other["train_peak_memory"]
    adapter = f"The adapter of notebook 4 took {seconds / 60:.1f} minutes and {memory / 2**30:.1f} GiB"
    if not history.seconds:
        return f"{adapter} for {other['tokens']:,} tokens."
    slower = history.seconds / history.tokens / (seconds / other["tokens"])
    return (
        f"{adapter} for {other['tokens']:,} tokens: a token cost {slower:.1f} times as much time here, and the peak "
        f"of memory was {history.peak_memory / memory:.1f} times as high."
    )


def plot_replay_effect(rows: list[dict], base: dict[str, dict[str, float]]) -> Figure:
    """Two panels: the loss on held-out papers and on general text after training with different shares of replay.

    Each of `rows` is one training: "method" (qlora or full), "ratio" (0 to 1), "held_out" and "guard" in nats per
    token. `base` gives both losses of each method's untouched model: {"qlora": {"held_out": …, "guard": …}, …}.
    """
    made, panels = new_figure(2, figsize=(10, 3.4))
    titles = {"held_out": "held-out papers: what was learnt", "guard": "general text: what was forgotten"}
    for axis, (name, title) in zip(panels, titles.items(), strict=True):
        ends = []
        for method in (method for method in METHODS if method in base):
            colour, style = METHODS[method]
            points = sorted((row["ratio"], row[name]) for row in rows if row["method"] == method)
            ratios = sorted({ratio for ratio, _ in points})
            means = [np.mean([loss for at, loss in points if at == ratio]) for ratio in ratios]
            axis.plot(ratios, means, style, color=colour, markersize=5)
            axis.plot(*zip(*points, strict=True), style[0], color=colour, markersize=5, alpha=0.5)
            axis.axhline(base[method][name], color=colour, linestyle=":", linewidth=1.2)
            ends += [(means[-1], method, colour), (base[method][name], f"{method}, untouched", colour)]
        axis.set_title(title, fontsize=10)
        axis.set(xlabel="replay ratio (share of the tokens)", ylabel="loss (nats per token)")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
        label_ends(axis, ends)
    return made
