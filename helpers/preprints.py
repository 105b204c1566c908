"""arXiv: the `arxiv` client with the patience, pacing and doubts it lacks."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import arxiv
import requests
from lxml import etree

from helpers.errors import CourseError
from helpers.papers import Paper, Section, clean
from helpers.settings import Settings
from helpers.wire import (
    FIRST_CONTACT,
    LARGEST_BODY,
    TIMEOUT,
    Ledger,
    Transient,
    Unreachable,
    pace,
    patiently,
    probe,
    refused,
    seconds_until,
)

PAGE = 100
INTERVAL = 3.0  # seconds between requests, https://info.arxiv.org/help/api/tou.html
ATOM = "{http://www.w3.org/2005/Atom}"
TOTAL = "{http://a9.com/-/spec/opensearch/1.1/}totalResults"
START = "{http://a9.com/-/spec/opensearch/1.1/}startIndex"


@dataclass
class Answer:
    """As much of a response as `arxiv.Client` looks at."""

    content: bytes
    status_code: int = 200


@dataclass
class CarefulSession:
    """Stands in for `arxiv.Client`'s session, which has no time-out and takes any 200 for a page of papers."""

    ledger: Ledger
    page_size: int
    reached: bool = False
    total: int | None = None
    fetched: str = ""

    def get(self, url: str, headers: dict[str, str] | None = None) -> Answer:
        """The page at `url`: from the ledger, else from arXiv, checked and kept.

        Raises Unreachable if the host never answered, Transient if it never gave a whole page.
        """
        answer = self.ledger.get({"arxiv": url})
        if answer is None:
            if not self.reached:
                probe(url)
            body = patiently(lambda: self.request(url, headers), lambda: self.reached)
            answer = self.ledger.keep({"arxiv": url}, body)
        body, self.fetched = answer
        self.total = check_page(body, self.page_size)
        return Answer(body)

    def request(self, url: str, headers: dict[str, str] | None) -> bytes:
        pace("arxiv", INTERVAL, url)
        timeout = TIMEOUT if self.reached else FIRST_CONTACT
        try:
            with requests.get(url, headers=headers, timeout=timeout, stream=True) as response:
                self.reached = True
                if response.status_code in (408, 429) or response.status_code >= 500:
                    pause = seconds_until(response.headers.get("Retry-After"))
                    raise Transient(f"HTTP {response.status_code}", pause)
                if response.status_code != 200:
                    raise refused("arXiv", response.status_code)
                body = b"".join(capped(response.iter_content(2**16)))
        except (requests.RequestException, OSError) as error:
            raise Transient(plain(error)) from None
        check_page(body, self.page_size)
        return body


def capped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks of a body. Raises Transient when they grow past LARGEST_BODY."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > LARGEST_BODY:
            raise Transient(f"an answer of more than {LARGEST_BODY >> 20} MiB")
        yield chunk


def plain(error: Exception) -> str:
    """A network error without the address and the object dump that requests puts into its text."""
    text = str(error)
    for known in ("Connection refused", "Name or service not known", "timed out", "reset by peer"):
        if known.lower() in text.lower():
            return known.lower()
    return type(error).__name__


def check_page(body: bytes, page_size: int) -> int:
    """The number of results in all. Raises Transient unless `body` is an Atom page with its full share of them."""
    try:
        body.decode()
        root = etree.fromstring(body, parser=etree.XMLParser(resolve_entities=False, no_network=True))
    except UnicodeDecodeError:
        raise Transient("an answer that is not UTF-8") from None
    except etree.XMLSyntaxError as error:
        raise Transient(f"not Atom but {body[:60]!r} ({error.msg})") from None
    total, start = (root.findtext(tag) or "" for tag in (TOTAL, START))
    if root.tag != f"{ATOM}feed" or not total.isdigit():
        raise Transient(f"not Atom but {body[:60]!r}")
    entries = [entry.findtext(f"{ATOM}id") or "" for entry in root.iterfind(f"{ATOM}entry")]
    if any("/api/errors" in entry for entry in entries):
        raise Transient("an error page")
    expected = min(page_size, int(total) - int(start or 0))
    if not entries or len(entries) < expected:
        raise Transient(f"a page of {len(entries)} papers where {max(expected, 1)} were promised")
    return int(total)


def search(settings: Settings, query: str, n: int, ledger: Ledger) -> tuple[list[Paper], dict | None]:
    """The `n` most relevant papers, and None; or those that came and {"source", "asked", "got", "cause"}.

    arXiv is the smaller source and often short of breath: what is missing is said, and the course goes on.
    """
    client = arxiv.Client(page_size=min(n, PAGE), delay_seconds=0, num_retries=0)
    client.query_url_format = settings.ARXIV_API_BASE + "?{}"
    client._session = session = CarefulSession(ledger, client.page_size)
    papers, cause = [], ""
    try:
        for result in client.results(arxiv.Search(query, max_results=n)):
            papers.append(read_result(result, session.fetched))
    except (Transient, Unreachable, CourseError, arxiv.ArxivError) as error:
        cause = error.problem if isinstance(error, CourseError) else str(error)
    asked = n if session.total is None else min(n, session.total)
    if len(papers) < asked:
        return papers, {
            "source": "arXiv",
            "asked": asked,
            "got": len(papers),
            "cause": cause or "entries that could not be read",
        }
    return papers, None


def read_atom(path: Path, fetched: str) -> Iterator[Paper]:
    """The papers of a saved page of arXiv's API, read by the same client."""
    client = arxiv.Client(page_size=10_000, delay_seconds=0, num_retries=0)
    client._session = SavedPage(path)
    return (read_result(result, fetched) for result in client.results(arxiv.Search("saved")))


@dataclass
class SavedPage:
    path: Path

    def get(self, url: str, headers: dict[str, str] | None = None) -> Answer:
        return Answer(self.path.read_bytes())


def read_result(result: arxiv.Result, fetched: str) -> Paper:
    """One arXiv entry as a paper; withdrawn ones say so in their comment."""
    base, version = re.fullmatch(r"(.+?)(?:v(\d+))?", result.get_short_id()).groups()
    summary = clean(result.summary)
    withdrawn = re.search(r"\bwithdrawn\b", f"{result.comment or ''} {summary[:200]}", re.IGNORECASE)
    return Paper(
        paper_id=base,
        source="arXiv",
        title=clean(result.title),
        abstract=(Section(text=summary),) if summary else (),
        year=result.published.year,
        journal=clean(result.journal_ref or "arXiv"),
        publication_types=("Preprint",),
        doi=(result.doi or "").lower(),
        licence="CC0 metadata",
        fetched=fetched,
        flags=("retracted",) if withdrawn else (),
        version=int(version or 1),
    )
