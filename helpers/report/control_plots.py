"""What the positive control shows: whether training and scoring work, and what makes a fact answerable.

After Allen-Zhu and Li (2023), "Physics of language models: Part 3.1, knowledge storage and extraction",
arXiv 2309.14316: what is read in one wording may be stored in a way that questions do not reach. In a profile that
always goes in one order, a value can be told from the values before it; in many orders it must hang on the name.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from helpers.core import CONTROL_GROUPS, ROOT, CourseError, Folders, read_json, relative_path
from helpers.report.plots import BLUE, GREY, ORANGE, new_figure
from helpers.report.training_curves import label_ends

BACK = {"full": 0.95, "qlora": 0.9}  # the share of the taught facts that must come back
RECORDED = ROOT / "reports" / "recorded" / "control.json"
RUNS = {
    "many_wordings": ("many wordings", BLUE, "o-"),
    "one_wording": ("one wording", ORANGE, "s--"),
}
TITLES = {"taught": "taught: in profiles, and asked in other words", "read": "read: in profiles only"}


def recorded_or_own(folders: Folders) -> dict:
    """This run's control, or the one that was recorded with the course; `from` is the file, `own` says which.

    Raises CourseError if neither is there.
    """
    path = folders.control if folders.control.exists() else RECORDED
    if not path.exists():
        raise CourseError(
            "no positive control has been recorded",
            "make control (about half an hour)",
            "the-positive-control-does-not-pass",
        )
    return read_json(path) | {"from": relative_path(path), "own": path == folders.control}


def plot_control(control: dict) -> Figure:
    """A row of panels, one a group: the share of right answers over the tokens read, of every run.

    Of the first method measured. Bars are Wilson's 95 % intervals of the weights that were saved.
    """
    runs = next(iter(control["methods"].values()))
    made, panels = new_figure(2, figsize=(10, 3.4), sharey=True)
    for axis, group in zip(panels, CONTROL_GROUPS, strict=True):
        axis.set(xlabel="tokens trained on", ylim=(0, 1.03))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.set_title(TITLES[group], fontsize=10)
        axis.axhline(control["chance"], color=GREY, linestyle=":", linewidth=1.2)
        label_ends(axis, [(control["chance"], "chance", GREY), *(draw_run(axis, runs, run, group) for run in RUNS)])
    panels[0].set_ylabel("right answers, among eight")
    return made


def draw_run(axis: Axes, runs: dict, run: str, group: str) -> tuple[float, str, str]:
    """One run's line and interval; (last value, name, colour) to label it with."""
    name, colour, style = RUNS[run]
    rate, curve = runs[run][group], runs[run]["curve"]
    axis.plot([p["tokens"] for p in curve], [p[group] for p in curve], style, color=colour, markersize=4)
    beyond = [[rate["accuracy"] - rate["low"]], [rate["high"] - rate["accuracy"]]]
    axis.errorbar(runs[run]["tokens"], rate["accuracy"], beyond, color=colour, capsize=3)
    return rate["accuracy"], name, colour


def describe_control(control: dict) -> str:
    """What wordings bought, in words chosen by the intervals of the first method measured."""
    method, runs = next(iter(control["methods"].items()))
    many, one = (runs[run]["read"] for run in RUNS)
    said = (
        f"Facts that were only read came back in {format_rate_interval(many)} of the questions after profiles in "
        f"{runs['many_wordings']['wordings']} wordings, and in {format_rate_interval(one)} after one wording and as "
        f"many tokens ({method}, n = {many['n']} each, chance {control['chance']:.1%}, 95 % intervals)"
    )
    if many["low"] > one["high"]:
        return f"{said}. The intervals do not overlap: other words and orders, not repetition, made facts answerable."
    if one["low"] > many["high"]:
        return f"{said}. The intervals do not overlap: here one wording did better than many."
    return f"{said}. The intervals overlap: what wordings buy is not shown."


def control_verdict(control: dict) -> tuple[bool, str]:
    """(whether training and scoring work by every method measured, a sentence that says what was seen).

    The untouched model must be at chance, the taught facts must come back in new words, and facts that were only
    read in many wordings must be known better than by chance.
    """
    said = []
    for method, runs in control["methods"].items():
        if fault := find_control_fault(runs, control["chance"], BACK[method]):
            return False, f"The control fails ({method}): {fault}."
        many = runs["many_wordings"]
        said.append(
            f"{method}: untouched {format_rate_interval(runs['base']['taught'])} of the facts, "
            f"taught {format_rate_interval(many['taught'])}, only read {format_rate_interval(many['read'])}"
        )
    return True, f"The control passes ({'; '.join(said)}; chance is {control['chance']:.1%})."


def find_control_fault(runs: dict, chance: float, least: float) -> str:
    """Why these runs do not show that training and scoring work; "" if they do."""
    for group, rate in ((group, runs["base"][group]) for group in CONTROL_GROUPS):
        if not rate["low"] <= chance <= rate["high"]:
            found = format_rate_interval(rate)
            return f"the untouched model gets {found} of the {group} facts right, and chance is {chance:.1%}"
    if (rate := runs["many_wordings"]["taught"])["accuracy"] < least:
        return f"of the taught facts {format_rate_interval(rate)} came back, fewer than {least:.0%}"
    if (rate := runs["many_wordings"]["read"])["low"] <= chance:
        return f"of the facts only read {format_rate_interval(rate)} are known, which may be chance ({chance:.1%})"
    return ""


def format_rate_interval(rate: dict) -> str:
    return f"{rate['accuracy']:.0%} ({rate['low']:.0%} to {rate['high']:.0%})"
