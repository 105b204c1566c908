"""Machines to plan for: this one, and the GPUs that people rent."""

from dataclasses import dataclass

from helpers.hardware import gpu_memory, half_precision

GIB = 2**30


@dataclass(frozen=True)
class Card:
    """A GPU: bytes of memory, its 16-bit precision, and its dense peak there (data sheet, FLOP/s).

    Memory 0 is this machine's CPU.
    """

    name: str
    memory: float
    dtype: str
    peak: float = 0.0


# Memory as the driver shows it. Peaks: NVIDIA's data sheets, 16-bit tensor cores without sparsity.
T4 = Card("T4, 16 GB", 15.0 * GIB, "float16", 65e12)
L4 = Card("L4, 24 GB", 22.5 * GIB, "bfloat16", 121e12)
A100 = Card("A100, 80 GB", 80.0 * GIB, "bfloat16", 312e12)
CARDS = (T4, L4, A100)


def this_card() -> Card:
    """The first GPU of this machine, with the peak of the listed card that is nearest in memory; or its CPU."""
    memory = gpu_memory()
    if not memory:
        return Card("CPU", 0.0, "float32")
    alike = min(CARDS, key=lambda card: abs(card.memory - memory))
    return Card("GPU", memory, half_precision(), alike.peak)
