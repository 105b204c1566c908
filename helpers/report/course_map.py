"""The eight stages as a picture: which leads to which, and where you are."""

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from helpers.core import STAGES, Stage
from helpers.report.plots import BLUE, GREY, new_figure

WIDTH, HEIGHT = 1.5, 0.72
PLACES = {1: (0, 1), 2: (1.9, 2), 3: (0, 0), 4: (1.9, 1), 5: (3.8, 1), 6: (1.9, 0), 7: (3.8, 0), 8: (5.7, 1)}
ROUTES = ((1, 2), (1, 4), (1, 6), (3, 4), (3, 6), (4, 5), (6, 7), (2, 8), (5, 8), (7, 8))
WORDS = {
    1: "download\nand test",
    2: "ask the\nbase model",
    3: "download\npapers",
    4: "QLoRA:\nan adapter",
    5: "ask the\nadapter",
    6: "full fine-tuning:\nevery weight",
    7: "ask the\nfull model",
    8: "score and\nconclude",
}


def course_map(here: Stage) -> Figure:
    """Boxes and arrows: the stages, what each needs from which, and `here` filled."""
    made, (axis,) = new_figure(figsize=(7.6, 2.9))
    for start, end in ROUTES:
        (x, y), (to_x, to_y) = PLACES[start], PLACES[end]
        arrow = {"arrowstyle": "-|>", "color": GREY, "shrinkA": 0, "shrinkB": 2}
        to_y += HEIGHT * (0.8 if y > to_y and end == 8 else 0.5)
        axis.annotate("", (to_x, to_y), (x + WIDTH, y + HEIGHT / 2), arrowprops=arrow)
    for stage in STAGES:
        draw_box(axis, stage.number, stage is here)
    x, y = PLACES[here.number]
    axis.text(x + WIDTH / 2, y - 0.05, "you are here", color=BLUE, ha="center", va="top", fontsize=9)
    axis.set(xlim=(-0.1, 7.3), ylim=(-0.3, 2.8))
    axis.axis("off")
    return made


def draw_box(axis, number: int, filled: bool) -> None:
    x, y = PLACES[number]
    face, ink = (BLUE, "white") if filled else ("white", "black")
    shape = {"boxstyle": "round,pad=0,rounding_size=0.1", "facecolor": face, "edgecolor": BLUE}
    axis.add_patch(FancyBboxPatch((x, y), WIDTH, HEIGHT, zorder=2, **shape))
    axis.text(x + 0.1, y + HEIGHT / 2, number, color=ink, va="center", fontsize=13, weight="bold", zorder=3)
    axis.text(x + 0.38, y + HEIGHT / 2, WORDS[number], color=ink, va="center", fontsize=8.5, zorder=3)
