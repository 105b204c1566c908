import numpy as np
import pytest
from scipy import stats

from helpers.comparison import compare, headline
from helpers.errors import CourseError

EVEN = [0.0] * 10


def compared(a, b, *, higher_is_better=True, seed=1, items="questions"):
    return compare(
        a, b, name="rubric score, qlora − base_4bit", higher_is_better=higher_is_better, seed=seed, items=items
    )


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
    c = compared(EVEN, EVEN)
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


def test_simulated_experiments():
    """n = 10: no effect is called better in at most 2.5 % of runs, intervals cover, an effect of the MDE is seen."""
    runs, n, spread = 4000, 10, 0.3
    random = np.random.default_rng(7)
    mde = 3.145 * spread / np.sqrt(n)  # t(.975) + t(.8) with 9 degrees of freedom
    nothing = [compared(random.normal(0, spread, n), EVEN) for _ in range(runs)]
    skewed = [compared(random.exponential(spread, n) - spread, EVEN) for _ in range(runs)]
    effect = [compared(random.normal(mde, spread, n), EVEN) for _ in range(runs)]
    assert np.mean([c.verdict == "better" for c in nothing]) <= 0.025 + 0.005  # two standard errors of 4,000 runs
    assert np.mean([c.low <= 0 <= c.high for c in nothing]) >= 0.93
    assert np.mean([c.low <= 0 <= c.high for c in skewed]) >= 0.89  # flips assume symmetry
    assert np.mean([c.verdict == "better" for c in effect]) >= 0.78


def test_the_headline_says_what_was_found():
    better = compared([0.3, 0.2, 0.4, 0.1, 0.5, 0.2, 0.3, 0.1, 0.2, 0.4], EVEN)
    tie = compared([0.1, -0.1, 0.2, -0.2, 0.0, 0.0, 0.1, -0.1, 0.3, -0.2], EVEN)
    few = compared([0.1, 0.2], [0, 0], items="papers")
    assert headline([better]).startswith("rubric score, qlora − base_4bit: better (+0.270, 95 % interval +0.")
    assert "n = 10 questions" in headline([better]) and headline([better]).endswith(").")
    assert "no measurable difference" in headline([tie]) and "would probably go unseen" in headline([tie])
    assert "better" not in headline([tie, few])
    assert headline([tie, few]).endswith("too few papers to decide (n = 2).")
    assert "Nothing could be compared" in headline([])
    assert "unseen" not in headline([compared(EVEN, EVEN)])
