"""The model that is trained: 4 bits frozen under an adapter, or every weight; and whether it can read packed rows."""

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from helpers.core import CourseError
from helpers.models import dequantise, load_model
from helpers.training.attention import training_attention
from helpers.training.batches import collate_packed

PACKED_BADLY = (TypeError, KeyError, AttributeError, ValueError, NotImplementedError)  # what such models raise


def load_frozen_base(base: Path, settings: SimpleNamespace, dtype: str) -> PreTrainedModel:
    """The base in 4 bits; on a CPU the same values, spelled out once instead of at every product."""
    model = dequantise(load_model(base, "nf4", settings.ATTENTION, dtype))
    return require_packed(model, settings.ATTENTION, dtype)


def load_every_weight(base: Path, settings: SimpleNamespace, dtype: str) -> PreTrainedModel:
    """The base in float32, every weight trainable, for products in `dtype`."""
    model = load_model(base, "float32", settings.ATTENTION, dtype).requires_grad_(True)
    return require_packed(model, settings.ATTENTION, dtype)


def require_packed(model: PreTrainedModel, wanted: str, dtype: str) -> PreTrainedModel:
    """`model` with an attention under which packed rows do not see each other; tried on two short rows.

    Raises CourseError if there is none: models with a recurrent state carry it from row to row.
    """
    first = training_attention(wanted, dtype)
    kinds = [first, "sdpa", "eager"] if wanted == "auto" else [first]
    for kind in kinds:
        try:
            model.set_attn_implementation(kind)
            apart = keeps_rows_apart(model)
        except PACKED_BADLY:
            apart = False
        if apart:
            return model
    raise CourseError(
        f"ATTENTION={wanted}: rows in one batch see each other in models of the kind {model.config.model_type}",
        "choose a model with attention only (of the Llama, Qwen, Gemma or Phi families, say) as MODEL_NAME",
        "attention-is-refused",
    )


@torch.no_grad()
def keeps_rows_apart(model: PreTrainedModel) -> bool:
    """Whether a row's logits are the same after another row as alone, up to rounding."""
    one, two = [5, 9, 7, 5, 8], [6, 5, 9, 9, 7, 6]
    alone, packed = packed_logits(model, [two])[0], packed_logits(model, [one, two])[0, len(one) :]
    rounding = 1e-3 if model.dtype == torch.float32 else 0.03
    return bool((packed - alone).abs().max() <= rounding * alone.abs().max())


def packed_logits(model: PreTrainedModel, rows: list[list[int]]) -> torch.Tensor:
    """(1, tokens, words) of these token ids as training packs them, in float32."""
    dataset = Dataset.from_list([{"input_ids": row, "answer_from": 1} for row in rows])
    packed = collate_packed(dataset, list(range(len(rows))), model.device)
    return model(**{name: part for name, part in packed.items() if name != "labels"}, use_cache=False).logits.float()


def adapter_config(settings: SimpleNamespace) -> LoraConfig:
    """The adapter that the settings describe, as notebook 4 spells it out."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.LORA_R,
        lora_alpha=settings.LORA_ALPHA,
        lora_dropout=settings.LORA_DROPOUT,
        target_modules=parse_target_modules(settings.LORA_TARGET_MODULES),
    )


def add_adapter(model: PreTrainedModel, config: LoraConfig, seed: int) -> PeftModel:
    """`model` frozen, with a new float32 adapter; the same seed starts from the same matrices.

    Raises CourseError that lists the model's layers if LORA_TARGET_MODULES names one that is not there.
    """
    layers = {n.split(".")[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)} - {"lm_head"}
    targets = set() if config.target_modules == "all-linear" else set(config.target_modules)
    if unknown := sorted(targets - layers):
        raise CourseError(
            f"LORA_TARGET_MODULES: the model has no layer {', '.join(unknown)}",
            f"use all-linear, or some of {', '.join(sorted(layers))}",
        )
    model.requires_grad_(False)
    torch.manual_seed(seed)
    return get_peft_model(model, deepcopy(config))  # peft writes the layers it finds into it


def parse_target_modules(setting: str) -> str | list[str]:
    """LORA_TARGET_MODULES as peft wants it."""
    return setting if setting == "all-linear" else [name.strip() for name in setting.split(",")]
