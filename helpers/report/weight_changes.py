"""How far a training moved the weights, matrix by matrix; and which steps 16 bits would have lost."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors import safe_open

from helpers.report.plots import BLUE, GREY, ORANGE, new_figure
from helpers.training import Finetuning

PREFIX = "base_model.model."  # what peft puts before the name of a matrix
STEPS = np.logspace(-8, -2, 25)  # sizes of an update
ROWS_LOOKED_AT = 16  # of every matrix


def measure_change(tuning: Finetuning) -> dict[str, list[float]]:
    """{matrix name: how far it moved in each layer, relative to its own size}, by this training's method."""
    return adapter_change(tuning) if tuning.recipe.method == "qlora" else full_change(tuning)


def adapter_change(tuning: Finetuning) -> dict[str, list[float]]:
    """{matrix name: size of the adapter's update in each layer, relative to the matrix it changes}.

    ‖(alpha / r) B A‖ / ‖W‖ in Frobenius norms; W is the unquantised base.
    """
    scale = tuning.run.settings.LORA_ALPHA / tuning.run.settings.LORA_R
    changes = {}
    with safe_open(tuning.out / "adapter_model.safetensors", "pt") as adapter, Weights(tuning.base) as base:
        for name in (n for n in adapter.keys() if n.endswith("lora_A.weight")):  # noqa: SIM118
            matrix = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            update = scale * adapter.get_tensor(name.replace("lora_A", "lora_B")) @ adapter.get_tensor(name)
            changes[matrix] = (update.norm() / base.get(f"{matrix}.weight").float().norm()).item()
    return by_layer(changes)


def full_change(tuning: Finetuning) -> dict[str, list[float]]:
    """{matrix name: ‖W after − W before‖ / ‖W before‖ in each layer}."""
    changes = {}
    with Weights(tuning.out) as after, Weights(tuning.base) as before:
        for name in after.names():
            if ".layers." in name and name.endswith("proj.weight"):
                old = before.get(name).float()
                changes[name.removesuffix(".weight")] = ((after.get(name).float() - old).norm() / old.norm()).item()
    return by_layer(changes)


def by_layer(changes: dict[str, float]) -> dict[str, list[float]]:
    """{"…layers.3.self_attn.q_proj": x} → {"q_proj": [x of layer 0, 1, 2, …]}."""
    kinds: dict[str, dict[int, float]] = {}
    for name, value in changes.items():
        layer = int(name.split(".layers.")[1].split(".")[0])
        kinds.setdefault(name.split(".")[-1], {})[layer] = value
    return {kind: [layers[n] for n in sorted(layers)] for kind, layers in sorted(kinds.items())}


def share_unmoved(weights: torch.Tensor, step: float, dtype: torch.dtype) -> float:
    """The share of `weights` that adding `step` in this precision leaves exactly where they were."""
    stored = weights.to(dtype)
    return (stored + torch.tensor(step, dtype=dtype) == stored).float().mean().item()


def some_weights(folder: Path) -> torch.Tensor:
    """The first rows of every matrix of a model's layers, in one line, float32."""
    with Weights(folder) as model:
        names = [name for name in model.names() if ".layers." in name and name.endswith("proj.weight")]
        return torch.cat([model.rows(name, ROWS_LOOKED_AT).float().flatten() for name in names])


def rounded_away(tuning: Finetuning) -> Figure:
    """Lines: the share of the base's weights that a step leaves where they were, by its size, in each precision."""
    weights = some_weights(tuning.base)
    made, (axis,) = new_figure()
    for name, colour in (("bfloat16", ORANGE), ("float16", BLUE), ("float32", GREY)):
        shares = [100 * share_unmoved(weights, step, getattr(torch, name)) for step in STEPS]
        axis.plot(STEPS, shares, "o-", markersize=3, color=colour, label=f"added in {name}")
    rate = tuning.recipe.learning_rate
    axis.axvline(rate, color="black", linestyle="--", linewidth=1, label=f"peak learning rate {rate:.0e}")
    axis.set(xscale="log", xlabel="size of the step", ylabel="weights left unmoved (%)")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return made


class Weights:
    """Read single tensors of a model folder, in one file or several."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> "Weights":
        self.open = [safe_open(path, "pt") for path in sorted(self.folder.glob("model*.safetensors"))]
        self.place = {name: file for file in self.open for name in file.keys()}  # noqa: SIM118
        return self

    def __exit__(self, *_: object) -> None:
        self.open.clear()
        self.place.clear()

    def names(self) -> list[str]:
        return sorted(self.place)

    def get(self, name: str) -> torch.Tensor:
        return self.place[name].get_tensor(name)

    def rows(self, name: str, count: int) -> torch.Tensor:
        """The first `count` rows of a matrix; nothing else of it is read."""
        return self.place[name].get_slice(name)[:count]
