"""How long the sweeps are: small in `make test`, at their full numbers in `make test-full` (SWEEP=full)."""

import os


def times(small: int, full: int) -> int:
    """How often a sweep repeats: `small`, or `full` where SWEEP=full, or the number that SWEEP gives."""
    wanted = os.environ.get("SWEEP", "")
    return full if wanted == "full" else int(wanted or small)
