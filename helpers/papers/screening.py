"""Which papers are kept, and for every other one the reason."""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pydantic import TypeAdapter

from helpers.core import atomic_file
from helpers.papers.duplicates import connected_groups, find_similar_pairs
from helpers.papers.paper import Paper, bare_doi, normalise_text
from helpers.papers.topic import Topic

SHORTEST = 60  # words of abstract
SAME_TEXT = 0.8  # Jaccard similarity of two abstracts' shingles from which one is the other's double
JOURNAL_SHARE = 0.1  # of the papers kept, at most, from one journal
JOURNAL_LEAST = 5  # papers that every journal may give, however few are kept
LINE = TypeAdapter(dict[str, str])  # a drop as JSON, written faster than by the json module
SHOWN = 3  # examples of each reason
REASONS = {
    "deleted": "deleted by PubMed",
    "not_found": "asked for, but not in the archive",
    "excluded": "named in PAPERS_EXCLUDE",
    "retracted": "retracted or withdrawn",
    "notice": "a notice: erratum, retraction, expression of concern",
    "language": "not in English",
    "no_abstract": "no abstract",
    "too_short": f"abstract under {SHORTEST} words",
    "off_topic": "not about the topic",
    "duplicate": "a record we already have",
    "journal_share": f"its journal has {JOURNAL_SHARE:.0%} of the papers already",
    "over_limit": "over MAX_PAPERS",
}
PREPRINTS = re.compile(r"\b(?:arxiv|biorxiv|medrxiv|chemrxiv|preprint|research square)\b")
INSTRUCTIONS = re.compile(  # in lower case
    r"(?:ignore|disregard|forget|override)\b[^.]{0,30}\b(?:previous|prior|above|earlier|preceding|your)\b[^.]{0,20}"
    r"\b(?:instruction|prompt|rule|guideline|message)"
    r"|(?:ignore|disregard|forget|override) (?:all |any |the |your )*(?:instruction|prompt|rule|message)s?\b"
    r"|\bas an? (?:ai|artificial intelligence|large)(?: language)? (?:model|assistant)\b|\bsystem prompts?\b"
    r"|(?:language models?|llms?|ai (?:models?|assistants?|agents?|systems?)|chatbots?)"
    r" (?:that |which |who )?(?:read|process|summari[sz])"
    r"|you are (?:now )?(?:an? )?(?:helpful )?(?:ai|assistant|chatbot|chatgpt)\b"
    r"|<\|[\w ]{1,40}\|>|\[/?inst\]|<</?sys>>|</?s>|<(?:start|end)_of_turn>|<｜[^<>｜]{1,40}｜>"
    r"|### ?(?:instruction|system|response|human|user|assistant):"
)


class Drop(NamedTuple):
    paper_id: str
    source: str
    title: str
    reason: str
    detail: str


class Screened(NamedTuple):
    """asked = kept + dropped, always; `kept` is sorted by source and id.

    `reasons` counts the drops, in the order the reasons are tried; `examples` holds the first few of each.
    """

    asked: int
    kept: list[Paper]
    reasons: dict[str, int]
    examples: dict[str, list[Drop]]


class Drops:
    """Drops written to a file as they come; only their counts and a few examples stay in memory."""

    def __init__(self, file: BinaryIO):
        self.file, self.counts, self.examples = file, Counter(), {}

    def add(self, paper: Paper, reason: str, detail: str) -> None:
        drop = Drop(paper.paper_id, paper.source, paper.title, reason, detail)
        self.file.write(LINE.dump_json(drop._asdict()) + b"\n")
        self.counts[reason] += 1
        if self.counts[reason] <= SHOWN:
            self.examples.setdefault(reason, []).append(drop)


def screen_papers(
    papers: Iterable[Paper], topic: Topic, limit: int, dropped: Path, excluded: Collection[str] = frozenset()
) -> Screened:
    """Each paper kept, or dropped with the first of REASONS that holds; drops go to `dropped`, JSON Lines.

    Records come oldest file first: a newer version of a record takes the older one's place, and a deletion
    removes it. A kept paper whose text reads like instructions to a model gets the flag "instructions"; its text
    stays as it is. Memory grows with what is kept, and with what is retracted or excluded.
    """
    with atomic_file(dropped) as temporary, temporary.open("wb", buffering=2**20) as file:
        drops = Drops(file)
        asked, found = keep_newest(papers, topic, excluded, drops)
        kept = choose_papers(drop_doubles(found, drops), limit, drops)
    assert asked == len(kept) + drops.counts.total(), "a paper was neither kept nor dropped"
    reasons = {reason: drops.counts[reason] for reason in REASONS if drops.counts[reason]}
    return Screened(
        asked, [flag_instructions(paper) for paper in kept], reasons, {name: drops.examples[name] for name in reasons}
    )


def keep_newest(
    papers: Iterable[Paper], topic: Topic, excluded: Collection[str], drops: Drops
) -> tuple[int, list[Paper]]:
    """(records read, those that pass `judge`), of each record only the newest version.

    A version above 1 is remembered even if it is dropped, so that an older one that comes later is not kept.
    Version 1, which nearly all records are, needs no remembering.
    """
    asked, kept, versions, barred = 0, {}, {}, {}
    for paper in papers:
        older = kept.get(paper.key)
        if "deleted" in paper.flags:
            if older:
                drops.add(kept.pop(paper.key), "deleted", "PubMed has withdrawn the record")
            versions.pop(paper.key, None)
            barred.pop(paper.key, None)
            continue
        asked += 1
        if paper.version < versions.get(paper.key, 1):
            drops.add(paper, "duplicate", f"version {versions[paper.key]} of the same record is newer")
            continue
        if paper.version > 1:
            versions[paper.key] = paper.version
        if older:
            drops.add(kept.pop(paper.key), "duplicate", "a newer record has the same id")
        barred.pop(paper.key, None)
        reason, detail = judge_paper(paper, topic, excluded)
        if not reason:
            kept[paper.key] = paper
            continue
        drops.add(paper, reason, detail)
        if reason in ("retracted", "excluded"):
            barred[paper.key] = (reason, duplicate_marks(paper))
    return asked, drop_barred(kept.values(), barred, drops)


def duplicate_marks(paper: Paper) -> list[tuple[str, str]]:
    """What another record of the same paper would have in common with it: (kind, value)."""
    found = [("DOI", bare_doi(paper.doi)), ("title", normalise_text(paper.title))]
    if paper.source == "arXiv":
        found.append(("DOI", f"10.48550/arxiv.{paper.paper_id}".lower()))
    return [mark for mark in found if mark[1]]


def drop_barred(papers: Iterable[Paper], barred: dict, drops: Drops) -> list[Paper]:
    """Papers that are no copies of retracted or excluded ones.

    A retracted paper's title does not count: it may have been mended and published again.
    """
    why = {
        mark: (reason, f"same {mark[0]} as {paper_id}")
        for (_, paper_id), (reason, found) in barred.items()
        for mark in found
        if mark[0] == "DOI" or reason == "excluded"
    }
    clear = []
    for paper in papers:
        if bar := next((why[mark] for mark in duplicate_marks(paper) if mark in why), None):
            drops.add(paper, *bar)
        else:
            clear.append(paper)
    return clear


def judge_paper(paper: Paper, topic: Topic, excluded: Collection[str] = frozenset()) -> tuple[str, str]:
    """(reason, detail) to drop a paper by what it says of itself; ("", "") to keep it."""
    if "not found" in paper.flags:
        return "not_found", "no such record in the archive"
    if paper.paper_id in excluded:
        return "excluded", "its id is in PAPERS_EXCLUDE"
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


def drop_doubles(papers: Iterable[Paper], drops: Drops) -> list[Paper]:
    """One record of each paper; the others are dropped with the twin they were known by.

    Records are of one paper if they share a mark or nearly their text, or a third record connects them. PubMed's
    stays rather than arXiv's, a journal's rather than a preprint's, then the one with the smaller id.
    """
    ranked = sorted(papers, key=rank_paper)
    seen: dict[tuple[str, str], int] = {}
    twins = [
        (seen[mark], number, f"same {mark[0]} as")
        for number, paper in enumerate(ranked)
        for mark in duplicate_marks(paper)
        if seen.setdefault(mark, number) != number
    ]
    twins += [(a, b, "nearly the same text as") for a, b in find_similar_pairs(ranked, SAME_TEXT)]
    groups = connected_groups(len(ranked), ((a, b) for a, b, _ in twins))
    known = {a: f"{how} {ranked[b].paper_id}" for a, b, how in twins[::-1]}
    known |= {b: f"{how} {ranked[a].paper_id}" for a, b, how in twins[::-1]}
    for number in sorted(double for group in groups for double in group[1:]):
        drops.add(ranked[number], "duplicate", known[number])
    return [ranked[group[0]] for group in groups]


def rank_paper(paper: Paper) -> tuple:
    return paper.source != "PubMed", "Preprint" in paper.publication_types, len(paper.paper_id), paper.paper_id


def choose_papers(papers: list[Paper], limit: int, drops: Drops) -> list[Paper]:
    """At most `limit` papers in the order of a hash of their ids, at most JOURNAL_SHARE of them from one journal.

    Preprint servers and records without a journal have no such bound. Sorted by source and id.
    """
    share = max(JOURNAL_LEAST, int(JOURNAL_SHARE * min(limit, len(papers))))
    kept, journals = [], Counter()
    for paper in sorted(papers, key=lambda paper: sha256(":".join(paper.key).encode()).hexdigest()):
        journal = normalise_text(paper.journal)
        bounded = journal and paper.source != "arXiv" and not PREPRINTS.search(journal)
        if len(kept) >= limit:
            drops.add(paper, "over_limit", f"MAX_PAPERS={limit}")
        elif bounded and journals[journal] >= share:
            drops.add(paper, "journal_share", f"{share} papers of {paper.journal} are kept")
        else:
            journals[journal] += 1
            kept.append(paper)
    return sorted(kept, key=lambda paper: paper.key)


def flag_instructions(paper: Paper) -> Paper:
    """`paper`, with the flag "instructions" where its title or abstract speaks to a model, not to a reader."""
    if not INSTRUCTIONS.search(f"{paper.title}\n{paper.text}".lower()):
        return paper
    return paper.model_copy(update={"flags": (*paper.flags, "instructions")})
