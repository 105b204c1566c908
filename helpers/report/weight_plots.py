"""What an adapter adds to a weight matrix, drawn; and what a rank costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import ipywidgets
import numpy as np
import torch
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from safetensors import safe_open

from helpers.core import device_name, is_executed, read_json
from helpers.models import config_of_settings, count_weights
from helpers.report.plots import new_figure
from helpers.report.tables import html_table
from helpers.report.weight_changes import PREFIX, Weights
from helpers.training import Finetuning, count_trainable, resident_memory, this_gpu, train_config

MIB = 2**20
RANKS = (1, 4, 16, 64, 256)
CORNER = 48  # rows and columns of a matrix that are drawn
FIRST_TRIED = "q_proj,v_proj"  # the query and value matrices, which Hu et al. (2021) adapted


@dataclass(frozen=True)
class Addition:
    """One weight matrix of a model, and what an adapter adds to it; float32, (outputs, inputs)."""

    name: str
    rank: int
    weight: torch.Tensor  # as its four bits spell it
    update: torch.Tensor  # (alpha / r) B A
    rounding: float  # how far four bits moved the weights, relative to their norm

    @property
    def size(self) -> float:
        """‖update‖ / ‖weight‖, Frobenius norms."""
        return (self.update.norm() / self.weight.norm()).item()


def adapter_addition(tuning: Finetuning, matrix: str = "layers.0.self_attn.q_proj") -> Addition:
    """What the saved adapter adds to the first matrix whose name ends in `matrix`, or to the first it has."""
    with safe_open(tuning.out / "adapter_model.safetensors", "pt") as adapter, Weights(tuning.base) as base:
        firsts = sorted(name for name in adapter.keys() if name.endswith("lora_A.weight"))  # noqa: SIM118
        first = next((name for name in firsts if f"{matrix}." in name), firsts[0])
        thin, wide = adapter.get_tensor(first).float(), adapter.get_tensor(first.replace("lora_A", "lora_B")).float()
        name = first.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        stored = base.get(f"{name}.weight").float()
    config = read_json(tuning.out / "adapter_config.json", dict)
    weight, rank = four_bit_weights(stored), len(thin)
    update = config["lora_alpha"] / rank * wide @ thin
    return Addition(name, rank, weight, update, ((weight - stored).norm() / stored.norm()).item())


def four_bit_weights(weight: torch.Tensor) -> torch.Tensor:
    """`weight` after NF4 and back, as the base under an adapter is loaded."""
    import bitsandbytes.functional as bnb

    packed, state = bnb.quantize_4bit(weight.to(device_name()), quant_type="nf4", compress_statistics=True)
    return bnb.dequantize_4bit(packed, state).cpu().reshape(weight.shape)


def plot_addition(shown: Addition | None, corner: int = CORNER) -> Figure | None:
    """Heat maps of one corner: W, the update and their sum on one scale of colours, then the update on its own.

    None where there is no adapter.
    """
    if shown is None:
        return None
    before, update = (part[:corner, :corner].numpy() for part in (shown.weight, shown.update))
    parts = {"W, in four bits": before, "+ (α / r) · B · A": update, "= their sum": before + update}
    made, axes = new_figure(5, figsize=(11, 3.1), width_ratios=(12, 12, 12, 1.5, 12))
    for axis, (title, values) in zip(axes, parts.items(), strict=False):
        shared = draw_heat_map(axis, values, title, colour_limit(before))
    alone = draw_heat_map(axes[4], update, "the update alone", colour_limit(update))
    below = {"location": "bottom", "format": "{x:.2g}"}
    made.colorbar(shared, ax=axes[:3], label="weight", aspect=50, shrink=0.6, **below)
    ends = [-colour_limit(update), 0, colour_limit(update)]
    made.colorbar(alone, ax=axes[4], label="weight, on its own scale", aspect=16, ticks=ends, **below)
    axes[0].set(ylabel="output")
    axes[3].axis("off")  # a gap: what is right of it has another scale
    return made


def colour_limit(values: np.ndarray) -> float:
    """Where a scale of colours ends: all but one value in 200 lie within."""
    return float(np.quantile(np.abs(values), 0.995)) or 1.0


def draw_heat_map(axis: Axes, values: np.ndarray, title: str, most: float) -> AxesImage:
    """Red above zero, blue below, white at zero, on a scale that ends at ± `most`."""
    axis.grid(False)
    axis.set_title(title, fontsize=10)
    axis.set(xlabel="input")
    return axis.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")


def describe_addition(shown: Addition | None) -> str:
    """Name, size, rank and relative size of an addition, in words."""
    if shown is None:
        return "No adapter was trained, so there is no update to draw."
    outputs, inputs = shown.weight.shape
    return (
        f"{shown.name}: {outputs:,} × {inputs:,} weights. The update has {shown.rank * (outputs + inputs):,} weights "
        f"of its own and a rank of {shown.rank} at most. Its Frobenius norm is {shown.size:.2%} of that of W; "
        f"rounding to four bits had moved W by {shown.rounding:.2%}."
    )


def adapter_cost(settings: SimpleNamespace, rank: int, targets: str) -> dict[str, float]:
    """What an adapter of this `rank` takes, by the planner's formulas: weights, share of all, and bytes by part.

    `trained` and `share` count weights; `adapter`, `gradients` and `optimizer` are bytes. Rank 0 is every weight.
    """
    config, recipe = config_of_settings(settings), train_config(settings, "qlora")
    trained, _ = count_trainable(config, rank, targets)
    held = resident_memory(config, recipe, rank, targets, this_gpu())
    weights = held["adapter"] if rank else held["weights"]
    total = count_weights(config).total + (trained if rank else 0)
    return {
        "trained": trained,
        "share": trained / total,
        "adapter": weights,
        "gradients": weights,  # one to a weight, in the same precision
        "optimizer": held["optimizer"],
    }


def cost_row(settings: SimpleNamespace, rank: int, targets: str) -> dict[str, str]:
    """`cost` as one line of a table; rank 0 is notebook 6."""
    counted = adapter_cost(settings, rank, targets)
    parts = {part: counted[part] for part in ("adapter", "gradients", "optimizer")}
    return {
        "rank": str(rank) if rank else "none: every weight",
        "trained weights": f"{counted['trained']:,}",
        "share": f"{counted['share']:.2%}",
        **{("weights" if part == "adapter" else part): f"{size / MIB:,.1f} MiB" for part, size in parts.items()},
        "together": f"{sum(parts.values()) / MIB:,.1f} MiB",
    }


NUMBERS = ("trained weights", "share", "weights", "gradients", "optimizer", "together")


def rank_costs(settings: SimpleNamespace, ranks: tuple[int, ...] = RANKS) -> HTML:
    """A table: what each of these ranks takes with LORA_TARGET_MODULES, and what training every weight would."""
    return html_table([cost_row(settings, rank, settings.LORA_TARGET_MODULES) for rank in (*ranks, 0)], NUMBERS)


def target_choices(settings: SimpleNamespace) -> Mapping[str, str]:
    """{what it is called: LORA_TARGET_MODULES} to try: the run's own, all, and the pair of the LoRA paper."""
    layers = {name.split(".")[-1] for name, _, _ in count_weights(config_of_settings(settings)).matrices}
    pair = {"queries and values": FIRST_TRIED} if set(FIRST_TRIED.split(",")) <= layers else {}
    own = settings.LORA_TARGET_MODULES
    known = {"every matrix of every layer": "all-linear"} | pair
    return known if own in known.values() else {f"this run's: {own}": own} | known


def rank_slider(settings: SimpleNamespace) -> ipywidgets.VBox | HTML:
    """A slider for the rank and a list of matrices; below them what that adapter takes, and what every weight would.

    Counted from the configuration; no model is loaded. Under the runner `rank_costs` stands there instead.
    """
    if is_executed():
        return rank_costs(settings)
    own = settings.LORA_TARGET_MODULES
    powers = sorted({2**n for n in range(9)} | {settings.LORA_R})
    rank = ipywidgets.SelectionSlider(options=powers, value=settings.LORA_R, description="rank r")
    targets = ipywidgets.Dropdown(options=list(target_choices(settings).items()), value=own, description="adapted")
    shown = ipywidgets.HTML()

    def look(_: object) -> None:
        lines = [cost_row(settings, rank.value, targets.value), cost_row(settings, 0, targets.value)]
        shown.value = html_table(lines, NUMBERS).data

    for control in (rank, targets):
        control.observe(look, names="value")
    look(None)
    return ipywidgets.VBox([ipywidgets.HBox([rank, targets]), shown])
