"""How well two graders agree on which criteria answers meet."""

from collections import Counter
from collections.abc import Iterable


def measure_agreement(pairs: Iterable[tuple[bool, bool]]) -> dict[str, float | int | None]:
    """{"kappa", "f1_met", "f1_unmet", "pairs"} of two graders' verdicts on the same (answer, criterion) pairs.

    kappa = (observed − expected) / (1 − expected), expected from each grader's own share of "met" (Cohen 1960,
    Educ Psychol Meas 20:37-46): 1 for equal verdicts, 0 for what chance gives, None where either only leaves chance.
    f1 = 2 · both / (one's + the other's) for a class, which is symmetric; None where neither grader uses the class.
    """
    counts = Counter((bool(a), bool(b)) for a, b in pairs)
    n, both, neither = counts.total(), counts[True, True], counts[False, False]
    first, second = both + counts[True, False], both + counts[False, True]
    by_chance = first * second + (n - first) * (n - second)  # times n²
    return {
        "kappa": (n * (both + neither) - by_chance) / (n * n - by_chance) if by_chance < n * n else None,
        "f1_met": 2 * both / (first + second) if first + second else None,
        "f1_unmet": 2 * neither / (2 * n - first - second) if first + second < 2 * n else None,
        "pairs": n,
    }
