"""Repeated trainings: how much of a difference hangs on the questions, and how much on the seed."""

import re
from collections.abc import Hashable, Mapping

import numpy as np

from helpers.evaluation.statistics import clustered_error, number_labels

REPEAT = re.compile(r"(?P<method>.+)_s(?P<seed>\d+)")


def repeated_trainings(rows: Mapping[str, object], method: str, seed: int) -> dict[str, str]:
    """{seed: row} of every training of `method`: qlora, trained with `seed`, then qlora_s43 and so on."""
    named = {row: REPEAT.fullmatch(row) for row in rows}
    repeats = {m["seed"]: row for row, m in named.items() if m and m["method"] == method}
    return ({str(seed): method} if method in rows else {}) | repeats


def split_variance(
    differences: Mapping[str, Mapping[Hashable, float]], clusters: Mapping[Hashable, Hashable]
) -> dict:
    """{"differences": {seed: mean}, "question_variance", "seed_variance", "standard_error"} of two or more seeds.

    `differences`: {seed: {item: a − b}} over the same n items in S trainings; `clusters`: {item: its paper}.
    standard_error² = question_variance / n + seed_variance / S. Two-way analysis of variance without replication
    (Searle, Casella & McCulloch 1992, "Variance Components"): `question_variance` is n times the squared clustered
    error of the items' means over seeds; `seed_variance` that of the trainings' means, less what the items alone make
    of it, and at least 0.
    """
    items = list(next(iter(differences.values())))
    table = np.array([[one[item] for item in items] for one in differences.values()], dtype=float)  # (S, n)
    group, (seeds, n) = number_labels([clusters[item] for item in items]), table.shape
    by_item, by_seed = table.mean(axis=0), table.mean(axis=1)
    question = n * clustered_error(by_item, group) ** 2
    left = table - by_item - by_seed[:, None] + table.mean()
    noise = np.mean([clustered_error(one, group) ** 2 for one in left]) * seeds / (seeds - 1)
    seed = max(0.0, by_seed.var(ddof=1) - noise)
    return {
        "differences": dict(zip(differences, by_seed.tolist(), strict=True)),
        "question_variance": question,
        "seed_variance": float(seed),
        "standard_error": float(np.sqrt(question / n + seed / seeds)),
    }
