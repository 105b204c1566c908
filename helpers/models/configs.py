"""Public models by their shape: enough to plan a training before anything is downloaded."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from helpers.core import CourseError, base_model_folder, relative_path
from helpers.models.download import EMBEDDED, explain_hub_failures, secret_value

QWEN2_5 = {"model_type": "qwen2", "vocab_size": 151936, "num_hidden_layers": 28, "num_key_value_heads": 4}
QWEN3 = {"model_type": "qwen3", "vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128}
SMOLLM2 = {"model_type": "llama", "vocab_size": 49152, "tie_word_embeddings": True, "dtype": "bfloat16"}

# The shapes that each repository's config.json is quoted with. The number of weights that follows from each is
# compared in a test with the one its model card gives.
SHAPES = {
    EMBEDDED: SMOLLM2
    | {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    | {"num_attention_heads": 9, "num_key_value_heads": 3, "dtype": "float32"},
    "HuggingFaceTB/SmolLM2-360M-Instruct": SMOLLM2
    | {"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32}
    | {"num_attention_heads": 15, "num_key_value_heads": 5},
    "Qwen/Qwen2.5-1.5B-Instruct": QWEN2_5
    | {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2}
    | {"tie_word_embeddings": True},
    "Qwen/Qwen2.5-7B-Instruct": QWEN2_5
    | {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "vocab_size": 152064}
    | {"tie_word_embeddings": False},
    "meta-llama/Llama-3.1-8B-Instruct": {"model_type": "llama", "vocab_size": 128256, "tie_word_embeddings": False}
    | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    | {"num_attention_heads": 32, "num_key_value_heads": 8},
    "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B": QWEN3
    | {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32}
    | {"tie_word_embeddings": False},
    "Qwen/Qwen3-14B": QWEN3
    | {"hidden_size": 5120, "intermediate_size": 17408, "num_hidden_layers": 40, "num_attention_heads": 40}
    | {"tie_word_embeddings": False},
}


@dataclass(frozen=True)
class Counted:
    """Weights of a model: all of them, those of its output matrix, and (name, inputs, outputs) of every other."""

    total: int
    output: int
    matrices: tuple[tuple[str, int, int], ...]

    @property
    def inner(self) -> int:
        """Weights in the matrices of the layers: those that NF4 packs."""
        return sum(inputs * outputs for _, inputs, outputs in self.matrices)

    @property
    def largest(self) -> int:
        return max(inputs * outputs for _, inputs, outputs in self.matrices)

    def adapter(self, rank: int, targets: str = "all-linear") -> int:
        """Weights of an adapter of this rank on the `targets`, names separated by commas."""
        named = {name.strip() for name in targets.split(",")}
        chosen = [m for m in self.matrices if targets == "all-linear" or m[0].split(".")[-1] in named]
        return sum(rank * (inputs + outputs) for _, inputs, outputs in chosen)


def count_weights(config: PretrainedConfig) -> Counted:
    """The weights of a model of this configuration, from its own code on the meta device."""
    return counted_weights(text_config(config))


@cache
def counted_weights(text: str) -> Counted:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_from_text(text), trust_remote_code=False)
    linear = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    output = sum(m.weight.numel() for m in linear.values() if m is model.get_output_embeddings())
    inner = [(n, m.in_features, m.out_features) for n, m in linear.items() if m is not model.get_output_embeddings()]
    return Counted(sum(weights.numel() for weights in model.parameters()), output, tuple(inner))


def text_config(config: PretrainedConfig) -> str:
    """A configuration as JSON, which can be a key."""
    return json.dumps(config.to_dict(), sort_keys=True, default=str)


def config_from_text(text: str, layers: int | None = None) -> PretrainedConfig:
    """A configuration back from JSON; with fewer `layers` if that is said."""
    values = json.loads(text)
    if layers is not None:
        values["num_hidden_layers"] = layers
        if values.get("layer_types"):
            values["layer_types"] = values["layer_types"][:layers]
    return AutoConfig.for_model(**values)


def width_stored(config: PretrainedConfig) -> int:
    """Bytes a weight in the published files; 2 where the configuration does not say."""
    return 4 if "float32" in str(config.dtype) else 2


def known_config(name: str) -> PretrainedConfig:
    """The configuration of a model in SHAPES; published in bfloat16 unless its shape says otherwise."""
    return AutoConfig.for_model(**{"dtype": "bfloat16"} | SHAPES[name])


def config_of_settings(settings: SimpleNamespace) -> PretrainedConfig:
    """The configuration of MODEL_NAME: from its folder, from SHAPES, or config.json alone from the Hub.

    Raises CourseError where the Hub is asked and has no such model or cannot be reached.
    """
    folder = base_model_folder(settings.MODEL_NAME)
    if (folder / "config.json").exists():
        return read_config(folder)
    if settings.MODEL_NAME in SHAPES:
        return known_config(settings.MODEL_NAME)
    from huggingface_hub import hf_hub_download

    access = {"endpoint": settings.HF_ENDPOINT, "token": secret_value(settings.HF_TOKEN)}
    with explain_hub_failures(settings):
        file = hf_hub_download(settings.MODEL_NAME, "config.json", revision=settings.MODEL_REVISION, **access)
    return read_config(Path(file).parent)


def read_config(folder: Path) -> PretrainedConfig:
    """The configuration in `folder`. Code that comes with a model is never run, and never asked about.

    Raises CourseError where it cannot be read without.
    """
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(
            f"config.json in {relative_path(folder)} cannot be read: {first_line(error)}",
            "choose a MODEL_NAME whose architecture transformers has itself: code of a model's own is not run here",
        ) from error


def first_line(error: Exception) -> str:
    """What a library says first of its error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
