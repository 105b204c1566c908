"""What is chosen for this machine and this model, why, and which setting overrides it: rows for one table."""

from types import SimpleNamespace

import psutil
from transformers import PreTrainedModel

from helpers.core import (
    CourseError,
    attention_implementation,
    base_model_folder,
    compute_dtype,
    cpu_precisions,
    describe_capability,
    explain_missing_flash,
    gpu_memory,
    half_precision,
    is_slower_than_float32,
)
from helpers.models import load_outline, require_four_bit
from helpers.training.attention import training_attention

WORDS = {
    "flash_attention_2": "compute capability 8.0 or later, 16 bits, and flash-attn is installed",
    "sdpa": "torch's own fused kernel",
    "eager": "this kind of model caps its scores, or has no fused kernel",
    "row_by_row": "faster on a CPU than torch's fused kernel, forward and backward",
}


def device_report(settings: SimpleNamespace) -> list[dict[str, str]]:
    """[{"what", "chosen", "why", "override"}] for MODEL_NAME, DTYPE and ATTENTION of `settings`, on this machine.

    The base model has to be on disk. Raises CourseError for a DTYPE or ATTENTION that this machine does not have.
    """
    dtype = compute_dtype(settings.DTYPE)
    outline = load_outline(base_model_folder(settings.MODEL_NAME))
    chosen = [device_row(), precision_row(settings.DTYPE, dtype), *attention_row(settings.ATTENTION, dtype, outline)]
    chosen += [four_bit_row(dtype), optimizer_row(sum(weights.numel() for weights in outline.parameters()))]
    return [dict(zip(("what", "chosen", "why", "override"), row, strict=True)) for row in chosen]


def device_row() -> tuple[str, ...]:
    if memory := gpu_memory():
        found = f"{memory / 2**30:.0f} GiB, compute capability {describe_capability()}"
        return "device", "GPU", found, "an empty CUDA_VISIBLE_DEVICES hides it"
    return "device", "CPU", f"no CUDA GPU; {psutil.cpu_count()} cores", "run it on a machine with a GPU"


def precision_row(wanted: str, dtype: str) -> tuple[str, ...]:
    """GPU: by its compute capability. CPU: by the clock; a slow wish is granted and called slow."""
    if gpu_memory():
        kind = "this GPU's 16-bit format" if dtype == half_precision() else "asked for"
        return "precision", dtype, f"{kind}; bfloat16 begins at compute capability 8.0", "DTYPE"
    seconds = cpu_precisions()
    why = " and ".join(f"{1000 * s:.1f} ms in {name}" for name, s in seconds.items())
    times = is_slower_than_float32(dtype)
    slow = f"slow: {times:.0f} times as long as in float32; " if times > 1.5 else ""
    asked = "" if wanted == "auto" else "asked for; "
    return "precision", dtype, f"{asked}{slow}a product takes {why}", "DTYPE"


def attention_row(wanted: str, dtype: str, outline: PreTrainedModel) -> list[tuple[str, ...]]:
    """The implementation that answers, and the one that is trained with."""
    able = outline.config._attn_implementation  # what transformers takes for this model: sdpa if it can, else eager
    lacking = f" (no flash attention: {reason})" if (reason := explain_missing_flash(dtype)) else ""
    rows = []
    for what, name in (
        ("attention, answering", attention_implementation(wanted, dtype)),
        ("attention, training", training_attention(wanted, dtype)),
    ):
        taken = able if name == "sdpa" else name
        why = "asked for" if taken == wanted else WORDS[taken] + (lacking if taken == "sdpa" else "")
        rows.append((what, taken, why, "ATTENTION"))
    return rows


def four_bit_row(dtype: str) -> tuple[str, ...]:
    """How 4-bit weights are kept, or why there are none."""
    try:
        require_four_bit()
    except CourseError as error:
        return "QLoRA's base", "not to be had", error.problem, error.way_out
    if gpu_memory():
        return (
            "QLoRA's base",
            f"NF4, products in {dtype}",
            "unpacked by the GPU as it computes",
            "notebook 6: 32 bits",
        )
    return (
        "QLoRA's base",
        f"NF4 values, kept in {dtype}",
        "a CPU takes longer to unpack a matrix than to multiply with it, so each is unpacked once",
        "notebook 6: 32 bits",
    )


def optimizer_row(weights: int) -> tuple[str, ...]:
    """The same for every model and machine; its memory decides whether all weights can be trained."""
    why = f"moments in float32: 16 bytes a trained weight in all, {16 * weights / 2**30:.1f} GiB for all of them"
    return "optimizer", "AdamW, fused", why, "none needed"
