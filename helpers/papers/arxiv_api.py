"""arXiv: the `arxiv` client with the patience, pacing and doubts it lacks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import arxiv
from lxml import etree

from helpers.core import CourseError, Settings, relative_path
from helpers.papers.http import Host, Refused, Transient, Unfit, Unreachable, require_plain
from helpers.papers.paper import Paper, Section, clean_text
from helpers.papers.rate_limit import lock_pace
from helpers.papers.response_cache import Ledger

PAGE = 100
MOST_HITS = 30_000  # of one query
INTERVAL = 3.0  # seconds between requests, and one connection: https://info.arxiv.org/help/api/tou.html
ATOM = "{http://www.w3.org/2005/Atom}"
OPENSEARCH = "{http://a9.com/-/spec/opensearch/1.1/}"
NAME = re.compile(  # 1706.03762v5, math.GT/0309136: https://info.arxiv.org/help/arxiv_identifier.html
    r"https?://[^/]*arxiv\.org/abs/(?P<base>(?:[a-z.-]+/)?\d[\d.]*)(?:v(?P<version>[1-9]\d{0,3}))?", re.ASCII | re.I
)


class Shifted(Transient):
    """A whole page, but of another list than the pages before it: papers again, or another total."""

    def __init__(self, cause: str, body: bytes):
        super().__init__(cause)
        self.body = body


WITHDRAWN = re.compile(
    r"(?:this|the) (?:\w+ ){0,2}?(?:paper|submission|article|manuscript|preprint|version|work)"
    r" (?:has been|was|is|have been)(?: temporarily)? withdrawn|withdrawn\b",
    re.IGNORECASE,
)


@dataclass
class ArxivPage:
    """As much of a response as `arxiv.Client` looks at."""

    content: bytes
    status_code: int = 200


@dataclass
class CarefulSession:
    """Stands in for `arxiv.Client`'s session, which has no time-out and takes any 200 for a page of papers.

    `again`: the list shifted while it was read, so every page is asked for anew, and one that still does not fit
    those before it is taken for what is new in it.
    """

    host: Host
    ledger: Ledger
    page_size: int
    again: bool = False
    pages: dict[str, tuple[str, ...]] = field(default_factory=dict)  # ids by address
    total: int | None = None
    fetched: str = ""
    cause: str = ""

    def get(self, url: str, headers: dict[str, str] | None = None) -> ArxivPage:
        """The page at `url`: from the ledger, else from arXiv, checked and kept.

        Raises Unreachable if the host never answered, Transient or Refused if it never gave a whole page.
        """
        body, self.fetched = self.kept(url) or self.ledger.keep({"arxiv": url}, self.ask(url, headers))
        total, ids = read_page(body, self.page_size)
        self.pages[url], self.total = ids, max(total, self.total or 0)
        return ArxivPage(body)

    def kept(self, url: str) -> tuple[bytes, str] | None:
        answer = None if self.again else self.ledger.get({"arxiv": url})
        try:
            return answer and (self.check(url, answer[0]), answer[1])
        except Transient:
            return None

    def ask(self, url: str, headers: dict[str, str] | None) -> bytes:
        try:
            with lock_pace(f"{self.host.pace.name}.connection"):
                return self.host.persist(lambda: self.check(url, self.host.request("GET", url, headers=headers)))
        except Shifted as error:
            if not self.again:
                raise
            self.cause = str(error)
            return error.body

    def check(self, url: str, body: bytes) -> bytes:
        """`body`. Raises Unfit unless it is a whole page, Shifted unless it goes with the pages before it."""
        total, ids = read_page(body, self.page_size)
        before = [page for address, page in self.pages.items() if address != url]
        if doubles := sum(len(set(ids).intersection(page)) for page in before):
            raise Shifted(f"a page with {doubles} papers of an earlier one", body)
        if before and total != self.total:
            raise Shifted(f"the number of results changed from {self.total:,} to {total:,}", body)
        return body


def read_page(body: bytes, page_size: int) -> tuple[int, tuple[str, ...]]:
    """The number of results in all, and the id of each entry on this page.

    Raises Unfit unless `body` is an Atom page with its full share of papers that can be read.
    """
    require_plain(body)
    try:
        root = etree.fromstring(body, parser=etree.XMLParser(resolve_entities=False, no_network=True))
    except etree.XMLSyntaxError as error:
        raise Unfit(f"not Atom but {body[:60]!r} ({error.msg})") from None
    total, start = ((root.findtext(OPENSEARCH + tag) or "").strip() for tag in ("totalResults", "startIndex"))
    if root.tag != f"{ATOM}feed" or not re.fullmatch("[0-9]{1,9}", total):
        raise Unfit(f"not Atom but {body[:60]!r}")
    entries = root.findall(f"{ATOM}entry")
    if any("/api/errors" in (entry.findtext(f"{ATOM}id") or "") for entry in entries):
        raise Unfit("an error page")
    expected = min(page_size, int(total) - int(start if re.fullmatch("[0-9]{1,9}", start) else 0))
    ids = tuple(map(read_id, entries))
    if not ids or len(set(ids)) < expected:
        promised = f"{expected} were promised" if int(total) else "there should be some"
        raise Unfit(f"a page of {len(set(ids))} papers where {promised}")
    return int(total), ids


def read_id(entry: etree._Element) -> str:
    """The arXiv id of an entry, with its version. Raises Unfit for an entry that no paper can be made of."""
    name = NAME.fullmatch((entry.findtext(f"{ATOM}id") or "").strip())
    try:
        for tag in ("published", "updated"):
            day = datetime.fromisoformat((entry.findtext(ATOM + tag) or "").strip().replace("Z", "+00:00"))
            day.replace(tzinfo=day.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        name = None
    if name is None:
        raise Unfit("an entry without an arXiv id or a date")
    return name[0]


def search_arxiv(settings: Settings, query: str, n: int, ledger: Ledger) -> tuple[list[Paper], dict | None]:
    """The `n` most relevant papers, and None; or those that came and {"source", "asked", "got", "cause"}.

    arXiv is the smaller source and often short of breath: what is missing is said, and the course goes on.
    """
    n, host = min(n, MOST_HITS), Host(settings.ARXIV_API_BASE, INTERVAL)
    for again in (False, True):
        session = CarefulSession(host, ledger, min(n, PAGE), again)
        papers, cause = {}, ""
        try:
            for paper in read_listing(session, settings.ARXIV_API_BASE, query, n):
                papers.setdefault((paper.key, paper.version), paper)
        except Shifted:
            continue
        except (Transient, Refused, Unreachable) as error:
            cause = str(error)
        break
    asked = n if session.total is None else min(n, session.total)
    if len(papers) >= asked:
        return list(papers.values()), None
    cause = cause or session.cause
    return list(papers.values()), {"source": "arXiv", "asked": asked, "got": len(papers), "cause": cause}


def read_listing(session: CarefulSession, base: str, query: str, n: int) -> Iterator[Paper]:
    client = arxiv.Client(page_size=session.page_size, delay_seconds=0, num_retries=0)
    client.query_url_format, client._session = base + "?{}", session
    return (read_result(result, session.fetched) for result in client.results(arxiv.Search(query, max_results=n)))


def read_atom(path: Path, fetched: str) -> Iterator[Paper]:
    """The papers of a saved page of arXiv's API, read by the same client. Raises CourseError if it is none."""
    try:
        _, ids = read_page(path.read_bytes(), 0)
    except Unfit as error:
        raise CourseError(f"{relative_path(path)} is no page of arXiv's API: {error}", "restore the file") from None
    client = arxiv.Client(page_size=10_000, delay_seconds=0, num_retries=0)
    client._session = SavedPage(path)
    return (read_result(result, fetched) for result in client.results(arxiv.Search("saved", max_results=len(ids))))


@dataclass
class SavedPage:
    path: Path

    def get(self, url: str, headers: dict[str, str] | None = None) -> ArxivPage:
        return ArxivPage(self.path.read_bytes())


def read_result(result: arxiv.Result, fetched: str) -> Paper:
    """One arXiv entry as a paper; withdrawn ones say so in their comment, or where the abstract should be."""
    name = NAME.fullmatch(result.entry_id.strip())
    summary = clean_text(result.summary)
    withdrawn = WITHDRAWN.search(clean_text(result.comment or "")) or WITHDRAWN.match(summary)
    return Paper(
        paper_id=name["base"],
        source="arXiv",
        title=clean_text(result.title),
        abstract=(Section(text=summary),) if summary else (),
        year=result.published.year,
        journal=clean_text(result.journal_ref or "arXiv"),
        publication_types=("Preprint",),
        doi=(result.doi or "").lower(),
        licence="CC0 metadata",
        fetched=fetched,
        flags=("retracted",) if withdrawn else (),
        version=int(name["version"] or 1),
    )
