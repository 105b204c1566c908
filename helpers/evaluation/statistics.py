"""Two models on the same items: how much they differ, how sure that is, and what could not have been seen."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import stats

from helpers.core import CourseError

ALPHA = 0.05
POWER = 0.80
EXACT_UP_TO = 14  # 2¹⁴ sign patterns are still listed one by one
RANDOM_PATTERNS = 20_000

Verdict = Literal["better", "worse", "no measurable difference", "too few items to decide"]


@dataclass(frozen=True)
class Comparison:
    """`a` against `b`, a − b, in the unit of the scores. What n does not allow to compute is None.

    `clusters`: how many groups the n items fall into (as many as items where they stand alone). `low`, `high`: 95 %
    interval. `p_holm`: p corrected for its family, None outside one. `gained`, `lost`: items that only `a`, only `b`
    answered right, and `p_mcnemar`; None where a score is neither 0 nor 1.
    """

    name: str
    n: int
    clusters: int
    higher_is_better: bool
    mean_difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    p_holm: float | None
    gained: int | None
    lost: int | None
    p_mcnemar: float | None
    minimum_detectable_effect: float | None
    verdict: Verdict
    method: str
    items: str = "items"


def compare_paired(
    a: Mapping[Hashable, float] | Sequence[float],
    b: Mapping[Hashable, float] | Sequence[float],
    *,
    name: str,
    higher_is_better: bool,
    seed: int,
    items: str = "items",
    clusters: Mapping[Hashable, Hashable] | None = None,
    family: int = 1,
) -> Comparison:
    """Paired comparison of scores per item: mappings over the same items, or two sequences in the same order.

    `clusters`: {item: its paper}; items of one paper are not independent. None: each item stands alone.
    Test: sign flips. If the models are alike, the differences of a cluster may as well all have the other sign; p is
    the share of sign patterns whose mean over items is as far from 0 as ours, all 2ᴳ of them up to G = 14 clusters,
    else 20,000 drawn with `seed` (Fisher 1935). It is exact for G = 10, where a bootstrap rejects a true null 9 to
    10 % of the time. Interval: the differences that this test does not reject at 5 %. Verdict: whether p ≤ 0.05.

    `family`: how many comparisons share these 5 % (see `corrected`). The minimum detectable effect is the one at
    0.05 / family, Holm's first and hardest step. Where no result could reach that (fewer than 6 clusters for one
    comparison, since the smallest p is 2/2ᴳ), the verdict is "too few items to decide".

    Raises CourseError if the items differ or a score is not a finite number.
    """
    names, a, b = pair_scores(a, b, name)
    differences = without_noise(a, b)
    group = number_labels([clusters[item] for item in names] if clusters is not None else range(len(names)))
    sizes = np.bincount(group)
    patterns, method = sign_patterns(len(sizes), seed)
    means = subset_means(np.bincount(group, differences), sizes, patterns)
    low, high = flip_interval(means)
    p_value = float(sign_flip_p(means)) if len(names) else None
    mean = float(differences.mean()) if len(names) else None
    right_or_wrong = bool(np.isin([*a, *b], (0, 1)).all()) and len(names) > 0
    gained, lost = (int((differences > 0).sum()), int((differences < 0).sum())) if right_or_wrong else (None, None)
    enough = 2 * family <= ALPHA * (len(means) + 1)
    return Comparison(
        name=name,
        n=len(names),
        clusters=len(sizes),
        higher_is_better=higher_is_better,
        mean_difference=mean,
        low=low,
        high=high,
        p_value=p_value,
        p_holm=None,
        gained=gained,
        lost=lost,
        p_mcnemar=mcnemar_p(gained, lost) if right_or_wrong else None,
        minimum_detectable_effect=minimum_detectable_effect(differences, group, right_or_wrong, ALPHA / family),
        verdict=decide_verdict(mean, p_value, higher_is_better) if enough else "too few items to decide",
        method=method if len(sizes) == len(names) else f"{method}, {len(sizes)} clusters flipped whole",
        items=items,
    )


def pair_scores(a: Mapping | Sequence, b: Mapping | Sequence, name: str) -> tuple[list, np.ndarray, np.ndarray]:
    """The items, and both models' scores of them, each of shape (n,).

    Raises CourseError if the items differ or a score is not a finite number.
    """
    names = list(a) if isinstance(a, Mapping) else list(range(len(a)))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if odd := sorted(map(str, set(a) ^ set(b))):
            raise CourseError(f"{name}: only one of the two models has {odd[0]}", "compare the same items")
        a, b = list(a.values()), [b[item] for item in a]
    if len(a) != len(b):
        raise CourseError(f"{name}: {len(a)} scores against {len(b)}", "compare the same items, in the same order")
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise CourseError(f"{name}: a score is not a finite number", "look at the items it was computed from")
    return names, a, b


def without_noise(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a − b, shape (n,); differences that are rounding noise are 0."""
    differences = a - b
    noise = 1e-12 * max(1.0, np.abs(a).max(initial=0), np.abs(b).max(initial=0))
    return np.where(np.abs(differences) < noise, 0.0, differences)


def number_labels(labels: Sequence[Hashable]) -> np.ndarray:
    """The labels as 0, 1, 2 … in the order of their first appearance; shape (n,)."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return np.array([numbers[label] for label in labels], dtype=int)


@lru_cache(maxsize=2)
def sign_patterns(clusters: int, seed: int) -> tuple[np.ndarray, str]:
    """Which clusters are flipped: booleans of shape (patterns, clusters), the pattern that flips none left out; and
    how they were chosen. Random patterns come with their mirror images, so that the test has two equal sides."""
    if clusters <= EXACT_UP_TO:
        numbers = np.arange(1, 2**clusters)
        return (numbers[:, None] >> np.arange(clusters)) & 1 == 1, f"sign-flip test, all {2**clusters:,} patterns"
    half = np.random.default_rng(seed).random((RANDOM_PATTERNS // 2, clusters)) < 0.5
    patterns = np.concatenate([half, ~half])
    patterns = patterns[patterns.any(axis=1)]
    return patterns, f"sign-flip test, {RANDOM_PATTERNS:,} random patterns, seed {seed}"


def subset_means(sums: np.ndarray, sizes: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """For every pattern the mean over the items that it flips, Σ sums / Σ sizes over the flipped clusters.

    `sums`: each cluster's total difference, shape (…, clusters), leading axes for as many experiments as wanted;
    `sizes`: items of each cluster, shape (clusters,). Returns shape (…, patterns), in no order.

    Flipping F brings the total to ours or above exactly if mean(F) ≤ 0, and after a shift of every item by δ exactly
    if mean(F) ≤ δ: the test, and its inversion, need only these means (Hartigan 1969, JASA 64:1303, "typical
    values").
    """
    parts = [part.astype(float) for part in np.array_split(patterns, 16)]  # 16: floats stay small
    means = np.concatenate([(sums @ part.T) / (part @ sizes) for part in parts], axis=-1)
    means[np.abs(means) < 1e-12 * np.abs(sums).max(axis=-1, keepdims=True, initial=0)] = 0
    return means


def sign_flip_p(means: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """Two-sided p of "the true difference is `shift`": twice the smaller share of patterns (ours included) on one
    side of it, at most 1. `means`: shape (…, patterns); returns shape (…)."""
    fewer = np.minimum((means <= shift).sum(axis=-1), (means >= shift).sum(axis=-1))
    return np.minimum(1.0, 2 * (1 + fewer) / (means.shape[-1] + 1))


def flip_interval(means: np.ndarray) -> tuple[float | None, float | None]:
    """The shifts that the two-sided test at 5 % does not reject: order statistics of the subset means, shape
    (patterns,); None where there are too few patterns for any end."""
    cut = int(ALPHA / 2 * (len(means) + 1))
    if not cut:
        return None, None
    means = np.sort(means)
    return float(means[cut - 1]), float(means[-cut])


def decide_verdict(mean: float, p: float, higher_is_better: bool) -> Verdict:
    """What a difference is called."""
    if p > ALPHA:
        return "no measurable difference"
    return "better" if (mean > 0) == higher_is_better else "worse"


def mcnemar_p(gained: int, lost: int) -> float:
    """Exact two-sided p of the items that changed: is either direction as likely as the other (McNemar 1947)?

    It takes items for independent. With one item to a cluster and all patterns listed it is the sign-flip test; with
    more, items of one paper go the same way together and this p is too small.
    """
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def correct_holm(comparisons: Sequence[Comparison], family: int) -> list[Comparison]:
    """The same comparisons with `p_holm`, and with the verdict that follows from it (Holm 1979, Scand J Stat 6:65).

    `family`: how many were declared. One that could not be made counts as p = 1: leaving it out buys nothing.
    """
    ranked = sorted((c for c in comparisons if c.p_value is not None), key=lambda c: c.p_value)
    found, highest = {}, 0.0
    for place, c in enumerate(ranked):
        highest = max(highest, min(1.0, (family - place) * c.p_value))
        found[c.name] = highest
    return [with_p_holm(c, found[c.name]) if c.name in found else c for c in comparisons]


def with_p_holm(c: Comparison, p_holm: float) -> Comparison:
    few = c.verdict == "too few items to decide"
    verdict = c.verdict if few else decide_verdict(c.mean_difference, p_holm, c.higher_is_better)
    return replace(c, p_holm=p_holm, verdict=verdict)


def clustered_error(values: np.ndarray, group: np.ndarray) -> float:
    """Standard error of the mean of `values` (n,) whose items fall into G groups (`numbered`, shape (n,)):

    SE² = G / (G − 1) / n² · Σ_c (Σ_{i in c} (v_i − v̄))². Miller 2024 (arXiv 2411.00640) for language models, after
    Liang & Zeger 1986 (Biometrika 73:13); G / (G − 1) as in Cameron & Miller 2015 (J Human Resources 50:317).
    With one item to a group it is sd / √n. G has to be 2 or more.
    """
    totals = np.bincount(group, values - values.mean())
    groups = len(totals)
    return float(np.sqrt(groups / (groups - 1) * (totals**2).sum()) / len(values))


def detectable_difference(error: float, clusters: int, alpha: float = ALPHA, step: float = 0.0) -> float:
    """The true mean difference that is found with 80 % power at `alpha`, given the standard error of the mean:
    (t₁₋α/₂ + t₀.₈) · SE with G − 1 degrees of freedom (Miller 2024, arXiv 2411.00640, with t for z), and `step`, half
    the distance between two possible means: an exact test of whole numbers rounds against the finding.
    """
    return float((stats.t.ppf(1 - alpha / 2, clusters - 1) + stats.t.ppf(POWER, clusters - 1)) * error) + step


def minimum_detectable_effect(
    differences: np.ndarray, group: np.ndarray, right_or_wrong: bool, alpha: float = ALPHA
) -> float | None:
    """`detectable`, if the spread is the one seen here.

    Right or wrong answers that hardly differ have hardly any spread, yet a few changed items prove nothing: at least
    so many have to change, all one way, that the test can see them. The effect is never below the share of items
    that brings so many about with 80 % power (binomial). A flipped item moves the total by 2, hence their step 1 / n.
    None for fewer than two clusters, for scores that all differ by the same, or where n is too small for any finding.
    """
    n, clusters = len(differences), len(set(group))
    least = int(np.ceil(np.log2(2 / alpha)))  # 2 / 2^least ≤ alpha
    if clusters < 2 or (n < least if right_or_wrong else np.ptp(differences) == 0):
        return None
    error = clustered_error(differences, group)
    if not right_or_wrong:
        return detectable_difference(error, clusters, alpha)
    floor = float(stats.beta.ppf(POWER, least, n - least + 1))  # P(Binomial(n, floor) ≥ least) = 0.8
    return max(floor, detectable_difference(error, clusters, alpha, step=1 / n))


def format_signed(number: float, digits: int = 3) -> str:
    """A number with its sign, a real minus, and no sign for 0."""
    return f"{number:+.{digits}f}".replace("-", "−") if round(number, digits) else "0"
