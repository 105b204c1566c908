"""Only models that can read packed rows are trained on them."""

from types import SimpleNamespace

import pytest
import torch
from support import tiny
from transformers import Lfm2Config, Lfm2ForCausalLM, StableLmConfig, StableLmForCausalLM

from helpers.core import stage_of
from helpers.core.errors import CourseError
from helpers.models import load
from helpers.training import attention
from helpers.training import model as trainable

SHAPE = {
    "vocab_size": 260,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def made(kind, config):
    torch.manual_seed(0)
    return kind(config).eval()


def test_a_model_with_attention_only_reads_packed_rows(tmp_path):
    model = load.load_model(tiny.write_model(tmp_path), "float32")
    assert trainable.require_packed(model, "auto", "float32") is model
    assert model.config._attn_implementation == attention.ROW_BY_ROW


def test_a_model_that_lacks_the_fastest_attention_gets_another(tmp_path):
    model = trainable.require_packed(made(StableLmForCausalLM, StableLmConfig(**SHAPE)), "auto", "float32")
    assert model.config._attn_implementation in ("sdpa", "eager") and trainable.keeps_rows_apart(model)


def test_a_model_whose_rows_see_each_other_is_refused_by_name():
    """Convolutions run over the border between two rows."""
    kinds = ["conv", "full_attention"] * 2
    model = made(Lfm2ForCausalLM, Lfm2Config(**SHAPE, layer_types=kinds, conv_L_cache=3))
    with pytest.raises(CourseError, match="rows in one batch see each other in models of the kind lfm2"):
        trainable.require_packed(model, "auto", "float32")


def test_an_attention_that_is_asked_for_is_the_only_one_tried(tmp_path):
    model = load.load_model(tiny.write_model(tmp_path), "float32")
    kept = trainable.require_packed(model, "eager", "float32")
    assert kept.config._attn_implementation == "eager"


def test_the_adapter_is_the_one_that_notebook_four_spells_out():
    """Started by accelerate, training must end in what the notebook finds done."""
    import nbformat

    cells = nbformat.read(stage_of(4).notebook, 4).cells
    source = next(cell.source for cell in cells if "config = LoraConfig(" in cell.source)
    knobs = tiny.resolve(LORA_R=5, LORA_ALPHA=7, LORA_DROPOUT=0.25, LORA_TARGET_MODULES="q_proj, v_proj")
    names = {"stage": SimpleNamespace(settings=knobs), "parse_target_modules": trainable.parse_target_modules}
    exec(source.partition("base = ")[0], names)
    assert names["config"].to_dict() == trainable.adapter_config(knobs).to_dict()
