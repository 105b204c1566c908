"""The memory a training needs, part by part, beside what the machine has."""

from matplotlib.figure import Figure

from helpers.report.plots import BLUE, GREEN, GREY, ORANGE, PALE, PURPLE, RED, SKY, YELLOW, new_figure
from helpers.training import Plan

PARTS = (GREY, BLUE, SKY, ORANGE, YELLOW, GREEN, RED, PURPLE, PALE)  # of memory, as a plan lists them


def plot_memory(plan: Plan) -> Figure:
    """Stacked bar: what the training will take, part by part, against what is there."""
    return plot_fits({"needed": plan})


def plot_fits(plans: dict[str, Plan]) -> Figure:
    """Stacked bars: the memory a training needs, part by part, against what this machine has."""
    made, (axis,) = new_figure(figsize=(7, 1.9 + 0.5 * len(plans)))
    names = list(dict.fromkeys(part for plan in plans.values() for part in plan.parts))
    left = dict.fromkeys(plans, 0.0)
    for place, part in enumerate(names):
        sizes = [plan.parts.get(part, 0) / 2**30 for plan in plans.values()]
        colour = PARTS[place % len(PARTS)]
        axis.barh(list(plans), sizes, left=list(left.values()), color=colour, edgecolor="white", label=part)
        left = {name: left[name] + size for name, size in zip(plans, sizes, strict=True)}
    there, most = max(plan.available for plan in plans.values()) / 2**30, max(left.values())
    limit = f"this machine has {there:.1f} GiB"
    if there > 2 * most:  # far to the right: the bars would be slivers
        axis.set_title(f"{limit} →", loc="right", fontsize=9)
    else:
        axis.axvline(there, color="black", linestyle="--", label=limit)
        most = max(there, most)
    axis.set(xlabel="memory (GiB, estimated)", xlim=(0, 1.05 * most))
    axis.invert_yaxis()
    made.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return made
