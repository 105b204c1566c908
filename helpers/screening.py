"""Which papers are kept, and for every other one the reason."""

import re
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from helpers.papers import Paper
from helpers.topics import Topic

SHORTEST = 60  # words of abstract
REASONS = {
    "deleted": "deleted by PubMed",
    "retracted": "retracted or withdrawn",
    "notice": "a notice: erratum, retraction, expression of concern",
    "language": "not in English",
    "no_abstract": "no abstract",
    "too_short": f"abstract under {SHORTEST} words",
    "off_topic": "not about the topic",
    "duplicate": "a record we already have",
    "over_limit": "over MAX_PAPERS",
}


class Drop(NamedTuple):
    paper_id: str
    source: str
    title: str
    reason: str
    detail: str


class Screened(NamedTuple):
    """asked = kept + dropped, always; kept is sorted by source and id, dropped in the order of reading."""

    asked: int
    kept: list[Paper]
    dropped: list[Drop]

    @property
    def reasons(self) -> dict[str, int]:
        """Drops by reason, in the order the reasons are tried."""
        counts = Counter(drop.reason for drop in self.dropped)
        return {reason: counts[reason] for reason in REASONS if counts[reason]}


def screen(papers: Iterable[Paper], topic: Topic, limit: int) -> Screened:
    """Each paper kept, or dropped with the first of REASONS that holds.

    Records come oldest file first: a newer version of a record takes the older one's place, and a deletion
    removes it. Memory grows with what is kept and with one small entry per drop.
    """
    asked, kept, dropped, newest = 0, {}, [], {}

    def drop(paper: Paper, reason: str, detail: str) -> None:
        dropped.append(Drop(paper.paper_id, paper.source, paper.title, reason, detail))

    for paper in papers:
        older = kept.get(paper.key)
        if "deleted" in paper.flags:
            if older:
                drop(kept.pop(paper.key), "deleted", "PubMed has withdrawn the record")
            continue
        asked += 1
        if paper.version < newest.get(paper.key, 0):
            drop(paper, "duplicate", f"version {newest[paper.key]} of the same record is newer")
            continue
        newest[paper.key] = paper.version
        if older:
            drop(kept.pop(paper.key), "duplicate", "a newer record has the same id")
        reason, detail = judge(paper, topic)
        if reason:
            drop(paper, reason, detail)
        else:
            kept[paper.key] = paper

    unique, doubles = drop_doubles(kept.values())
    fitting, surplus = sample(unique, limit)
    for paper, twin in doubles:
        drop(paper, "duplicate", twin)
    for paper in surplus:
        drop(paper, "over_limit", f"MAX_PAPERS={limit}")
    assert asked == len(fitting) + len(dropped), "a paper was neither kept nor dropped"
    return Screened(asked, fitting, dropped)


def judge(paper: Paper, topic: Topic) -> tuple[str, str]:
    """(reason, detail) to drop a paper by what it says of itself; ("", "") to keep it."""
    if "retracted" in paper.flags:
        return "retracted", "marked as retracted by its source"
    if "notice" in paper.flags:
        return "notice", "; ".join(paper.publication_types) or "linked as a notice"
    if paper.language != "eng":
        return "language", paper.language
    if "passed over" in paper.flags:
        return "off_topic", "no word of the topic"
    if not paper.abstract:
        return "no_abstract", ""
    words = sum(len(section.text.split()) for section in paper.abstract)
    if words < SHORTEST:
        return "too_short", f"{words} words"
    why = topic.off_topic(paper)
    return ("off_topic", why) if why else ("", "")


def normal(title: str) -> str:
    """A title as its letters and digits only, for comparing."""
    return re.sub(r"[\W_]+", " ", title.lower()).strip()


def drop_doubles(papers: Iterable[Paper]) -> tuple[list[Paper], list[tuple[Paper, str]]]:
    """Papers with a DOI and a title of their own, and the others with the twin that stays.

    Of two twins the one from PubMed stays, then the one with the smaller id: the order of arrival cannot show.
    """
    unique, doubles, seen = [], [], {}
    for paper in sorted(papers, key=lambda paper: (paper.source != "PubMed", paper.key)):
        marks = {"DOI": paper.doi, "title": normal(paper.title)}
        twin = next(((m, seen[m, v]) for m, v in marks.items() if v and (m, v) in seen), None)
        if twin:
            doubles.append((paper, f"same {twin[0]} as {twin[1]}"))
            continue
        seen |= dict.fromkeys(marks.items(), paper.paper_id)
        unique.append(paper)
    return unique, doubles


def sample(papers: list[Paper], limit: int) -> tuple[list[Paper], list[Paper]]:
    """At most `limit` papers, chosen by a hash of their ids, and the rest; both sorted by source and id."""
    ranked = sorted(papers, key=lambda paper: sha256(":".join(paper.key).encode()).hexdigest())
    return tuple(sorted(part, key=lambda paper: paper.key) for part in (ranked[:limit], ranked[limit:]))
