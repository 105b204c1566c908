"""What a training really read, since its token budget may end before the rows do; and what may be asked of that."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from helpers.core import read_json
from helpers.papers import normalise_text


def read_seen_rows(folder: Path, rows: Sequence[dict]) -> list[dict]:
    """Those of the training rows that the model in `folder` was trained on, by the numbers in its training.json."""
    return [rows[number] for number in read_json(folder / "training.json")["history"]["read"]]


def askable_items(probes: Iterable[dict], rows: Iterable[Mapping]) -> list[dict]:
    """The probes without recall items whose fact stands in none of these rows: what was not read cannot be recalled.

    A fact stands in a row of its paper if the row's answer has the probe's last words and the right option there.
    """
    said: dict[str, list[str]] = {}
    for row in rows:
        said.setdefault(row["paper_id"], []).append(f" {normalise_text(row['completion'])} ")
    return [
        p
        for p in probes
        if p["instrument"] != "recall" or any(stated_fact(p) in s for s in said.get(p["paper_id"], ()))
    ]


def stated_fact(probe: Mapping) -> str:
    """What a recall item asks for, in its paper's words: those before the answer, and the answer."""
    left = probe["question"].rpartition("… ")[2]
    return f" {normalise_text(left + ' ' + probe['options'][probe['answer']])} "
