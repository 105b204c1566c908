"""How often would this procedure cry wolf? Experiments whose truth is known, judged by the code that judges ours."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from helpers.evaluation.preregistration import FAMILY
from helpers.evaluation.statistics import ALPHA, detectable_difference, sign_flip_p, sign_patterns, subset_means

AT_ONCE = 100  # experiments in memory together
CHANGED = 0.25  # share of items that the two models answer differently
ALIKE = 0.1  # correlation of the direction of two changes in one paper


@dataclass(frozen=True)
class Design:
    """`sizes`: items of each cluster. `family`: comparisons that share the error rate. `draw(random, effect, runs)`:
    each cluster's total difference, shape (runs, clusters), where the true mean difference is `effect`.
    `error(effect)`: the true standard error of the mean difference. `step`: half the distance between two possible
    means, 0 if any number is possible."""

    name: str
    sizes: np.ndarray
    family: int
    draw: Callable[[np.random.Generator, float, int], np.ndarray]
    error: Callable[[float], float]
    step: float = 0.0

    @property
    def level(self) -> float:
        """What p has to fall below when nothing else in the family has an effect: Holm's first step."""
        return ALPHA / self.family

    def minimum_detectable_effect(self) -> float:
        """The effect that equals what its own spread makes detectable (right-or-wrong answers spread less, the more
        of the changes go one way)."""
        clusters = len(self.sizes)
        return optimize.brentq(
            lambda x: x - detectable_difference(self.error(x), clusters, self.level, self.step), 0, CHANGED
        )


def simulate_procedure(experiments: int = 10_000, seed: int = 42, papers: int = 120) -> list[dict]:
    """One row for ten questions and one for the recall items of `papers` papers: {"design", "n", "clusters",
    "experiments", "minimum detectable effect", "better without effect", "better at the MDE", "coverage"}, shares of
    the experiments. "coverage": 95 % intervals that hold the truth, without and with an effect, the lower of the two.
    `papers`: 20 or more; with fewer no effect of this design would be found.
    """
    random = np.random.default_rng(seed)
    return [simulate_outcome(design, experiments, random, seed) for design in (ten_questions(), recall_items(papers))]


def simulate_outcome(design: Design, experiments: int, random: np.random.Generator, seed: int) -> dict:
    effect = design.minimum_detectable_effect()
    nothing, something = (simulate_verdicts(design, true, experiments, random, seed) for true in (0.0, effect))
    return {
        "design": design.name,
        "n": int(design.sizes.sum()),
        "clusters": len(design.sizes),
        "experiments": experiments,
        "minimum detectable effect": effect,
        "better without effect": nothing["better"],
        "better at the MDE": something["better"],
        "coverage": min(nothing["covered"], something["covered"]),
    }


def simulate_verdicts(
    design: Design, effect: float, experiments: int, random: np.random.Generator, seed: int
) -> dict:
    """{"better", "covered"}: shares of the experiments with this true effect."""
    patterns, _ = sign_patterns(len(design.sizes), seed)
    better = covered = 0
    for start in range(0, experiments, AT_ONCE):
        sums = design.draw(random, effect, min(AT_ONCE, experiments - start))
        means = subset_means(sums, design.sizes, patterns)
        better += int(((sign_flip_p(means) <= design.level) & (sums.sum(axis=1) > 0)).sum())
        covered += int((sign_flip_p(means, effect) > ALPHA).sum())
    return {"better": better / experiments, "covered": covered / experiments}


def ten_questions() -> Design:
    """Rubric scores as small models have them, many low and few high: both from Beta(1, 4), the effect added."""
    n, variance = 10, 2 * 4 / (25 * 6)  # of the difference of two Beta(1, 4)

    def draw(random: np.random.Generator, effect: float, runs: int) -> np.ndarray:
        return effect + random.beta(1, 4, (runs, n)) - random.beta(1, 4, (runs, n))

    return Design("10 questions, rubric scores", np.ones(n), 1, draw, lambda effect: (variance / n) ** 0.5)


def recall_items(papers: int) -> Design:
    """One to four items a paper, right or wrong. An item changes with probability CHANGED; that it changes for the
    better has a probability of the paper's own, from a Beta distribution, and a mean that makes the effect."""
    sizes = np.arange(papers) % 4 + 1.0

    def draw(random: np.random.Generator, effect: float, runs: int) -> np.ndarray:
        up, strength = 0.5 + effect / (2 * CHANGED), 1 / ALIKE - 1
        upward = random.beta(up * strength, (1 - up) * strength, (runs, papers))
        changed = random.binomial(sizes.astype(int), CHANGED, (runs, papers))
        return 2.0 * random.binomial(changed, upward) - changed

    def error(effect: float) -> float:
        up = 0.5 + effect / (2 * CHANGED)
        together = 4 * CHANGED**2 * ALIKE * up * (1 - up)  # covariance of two items of one paper
        variance = sizes * (CHANGED - effect**2) + sizes * (sizes - 1) * together
        return variance.sum() ** 0.5 / sizes.sum()

    return Design("recall items, right or wrong", sizes, len(FAMILY), draw, error, 1 / sizes.sum())
