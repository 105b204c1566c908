"""How far a training moved the weights, matrix by matrix."""

from pathlib import Path

import torch
from safetensors import safe_open

from helpers.tuning import Tuning


def adapter_change(tuning: Tuning) -> dict[str, list[float]]:
    """{matrix name: size of the adapter's update in each layer, relative to the matrix it changes}.

    ‖(alpha / r) B A‖ / ‖W‖ in Frobenius norms; W is the unquantised base.
    """
    scale = tuning.session.settings.LORA_ALPHA / tuning.session.settings.LORA_R
    prefix, changes = "base_model.model.", {}
    with safe_open(tuning.out / "adapter_model.safetensors", "pt") as adapter, Weights(tuning.base) as base:
        for name in (n for n in adapter.keys() if n.endswith("lora_A.weight")):  # noqa: SIM118
            matrix = name.removeprefix(prefix).removesuffix(".lora_A.weight")
            update = scale * adapter.get_tensor(name.replace("lora_A", "lora_B")) @ adapter.get_tensor(name)
            changes[matrix] = (update.norm() / base.get(f"{matrix}.weight").float().norm()).item()
    return by_layer(changes)


def full_change(tuning: Tuning) -> dict[str, list[float]]:
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
