"""Memory between two updates: kept by the process, so that the next one need not ask the system for it again."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
DEFAULT = 128 * 1024  # bytes, glibc's own for both
LARGE = 32 * 2**20  # the most that glibc would choose; larger blocks, logits say, leave holes that nobody fills


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Inside, freed memory stays with the process where the C library can do that (glibc).

    Otherwise blocks of a few megabytes go back to the system at once, and every page of the next one has to be
    fetched and zeroed: over 100,000 page faults a micro-batch. At the end what is free is returned.
    """
    libc = ctypes.CDLL(None)
    tune = getattr(libc, "mallopt", None)
    if tune is None:
        yield
        return
    tune(MMAP_THRESHOLD, LARGE)
    tune(TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        tune(MMAP_THRESHOLD, DEFAULT)
        tune(TRIM_THRESHOLD, DEFAULT)
        libc.malloc_trim(0)
