"""Intervals around one model's figures: a rate of right answers, a mean of scores."""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats

from helpers.evaluation.statistics import ALPHA, clustered_error, number_labels


def wilson_interval(p: float, n: float) -> tuple[float, float]:
    """95 % interval of a rate `p` seen in `n` answers (Wilson 1927, JASA 22:209).

    scipy's `binomtest(k, n).proportion_ci(method="wilson")`, which takes whole numbers only, for an effective n.
    """
    z = stats.norm.ppf(1 - ALPHA / 2)
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    return 0.0 if p == 0 else max(0.0, float(middle - half)), 1.0 if p == 1 else min(1.0, float(middle + half))


def effective_n(right: np.ndarray, group: np.ndarray) -> float:
    """How many independent answers tell as much as these: 0 or 1, shape (n,), in the groups `group`, shape (n,).

    n over the design effect, the clustered variance over that of independent answers, which is taken to be at least
    1, times (t_{n−1} / t_{G−1})² for estimating it from G groups (Korn & Graubard 1998, Survey Methodology 24:193).
    Where all answers are alike the design effect cannot be seen: then Kish's n² / Σ n_c², each group one answer.
    """
    n, groups = len(right), len(set(group))
    if n == groups:
        return float(n)
    alone = n**2 / (np.bincount(group) ** 2).sum()
    if groups == 1 or np.ptp(right) == 0:
        return float(alone)
    effect = (clustered_error(right, group) / clustered_error(right, np.arange(n))) ** 2
    known = (stats.t.ppf(1 - ALPHA / 2, n - 1) / stats.t.ppf(1 - ALPHA / 2, groups - 1)) ** 2
    return float(n / max(1.0, effect) * known)


def interval_of_rate(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[float, float, str]:
    """(low, high, method) of the share of 1 among answers that are 0 or 1, `clusters` naming each one's paper."""
    right, group = np.asarray(values, dtype=float), number_labels(clusters)
    n = effective_n(right, group)
    alone = len(set(group)) == len(right)
    return *wilson_interval(
        float(right.mean()), n
    ), "Wilson" if alone else f"Wilson, effective n {n:.{n < 10:d}f} of {len(right)}"


def interval_of_mean(values: Sequence[float]) -> tuple[float | None, float | None, str]:
    """(low, high, method) of the mean of independent scores: Student's t; None for fewer than two."""
    if len(values) < 2:
        return None, None, "one score has no interval"
    mean, error = float(np.mean(values)), clustered_error(np.asarray(values, dtype=float), np.arange(len(values)))
    half = float(stats.t.ppf(1 - ALPHA / 2, len(values) - 1)) * error
    return mean - half, mean + half, "Student's t"
