"""What is tested must not be taught: runs of eight words that a training row shares with something the test uses.

The rows are built first. A row that shares a run with a question, a reference answer or a rubric is left out
(`rows.build`); a probe that shares one with a row that stays is left out (`probes.build`).
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from helpers.dataset.paraphrases import REWRITES, WORD_FOR_WORD
from helpers.papers import normalise_text
from helpers.text import split_sentences

LENGTH = 8  # words
WORD = re.compile(r"\w+")


class Leak(NamedTuple):
    """`row` counts rows from 1; `tested` is the name of what shares `words` with it."""

    row: int
    tested: str
    words: str


def word_runs(text: str, length: int = LENGTH) -> set[tuple[str, ...]]:
    """Every run of `length` words, case and punctuation aside."""
    words = WORD.findall(text.lower())
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def tested_texts(questions: Iterable[dict]) -> Iterator[tuple[str, str]]:
    """(name, text) of all that a question is asked and graded by: itself, reference, options, rubric."""
    for question in questions:
        name = question.get("id", "?")
        yield f"question {name}", question["question"]
        yield f"reference of {name}", question.get("reference") or ""
        for option in question.get("options") or ():
            yield f"option of {name}", option
        for criterion in question.get("criteria") or ():
            yield f"criterion {criterion['id']}", criterion["text"]
            for alias in (alias for group in criterion["any_of"] for alias in group):
                yield f"alias of {criterion['id']}", alias


def item_texts(probes: Iterable[dict]) -> Iterator[tuple[str, str]]:
    """(id, text) of every probe: its question with each of its options after it."""
    for probe in probes:
        for option in probe["options"]:
            yield probe["id"], f"{probe['question']} {option}"


def find_contamination(rows: Iterable[dict], texts: Iterable[tuple[str, str]]) -> list[Leak]:
    """The rows that share a run of eight words with one of `texts` ((name, text) pairs), once for each name."""
    names: dict[tuple[str, ...], set[str]] = {}
    for name, text in texts:
        for run in word_runs(text):
            names.setdefault(run, set()).add(name)
    found = []
    for number, row in enumerate(rows, start=1) if names else ():
        shared = sorted(names.keys() & word_runs(row["text"]))
        of_row = {name: Leak(number, name, " ".join(run)) for run in shared for name in sorted(names[run])}
        found += of_row.values()
    return found


def drop_contaminated(rows: list[dict], texts: Iterable[tuple[str, str]]) -> list[dict]:
    """The rows that share no run of eight words with any of `texts`."""
    leaking = {leak.row for leak in find_contamination(rows, texts)}
    return [row for number, row in enumerate(rows, start=1) if number not in leaking]


def check_split(rows: Iterable[dict], held_out: Iterable[dict]) -> None:
    """Assert that no training row comes from a held-out paper, by id or by title."""
    ids = {(paper["source"], paper["paper_id"]) for paper in held_out}
    titles = {normalise_text(paper["title"]) for paper in held_out} - {""}
    leaks = [r for r in rows if (r["source"], r["paper_id"]) in ids or normalise_text(r["title"]) in titles]
    assert not leaks, f"{len(leaks)} training rows come from held-out papers, the first from {leaks[0]['paper_id']}"


def count_planted_found(rows: list[dict], questions: Iterable[dict]) -> list[dict[str, object]]:
    """How many sentences of the reference answers are found that are planted in training rows on purpose.

    [{"planted as", "sentences", "found", "missed"}], one line for each way of rewriting; `missed` is a share of the
    sentences that the rewriting changes. Sentences of fewer than eight words cannot be found and are not planted.
    """
    references = [(q["id"], q["reference"]) for q in questions if q.get("reference")]
    said = [(name, text[a:b]) for name, text in references for a, b in split_sentences(text) if word_runs(text[a:b])]
    lines = []
    for kind, rewrite in REWRITES.items():
        changed = [(name, rewrite(text)) for name, text in said if kind == WORD_FOR_WORD or rewrite(text) != text]
        hosts = [rows[n * len(rows) // len(changed)] for n in range(len(changed))]
        sown = [host | {"text": f"{host['text']} {text}"} for host, (_, text) in zip(hosts, changed, strict=True)]
        leaks = {(leak.row, leak.tested) for leak in find_contamination(sown, references)}
        found = sum((n, name) in leaks for n, (name, _) in enumerate(changed, start=1))
        missed = f"{1 - found / len(changed):.0%}" if changed else "–"
        lines.append({"planted as": kind, "sentences": len(changed), "found": found, "missed": missed})
    return lines
