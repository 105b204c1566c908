"""Training rows from abstracts: questions with answers that are, letter for letter, the paper's own."""

import json
import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

from helpers.errors import CourseError
from helpers.files import read_json
from helpers.papers import Paper, Section
from helpers.paths import relative
from helpers.screening import normal

LONGEST = 150  # words in an answer
SHORTEST = 8
SHARE_HELD_OUT = 0.3
ALIKE = 0.5  # Jaccard similarity of two abstracts' five-word shingles that makes them one cluster
SEED_KEYS = ("text", "source", "paper_id", "title")

ASK = {
    "conclusions": "What does the study “{title}” conclude?",
    "results": "What were the main results of the study “{title}”?",
    "methods": "How was the study “{title}” done?",
    "background": "Why was the study “{title}” done?",
    "abstract": "What does the paper “{title}” report?",
}
CONCLUDES = re.compile(
    r"(?:In (?:conclusion|summary)|To conclude|Taken together|Collectively|Altogether|We conclude"
    r"|Overall, (?:our|these|this|the)"
    r"|(?:Our|These|The present|This) (?:findings?|results?|data|study|work|evidence|observations?)(?: \w+)? "
    r"(?:suggest|indicate|demonstrate|support|highlight|provide|reveal|show|confirm|imply|underline|underscore)s?)\b|Conclusions?:\s*"
)
ABBREVIATION = re.compile(
    r"(?:\b(?:vs|e\.g|i\.e|al|cf|approx|no|nos|fig|figs|dr|st|resp|ca|spp|subsp)|\b[A-Z])\.$", re.I
)
SENTENCE_END = re.compile(r"[.!?][)\]”\"']*\s+(?=[A-Z0-9“\"(\[Α-Ω])")
FURNITURE = re.compile(
    r"(?:©|\(c\) ?20\d\d|Copyright\b|Trial registration|Clinical ?trials?\.gov (?:identifier|number|registration)"
    r"|Supplementary (?:data|information|material)|This article is protected|\bLEVEL OF EVIDENCE\b)",
    re.IGNORECASE,
)


def sentences(text: str) -> list[tuple[int, int]]:
    """[start, end) of each sentence."""
    spans, start = [], 0
    for match in SENTENCE_END.finditer(text):
        stop = match.end() - len(match[0]) + len(match[0].rstrip())
        if ABBREVIATION.search(text[start:stop]):
            continue
        spans.append((start, stop))
        start = match.end()
    return [*spans, (start, len(text))] if start < len(text) else spans


def fit(text: str, start: int = 0) -> tuple[int, int] | None:
    """The whole sentences from `start` on that an answer can hold; None if that is too little to be one.

    Stops before copyright lines and trial numbers, and after LONGEST words.
    """
    end, words = start, 0
    for begin, stop in sentences(text[start:]):
        sentence = text[start + begin : start + stop]
        words += len(sentence.split())
        if FURNITURE.search(sentence) or (words > LONGEST and end > start):
            break
        end = start + stop
    piece = text[start:end]
    whole = piece.endswith((".", "!", "?", ")", "”"))
    return (start, end) if whole and SHORTEST <= len(piece.split()) <= 2 * LONGEST else None


def find_conclusion(text: str) -> int | None:
    """Where an unlabelled abstract begins to conclude: the first sentence of its second half that says so."""
    for start, _ in sentences(text):
        if start >= len(text) // 2 and (found := CONCLUDES.match(text, start)):
            return found.end() if ":" in found[0] else start
    return None


def make_rows(paper: Paper, limit: int) -> list[dict]:
    """At most `limit` rows: conclusion, results, methods, background, then the whole of an unlabelled abstract.

    A view that cannot be built from whole sentences is left out.
    """
    if not paper.title:
        return []
    rows = []
    for view, role, number, span in views(paper.abstract):
        section = paper.abstract[number]
        rows.append(make_row(paper, section, view, role, number, span))
    return rows[:limit]


def views(abstract: tuple[Section, ...]) -> Iterator[tuple[str, str, int, tuple[int, int]]]:
    """(view, what is asked, section number, span) in a fixed order; of sections with one role the longest."""
    if len(abstract) == 1 and not abstract[0].role:
        text = abstract[0].text
        start = find_conclusion(text)
        if start is not None and (span := fit(text, start)):
            yield "title_to_conclusion", "conclusions", 0, span
        if span := fit(text):
            yield "abstract", "abstract", 0, span
        return
    for role in ("conclusions", "results", "methods", "background"):
        numbers = [number for number, section in enumerate(abstract) if section.role == role]
        if numbers:
            number = max(numbers, key=lambda number: (len(abstract[number].text), -number))
            if span := fit(abstract[number].text):
                view = "title_to_conclusion" if role == "conclusions" else f"section_{role}"
                yield view, role, number, span


def make_row(
    paper: Paper, section: Section, view: str, role: str, number: int, span: tuple[int, int]
) -> dict[str, object]:
    """One row. `section` is the number and label of the section, `span` the answer's place in its text."""
    question = ASK[role].format(title=paper.title.rstrip(". "))
    if role == "conclusions" and paper.title.endswith("?"):
        question = paper.title
    completion = section.text[span[0] : span[1]]
    return {
        "text": f"User: {question}\n\nAssistant: {completion}",
        "source": paper.source,
        "paper_id": paper.paper_id,
        "title": paper.title,
        "prompt": question,
        "completion": completion,
        "view": view,
        "section": {"number": number, "label": section.label},
        "span": list(span),
        "licence": paper.licence,
    }


def split(papers: Iterable[Paper], seed: int, share: float = SHARE_HELD_OUT) -> tuple[list[Paper], list[Paper]]:
    """(training, held-out) papers, both sorted by source and id; papers that are nearly the same stay together.

    Whole clusters are held out in the order of a hash of the seed and their ids until `share` is reached.
    """
    papers = sorted(papers, key=lambda paper: paper.key)
    clusters = cluster(papers)
    ranked = sorted(clusters, key=lambda ids: sha256(f"{seed}:{papers[ids[0]].key}".encode()).hexdigest())
    held_out: set[int] = set()
    for ids in ranked:
        if len(held_out) >= round(share * len(papers)):
            break
        held_out.update(ids)
    sides = [[paper for n, paper in enumerate(papers) if (n in held_out) == side] for side in (False, True)]
    return sides[0], sides[1]


def cluster(papers: list[Paper]) -> list[list[int]]:
    """Numbers of papers in groups: one title, or abstracts whose five-word shingles are ALIKE."""
    shingles = [shingle(paper.text) for paper in papers]
    places: dict[object, list[int]] = {}
    for number, paper in enumerate(papers):
        for mark in {normal(paper.title) or number, *shingles[number]}:
            places.setdefault(mark, []).append(number)
    parent = list(range(len(papers)))

    def root(number: int) -> int:
        while parent[number] != number:
            number = parent[number]
        return number

    pairs = {(a, b) for together in places.values() for a, b in pairwise(together)}
    for a, b in sorted(pairs):
        union = len(shingles[a] | shingles[b])
        similar = union and len(shingles[a] & shingles[b]) / union >= ALIKE
        if similar or normal(papers[a].title) == normal(papers[b].title) != "":
            parent[max(root(a), root(b))] = min(root(a), root(b))
    groups: dict[int, list[int]] = {}
    for number in range(len(papers)):
        groups.setdefault(root(number), []).append(number)
    return list(groups.values())


def shingle(text: str) -> set[tuple[str, ...]]:
    words = normal(text).split()
    return {tuple(words[n : n + 5]) for n in range(len(words) - 4)}


def build(
    papers: Iterable[Paper], seed: int, rows_per_paper: int, questions: Iterable[dict] = ()
) -> tuple[list[dict], list[dict]]:
    """(training rows, held-out papers with their rows), in the order of the papers' ids.

    A row that shares eight words in a row with one of the test's `questions` or references is left out.
    """
    training, held_out = split(papers, seed)
    tested = {run for q in questions for run in word_runs(f"{q['question']} \n {q.get('reference') or ''}")}
    rows = [row for paper in training for row in make_rows(paper, rows_per_paper)]
    rows = [row for row in rows if tested.isdisjoint(word_runs(row["text"]))]
    unseen = [
        {
            "paper_id": paper.paper_id,
            "source": paper.source,
            "title": paper.title,
            "abstract": paper.text,
            "year": paper.year,
            "rows": make_rows(paper, rows_per_paper),
        }
        for paper in held_out
    ]
    check_no_leak(rows, unseen)
    return rows, unseen


def word_runs(text: str, length: int = 8) -> set[tuple[str, ...]]:
    """Every run of `length` words, case and punctuation aside."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def check_no_leak(rows: Iterable[dict], held_out: Iterable[dict]) -> None:
    """Assert that no training row comes from a held-out paper, by id or by title."""
    ids = {(paper["source"], paper["paper_id"]) for paper in held_out}
    titles = {normal(paper["title"]) for paper in held_out} - {""}
    leaks = [r for r in rows if (r["source"], r["paper_id"]) in ids or normal(r["title"]) in titles]
    assert not leaks, f"{len(leaks)} training rows come from held-out papers, the first from {leaks[0]['paper_id']}"


def load_rows(path: Path) -> list[dict]:
    """Rows of stage 3 or of a user's file, JSON or JSON Lines; `prompt` and `completion` are filled in from `text`.

    Raises CourseError naming the rows, counted from 1, that lack one of the seed's keys or cannot be split.
    """
    path = Path(path)
    rows = read_lines(path) if path.suffix == ".jsonl" else read_json(path)
    if not isinstance(rows, list) or not rows:
        raise CourseError(f"{relative(path)} holds no list of rows", "it must be a JSON list of objects")
    read = [read_row(row) for row in rows]
    if bad := [number for number, row in enumerate(read, start=1) if row is None]:
        shown = ", ".join(map(str, bad[:10])) + (", …" if len(bad) > 10 else "")
        raise CourseError(
            f"{relative(path)}: {len(bad)} of {len(rows)} rows cannot be used: row {shown}",
            'each needs text, source, paper_id and title, its text as "User: question\\n\\nAssistant: answer"',
        )
    return read


def read_lines(path: Path) -> list[object]:
    """The value of each line, None for a line that is no JSON."""
    values = []
    for line in filter(str.strip, path.read_text(encoding="utf-8").splitlines()) if path.is_file() else []:
        try:
            values.append(json.loads(line))
        except ValueError:
            values.append(None)
    return values


def read_row(row: object) -> dict | None:
    """The row with prompt and completion, or None if it has no such parts."""
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in SEED_KEYS):
        return None
    if row.get("prompt") == "" and row.get("completion") == row["text"] != "":
        return row
    parts = re.fullmatch(r"User: (.+?)\n\nAssistant: (.*\S.*)", row["text"], re.DOTALL)
    if not parts or not parts[1].strip():
        return None
    return row | {"prompt": parts[1], "completion": parts[2]}
