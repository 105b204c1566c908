"""Will it fit? Memory of a training, estimated from the model's configuration alone."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from helpers.hardware import available_memory
from helpers.training import Recipe

GIB = 2**30
RUNTIME = 0.6 * GIB  # Python, torch and the libraries, measured on a CPU
NF4_BYTES = 0.516  # 4 bits and the doubly quantised scale of every 64 weights
BYTES_PER_ACTIVATION = 34  # per token, layer and hidden unit, in 16 bits (Korthikanti et al. 2022)
ADAPTER_ACTIVATION = 34  # as much again: a float32 adapter keeps a float32 copy of every layer's input
BYTES_PER_LOGIT = 20  # in 16 bits and in float32, their softmax, and the gradients of both


@dataclass(frozen=True)
class Plan:
    """Bytes by part, the bytes there are, and whether the sum fits into them."""

    parts: dict[str, float]
    available: float

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.total <= self.available

    @property
    def sentence(self) -> str:
        verdict = "fits" if self.fits else "does not fit"
        return f"about {self.total / GIB:.1f} GiB needed, {self.available / GIB:.1f} GiB free: it {verdict}"


def plan(folder: Path, recipe: Recipe, rank: int = 0) -> Plan:
    """What training the model in `folder` by `recipe` takes; `rank` is the adapter's (QLoRA).

    All weights: float32 weights, gradients and AdamW's two moments are 16 bytes each weight, and a 16-bit
    copy is made for the products. QLoRA: 4-bit matrices, 16-bit embeddings, 16 bytes an adapter weight.
    """
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    total = sum(weights.numel() for weights in model.parameters())
    linear = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and not n.endswith("lm_head")]
    if recipe.method == "full":
        weights = {"weights": 4 * total, "gradients": 4 * total, "optimizer": 8 * total, "16-bit copy": 2 * total}
    else:
        quantised = sum(m.weight.numel() for m in linear)
        adapter = sum(rank * (m.in_features + m.out_features) for m in linear)
        weights = {"4-bit weights": NF4_BYTES * quantised, "embeddings": 2 * (total - quantised)}
        weights |= {"adapter and its optimizer": 16 * adapter}
    tokens = max(recipe.max_length, min(recipe.batch_size * recipe.max_length, recipe.micro_batch_tokens))
    layers = 1 if recipe.checkpointing else config.num_hidden_layers
    wide = BYTES_PER_ACTIVATION * (2 if recipe.dtype == "float32" else 1) + (ADAPTER_ACTIVATION if rank else 0)
    activations = {
        "activations": wide * tokens * config.hidden_size * layers,
        "logits": BYTES_PER_LOGIT * tokens * config.vocab_size,
    }
    return Plan(weights | activations | {"runtime": RUNTIME}, available_memory())
