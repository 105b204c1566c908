import numpy as np
import pytest
from scipy import stats
from support.sweeps import times

from helpers.evaluation.intervals import effective_n, interval_of_mean, interval_of_rate, wilson_interval


@pytest.mark.parametrize("k, n", [(0, 10), (5, 10), (10, 10), (3, 7), (150, 300)])
def test_wilson_is_scipys(k, n):
    theirs = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert wilson_interval(k / n, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert interval_of_rate([1] * k + [0] * (n - k), range(n)) == (*wilson_interval(k / n, n), "Wilson")


def test_items_of_one_paper_tell_less():
    same = np.repeat([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0], 4)
    papers = np.repeat(np.arange(10), 4)
    assert effective_n(same, papers) < 10, "ten papers that always answer alike are no more than ten answers"
    assert effective_n(same, np.arange(40)) == 40
    mixed = np.tile([1.0, 0.0, 1.0, 0.0], 10)
    assert 30 < effective_n(mixed, papers) <= 40, "papers that differ in nothing cost little"
    assert effective_n(np.ones(40), papers) == pytest.approx(10)
    assert effective_n(np.ones(4), np.zeros(4, dtype=int)) == pytest.approx(1)
    low, high, method = interval_of_rate(same, papers)
    assert (
        low < wilson_interval(0.6, 40)[0]
        and high > wilson_interval(0.6, 40)[1]
        and method.startswith("Wilson, effective n ")
    )


def covered(p, found):
    return np.mean([low <= p <= high for low, high, _ in found])


def test_coverage_of_ten_answers():
    """All eleven outcomes, weighed by how often a rate brings them about: single rates wander, not their mean."""
    found = [interval_of_rate([1] * k + [0] * (10 - k), range(10)) for k in range(11)]
    shares = [
        sum(stats.binom.pmf(k, 10, p) for k, (low, high, _) in enumerate(found) if low <= p <= high)
        for p in np.linspace(0.05, 0.95, 19)
    ]
    assert np.mean(shares) >= 0.93 and min(shares) >= 0.91


@pytest.mark.parametrize("papers", [10, 40])
@pytest.mark.parametrize("p", [0.3, 0.6])
def test_coverage_with_papers(papers, p):
    """One to four items a paper whose answers hang together (correlation 0.3): without clusters it would be below."""
    random, sizes = np.random.default_rng(papers), np.arange(papers) % 4 + 1
    group = np.repeat(np.arange(papers), sizes)
    strength = 1 / 0.3 - 1
    runs = [
        (random.random(len(group)) < np.repeat(random.beta(p * strength, (1 - p) * strength, papers), sizes))
        for _ in range(times(600, 5000))
    ]
    assert covered(p, [interval_of_rate(right, group) for right in runs]) >= 0.93
    assert covered(p, [interval_of_rate(right, range(len(group))) for right in runs]) < 0.93


def test_the_interval_of_a_mean_is_students():
    values = np.random.default_rng(0).normal(size=12)
    theirs = stats.ttest_1samp(values, 0).confidence_interval()
    assert interval_of_mean(values)[:2] == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert interval_of_mean([0.5])[:2] == (None, None)


def test_an_interval_never_leaves_its_own_rate_out():
    for n in range(1, 301):
        for right in {0, 1, n // 2, n - 1, n}:
            low, high = wilson_interval(right / n, n)
            assert 0 <= low <= right / n <= high <= 1, (right, n)
