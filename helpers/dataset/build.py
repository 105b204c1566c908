"""Training rows: which papers they come from, how many, and whether each can be derived from its paper again."""

import json
import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from helpers.core import CourseError, Settings, read_json, relative_path
from helpers.dataset.contamination import check_split, drop_contaminated, tested_texts
from helpers.dataset.formats import AT_MOST, is_allowed, offered_places, parse_formats, write_row
from helpers.dataset.parsed_paper import ParsedPaper, Place
from helpers.dataset.prompts import hash_paper
from helpers.dataset.sections import section_label
from helpers.papers import Paper, Topic, cluster_papers

SHARE_HELD_OUT = 0.3
SIDES = ("training", "held_out")
SEED_KEYS = ("text", "source", "paper_id", "title")


def build_rows(
    papers: Iterable[Paper], settings: Settings, topic: Topic, questions: Iterable[dict] = ()
) -> tuple[list[dict], list[dict]]:
    """(training rows, held-out papers with their rows), in the order of the papers' ids.

    Papers are split first (SEED), then turned into at most ROWS_PER_PAPER rows each by the VIEWS. A training row
    that shares eight words in a row with one of the test's `questions` gives way. Every row is derived a second
    time from its paper before it is returned.
    """
    wanted = parse_formats(settings.VIEWS)
    training, held_out = split_papers(papers, settings.SEED)
    made = {
        side: {paper.key: make_rows(paper, topic, settings.ROWS_PER_PAPER, wanted, side) for paper in group}
        for side, group in zip(SIDES, (training, held_out), strict=True)
    }
    rows = drop_contaminated(
        [row for made_of in made["training"].values() for row in made_of], tested_texts(questions)
    )
    unseen = [
        {
            "paper_id": paper.paper_id,
            "source": paper.source,
            "title": paper.title,
            "abstract": paper.text,
            "year": paper.year,
            "rows": made["held_out"][paper.key],
        }
        for paper in held_out
    ]
    check_split(rows, unseen)
    validate_rows([*rows, *(row for paper in unseen for row in paper["rows"])], [*training, *held_out], topic)
    return rows, unseen


def split_papers(
    papers: Iterable[Paper], seed: int, share: float = SHARE_HELD_OUT
) -> tuple[list[Paper], list[Paper]]:
    """(training, held-out) papers, both sorted by source and id; papers that are nearly the same stay together.

    Whole clusters are held out in the order of a hash of the seed and their ids until `share` is reached.
    """
    papers = sorted(papers, key=lambda paper: paper.key)
    clusters = cluster_papers(papers)
    ranked = sorted(clusters, key=lambda ids: sha256(f"{seed}:{papers[ids[0]].key}".encode()).hexdigest())
    held_out: set[int] = set()
    for ids in ranked:
        if len(held_out) >= round(share * len(papers)):
            break
        held_out.update(ids)
    sides = [[paper for n, paper in enumerate(papers) if (n in held_out) == side] for side in (False, True)]
    return sides[0], sides[1]


def make_rows(paper: Paper, topic: Topic, limit: int, wanted: Iterable[str], side: str) -> list[dict]:
    """At most `limit` rows of a paper, in the order of `wanted`; `side` is training or held_out.

    Every view gets its turn before any gets a second; a hash of the paper's id says which one is first, so that
    with a small limit different papers show different views.
    """
    reading = ParsedPaper(paper, topic)
    offered = {view: offered_places(reading, view) for view in wanted}
    names = list(offered)
    first = hash_paper(paper, "first view") % len(names)
    turns = [(n, view) for n in range(AT_MOST) for view in names[first:] + names[:first]]
    taken = sorted([(names.index(v), n) for n, v in turns if n < len(offered[v])][:limit])
    return [make_row(reading, names[at], *offered[names[at]][n], side) for at, n in taken]


def make_row(reading: ParsedPaper, view: str, place: Place, template: str, side: str) -> dict[str, object]:
    """One row. `section` is the number and label of the section, `span` the answer's place in its text."""
    paper = reading.paper
    prompt, completion = write_row(reading, view, place, template)
    return {
        "text": as_text(prompt, completion),
        "source": paper.source,
        "paper_id": paper.paper_id,
        "title": paper.title,
        "prompt": prompt,
        "completion": completion,
        "view": view,
        "template": template,
        "section": {"number": place.number, "label": section_label(paper, place.number)},
        "span": [place.start, place.end],
        "disease": reading.disease,
        "split": side,
        "licence": paper.licence,
    }


def as_text(prompt: str, completion: str) -> str:
    """Prompt and completion in the seed's one text; running text has no prompt."""
    return f"User: {prompt}\n\nAssistant: {completion}" if prompt else completion


def validate_rows(rows: list[dict], papers: Iterable[Paper], topic: Topic) -> int:
    """How many rows were derived from their papers again: all of them.

    Raises CourseError naming the rows, counted from 1, that could not be, and why.
    """
    known = {paper.key: paper for paper in papers}
    by_paper: dict[tuple, list[int]] = {}
    for number, row in enumerate(rows, start=1):
        by_paper.setdefault((row.get("source"), row.get("paper_id")), []).append(number)
    faults: dict[int, str] = {}
    for key, numbers in by_paper.items():
        reading = ParsedPaper(known[key], topic) if key in known else None
        for number in numbers:
            if fault := find_row_fault(rows[number - 1], reading):
                faults[number] = fault
    if faults:
        shown = "; ".join(f"row {number}: {faults[number]}" for number in sorted(faults)[:10])
        raise CourseError(
            f"{len(faults)} of {len(rows)} training rows do not follow from their papers ({shown})",
            "build them again: FORCE=3 make pipeline",
        )
    return len(rows)


def find_row_fault(row: dict, reading: ParsedPaper | None) -> str:
    """Why a row does not follow from its paper; "" if it does."""
    if reading is None:
        return f"there is no paper {row.get('source')} {row.get('paper_id')}"
    try:
        place = Place(row["section"]["number"], *row["span"])
        if not is_allowed(reading, row["view"], place, row["template"]):
            return f"{row['view']} makes no {row['template']} of characters {row['span']} of section {place.number}"
        again = make_row(reading, row["view"], place, row["template"], row["split"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        return f"it lacks what a row has, or names what there is not ({error!r})"
    if row["split"] not in SIDES:
        return f"split={row['split']!r} is neither of {', '.join(SIDES)}"
    wrong = [name for name, value in again.items() if row.get(name) != value]
    return f"{', '.join(wrong)} would be different" if wrong else ""


def load_rows(path: Path) -> list[dict]:
    """Rows of stage 3 or of a user's file, JSON or JSON Lines; `prompt` and `completion` are filled in from `text`.

    Raises CourseError naming the rows, counted from 1, that lack one of the seed's keys or cannot be split.
    """
    path = Path(path)
    rows = read_lines(path) if path.suffix == ".jsonl" else read_json(path)
    if not isinstance(rows, list) or not rows:
        raise CourseError(
            f"{relative_path(path)} holds no list of rows",
            "it must be a JSON list of objects",
            "your-own-rows-are-refused",
        )
    read = [read_row(row) for row in rows]
    if bad := [number for number, row in enumerate(read, start=1) if row is None]:
        shown = ", ".join(map(str, bad[:10])) + (", …" if len(bad) > 10 else "")
        raise CourseError(
            f"{relative_path(path)}: {len(bad)} of {len(rows)} rows cannot be used: row {shown}",
            'each needs text, source, paper_id and title, its text as "User: question\\n\\nAssistant: answer"',
            "your-own-rows-are-refused",
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
