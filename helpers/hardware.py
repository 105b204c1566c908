"""What this machine can do: which profile, which precision, how much memory."""

import ctypes
import platform
import resource
import time
from functools import cache
from pathlib import Path

import psutil

from helpers.errors import CourseError
from helpers.files import read_json, write_json
from helpers.paths import RAW

MEASURED = RAW / "cpu.json"


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


def device() -> str:
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


@cache
def cpu_precisions() -> dict[str, float]:
    """{dtype name: median seconds of one product}, about half a second of work, measured once on a machine.

    Every later process reads what the first one measured, so that all stages compute alike. bfloat16 is several
    times faster than float32 on a CPU with AVX512-BF16 or AMX, and slower without.
    """
    machine = [platform.node(), platform.machine(), platform.processor(), psutil.cpu_count()]
    try:
        known = read_json(MEASURED)
    except CourseError:
        known = {}
    if known.get("machine") != machine:
        known = {"machine": machine, "seconds": {name: matmul_seconds(name) for name in ("float32", "bfloat16")}}
        write_json(MEASURED, known)
    return known["seconds"]


def compute_dtype(wanted: str = "auto") -> str:
    """The precision of the arithmetic: `wanted`, or what the hardware does best.

    GPU: bfloat16 from compute capability 8.0 on, float16 before it (torch.cuda.is_bf16_supported also
    counts emulation, so the capability is asked). CPU: whichever measured faster.
    """
    if wanted != "auto":
        return wanted
    if gpu_memory():
        import torch

        return "bfloat16" if torch.cuda.get_device_capability(0)[0] >= 8 else "float16"
    seconds = cpu_precisions()
    return min(seconds, key=seconds.get)


def available_memory() -> int:
    """Bytes a training may use: the GPU's, or what this machine has free now."""
    return gpu_memory() or psutil.virtual_memory().available


def give_back_memory() -> None:
    """Return freed memory to the system where the C library can (glibc): rows of many lengths leave many gaps."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def memory_peak() -> int:
    """Most bytes this process has held so far (GPU: allocated)."""
    if gpu_memory():
        import torch

        return torch.cuda.max_memory_allocated()
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes if psutil.MACOS else kibibytes * 1024
