"""Mutated documents: parsers and screening return or raise what they promise, in time and in bounded memory.

Document n is a pure function of n: `document(n)` gives it again for a closer look.
"""

import gc
import io
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from lxml import etree
from support.hard_records import ARXIV, DAY, PUBMED, TOPIC
from support.mutations import Document, document
from support.sweeps import times

from helpers.core.errors import CourseError
from helpers.papers import arxiv_api, pubmed_api, pubmed_files, topic
from helpers.papers.http import Transient
from helpers.papers.paper import Paper
from helpers.papers.pubmed_xml import NotPubMed, parse_pubmed
from helpers.papers.screening import Screened, screen_papers

pytestmark = pytest.mark.filterwarnings(
    "error::pytest.PytestUnraisableExceptionWarning", "error::pytest.PytestUnhandledThreadExceptionWarning"
)
DOCUMENTS = times(400, 10_000)
SLOWEST = 20.0  # seconds for one document: milliseconds are usual, so this is a loop without end on any machine
GROWTH = 100 * 2**20  # bytes of memory over the whole run
GLANCE = topic.Glance(TOPIC)
WHOLE = ("PubmedArticle", "PubmedBookArticle", "DeleteCitation")


class TooSlow(BaseException):
    """No part of the code under test may catch it."""


def attempt(work: Callable, *promised: type[Exception]) -> tuple[str, object]:
    """("returned", what it returned), or the name of the promised exception and the exception."""
    try:
        return "returned", work()
    except promised as error:
        return type(error).__name__, error


def judge(found: Document, folder: Path) -> Counter:
    """How each function took the document. What is not promised is raised."""
    path = folder / ("x.xml.gz" if found.kind == "archive" else "x")
    path.write_bytes(found.body)
    return Counter(JUDGES[found.kind](found.body, path, folder / "dropped.jsonl"))


def judge_pubmed(body: bytes, path: Path, dropped: Path) -> list[str]:
    told, papers = attempt(lambda: list(parse_pubmed(io.BytesIO(body), DAY)), NotPubMed)
    whole, screened = attempt(lambda: screen_papers(parse_pubmed(path, DAY), TOPIC, 100, dropped), NotPubMed)
    assert told == whole, f"parsed: {told}; screened: {whole}"
    ids = ("99000001",)
    if told == "returned":
        check_written(papers)
        check_quick_look(body, path, dropped, screened)
        ids = tuple(sorted({paper.paper_id for paper in papers if "deleted" not in paper.flags}))
    checked, _ = attempt(lambda: pubmed_api.check_records(body, ids), Transient)
    readable = told == "returned" or "depth" in str(papers)  # records 256 elements deep are refused only when read
    assert checked == "Unfit" or readable, f"taken for a whole answer, and then: {papers}"
    return [f"parse_pubmed: {told}", f"screen: {whole}", f"check_records: {checked}"]


def check_quick_look(body: bytes, path: Path, dropped: Path, screened: Screened) -> None:
    """Passing records over changes nothing that is kept. Where there are records within records, it need only end."""
    quick, glanced = attempt(lambda: screen_papers(parse_pubmed(path, DAY, GLANCE), TOPIC, 100, dropped), NotPubMed)
    root = etree.fromstring(body, etree.XMLParser(resolve_entities=False))
    if not any(next(element.iterancestors(*WHOLE), None) is not None for element in root.iter(*WHOLE)):
        assert quick == "returned", f"not with a quick look: {glanced}"
        assert screened.kept == glanced.kept, f"a quick look keeps {len(glanced.kept)}, not {len(screened.kept)}"


def judge_archive(body: bytes, path: Path, dropped: Path) -> list[str]:
    told, screened = attempt(
        lambda: screen_papers(pubmed_files.stream_papers(path, GLANCE, DAY), TOPIC, 100, dropped), CourseError
    )
    if told == "returned":
        check_written(screened.kept)
    return [f"archive: {told}"]


def judge_search(body: bytes, path: Path, dropped: Path) -> list[str]:
    return [f"check_search: {attempt(lambda: pubmed_api.check_search(body, 9_999), Transient)[0]}"]


def judge_arxiv(body: bytes, path: Path, dropped: Path) -> list[str]:
    page, _ = attempt(lambda: arxiv_api.read_page(body, 100), Transient)
    told, papers = attempt(lambda: list(arxiv_api.read_atom(path, DAY)), CourseError)
    assert page == "Unfit" or told == "returned", f"taken for a whole page, and then: {papers}"
    if told == "returned":
        check_written(papers)
        entries = etree.fromstring(body, etree.XMLParser(resolve_entities=False)).findall(arxiv_api.ATOM + "entry")
        names = {entry.findtext(arxiv_api.ATOM + "id").strip() for entry in entries}
        read = {(paper.paper_id, paper.version) for paper in papers}
        assert len({name.removesuffix("v1").rpartition("/abs/")[2] for name in names}) == len(read), f"{read}"
        assert screen_papers(papers, TOPIC, 100, dropped).asked == len(papers) <= len(entries)
    return [f"read_page: {page}", f"read_atom: {told}"]


JUDGES = {"pubmed": judge_pubmed, "archive": judge_archive, "search": judge_search, "arxiv": judge_arxiv}


def check_written(papers: list[Paper]) -> None:
    """Every field has its type and can be written and read again; none is built with validation."""
    for paper in papers:
        assert Paper.model_validate_json(paper.model_dump_json()) == paper, f"not read back as written: {paper!r}"


@pytest.fixture
def alarm() -> Iterator[Callable]:
    """A context in which work of more than SLOWEST seconds ends in TooSlow."""

    def stop(*_: object) -> None:
        raise TooSlow(f"more than {SLOWEST} s")

    @contextmanager
    def limited() -> Iterator[None]:
        signal.setitimer(signal.ITIMER_REAL, SLOWEST)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    before = signal.signal(signal.SIGALRM, stop)
    yield limited
    signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
def test_no_mutated_document_breaks_a_parser(tmp_path, alarm):
    outcomes, wrong, seconds, process = Counter(), [], {}, psutil.Process()
    for number in range(DOCUMENTS):
        if number == DOCUMENTS // 10:  # what is loaded and cached once is loaded by now
            gc.collect()
            memory, held = process.memory_info().rss, (process.num_fds(), threading.active_count())
        found, start = document(number), time.perf_counter()
        try:
            with alarm():
                outcomes += judge(found, tmp_path)
        except (Exception, TooSlow) as error:
            told = (str(error).splitlines() or [""])[0][:150]
            wrong.append(f"document({number}), {found.kind}, {found.mutations}: {type(error).__name__} {told}")
        seconds[number] = time.perf_counter() - start
    gc.collect()
    grown = process.memory_info().rss - memory
    slowest = max(seconds, key=seconds.get)
    print(f"{dict(sorted(outcomes.items()))}\n{sum(seconds.values()):.0f} s, {grown / 2**20:.0f} MiB more")
    print(f"slowest: document({slowest}), {seconds[slowest]:.2f} s")
    assert not wrong, f"{len(wrong)} of {DOCUMENTS} documents:\n" + "\n".join(wrong[:40])
    assert seconds[slowest] < SLOWEST and grown < GROWTH
    assert (process.num_fds(), threading.active_count()) == held, "open files or threads were left behind"
    for name in {outcome.split(":")[0] for outcome in outcomes}:
        shares = [n for outcome, n in outcomes.items() if outcome.startswith(f"{name}:")]
        assert sum(shares) < 100 or (len(shares) == 2 and min(shares) > sum(shares) / 20), f"{name} goes one way only"


DATED, ISSUED, LINKED = PUBMED.of("article-date-only"), PUBMED.of("sixty-words"), ARXIV.of("patients-withdrawn")
ENDED = b"<![CDATA[</PubmedArticle>]]>"
FOUND = {
    "version 0": ("pubmed", ISSUED.replace(b'Version="1"', b'Version="0"')),
    "a version of 5,000 digits": ("pubmed", ISSUED.replace(b'Version="1"', b'Version="' + b"9" * 5_000 + b'"')),
    "a year of 5,000 digits": ("pubmed", DATED.replace(b"<Year>2018", b"<Year>" + b"9" * 5_000)),
    "a comment before a single record": ("pubmed", b"<!-- x --><PubmedArticle></PubmedArticle>"),
    "the end of a record within CDATA": ("pubmed", PUBMED.of("title-only").replace(b"epublish", ENDED)),
    "a byte that is no UTF-8": ("pubmed", ISSUED.replace(b"Thick", b"Thi\xd3ck")),
    "version 0 at arXiv": ("arxiv", LINKED.replace(b"v1</id>", b"v0</id>")),
    "the first day of all": ("arxiv", LINKED.replace(b"2021-03-01T09:00:00Z", b"0001-01-01T00:00:00+14:00")),
    "the last day of all": ("arxiv", LINKED.replace(b"2024-05-01T09:00:00Z", b"9999-12-31T23:59:59-12:00")),
    "more results than this page has": ("arxiv", LINKED.replace(b"Results>1<", b"Results>3<")),
    "very many results": ("arxiv", LINKED.replace(b"Results>1<", b"Results>999999999<")),
    "an entry twice": ("arxiv", ARXIV.of(*["patients-withdrawn"] * 2, "folded-lines", "old-style-id")),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_mutation_found_stays_mended(name, tmp_path, alarm):
    kind, body = FOUND[name]
    with alarm():
        judge(Document(kind, body, []), tmp_path)


def test_a_document_is_the_same_whenever_it_is_made():
    assert [document(n) for n in range(30)] == [document(n) for n in range(30)]
    assert len({document(n).body for n in range(100)}) == 100
