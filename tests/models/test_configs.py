"""Other models than the default: each architecture learns, is saved, comes back and answers, tied head or not."""

from dataclasses import replace
from functools import cache
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
import transformers
from peft import LoraConfig
from support import tiny
from support.sweeps import times

from helpers.core.errors import CourseError
from helpers.models import chat_template, download, generate, load
from helpers.training import attention, batches, loop, step
from helpers.training import model as trainable

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
WINDOW = {"sliding_window": 8}  # shorter than every row
CONFIGS = {
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", WINDOW),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
    "gemma": ("GemmaConfig", {"head_dim": 16}),
    "gemma2": ("Gemma2Config", {"head_dim": 16, "query_pre_attn_scalar": 16, **WINDOW}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 16, "query_pre_attn_scalar": 16, **WINDOW}),
    "phi3": ("Phi3Config", {}),
    "phi": ("PhiConfig", {}),
}
EVERY = [(name, tied) for name in CONFIGS for tied in (True, False)]
TRAININGS = [(name, tied, method) for name, tied in EVERY for method in ("qlora", "full")]
HALF = [one for n, one in enumerate(TRAININGS) if n % 4 in (0, 3)]  # each architecture both ways, and both heads
RECIPE = replace(tiny.RECIPE, epochs=3, learning_rate=5e-3)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Makes the folder of a random model of an architecture, kept as base models are; each one once."""
    return cache(lambda name, tied: write(tmp_path_factory.mktemp("base"), name, tied))


@pytest.fixture(params=EVERY, ids=lambda one: f"{one[0]}-{'tied' if one[1] else 'untied'}")
def folder(request, bases):
    return bases(*request.param)


def write(folder, name, tied):
    tokenizer, (kind, more) = tiny.byte_tokenizer(), CONFIGS[name]
    shape = {**SHAPE, **more, "vocab_size": len(tokenizer), "tie_word_embeddings": tied}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    download.manifest_of(folder, **tiny.BASE)
    return folder


def to_train(method, folder):
    """What notebooks 4 and 6 train."""
    how = attention.training_attention("auto", "float32")
    if method == "full":
        return load.load_model(folder, "float32", how, "float32").requires_grad_(True)
    frozen = load.dequantise(load.load_model(folder, "nf4", how, "float32"))
    return trainable.add_adapter(frozen, LoraConfig(**tiny.LORA | {"lora_dropout": 0.0}), seed=1)


def again(method, folder, out):
    """What was saved, loaded as the next notebook does."""
    if method == "full":
        return load.load_model(out, "float32")
    return load.load_adapter(load.dequantise(load.load_model(folder, "nf4", dtype="float32")), out)


@pytest.mark.parametrize(("name", "tied", "method"), TRAININGS if times(1, 2) > 1 else HALF)
def test_it_learns_and_comes_back_and_answers(bases, tmp_path, name, tied, method):
    folder = bases(name, tied)
    tokenizer = load.load_tokenizer(folder)
    rows = batches.encode_rows(tiny.ROWS, tokenizer, RECIPE.max_length)
    chat_template.require_same_prefix(tokenizer, rows)
    model, recipe = to_train(method, folder), replace(RECIPE, method=method)
    before = {name: w.detach().clone() for name, w in model.named_parameters()}
    reading = loop.TrainData(rows, held_out=rows.select(range(3)))
    places = {"out": tmp_path / "out", "work": tmp_path / "work"}
    history = loop.train_model(model, reading, recipe, tokenizer, identity="test", base=tiny.BASE, **places)
    losses = [update["loss"] for update in history.updates]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])

    moved = {name for name, w in model.named_parameters() if not torch.equal(w, before[name])}
    learnt = {name for name, w in model.named_parameters() if w.requires_grad}
    biases = {name for name in learnt if name.endswith("k_proj.bias")}  # softmax does not see them
    assert moved <= learnt and learnt - biases <= moved
    assert all("lora_" in name for name in learnt) == (method == "qlora")

    back = again(method, folder, tmp_path / "out")
    loss = step.evaluate_loss(back, rows.select(range(3)), recipe)
    assert loss == pytest.approx(history.held_out[-1]["loss"], rel=1e-4)
    (answer,) = generate.generate_answers(back, tokenizer, ["What does study 1 conclude?"], max_new_tokens=4)
    assert 0 <= answer["tokens"] <= 4 and answer["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("implementation", ["row_by_row", "eager", "sdpa"])
def test_packed_rows_are_worth_what_they_are_one_at_a_time(folder, implementation):
    tokenizer = load.load_tokenizer(folder)
    rows = batches.encode_rows(tiny.ROWS, tokenizer, 256).select(range(5))
    model = load.load_model(folder, "float32", implementation)
    with torch.no_grad():
        together, n = step.answer_loss(model, batches.collate_packed(rows, [0, 1, 2, 3, 4], "cpu"))
        alone = [step.answer_loss(model, batches.collate_packed(rows, [number], "cpu")) for number in range(5)]
        plain = load.load_model(folder, "float32", "eager")
        bare = [loss_of(plain, rows[number]) for number in range(5)]
    assert n == sum(graded for _, graded in alone)
    assert together.item() == pytest.approx(sum(loss.item() for loss, _ in alone), rel=1e-4)
    assert together.item() == pytest.approx(sum(bare), rel=1e-4), "as the model itself, without any of our packing"


def loss_of(model, row):
    """Summed cross-entropy of a row's graded tokens from all logits of the model's plain forward pass."""
    ids = torch.tensor([row["input_ids"]])
    logits = model(ids).logits[0, row["answer_from"] - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, ids[0, row["answer_from"] :], reduction="sum").item()


def test_logits_of_chosen_places_are_those_of_all(folder):
    model = load.load_model(folder, "float32")
    ids = torch.tensor([chat_template.prompt_ids(load.load_tokenizer(folder), "Is TNF-α raised?")])
    places = torch.tensor([0, 3, ids.shape[1] - 1])
    with torch.no_grad():
        every, some = model(ids).logits, model(ids, logits_to_keep=places).logits
    assert some.shape[1] == 3 and torch.allclose(every[:, places], some, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("phi3", {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}),
        ("phi", {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"}),
        ("gemma3", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_all_linear_means_every_matrix_but_the_head_and_wrong_names_list_the_right_ones(tmp_path, name, layers):
    write(tmp_path, name, tied=False)
    adapted = {
        n.split(".lora_")[0].split(".")[-1] for n, _ in to_train("qlora", tmp_path).named_parameters() if "lora" in n
    }
    assert adapted == layers
    wrong = LoraConfig(target_modules=trainable.parse_target_modules("q_porj"))
    with pytest.raises(CourseError, match="LORA_TARGET_MODULES: the model has no layer q_porj") as error:
        trainable.add_adapter(load.load_model(tmp_path, "float32"), wrong, seed=1)
    assert error.value.way_out == f"use all-linear, or some of {', '.join(sorted(layers))}"


def test_a_model_that_caps_its_scores_does_without_the_fused_kernel(tmp_path, monkeypatch):
    """Gemma 2 would lose its soft cap in torch's fused kernel."""
    write(tmp_path, "gemma2", tied=True)
    device_report = import_module("helpers.training.device_report")  # its room's door has a function of that name
    monkeypatch.setattr(device_report, "base_model_folder", lambda name: tmp_path)
    for wanted in ("auto", "sdpa"):
        assert load.load_model(tmp_path, "float32", wanted).config._attn_implementation == "eager"
        rows = device_report.device_report(SimpleNamespace(MODEL_NAME="gemma2", DTYPE="float32", ATTENTION=wanted))
        (row,) = (row for row in rows if row["what"] == "attention, answering")
        assert row["chosen"] == "eager" and "caps its scores" in row["why"]
