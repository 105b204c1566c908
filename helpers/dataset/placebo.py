"""The placebo: rows made in the same way from papers of other fields, to see what training on any papers does."""

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from helpers.core import RAW, CourseError, Settings
from helpers.dataset.build import make_rows
from helpers.dataset.contamination import drop_contaminated
from helpers.dataset.formats import parse_formats
from helpers.papers import (
    Paper,
    Topic,
    fetch_archive,
    from_sample,
    read_excluded_ids,
    screen_papers,
    search_pubmed,
    stream_papers,
)

LOOKED_AT = 4  # papers looked at for each that is wanted: some have no abstract, some are about the topic


class Elsewhere:
    """The other side of a topic, as screening asks for it: a paper belongs here if it names nothing of the topic."""

    def __init__(self, topic: Topic):
        self.topic = topic

    def off_topic(self, paper: Paper) -> str:
        """Why a paper is not from elsewhere; "" if it is."""
        found = self.topic.mentions(f"{paper.title}\n{paper.text}") or sorted(self.topic.mesh & set(paper.mesh))
        return f"names {found[0]}" if found else ""


def build_placebo(
    training: list[dict],
    settings: Settings,
    topic: Topic,
    route: dict,
    tested: Iterable[dict] = (),
    raw: Path = RAW,
) -> list[dict]:
    """Rows of as many papers of other fields as `training` has papers; [] with CONTROLS=off.

    The same screening, views and limits as for `training`, and by the same `route`; a view that needs a name of the
    topic finds fewer sentences here. No row shares eight words in a row with what is `tested`. There may be fewer
    papers than wanted. Raises CourseError if there is none.
    """
    if settings.CONTROLS == "off":
        return []
    wanted = len({(row["source"], row["paper_id"]) for row in training})
    found = find_candidates(settings, topic, route, LOOKED_AT * wanted, raw)
    papers = choose_placebo(found, topic, wanted, read_excluded_ids(settings))
    chosen = parse_formats(settings.VIEWS)
    made = [row for p in papers for row in make_rows(p, topic, settings.ROWS_PER_PAPER, chosen, "training")]
    if not (kept := drop_contaminated(made, list(tested))):
        raise CourseError(
            f"CONTROLS={settings.CONTROLS}: no paper of another field was found for the placebo",
            "give an archive that holds some, or leave the placebo out: CONTROLS=off",
            "no-papers-for-the-placebo",
        )
    return kept


def find_candidates(settings: Settings, topic: Topic, route: dict, n: int, raw: Path) -> Iterator[Paper]:
    """At most `n` papers with an abstract that name nothing of the topic, from where the other papers came from."""
    if route["name"] == "sample":
        found = from_sample().papers
    elif route["name"] == "archive":
        found = stream_papers(settings.PAPERS_ARCHIVE or fetch_archive())
    else:
        found = search_pubmed(settings, topic.placebo_query, n, raw).papers
    elsewhere = Elsewhere(topic)
    return islice((paper for paper in found if paper.abstract and not elsewhere.off_topic(paper)), n)


def choose_placebo(papers: Iterable[Paper], topic: Topic, limit: int, excluded: Collection[str]) -> list[Paper]:
    """At most `limit` of them, screened as the others were."""
    with tempfile.TemporaryDirectory() as folder:
        return screen_papers(papers, Elsewhere(topic), limit, Path(folder) / "dropped.jsonl", excluded).kept


def compare_groups(groups: Mapping[str, list[dict]]) -> list[dict]:
    """A table: for each named group of rows how many papers, rows, views and words it has."""
    return [
        {
            "rows of": name,
            "papers": len({row["paper_id"] for row in rows}),
            "rows": f"{len(rows):,}",
            "views": len({row["view"] for row in rows}),
            "words": f"{sum(len(row['text'].split()) for row in rows):,}",
        }
        for name, rows in groups.items()
        if rows
    ]
