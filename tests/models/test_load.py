"""Models in memory: four bits are four bits, an adapter can learn on them, and what cannot work says so."""

import re
import shutil

import bitsandbytes.functional as bnb
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from support import tiny

from helpers.core import io
from helpers.core.errors import CourseError
from helpers.models import chat_template, load
from helpers.training import model as trainable


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def packed(folder):
    return load.load_model(folder, "nf4", dtype="bfloat16")


@pytest.fixture
def prompt():
    return torch.tensor([chat_template.prompt_ids(tiny.byte_tokenizer(), "Is TNF-α raised in lupus?")])


def quantised(model):
    return {n: m for n, m in model.named_modules() if type(m).__name__ == "Linear4bit"}


def test_nf4_takes_half_a_byte_a_weight(folder, packed):
    whole = load.load_model(folder, "float32")
    layers = quantised(packed)
    assert len(layers) == 2 * 7, "every matrix of both layers"
    for name, layer in layers.items():
        assert layer.weight.dtype == torch.uint8
        assert layer.weight.numel() * 2 == whole.get_submodule(name).weight.numel()
    inside = sum(whole.get_submodule(name).weight.numel() for name in layers)
    outside = load.count_parameters(whole)[1] - inside
    assert load.count_bytes(packed) == pytest.approx(inside / 2 + outside * 2, rel=0.01)
    assert load.count_bytes(whole) == pytest.approx((inside + outside) * 4, rel=0.01)
    assert load.count_parameters(packed)[1] == load.count_parameters(whole)[1]


def test_unpacked_weights_are_those_of_nf4(packed):
    meant = {n: bnb.dequantize_4bit(m.weight.data, m.weight.quant_state) for n, m in quantised(packed).items()}
    unpacked = load.dequantise(packed)
    assert not quantised(unpacked)
    for name, values in meant.items():
        assert torch.equal(unpacked.get_submodule(name).weight, values.to(torch.bfloat16)), name
        assert len(values.flatten()[:64].unique()) <= 16, "one block of NF4 has sixteen values"


@pytest.mark.slow
@pytest.mark.parametrize(("which", "dtype"), [("embedded", "bfloat16"), ("tiny", "float32")])
def test_the_unpacked_model_says_bit_for_bit_what_the_packed_one_says(folder, which, dtype):
    rows = [
        "Is TNF-α raised in lupus?",
        "What is the role of B cells?",
        "Name three signs of Sjögren's disease. " * 6,
    ]
    tokenizer = load.load_tokenizer(tiny.embedded() if which == "embedded" else folder)
    model = load.load_model(tiny.embedded() if which == "embedded" else folder, "nf4", dtype=dtype)
    ids = [torch.tensor([chat_template.prompt_ids(tokenizer, row)]) for row in rows]
    with torch.no_grad():
        packed = [model(row).logits for row in ids]
        unpacked = load.dequantise(model)
        assert not quantised(unpacked) and {w.dtype for w in unpacked.parameters()} == {getattr(torch, dtype)}
        assert [torch.equal(unpacked(row).logits, said) for row, said in zip(ids, packed, strict=True)] == [True] * 3


def test_footprints_are_measured_where_they_fit_and_counted_where_not(folder, monkeypatch):
    n = load.count_parameters(load.load_model(folder, "float32"))[1]
    measured = load.measure_footprints(folder)
    assert list(measured) == ["float32", "bfloat16", "nf4"]
    assert measured["float32"] == pytest.approx(4 * n / 1e6, rel=0.01)
    assert measured["nf4"] < measured["bfloat16"] < measured["float32"]
    monkeypatch.setattr(load, "available_memory", lambda: 6 * n)
    counted = load.measure_footprints(folder)
    assert counted["float32 (counted)"] == pytest.approx(4 * n / 1e6) and counted["bfloat16"] == measured["bfloat16"]
    monkeypatch.setattr(load, "available_memory", lambda: 2 * n)
    monkeypatch.setattr(load, "half_precision", lambda: "float16")  # as on a T4
    assert list(load.measure_footprints(folder)) == ["float32 (counted)", "float16 (counted)", "nf4"]


def test_an_example_of_nf4_is_the_first_query_matrix(folder):
    original, rounded = load.nf4_example(folder)
    first = load.load_model(folder, "float32").model.layers[0].self_attn.q_proj.weight.flatten()
    assert torch.equal(original, first) and 0 < (original - rounded).abs().mean() < 0.2 * original.abs().mean()


def test_an_adapter_still_learns_after_a_look_at_the_held_out_loss(packed, prompt):
    """bitsandbytes 0.50.2 packs weights anew in evaluation, and what it packs has no gradient (CPU, AVX512-BF16)."""
    model = trainable.add_adapter(packed, LoraConfig(**tiny.LORA), seed=1)
    with torch.no_grad():
        model.eval()(prompt)
    model.train()(input_ids=prompt, labels=prompt).loss.backward()
    gradients = {n: w.grad for n, w in model.named_parameters() if "lora_B" in n}
    assert len(gradients) == 2 * 7
    assert [n for n, g in gradients.items() if g is None or not g.any()] == []


def test_an_adapter_is_float32_and_the_same_for_the_same_seed(folder):
    first, second, other = (
        {n: w for n, w in tiny.model_for("qlora", folder, seed=seed).named_parameters() if w.requires_grad}
        for seed in (1, 1, 2)
    )
    assert {w.dtype for w in first.values()} == {torch.float32} and all("lora_" in n for n in first)
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert not any(torch.equal(first[n], other[n]) for n in first if "lora_A" in n)


def test_layers_that_are_not_there_are_named_beside_those_that_are(folder):
    base = load.load_model(folder, "float32")
    config = LoraConfig(target_modules=trainable.parse_target_modules("q_proj, v_porj"))
    with pytest.raises(CourseError, match="LORA_TARGET_MODULES: the model has no layer v_porj") as error:
        trainable.add_adapter(base, config, seed=1)
    assert error.value.way_out == (
        "use all-linear, or some of down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    )
    good = LoraConfig(target_modules=trainable.parse_target_modules("q_proj, v_proj"))
    names = [n for n, w in trainable.add_adapter(base, good, seed=1).named_parameters() if w.requires_grad]
    assert len(names) == 2 * 2 * 2 and all(".q_proj." in n or ".v_proj." in n for n in names)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A folder with an adapter that was trained for a few updates on the tiny model."""
    place = tmp_path_factory.mktemp("trained")
    tiny.fit("qlora", folder, place, learning_rate=1e-2)
    return place / "out"


@pytest.fixture
def adapter(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "adapter")


def seal(adapter, **changes):
    """Write the hashes of the adapter's files, and these changes, into its record, as if it had been saved so."""
    record = io.read_json(adapter / "training.json")
    record["files"] = {name: io.hash_file(adapter / name) for name in record["files"]}
    io.write_json(adapter / "training.json", record | changes)


def test_a_trained_adapter_is_put_on_its_base(folder, adapter, prompt):
    base = load.load_model(folder, "float32")
    before = base(prompt).logits
    model = load.load_adapter(base, adapter)
    assert not model.training and not torch.allclose(model(prompt).logits, before, atol=1e-3)


def test_an_adapter_of_zeros_is_refused(folder, adapter):
    matrices = load_file(adapter / "adapter_model.safetensors")
    zeros = {name: torch.zeros_like(m) if "lora_B" in name else m for name, m in matrices.items()}
    save_file(zeros, adapter / "adapter_model.safetensors", {"format": "pt"})
    seal(adapter)
    with pytest.raises(CourseError, match="adapter is all zeros\n→ run stage 4 again"):
        load.load_adapter(load.load_model(folder, "float32"), adapter)
    one = next(name for name in zeros if "lora_B" in name)
    save_file(zeros | {one: zeros[one] + 1e-3}, adapter / "adapter_model.safetensors", {"format": "pt"})
    seal(adapter)
    load.load_adapter(load.load_model(folder, "float32"), adapter)


@pytest.mark.parametrize("damage", ["one bit", "cut", "gone", "another configuration"])
def test_an_adapter_that_is_not_the_one_saved_is_refused(folder, adapter, damage):
    name = "adapter_config.json" if damage == "another configuration" else "adapter_model.safetensors"
    content = bytearray((adapter / name).read_bytes())
    content[-5] ^= 1
    if damage == "another configuration":
        content = (adapter / name).read_bytes().replace(b'"lora_alpha": 8', b'"lora_alpha": 9')
    (adapter / name).write_bytes(content[:-100] if damage == "cut" else content)
    if damage == "gone":
        (adapter / name).unlink()
    problem = f"adapter: {name} is missing or not the file that was saved\n→ run stage 4 again"
    with pytest.raises(CourseError, match=re.escape(problem)):
        load.load_adapter(load.load_model(folder, "float32"), adapter)


def test_an_adapter_without_its_record_is_refused(folder, adapter):
    (adapter / "training.json").unlink()
    with pytest.raises(CourseError, match=r"training\.json does not exist"):
        load.load_adapter(load.load_model(folder, "float32"), adapter)


@pytest.mark.parametrize("part", ["id", "revision"])
def test_an_adapter_of_another_base_is_refused(folder, adapter, part):
    seal(adapter, base=tiny.BASE | {part: "1234567890123456"})
    with pytest.raises(CourseError, match=r"was trained on .*1234567.*, not on tester/tiny \(0{12}\)\n→ run stage 4"):
        load.load_adapter(load.load_model(folder, "float32"), adapter)


def test_a_model_without_a_chat_template_is_refused(folder, tmp_path):
    plain = shutil.copytree(folder, tmp_path / "plain", ignore=shutil.ignore_patterns("chat_template.jinja"))
    with pytest.raises(CourseError, match=r"plain has no chat template.*\n→ choose an instruct or chat model"):
        load.load_tokenizer(plain)


def test_a_tokenizer_pads_on_the_left_and_has_something_to_pad_with(folder):
    tokenizer = load.load_tokenizer(folder)
    assert tokenizer.padding_side == "left" and tokenizer.pad_token_id is not None


@pytest.mark.parametrize("damage", ["cut", "gone", "no config"])
def test_weights_that_do_not_load_are_named(folder, tmp_path, damage):
    broken = shutil.copytree(folder, tmp_path / "broken")
    weights = broken / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        (weights if damage == "gone" else broken / "config.json").unlink()
    with pytest.raises(CourseError, match=r"the model in .*broken does not load: .+\n→ run stage 1 again"):
        load.load_model(broken, "float32")


def test_bitsandbytes_that_cannot_work_here_says_what_would(folder, monkeypatch):
    def missing(*_, **__):
        raise RuntimeError("libbitsandbytes_cpu.so: cannot open shared object file")

    monkeypatch.setattr(bnb, "quantize_4bit", missing)
    with pytest.raises(CourseError, match=r"cannot quantise on this machine \(RuntimeError: lib.*\n→ install bits"):
        load.load_model(folder, "nf4")


def test_bitsandbytes_that_returns_wrong_numbers_is_refused(folder, monkeypatch):
    monkeypatch.setattr(bnb, "dequantize_4bit", lambda packed, state: torch.zeros(64, 64))
    with pytest.raises(CourseError, match="bitsandbytes returns wrong numbers"):
        load.load_model(folder, "nf4")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_arithmetic_on_four_bits_is_as_asked(folder, prompt, dtype):
    model = load.load_model(folder, "nf4", dtype=dtype)
    assert {m.compute_dtype for m in quantised(model).values()} == {getattr(torch, dtype)}
    assert model(prompt).logits.dtype == getattr(torch, dtype)
