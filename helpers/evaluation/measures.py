"""What one model scored on one instrument, item by item, and the interval around it."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from helpers.evaluation.intervals import interval_of_mean, interval_of_rate
from helpers.evaluation.items import CHOICES
from helpers.grading import mean_score


class Instrument(NamedTuple):
    """What it is called, whether more is better, and what it is counted in."""

    title: str
    higher_is_better: bool
    unit: str


INSTRUMENTS = {
    "recall": Instrument("recall accuracy", True, "items"),
    "transfer": Instrument("transfer accuracy", True, "items"),
    "reading": Instrument("reading accuracy", True, "items"),
    "cloze": Instrument("plain-knowledge accuracy", True, "items"),
    "rubric": Instrument("rubric score", True, "questions"),
    "rubric_sampled": Instrument("rubric score of sampled answers", True, "questions"),
    "bits_per_byte": Instrument("held-out bits per byte", False, "papers"),
    "general_bits": Instrument("general English bits per byte", False, "texts"),
    "pubmedqa": Instrument("PubMedQA accuracy", True, "items"),
    "medqa": Instrument("MedQA accuracy", True, "items"),
    "medmcqa": Instrument("MedMCQA accuracy", True, "items"),
    "arc_easy": Instrument("ARC-Easy accuracy", True, "items"),
    "wikitext": Instrument("WikiText bits per byte", False, "texts"),
}


def summarise_task(instrument: str, scored: Mapping[str, float], known: Mapping[tuple[str, str], dict]) -> dict:
    """{"mean", "low", "high", "n", "clusters", "chance", "method", "items"} of one row on one instrument.

    `scored`: {item: value}, at least one; `known`: what `items.context` returns. The mean and the interval of rubric
    scores are clipped to [0, 1] as HealthBench does.
    """
    count = {"n": len(scored), "clusters": len(scored), "chance": None}
    if instrument in CHOICES:
        told = [known[instrument, item] for item in scored]
        papers = [one["paper"] for one in told]
        low, high, method = interval_of_rate(list(scored.values()), papers)
        count |= {"clusters": len(set(papers)), "chance": mean_of(1 / one["options"] for one in told)}
    else:
        low, high, method = interval_of_mean(list(scored.values()))
    middle = mean_of(scored.values())
    if instrument.startswith("rubric"):
        middle, low, high = (None if end is None else mean_score([end]) for end in (middle, low, high))
    return {"mean": middle, "low": low, "high": high, **count, "method": method, "items": dict(scored)}


def mean_of(numbers: Iterable[float]) -> float:
    numbers = list(numbers)
    return math.fsum(numbers) / len(numbers)
