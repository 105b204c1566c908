"""The procedure on 10,000 experiments whose truth is known."""

import numpy as np
import pytest

from helpers.evaluation.simulation import recall_items, simulate_procedure, ten_questions
from helpers.evaluation.statistics import compare_paired, correct_holm, sign_flip_p, sign_patterns, subset_means

EXPERIMENTS = 10_000
ERROR = 2 * (0.025 * 0.975 / EXPERIMENTS) ** 0.5  # two standard errors of a share of 2.5 %


@pytest.mark.slow
def test_wolf_is_cried_rarely_and_seen_when_there():
    rows = simulate_procedure(EXPERIMENTS)
    assert [(row["n"], row["clusters"]) for row in rows] == [(10, 10), (300, 120)]
    for row in rows:
        print(row)
        assert row["experiments"] == EXPERIMENTS
        assert row["better without effect"] <= 0.025 + ERROR, row
        assert 0.78 <= row["better at the MDE"] <= 0.9, row
        assert row["coverage"] >= 0.93, row


@pytest.mark.parametrize("design", [ten_questions(), recall_items(40)], ids=lambda d: d.name)
def test_the_simulation_judges_as_compare_does(design):
    """p, verdict and interval of single experiments, item by item through `compare`, are those counted in bulk."""
    random = np.random.default_rng(1)
    effect = design.minimum_detectable_effect()
    sums, seen = design.draw(random, effect, 40), set()
    patterns, _ = sign_patterns(len(design.sizes), 42)
    means = subset_means(sums, design.sizes, patterns)
    for total, p, at_the_truth in zip(sums, sign_flip_p(means), sign_flip_p(means, effect), strict=True):
        spread = np.repeat(total / design.sizes, design.sizes.astype(int))  # any split within a paper has the same p
        clusters = dict(enumerate(np.repeat(np.arange(len(design.sizes)), design.sizes.astype(int)).tolist()))
        shared = {"name": "x", "higher_is_better": True, "seed": 42, "clusters": clusters, "family": design.family}
        c = correct_holm([compare_paired(spread, np.zeros(len(spread)), **shared)], design.family)[0]
        assert c.p_value == pytest.approx(p, abs=1e-12)
        assert (c.verdict == "better") == (p <= design.level and total.sum() > 0)
        assert (c.low <= effect <= c.high) == (at_the_truth > 0.05)
        seen.add(c.verdict)
    assert seen == {"better", "no measurable difference"}


@pytest.mark.parametrize("design", [ten_questions(), recall_items(40)], ids=lambda d: d.name)
@pytest.mark.parametrize("effect", [0.0, 0.1])
def test_the_experiments_have_the_effect_and_the_spread_they_claim(design, effect):
    means = design.draw(np.random.default_rng(2), effect, 20_000).sum(axis=1) / design.sizes.sum()
    assert means.mean() == pytest.approx(effect, abs=4 * design.error(effect) / 20_000**0.5)
    assert means.std() == pytest.approx(design.error(effect), rel=0.02)


def test_more_papers_show_smaller_effects():
    effects = [recall_items(papers).minimum_detectable_effect() for papers in (30, 120, 480)]
    assert effects == sorted(effects, reverse=True) and effects[0] < 0.25
    assert simulate_procedure(50, seed=3, papers=30) == simulate_procedure(50, seed=3, papers=30)
