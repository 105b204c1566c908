"""Models in memory: the base in any precision, an adapter on top, their sizes."""

from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from helpers.core import (
    RECORD,
    CourseError,
    attention_implementation,
    available_memory,
    compute_dtype,
    device_name,
    half_precision,
    hash_file,
    read_json,
    relative_path,
)
from helpers.models.chat_template import end_id
from helpers.models.configs import first_line, read_config
from helpers.models.download import MANIFEST

ADAPTER = "adapter_model.safetensors"

logging.disable_progress_bar()
logging.set_verbosity_error()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, padding on the left as generation needs it, with tokens to end and to pad with.

    Raises CourseError if it has no chat template, or one that cannot be followed.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(
            f"the tokenizer in {relative_path(folder)} does not load: {first_line(error)}",
            "run stage 1 again (make pipeline STAGES=1 FORCE=1), or choose another MODEL_NAME",
        ) from error
    if tokenizer.chat_template is None:
        raise CourseError(
            f"the tokenizer in {relative_path(folder)} has no chat template, so it was not made to answer questions",
            "choose an instruct or chat model as MODEL_NAME",
            "no-usable-chat-template",
        )
    if tokenizer.eos_token is None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end_id(tokenizer))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    folder: Path, precision: str = "auto", attention: str = "auto", dtype: str = "auto"
) -> PreTrainedModel:
    """The model in `folder`, ready to answer.

    `precision` is that of the weights: float32, bfloat16, float16, auto (what the hardware does best) or nf4,
    4-bit weights (Dettmers et al. 2023, "QLoRA"). `dtype` is that of the products if it is another one: nf4 needs
    one to compute in, and float32 weights are trained with products in 16 bits.

    Raises CourseError where the weights do not load, `attention` is not to be had, or bitsandbytes cannot work.
    """
    options = {"use_safetensors": True, "trust_remote_code": False, "device_map": device_name()}
    stored = dtype if precision == "nf4" else precision
    options["dtype"] = getattr(torch, compute_dtype(stored))
    products = compute_dtype(stored if dtype == "auto" else dtype)
    implementation = attention_implementation(attention, products)
    if implementation != "sdpa":  # transformers takes sdpa wherever the model can do it, else eager
        options["attn_implementation"] = implementation
    if precision == "nf4":
        require_four_bit()
        options["quantization_config"] = nf4_config(options["dtype"])
    try:
        model, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        if "attn_implementation" in options and "attn_implementation" in str(error):
            raise CourseError(
                f"ATTENTION={attention}: {read_config(folder).model_type} models do not support it",
                "set ATTENTION=auto",
                "attention-is-refused",
            ) from error
        raise CourseError(
            f"the model in {relative_path(folder)} does not load: {first_line(error)}",
            "run stage 1 again (make pipeline STAGES=1 FORCE=1), or choose another MODEL_NAME",
            "a-file-differs-from-its-hash",
        ) from error
    if lacking := sorted(found["missing_keys"]):  # transformers would go on with random ones
        raise CourseError(
            f"the model in {relative_path(folder)} lacks weights: {', '.join(lacking[:3])}",
            "run stage 1 again (make pipeline STAGES=1 FORCE=1), or choose another MODEL_NAME",
            "a-file-differs-from-its-hash",
        )
    if precision == "nf4":
        keep_differentiable(model)
    return model.eval()


def keep_differentiable(model: PreTrainedModel) -> None:
    """Stop bitsandbytes from repacking 4-bit weights on a CPU with AVX512-BF16.

    In evaluation it repacks them for a faster product that has no gradient and rounds the scales to bfloat16,
    and it does not pack back: a training that goes on after a look at the held-out loss would learn nothing
    below the last layer (bitsandbytes 0.50.2, nn/modules.py, Linear4bit.forward).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def dequantise(model: PreTrainedModel) -> PreTrainedModel:
    """The same 4-bit model with its weights spelled out in 16 bits, so that a CPU need not do it per token.

    Every weight keeps the value that NF4 gave it. On a GPU the packed model is returned as it is.
    """
    return model.dequantize().eval() if device_name() == "cpu" else model


def nf4_config(dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with double quantisation: 4 bits a weight and about an eighth of a bit for the scales."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def require_four_bit() -> None:
    """Quantise one small tensor and back: the surest way to know that bitsandbytes works here.

    Raises CourseError if it does not.
    """
    try:
        import bitsandbytes.functional as bnb

        weights = torch.linspace(-1, 1, 64 * 64).reshape(64, 64).to(device_name())
        packed, state = bnb.quantize_4bit(weights, quant_type="nf4")
        close = (bnb.dequantize_4bit(packed, state) - weights).abs().max() < 0.2
    except Exception as error:  # a missing native library fails in many ways, all with one remedy
        raise CourseError(
            f"bitsandbytes cannot quantise on this machine ({type(error).__name__}: {str(error)[:120]})",
            "install bitsandbytes 0.50 or newer (its CPU build needs x86-64 with AVX2), or use a CUDA GPU",
            "bitsandbytes-does-not-work",
        ) from error
    if not close:
        raise CourseError(
            "bitsandbytes returns wrong numbers on this machine",
            "install another version of it",
            "bitsandbytes-does-not-work",
        )


def load_adapter(base: PreTrainedModel | PeftModel, folder: Path, name: str = "default") -> PeftModel:
    """`base` with the adapter in `folder` on top and switched on, ready to answer; it may have others already.

    Raises CourseError if a file of it is not the one that was saved, if it was trained on another model, or if
    it changes nothing, which means that it was not trained or not loaded.
    """
    record, again = read_json(folder / RECORD), "run stage 4 again (make pipeline STAGES=4 FORCE=4)"
    whole = {file: (folder / file).exists() and hash_file(folder / file) for file in record["files"]}
    if ADAPTER not in record["files"]:  # peft would look for a pickle instead
        raise CourseError(f"{relative_path(folder)} has no {ADAPTER}; other weights are not loaded", again)
    if damaged := sorted(file for file, sha in record["files"].items() if whole[file] != sha):
        raise CourseError(
            f"{relative_path(folder)}: {damaged[0]} is missing or not the file that was saved",
            again,
            "the-adapter-is-not-the-saved-one",
        )
    manifest = Path(base.config.name_or_path) / MANIFEST
    below = read_json(manifest) if manifest.exists() else record["base"]
    if any(record["base"][part] != below[part] for part in ("id", "revision")):
        trained, given = (f"{b['id']} ({b['revision'][:12]})" for b in (record["base"], below))
        raise CourseError(
            f"the adapter in {relative_path(folder)} was trained on {trained}, not on {given}",
            again,
            "the-adapter-is-not-the-saved-one",
        )
    if isinstance(base, PeftModel):
        model = base
        model.load_adapter(folder, adapter_name=name)
    else:
        model = PeftModel.from_pretrained(base, folder, adapter_name=name)
    model.set_adapter(name)
    if not any(w.abs().max() > 0 for key, w in model.named_parameters() if "lora_B" in key and f".{name}." in key):
        raise CourseError(
            f"the adapter in {relative_path(folder)} is all zeros", again, "the-adapter-is-not-the-saved-one"
        )
    return model.requires_grad_(False).eval()


def load_outline(folder: Path) -> PreTrainedModel:
    """The model in `folder` without its weights, from its configuration alone: to count and to ask."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(read_config(folder), trust_remote_code=False)


def count_bytes(model: torch.nn.Module) -> int:
    """Bytes that the model's weights and buffers take in memory; shared ones counted once."""
    tensors = {t.data_ptr(): t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()]}
    return sum(tensors.values())


def measure_footprints(folder: Path) -> dict[str, float]:
    """{precision: megabytes of the weights}: measured, or for what this machine could not hold, counted."""
    weights, sizes = sum(w.numel() for w in load_outline(folder).parameters()), {}
    for name, width in (("float32", 4), (half_precision(), 2), ("nf4", 0.6)):
        if width * weights > 0.5 * available_memory():
            sizes[f"{name} (counted)"] = width * weights / 1e6
        else:
            sizes[name] = count_bytes(load_model(folder, name)) / 1e6
    return sizes


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """(trainable, all) weights; a packed 4-bit byte counts as the two weights it holds."""
    trainable = total = 0
    for weights in model.parameters():
        n = weights.numel() * (2 if weights.__class__.__name__ == "Params4bit" else 1)
        total += n
        trainable += n if weights.requires_grad else 0
    return trainable, total


def nf4_example(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """One real weight matrix of the model in `folder`, as stored and after NF4 and back; both float32, flat.

    It is the first layer's query matrix, or the first matrix there is.
    """
    import bitsandbytes.functional as bnb
    from safetensors import safe_open

    with safe_open(sorted(folder.glob("*.safetensors"))[0], "pt") as file:
        matrices = [name for name in file.keys() if name.endswith("proj.weight")]  # noqa: SIM118
        name = next((name for name in matrices if "layers.0." in name and "q_proj" in name), matrices[0])
        original = file.get_tensor(name).float()
    packed, state = bnb.quantize_4bit(original.to(device_name()), quant_type="nf4", compress_statistics=True)
    return original.flatten(), bnb.dequantize_4bit(packed, state).cpu().flatten()
