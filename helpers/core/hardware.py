"""What this machine can do: which profile, which precision, how much memory."""

import os
import platform
import resource
import time
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import psutil

from helpers.core.errors import CourseError
from helpers.core.io import read_json, write_cache
from helpers.core.paths import RAW

MEASURED = RAW / "cpu.json"
LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "OMP_NUM_THREADS",
)
HOPELESS = 4  # times slower than float32: a wish for such a precision is refused
FASTER = 0.9  # of float32's time: bfloat16 keeps 8 bits of each number, so it has to save something


@cache
def gpu_memory() -> int:
    """Bytes of memory of the first CUDA GPU; 0 without one. Does not import torch where no driver is."""
    if not (Path("/proc/driver/nvidia").exists() or Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists()):
        return 0
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0


def profile_for_this_machine() -> str:
    """cpu without a GPU; else the largest profile whose card this is at least (t4 16 GB, gpu24, gpu80)."""
    gibibytes = gpu_memory() / 2**30
    if gibibytes == 0:
        return "cpu"
    return "gpu80" if gibibytes >= 75 else "gpu24" if gibibytes >= 21 else "t4"


def device_name() -> str:
    """What torch calls the device that models run on here: "cuda" or "cpu"."""
    return "cuda" if gpu_memory() else "cpu"


def matmul_seconds(dtype_name: str, size: int = 768, budget: float = 0.2) -> float:
    """Median seconds of a `size`³ matrix product on the CPU in the named dtype, measured for `budget` s."""
    import torch

    a, b = torch.ones(2, size, size, dtype=getattr(torch, dtype_name)).unbind()
    seconds, start = [], time.perf_counter()
    while not seconds or time.perf_counter() - start < budget:
        before = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - before)
    return sorted(seconds)[len(seconds) // 2]


def describe_machine() -> dict[str, object]:
    """What the speed of this machine's products depends on, the limits that the environment sets among it."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(errors="replace").splitlines() if listed.exists() else []
    kind = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return {
        "name": platform.node(),
        "kind": [platform.machine(), platform.processor(), sha256("\n".join(kind).encode()).hexdigest()[:16]],
        "cores": psutil.cpu_count(),
        "torch": version("torch"),
        "limits": {name: os.environ[name] for name in LIMITS if os.environ.get(name)},
    }


@cache
def cpu_precisions(names: tuple[str, ...] = ("float32", "bfloat16")) -> dict[str, float]:
    """{dtype name: median seconds of one product}, about half a second of work, measured once on a machine.

    Every later process reads what the first one measured, so that all stages compute alike. bfloat16 is several
    times faster than float32 on a CPU with AVX512-BF16 or AMX, and many times slower without.
    """
    here, known = describe_machine(), read_measurements()
    seconds = next((entry["seconds"] for entry in known if entry["machine"] == here), {})
    if lacking := [name for name in names if name not in seconds]:
        seconds = seconds | {name: matmul_seconds(name) for name in lacking}
        others = [entry for entry in known if entry["machine"] != here]
        write_cache(MEASURED, {"machines": [*others, {"machine": here, "seconds": seconds}]})
    return {name: seconds[name] for name in names}


def read_measurements() -> list[dict]:
    """What is noted so far: [{"machine", "seconds"}], one for each machine that this folder has been on."""
    try:
        return list(read_json(MEASURED)["machines"])
    except (CourseError, KeyError, TypeError):  # absent, cut off, or of another form: measure again
        return []


@cache
def gpu_capability() -> tuple[int, int]:
    """Compute capability of the first CUDA GPU, (7, 5) for a T4; (0, 0) without one."""
    if not gpu_memory():
        return (0, 0)
    import torch

    return torch.cuda.get_device_capability(0)


def half_precision() -> str:
    """The 16-bit precision of this machine: bfloat16, or float16 on a GPU before compute capability 8.0.

    torch.cuda.is_bf16_supported also counts emulation, so the capability is asked.
    """
    return "float16" if gpu_memory() and gpu_capability() < (8, 0) else "bfloat16"


def compute_dtype(wanted: str = "auto") -> str:
    """The precision of the arithmetic: `wanted`, or what the hardware does best.

    GPU: its 16-bit precision. CPU: whichever measured faster.

    Raises CourseError where the hardware lacks the one wanted, or is hopelessly slow in it.
    """
    if gpu_memory():
        if wanted == "bfloat16" and half_precision() != "bfloat16":
            raise CourseError(
                f"DTYPE=bfloat16: this GPU has compute capability {describe_capability()}, "
                "and bfloat16 begins at 8.0",
                "set DTYPE=auto (float16 here), float16 or float32",
                "a-precision-is-refused",
            )
        return half_precision() if wanted == "auto" else wanted
    if wanted == "float16" and (times := is_slower_than_float32("float16")) > HOPELESS:
        raise CourseError(
            f"DTYPE=float16: a product takes this CPU {times:.0f} times as long as in float32",
            f"set DTYPE=auto ({compute_dtype()} here), bfloat16 or float32",
            "a-precision-is-refused",
        )
    if wanted != "auto":
        return wanted
    return "bfloat16" if is_slower_than_float32("bfloat16") < FASTER else "float32"


def is_slower_than_float32(name: str) -> float:
    """How many times as long as in float32 a product takes this CPU in the named dtype."""
    names = ("float32", "bfloat16") if name in ("float32", "bfloat16") else ("float32", "bfloat16", name)
    seconds = cpu_precisions(names)
    return seconds[name] / seconds["float32"]


def describe_capability() -> str:
    """The first GPU's compute capability as NVIDIA writes it: "7.5" for a T4; "0.0" without one."""
    return ".".join(map(str, gpu_capability()))


def flash_installed() -> bool:
    return find_spec("flash_attn") is not None


def explain_missing_flash(dtype: str) -> str:
    """Why flash attention cannot run here in `dtype`; "" if it can."""
    if not gpu_memory():
        return "it needs a CUDA GPU, and there is none here"
    if gpu_capability() < (8, 0):
        return f"it needs compute capability 8.0, and this GPU has {describe_capability()}"
    if dtype not in ("bfloat16", "float16"):
        return f"it computes in 16 bits, and the precision here is {dtype}"
    return "" if flash_installed() else "the package flash-attn is not installed"


def attention_implementation(wanted: str, dtype: str) -> str:
    """The attention implementation for products in `dtype`, by transformers' name for it.

    `auto` is flash_attention_2 where that can run (Dao 2023), else torch's own fused kernel, sdpa.

    Raises CourseError if flash_attention_2 is wanted where it cannot run.
    """
    lacking = explain_missing_flash(dtype)
    if wanted == "auto":
        return "sdpa" if lacking else "flash_attention_2"
    if wanted == "flash_attention_2" and lacking:
        raise CourseError(
            f"ATTENTION=flash_attention_2: {lacking}", "set ATTENTION=auto, sdpa or eager", "attention-is-refused"
        )
    return wanted


def available_memory() -> int:
    """Bytes a training may use: the GPU's, or what this machine has free now."""
    return gpu_memory() or psutil.virtual_memory().available


def peak_memory() -> int:
    """Most bytes this process has held so far (GPU: allocated)."""
    if gpu_memory():
        import torch

        return torch.cuda.max_memory_allocated()
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes if psutil.MACOS else kibibytes * 1024
