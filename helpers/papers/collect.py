"""Papers collected: over the network, from PubMed's files, or from the small written sample."""

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from helpers.core import RAW, SAMPLE, CourseError, Settings, hash_file, relative_path, report_progress
from helpers.papers.arxiv_api import read_atom, search_arxiv
from helpers.papers.http import Unreachable
from helpers.papers.paper import Paper
from helpers.papers.pubmed_api import Batch, PubMedClient, count_total, cut_history
from helpers.papers.pubmed_files import fetch_archive, list_archive_files, stream_papers
from helpers.papers.pubmed_xml import parse_pubmed
from helpers.papers.query import compile_query
from helpers.papers.response_cache import Ledger
from helpers.papers.topic import Glance, Topic

SAMPLE_DAY = "2026-11-22"  # the day the sample was written


@dataclass
class Harvest:
    """`papers` is read once; `route` says where they come from, and its counts are whole after that reading.

    `route`: name (online, archive, sample), why (the archive was read, else ""), fetched (the last day),
    sources ({source: {"asked", "got"}}), files ({name: sha256}), incomplete (None, or what arXiv owes:
    {"source", "asked", "got", "cause"}).
    """

    papers: Iterable[Paper]
    route: dict


def collect_papers(settings: Settings, topic: Topic, raw: Path = RAW) -> Harvest:
    """The papers that PAPERS_SOURCE, PAPERS_IDS, PAPERS_QUERY and the topic ask for, before any screening.

    Raw answers are kept in `raw`, so that a rerun makes no request and a killed one goes on where it was.
    Raises CourseError if PubMed is out of reach on the route `online`, or answered and then fell short.
    """
    found = choose_route(settings, topic, raw)
    return Harvest(count_into_route(found.papers, found.route), found.route)


def choose_route(settings: Settings, topic: Topic, raw: Path) -> Harvest:
    """The route that PAPERS_SOURCE names or the network leaves open."""
    if settings.PAPERS_SOURCE == "sample":
        return from_sample()
    ids = read_ids(settings.PAPERS_IDS, "PAPERS_IDS") if settings.PAPERS_IDS else None
    if settings.PAPERS_SOURCE == "archive":
        return from_archive(settings, topic, ids, why="PAPERS_SOURCE=archive")
    try:
        found = from_pubmed(settings, topic, ids, Ledger(raw / "pubmed.jsonl"))
    except Unreachable as error:
        if settings.PAPERS_SOURCE == "online":
            raise out_of_reach(error) from None
        found = from_archive(settings, topic, ids, why=f"PubMed cannot be reached ({error})")
    return with_arxiv(found, settings, topic, raw) if ids is None else found


def new_route(name: str, why: str = "") -> dict:
    return {"name": name, "why": why, "fetched": "", "sources": {}, "files": {}, "incomplete": None}


def from_pubmed(settings: Settings, topic: Topic, ids: list[str] | None, ledger: Ledger) -> Harvest:
    """What PubMed finds for PAPERS_QUERY or the topic, or the records named.

    A quarter more than MAX_PAPERS is asked for, because screening drops some.
    """
    client = PubMedClient(settings, ledger)
    if ids is not None:
        return fetch_batches(client, cut_history(ids))
    report_progress("asking PubMed")
    query = settings.PAPERS_QUERY or topic.pubmed_query
    batches = client.search(query, settings.MAX_PAPERS * 5 // 4)
    if not batches:
        raise CourseError(
            f"PubMed finds nothing for {query!r}", "change PAPERS_QUERY or the topic's pubmed_query", "too-few-papers"
        )
    return fetch_batches(client, batches)


def search_pubmed(settings: Settings, query: str, n: int, raw: Path = RAW) -> Harvest:
    """At most `n` papers that PubMed finds for another query, over the network; answers are kept.

    Raises CourseError if PubMed is out of reach or refuses.
    """
    client = PubMedClient(settings, Ledger(raw / "pubmed.jsonl"))
    try:
        return fetch_batches(client, client.search(query, n))
    except Unreachable as error:
        raise out_of_reach(error) from None


def fetch_batches(client: PubMedClient, batches: list[Batch]) -> Harvest:
    """Every record fetched into the ledger, then read from it."""
    client.fetch(batches)

    def read(batch: Batch) -> list[Paper]:
        body, day = client.read(batch)
        asked = {pmid: place for place, pmid in enumerate(batch.ids)}
        papers = (paper for paper in parse_pubmed(io.BytesIO(body), day) if paper.paper_id in asked)
        return sorted(papers, key=lambda paper: asked[paper.paper_id])

    route = new_route("online")
    route["sources"]["PubMed"] = {"asked": count_total(batches), "got": 0}
    return Harvest(chain.from_iterable(map(read, batches)), route)


def out_of_reach(error: Unreachable) -> CourseError:
    return CourseError(
        f"PubMed cannot be reached ({error})",
        "check the network, or read PubMed's file instead: PAPERS_SOURCE=archive",
        "pubmed-is-out-of-reach",
    )


def with_arxiv(found: Harvest, settings: Settings, topic: Topic, raw: Path) -> Harvest:
    """`found` and arXiv's papers after it: a fifth of MAX_PAPERS is asked for."""
    n = max(10, settings.MAX_PAPERS // 5)
    report_progress(f"asking arXiv for {n} papers")
    papers, short = search_arxiv(settings, topic.arxiv_query, n, Ledger(raw / "arxiv.jsonl"))
    found.route["incomplete"] = short
    found.route["sources"]["arXiv"] = {
        "asked": short["asked"] if short else len({paper.key for paper in papers}),
        "got": 0,
    }
    return Harvest(chain(found.papers, papers), found.route)


def from_archive(settings: Settings, topic: Topic, ids: list[str] | None, why: str) -> Harvest:
    """PubMed's files read in place of its service. A query or a list of PMIDs picks records as it would there."""
    path = settings.PAPERS_ARCHIVE or fetch_archive()
    route = new_route("archive", why)
    route["files"] = {relative_path(file): hash_file(file) for file in list_archive_files(path)}
    if ids is not None:
        papers = select_by_id(stream_papers(path), ids)
        route["sources"]["PubMed"] = {"asked": len(ids), "got": 0}
    elif settings.PAPERS_QUERY:
        matches = compile_query(settings.PAPERS_QUERY)
        papers = (paper for paper in stream_papers(path) if "deleted" in paper.flags or matches(paper))
    else:
        papers = stream_papers(path, worth=Glance(topic))
    return Harvest(papers, route)


def select_by_id(papers: Iterable[Paper], ids: list[str]) -> Iterator[Paper]:
    """The papers with these PMIDs; after them, for each that is not there, one with the flag "not found"."""
    wanted, found = set(ids), set()
    for paper in papers:
        if paper.paper_id in wanted:
            found |= {paper.paper_id} if "deleted" not in paper.flags else set()
            yield paper
    for pmid in ids:
        if pmid not in found:
            yield Paper(paper_id=pmid, source="PubMed", title="", flags=("not found",))


def from_sample() -> Harvest:
    """The records written for this course, through the parsers of the real ones."""
    route, files = new_route("sample", "PAPERS_SOURCE=sample"), (SAMPLE / "pubmed.xml", SAMPLE / "arxiv.atom")
    route["files"] = {relative_path(file): hash_file(file) for file in files}
    papers = chain(stream_papers(files[0], fetched=SAMPLE_DAY), read_atom(files[1], SAMPLE_DAY))
    return Harvest(papers, route)


def count_into_route(papers: Iterable[Paper], route: dict) -> Iterator[Paper]:
    """`papers`, counted into `route` as they pass; asked = got where nobody promised a number.

    Where a number was promised, a record that comes in two versions is one.
    """
    got, seen = Counter(), set()
    for paper in papers:
        route["fetched"] = max(route["fetched"], paper.fetched)
        if not {"deleted", "not found"}.intersection(paper.flags) and paper.key not in seen:
            got[paper.source] += 1
            seen.update([paper.key] if paper.source in route["sources"] else [])
        yield paper
    for source in sorted(got.keys() | route["sources"].keys()):
        route["sources"][source] = {"asked": got[source]} | route["sources"].get(source, {}) | {"got": got[source]}


def count_hits(settings: Settings, query: str, raw: Path = RAW) -> int:
    """How many records PubMed finds for a query, over the network; the answer is kept.

    Raises CourseError if PubMed is out of reach or refuses.
    """
    try:
        return PubMedClient(settings, Ledger(raw / "pubmed.jsonl")).count(query)
    except Unreachable as error:
        raise out_of_reach(error) from None


def try_query(query: str, papers: Iterable[Paper]) -> list[Paper]:
    """The papers among these that a query finds. Raises CourseError for a query that does not parse."""
    return list(filter(compile_query(query), papers))


def read_excluded_ids(settings: Settings) -> frozenset[str]:
    """The PMIDs never to train on."""
    return frozenset(read_ids(settings.PAPERS_EXCLUDE, "PAPERS_EXCLUDE") if settings.PAPERS_EXCLUDE else ())


def read_ids(path: Path, setting: str) -> list[str]:
    """The PMIDs in a file, one a line, each once; blank lines and lines that begin with # are passed over.

    Raises CourseError naming the setting, the file and the line that is no PMID.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(
            f"{setting}={str(path)!r} cannot be read ({getattr(error, 'strerror', None) or 'it is not text'})",
            "give a text file of PMIDs, one a line",
            "pmids-without-a-record",
        ) from None
    ids = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if not (pmid := re.fullmatch(r"(?:PMID:?\s*)?0*([1-9][0-9]{0,8})", text, re.IGNORECASE)):
            raise CourseError(
                f"{setting}={str(path)!r}, line {number}: {text[:40]!r} is no PMID",
                "a PMID is a whole number, one a line; begin a remark with #",
                "pmids-without-a-record",
            )
        ids[pmid[1]] = None
    if not ids:
        raise CourseError(
            f"{setting}={str(path)!r} holds no PMID",
            "put one PMID a line into it, or unset it",
            "pmids-without-a-record",
        )
    return list(ids)


def describe_route(route: dict) -> str:
    """The route in a few plain sentences, for the reader and the report."""
    told = {
        "online": "Papers were asked for over the network.",
        "archive": f"{route['why']}: papers were read from PubMed's own file "
        f"{', '.join(Path(name).name for name in list(route['files'])[:3])}.",
        "sample": "These are the small records written for this course: a test, not science.",
    }[route["name"]]
    counts = [f"{source}: {n['got']:,} of {n['asked']:,} records came." for source, n in route["sources"].items()]
    short = route["incomplete"]
    owed = f"arXiv is incomplete: {short['got']} of {short['asked']} ({short['cause']})." if short else ""
    return " ".join(filter(None, [told, *counts, owed]))
