from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from helpers.core.errors import CourseError
from helpers.evaluation.statistics import (
    clustered_error,
    compare_paired,
    correct_holm,
    flip_interval,
    format_signed,
    number_labels,
    subset_means,
)

EVEN = [0.0] * 10


def compared(a, b, *, higher_is_better=True, seed=1, **more):
    return compare_paired(
        a, b, name="rubric score, qlora − base_4bit", higher_is_better=higher_is_better, seed=seed, **more
    )


def right_or_wrong(papers, items, change=0.3, seed=0):
    """Answers of two models, 0 or 1, to `items` questions on each paper; the second model's differ here and there."""
    random = np.random.default_rng(seed)
    a = random.random(papers * items) < 0.5
    b = a ^ (random.random(papers * items) < change)
    return a.astype(float), b.astype(float), {i: i // items for i in range(papers * items)}


@pytest.mark.parametrize("n", [6, 8, 10, 12, 14])
def test_p_is_scipys_exact_permutation_test(n):
    differences = np.random.default_rng(n).normal(0.2, 0.3, n)
    exact = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    ).pvalue
    assert compared(differences, np.zeros(n)).p_value == pytest.approx(exact, abs=1e-12)


def test_the_interval_is_the_inverted_test():
    differences = np.random.default_rng(0).normal(0.2, 0.3, 10)
    c = compared(differences, EVEN)
    step = 1e-6
    for inside, outside in ((c.low + step, c.low - step), (c.high - step, c.high + step)):
        assert compared(differences - inside, EVEN).p_value > 0.05
        assert compared(differences - outside, EVEN).p_value <= 0.05


def test_drawn_patterns_agree_with_all_of_them():
    differences = np.random.default_rng(3).normal(0.15, 0.3, 14)
    exact = compared(differences, np.zeros(14))
    doubled = compared(np.tile(differences, 2), np.zeros(28))
    assert "all 16,384 patterns" in exact.method and "20,000 random patterns, seed 1" in doubled.method
    spread = 1.96 * differences.std() / np.sqrt(28)
    assert doubled.high - doubled.low == pytest.approx(2 * spread, rel=0.1)
    assert compared(np.tile(differences, 2), np.zeros(28)) == doubled
    assert compared(np.tile(differences, 2), np.zeros(28), seed=2).p_value == pytest.approx(doubled.p_value, abs=0.01)


def test_win_loss_and_the_direction():
    better = [0.3, 0.2, 0.4, 0.1, 0.5, 0.2, 0.3, 0.1, 0.2, 0.4]
    assert compared(better, EVEN).verdict == "better"
    assert compared(EVEN, better).verdict == "worse"
    assert compared(better, EVEN, higher_is_better=False).verdict == "worse"
    assert compared(EVEN, better, higher_is_better=False).verdict == "better"
    assert compared(better, EVEN).p_value == 2 / 1024


def test_tie():
    c = compared([0.1, -0.1, 0.2, -0.2, 0.0, 0.0, 0.1, -0.1, 0.3, -0.3], EVEN)
    assert c.verdict == "no measurable difference" and c.p_value == 1 and c.low < 0 < c.high


@pytest.mark.parametrize("n", range(6))
def test_too_few(n):
    c = compared([0.5 + i for i in range(n)], [0.0] * n)
    assert c.verdict == "too few items to decide" and (c.low, c.high) == (None, None)
    assert c.mean_difference == (pytest.approx(0.5 + (n - 1) / 2) if n else None)


def test_no_difference_at_all():
    c = compared([0.3] * 10, [0.3] * 10)
    assert (c.mean_difference, c.low, c.high, c.p_value) == (0, 0, 0, 1)
    assert c.minimum_detectable_effect is None and c.verdict == "no measurable difference"
    assert compared([0.1 + 0.2] * 10, [0.3] * 10) == c, "rounding noise is no difference"


def test_what_could_have_been_seen():
    differences = np.random.default_rng(0).normal(size=10)
    differences = 0.3 * (differences - differences.mean()) / differences.std(ddof=1)
    assert compared(differences, EVEN).minimum_detectable_effect == pytest.approx(0.30, abs=0.005)


def test_items_are_paired_by_name():
    a, b = {"x": 1.0, "y": 2.0}, {"y": 2.5, "x": 0.5}
    assert compared(a, b).mean_difference == 0
    with pytest.raises(CourseError, match="only one of the two models has z"):
        compared({**a, "z": 1.0}, b)
    with pytest.raises(CourseError, match="3 scores against 2"):
        compared([1, 2, 3], [1, 2])
    with pytest.raises(CourseError, match="not a finite number"):
        compared([1, float("nan")], [1, 2])


def test_skewed_differences():
    """Flips assume symmetry: of a skewed difference the interval misses the mean a little more often."""
    random, spread = np.random.default_rng(7), 0.3
    skewed = [compared(random.exponential(spread, 10) - spread, EVEN) for _ in range(1000)]
    assert np.mean([c.low <= 0 <= c.high for c in skewed]) >= 0.89


def test_clusters_of_one_item_change_nothing():
    a, b, _ = right_or_wrong(30, 1)
    alone = compared(a, b)
    assert compared(a, b, clusters={i: f"paper {i}" for i in range(30)}) == alone and alone.clusters == alone.n == 30


def test_clusters_flip_as_one():
    """Ten papers with four identical items each tell as much as ten items, and not as forty."""
    differences = np.random.default_rng(0).normal(0.2, 0.3, 10)
    ten, forty = compared(differences, EVEN), np.repeat(differences, 4)
    papers = compared(forty, np.zeros(40), clusters={i: i // 4 for i in range(40)})
    for field in ("mean_difference", "low", "high", "p_value", "minimum_detectable_effect"):
        assert getattr(papers, field) == pytest.approx(getattr(ten, field), abs=1e-12), field
    assert (papers.n, papers.clusters) == (40, 10) and "10 clusters flipped whole" in papers.method
    naive = compared(forty, np.zeros(40))
    assert naive.p_value < papers.p_value / 2 and naive.high - naive.low < (papers.high - papers.low) * 0.6


def test_the_interval_with_clusters_is_the_inverted_test():
    """Of unequal papers: shifting every item by an end of the interval brings p to 5 %."""
    random = np.random.default_rng(5)
    papers = np.repeat(np.arange(12), random.integers(1, 5, 12))
    differences, clusters = random.normal(0.1, 0.4, len(papers)), dict(enumerate(papers))
    zeros, step = np.zeros(len(papers)), 1e-6
    c = compared(differences, zeros, clusters=clusters)
    for inside, outside in ((c.low + step, c.low - step), (c.high - step, c.high + step)):
        assert compared(differences - inside, zeros, clusters=clusters).p_value > 0.05
        assert compared(differences - outside, zeros, clusters=clusters).p_value <= 0.05
    sums, sizes = np.bincount(papers, differences), np.bincount(papers)
    every = np.array([[n >> bit & 1 for bit in range(12)] for n in range(1, 2**12)])
    by_hand = np.sort((every @ sums) / (every @ sizes))
    assert (c.low, c.high) == (pytest.approx(by_hand[101], abs=1e-12), pytest.approx(by_hand[-102], abs=1e-12))


def test_experiments_side_by_side_are_experiments_one_by_one():
    random, sizes = np.random.default_rng(1), np.array([1, 2, 3, 4])
    sums, patterns = random.normal(size=(3, 4)), random.random((9, 4)) < 0.5
    patterns[:, 0] = True
    together = subset_means(sums, sizes, patterns)
    for one, means in zip(sums, together, strict=True):
        assert subset_means(one, sizes, patterns) == pytest.approx(means, abs=1e-12)
    assert flip_interval(together[0]) == (None, None)


@pytest.mark.parametrize("items", [6, 10, 14])
def test_mcnemar_is_the_sign_flip_test_where_items_stand_alone(items):
    a, b, _ = right_or_wrong(items, 1, change=0.6, seed=items)
    c = compared(a, b)
    assert c.p_mcnemar == pytest.approx(c.p_value, abs=1e-12)
    assert (c.gained, c.lost) == (sum(a > b), sum(b > a)) and c.gained + c.lost > 2
    table = [[0, c.gained], [c.lost, 0]]
    tail = stats.binom.cdf(min(table[0][1], table[1][0]), c.gained + c.lost, 0.5)
    assert c.p_mcnemar == pytest.approx(min(1, 2 * tail), abs=1e-12)


def test_mcnemar_is_for_right_and_wrong():
    assert compared([0.5] * 10, EVEN).p_mcnemar is None and compared([0.5] * 10, EVEN).gained is None
    assert compared(EVEN, EVEN).p_mcnemar == 1


def test_the_clustered_error_is_the_published_sum():
    """SE² = SE₀² + n⁻² Σ_c Σ_{i≠j} (sᵢ − s̄)(sⱼ − s̄), up to G / (G − 1) for small G."""
    random = np.random.default_rng(2)
    group = number_labels(random.integers(0, 15, 40).tolist())
    values = random.normal(size=40) + group
    left, groups = values - values.mean(), group.max() + 1
    pairs = sum(left[i] * left[j] for i in range(40) for j in range(40) if i != j and group[i] == group[j])
    squared = ((left**2).sum() + pairs) / 40**2 * groups / (groups - 1)
    assert clustered_error(values, group) ** 2 == pytest.approx(squared, rel=1e-12)
    assert clustered_error(values, np.arange(40)) == pytest.approx(stats.sem(values), rel=1e-12)


def test_what_right_or_wrong_answers_could_have_shown():
    """Where hardly an answer differs, as many have to change as the test needs to see."""
    a, b, clusters = right_or_wrong(75, 4, change=0.0)
    c = compared(a, b, clusters=clusters)
    assert c.verdict == "no measurable difference" and (c.gained, c.lost) == (0, 0)
    assert stats.binom.sf(5, 300, c.minimum_detectable_effect) == pytest.approx(0.8, abs=1e-9)
    assert compared([1.0] * 5, [0.0] * 5).minimum_detectable_effect is None
    a, b, clusters = right_or_wrong(75, 4)
    c, family = (compared(a, b, clusters=clusters, family=size) for size in (1, 3))
    error = clustered_error(a - b, np.arange(300) // 4)
    t = stats.t.ppf([0.975, 1 - 0.05 / 6, 0.8], 74)
    assert c.minimum_detectable_effect == pytest.approx((t[0] + t[2]) * error + 1 / 300, rel=1e-12)
    assert family.minimum_detectable_effect == pytest.approx((t[1] + t[2]) * error + 1 / 300, rel=1e-12)


def test_holm():
    """p of 0.03, 0.01 and 0.04 in a family of three: 0.06, 0.03 and 0.06, by hand."""
    three = [compared([0.3] * 8 + [0.0] * (2 - n), [0.0] * (10 - n)) for n in range(3)]
    found = zip(three, (0.03, 0.01, 0.04), strict=True)
    named = [replace(c, name=str(p), p_value=p) for c, p in found]
    assert [c.p_holm for c in correct_holm(named, 3)] == pytest.approx([0.06, 0.03, 0.06])
    assert [c.verdict for c in correct_holm(named, 3)] == [
        "no measurable difference",
        "better",
        "no measurable difference",
    ]
    assert [c.p_holm for c in correct_holm(named[:1], 3)] == pytest.approx([0.09]), "what is missing counts as p = 1"
    assert [c.p_holm for c in correct_holm(named[:1], 1)] == pytest.approx([0.03])
    assert correct_holm([], 3) == []


def test_a_family_of_three_needs_seven_papers():
    six, seven = ([1.0] * n for n in (6, 7))
    assert compared(six, [0.0] * 6).verdict == "better"
    few = correct_holm([compared(six, [0.0] * 6, family=3)], 3)[0]
    assert few.verdict == "too few items to decide" and few.p_holm == pytest.approx(6 / 64)
    enough = correct_holm([compared(seven, [0.0] * 7, family=3)], 3)[0]
    assert enough.verdict == "better" and enough.p_holm == pytest.approx(6 / 128)


def test_numbers_with_their_sign():
    assert (format_signed(0.1234), format_signed(-0.1234), format_signed(-0.0001), format_signed(12.34, 1)) == (
        "+0.123",
        "−0.123",
        "0",
        "+12.3",
    )
