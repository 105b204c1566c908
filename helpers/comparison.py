"""Two models on the same items: how much they differ, how sure that is, and what could not have been seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import stats

from helpers.errors import CourseError

ALPHA = 0.05
POWER = 0.80
EXACT_UP_TO = 14  # 2¹⁴ sign patterns are still listed one by one
RANDOM_PATTERNS = 20_000

Verdict = Literal["better", "worse", "no measurable difference", "too few items to decide"]


@dataclass(frozen=True)
class Comparison:
    """`a` against `b`, a − b, in the unit of the scores. What n does not allow to compute is None."""

    name: str
    n: int
    higher_is_better: bool
    mean_difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    minimum_detectable_effect: float | None
    verdict: Verdict
    method: str
    items: str = "items"


def compare(
    a: Mapping[str, float] | Sequence[float],
    b: Mapping[str, float] | Sequence[float],
    *,
    name: str,
    higher_is_better: bool,
    seed: int,
    items: str = "items",
) -> Comparison:
    """Paired comparison of scores per item: mappings over the same items, or two sequences in the same order.

    Test: sign flips. If the models are alike, each difference may as well have the other sign; p is the share of
    sign patterns whose mean is as far from 0 as ours, all 2ⁿ of them up to n = 14, else 20,000 drawn with `seed`
    (Fisher 1935). It is exact for n = 10, where a bootstrap rejects a true null 9 to 10 % of the time.
    Interval: the differences that this test does not reject at 5 %. Verdict: whether it leaves out 0; below n = 6
    no result could (the smallest p is 2/2ⁿ), so the verdict is "too few items to decide".

    Raises CourseError if the items differ or a score is not a finite number.
    """
    differences = paired_differences(a, b, name)
    n = len(differences)
    patterns, method = sign_patterns(n, seed)
    means = subset_means(differences, patterns)
    low, high = interval(means)
    p_value = sign_flip_p(differences, means) if n else None
    if low is None:
        verdict: Verdict = "too few items to decide"
    elif low > 0 or high < 0:
        verdict = "better" if (low > 0) == higher_is_better else "worse"
    else:
        verdict = "no measurable difference"
    return Comparison(
        name=name,
        n=n,
        higher_is_better=higher_is_better,
        mean_difference=float(differences.mean()) if n else None,
        low=low,
        high=high,
        p_value=p_value,
        minimum_detectable_effect=minimum_detectable_effect(differences),
        verdict=verdict,
        method=method,
        items=items,
    )


def paired_differences(a: Mapping | Sequence, b: Mapping | Sequence, name: str) -> np.ndarray:
    """a − b, shape (n,); differences that are rounding noise are 0.

    Raises CourseError if the items differ or a score is not a finite number.
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if odd := sorted(map(str, set(a) ^ set(b))):
            raise CourseError(f"{name}: only one of the two models has {odd[0]}", "compare the same items")
        a, b = list(a.values()), [b[item] for item in a]
    if len(a) != len(b):
        raise CourseError(f"{name}: {len(a)} scores against {len(b)}", "compare the same items, in the same order")
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise CourseError(f"{name}: a score is not a finite number", "look at the items it was computed from")
    differences = a - b
    noise = 1e-12 * max(1.0, np.abs(a).max(initial=0), np.abs(b).max(initial=0))
    return np.where(np.abs(differences) < noise, 0.0, differences)


@lru_cache(maxsize=2)
def sign_patterns(n: int, seed: int) -> tuple[np.ndarray, str]:
    """Which differences are flipped: booleans of shape (patterns, n), the pattern that flips none left out; and
    how they were chosen. Random patterns come with their mirror images, so that the test has two equal sides."""
    if n <= EXACT_UP_TO:
        numbers = np.arange(1, 2**n)
        return (numbers[:, None] >> np.arange(n)) & 1 == 1, f"sign-flip test, all {2**n:,} patterns"
    half = np.random.default_rng(seed).random((RANDOM_PATTERNS // 2, n)) < 0.5
    return np.concatenate([half, ~half]), f"sign-flip test, {RANDOM_PATTERNS:,} random patterns, seed {seed}"


def subset_means(differences: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """For every pattern the mean of the differences that it flips, sorted; shape (patterns,).

    Flipping F brings the total to ours or above exactly if mean(F) ≤ 0, and after a shift by δ exactly if
    mean(F) ≤ δ: the test, and its inversion, need only these means (Hartigan 1969, JASA 64:1303, "typical values").
    """
    sizes = patterns.sum(axis=1)
    kept = sizes > 0
    sums = np.concatenate([part @ differences for part in np.array_split(patterns, 16)])  # 16: floats stay small
    means = np.sort(sums[kept] / sizes[kept])
    noise = 1e-12 * np.abs(differences).max(initial=0)
    return np.where(np.abs(means) < noise, 0.0, means)


def sign_flip_p(differences: np.ndarray, means: np.ndarray) -> float:
    """Two-sided p: twice the smaller share of patterns (ours included) on one side, at most 1."""
    patterns = len(means) + 1
    fewer = min((means <= 0).sum(), (means >= 0).sum())
    return min(1.0, 2 * (1 + int(fewer)) / patterns)


def interval(means: np.ndarray) -> tuple[float | None, float | None]:
    """The shifts that the two-sided test at 5 % does not reject: order statistics of the subset means; None where
    there are too few patterns for any end."""
    cut = int(ALPHA / 2 * (len(means) + 1))
    return (float(means[cut - 1]), float(means[-cut])) if cut else (None, None)


def minimum_detectable_effect(differences: np.ndarray) -> float | None:
    """The true mean difference that would be found with 80 % power at 5 %, if the spread is the one seen here:
    (t₀.₉₇₅ + t₀.₈) · sd / √n with n − 1 degrees of freedom (Miller 2024, arXiv 2411.00640, with t for z).

    None for fewer than two items or where all differences are the same.
    """
    n = len(differences)
    if n < 2 or np.ptp(differences) == 0:
        return None
    t = stats.t.ppf(1 - ALPHA / 2, n - 1) + stats.t.ppf(POWER, n - 1)
    return float(t * differences.std(ddof=1) / np.sqrt(n))


def headline(comparisons: Sequence[Comparison]) -> str:
    """One sentence, in the order of the comparisons, the one that matters most first."""
    if not comparisons:
        return "Nothing could be compared: no two models were tested on the same items."
    return "; ".join(clause(comparison) for comparison in comparisons) + "."


def clause(c: Comparison) -> str:
    """What one comparison says, with its numbers."""
    if c.verdict == "too few items to decide":
        return f"{c.name}: too few {c.items} to decide (n = {c.n})"
    if c.mean_difference == c.low == c.high == 0:
        return f"{c.name}: {c.verdict} (the same score on each of {c.n} {c.items})"
    numbers = (
        f"{signed(c.mean_difference)}, 95 % interval {signed(c.low)} to {signed(c.high)}, "
        f"p = {c.p_value:.2g}, n = {c.n} {c.items}"
    )
    if c.minimum_detectable_effect and c.verdict == "no measurable difference":
        numbers += f"; less than {c.minimum_detectable_effect:.2g} would probably go unseen"
    return f"{c.name}: {c.verdict} ({numbers})"


def signed(number: float) -> str:
    """Three decimals with a sign, a real minus, and no sign for 0."""
    return f"{number:+.3f}".replace("-", "−") if round(number, 3) else "0"
