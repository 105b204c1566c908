"""What one item counts: right or wrong, or bits per byte; and what was asked. The numbers behind every figure."""

import math
from collections.abc import Iterable, Mapping

from helpers.core import CourseError

OWN = ("recall", "transfer", "reading", "cloze", "bits_per_byte", "general_bits")
CHOICES = ("recall", "transfer", "reading", "cloze", "pubmedqa", "medqa", "medmcqa", "arc_easy")
TEXTS = ("bits_per_byte", "general_bits", "wikitext")
AGAIN = "run its test stage again"


def item_values(row: str, items: Iterable[dict]) -> dict[str, dict[str, float]]:
    """{instrument: {item: value}} of one row's items: 0 or 1 for choices, bits per byte for texts.

    Raises CourseError for an item that is there twice or whose numbers are impossible.
    """
    found: dict[str, dict[str, float]] = {}
    for item in items:
        instrument, name = item["instrument"], str(item["item"])
        if instrument not in (*CHOICES, *TEXTS):
            continue
        if name in found.setdefault(instrument, {}):
            raise CourseError(f"{row}: {instrument} has {name} twice", AGAIN)
        found[instrument][name] = is_right(row, item) if instrument in CHOICES else bits_per_byte(row, item)
    return found


def is_right(row: str, item: dict) -> float:
    """1 if the answer has the highest log-probability a byte among the options, else 0: the one normalisation, fixed
    beforehand, and the same for every tokenizer."""
    scores, sizes = item["scores"], item["bytes"]
    possible = len(scores) == len(sizes) > item["answer"] >= 0 and len(scores) > 1
    if not possible or not all(math.isfinite(s) and s <= 0 for s in scores) or min(sizes) <= 0:
        problem = f"{row}: {item['item']} has scores {scores} over {sizes} bytes and the answer {item['answer']}"
        raise CourseError(problem, AGAIN)
    by_byte = [score / size for score, size in zip(scores, sizes, strict=True)]
    return float(by_byte.index(max(by_byte)) == item["answer"])


def bits_per_byte(row: str, item: dict) -> float:
    """nll / ln 2 / bytes, with nll in nats over the text's UTF-8 bytes; the tokenizer cancels out
    (Gao et al. 2020, "The Pile", section 3.1)."""
    if not (math.isfinite(item["nll"]) and item["nll"] >= 0 and item["bytes"] > 0):
        raise CourseError(f"{row}: {item['item']} has nll {item['nll']} over {item['bytes']} bytes", AGAIN)
    return item["nll"] / math.log(2) / item["bytes"]


def item_context(items: Mapping[str, Iterable[dict]]) -> dict[tuple[str, str], dict]:
    """{(instrument, item): {"paper", "options"}} over all rows; `options` is None for a text.

    Raises CourseError if two rows were asked different things under one name.
    """
    known: dict[tuple[str, str], tuple] = {}
    for row, asked in items.items():
        for item in asked:
            place = item["instrument"], str(item["item"])
            options = len(item["bytes"]) if item["instrument"] in CHOICES else None
            seen = item.get("paper_id", item["item"]), options, item.get("answer"), item["bytes"]
            if known.setdefault(place, seen) != seen and item["instrument"] in (*CHOICES, *TEXTS):
                raise CourseError(f"{row}: {place[1]} is another item than the one other models had", AGAIN)
    return {place: {"paper": str(seen[0]), "options": seen[1]} for place, seen in known.items()}
