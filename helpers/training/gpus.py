"""Machines to plan for: this one, and the GPUs that people rent."""

from dataclasses import dataclass

from helpers.core import gpu_memory, half_precision

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """A GPU: bytes of memory, its 16-bit precision, and its dense peak there (data sheet, FLOP/s).

    Memory 0 is this machine's CPU.
    """

    name: str
    memory: float
    dtype: str
    peak: float = 0.0


# Memory as the driver shows it. Peaks: NVIDIA's data sheets, 16-bit tensor cores without sparsity.
T4 = Gpu("T4, 16 GB", 15.0 * GIB, "float16", 65e12)
L4 = Gpu("L4, 24 GB", 22.5 * GIB, "bfloat16", 121e12)
A100 = Gpu("A100, 80 GB", 80.0 * GIB, "bfloat16", 312e12)
GPUS = (T4, L4, A100)


def this_gpu() -> Gpu:
    """The first GPU of this machine, with the peak of the listed card that is nearest in memory; or its CPU."""
    memory = gpu_memory()
    if not memory:
        return Gpu("CPU", 0.0, "float32")
    alike = min(GPUS, key=lambda card: abs(card.memory - memory))
    return Gpu("GPU", memory, half_precision(), alike.peak)
