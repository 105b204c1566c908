"""E-utilities: PubMed searched and fetched over the network, politely, each answer kept."""

import http.client
import io
import socket
import urllib.error
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from Bio import Entrez
from lxml import etree

from helpers.errors import CourseError
from helpers.pubmed import NotPubMed, local, parse_pubmed
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

BATCH = 200
MOST_HITS = 9_999  # esearch gives no more, whatever retmax says
NCBI = "https://eutils.ncbi.nlm.nih.gov/entrez/eutils"


@contextmanager
def entrez(settings: Settings, timeout: float) -> Iterator[None]:
    """Bio.Entrez as we need it: our address, always POST, one try, no pause of its own, and a time-out.

    Its addresses are literals, its retries ignore Retry-After, and it has no time-out (Biopython 1.88). POST keeps
    key and e-mail out of every URL, and so out of every exception and log.
    """
    build, before = Entrez._build_request, socket.getdefaulttimeout()
    secret = {name: getattr(settings, name) for name in ("NCBI_EMAIL", "NCBI_API_KEY")}

    def redirected(cgi: str, params: dict | None = None, post: bool | None = None, **options: object):
        return build(cgi.replace(NCBI, settings.NCBI_EUTILS_BASE), params, post=True, **options)

    try:
        Entrez._build_request, Entrez.max_tries, Entrez._open.previous = redirected, 1, 0
        Entrez.tool = "autoimmune-finetuning-course"
        Entrez.email, Entrez.api_key = (value and value.get_secret_value() for value in secret.values())
        socket.setdefaulttimeout(timeout)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        Entrez._build_request, Entrez.email, Entrez.api_key = build, None, None
        socket.setdefaulttimeout(before)


@dataclass
class PubMed:
    """E-utilities, one request at a time, every answer kept in the ledger and never asked for again."""

    settings: Settings
    ledger: Ledger
    reached: bool = False

    def search(self, query: str, n: int) -> tuple[list[str], int]:
        """The newest `n` PMIDs that match, and how many there are in all.

        Raises Unreachable if the host never answered, CourseError if it refused or never gave a whole answer.
        """
        request = {"base": self.settings.NCBI_EUTILS_BASE, "search": query, "retmax": min(n, MOST_HITS)}
        body, _ = self.ask(
            request,
            lambda: Entrez.esearch(db="pubmed", term=query, retmax=request["retmax"]),
            lambda body: check_search(body, request["retmax"]),
        )
        root = etree.fromstring(body, parser=strict())
        return [found.text for found in root.iterfind("IdList/Id")], int(root.findtext("Count"))

    def fetch(self, ids: list[str]) -> tuple[bytes, str]:
        """The raw XML of these records (BATCH at most), and the day it was fetched. Raises as `search` does."""
        request = {"base": self.settings.NCBI_EUTILS_BASE, "fetch": ids}
        return self.ask(
            request,
            lambda: Entrez.efetch(db="pubmed", id=",".join(ids), retmode="xml"),
            lambda body: check_records(body, ids),
        )

    def ask(self, request: dict, send: Callable[[], BinaryIO], check: Callable[[bytes], None]) -> tuple[bytes, str]:
        """The answer to a request: from the ledger, else from the server, checked and kept."""
        if answer := self.ledger.get(request):
            self.reached = True
            return answer
        base = self.settings.NCBI_EUTILS_BASE
        if not self.reached:
            probe(base)

        def attempt() -> bytes:
            pace("ncbi", 0.1 if self.settings.NCBI_API_KEY else 0.34, base)
            with entrez(self.settings, TIMEOUT if self.reached else FIRST_CONTACT):
                body = self.read(send)
            check(body)
            return body

        try:
            return self.ledger.keep(request, patiently(attempt, lambda: self.reached))
        except Transient as error:
            if not self.reached:
                raise Unreachable(str(error)) from None
            raise CourseError(
                f"PubMed answers, but not as it should: {error}",
                "run stage 3 again in a while; what was fetched is kept and not asked for again",
            ) from None

    def read(self, send: Callable[[], BinaryIO]) -> bytes:
        """The whole body. Raises Transient for what another try may mend, CourseError for what none will."""
        try:
            with send() as handle:
                self.reached = True
                body = getattr(handle, "buffer", handle).read(LARGEST_BODY + 1)
        except urllib.error.HTTPError as error:
            self.reached = True
            if error.code in (408, 429) or error.code >= 500:
                pause = seconds_until(error.headers.get("Retry-After"))
                raise Transient(f"HTTP {error.code}", pause) from None
            raise refused("PubMed", error.code) from None
        except (OSError, http.client.HTTPException) as error:
            raise Transient(str(getattr(error, "reason", error)) or type(error).__name__) from None
        if len(body) > LARGEST_BODY:
            raise Transient(f"an answer of more than {LARGEST_BODY >> 20} MiB")
        return body


def strict() -> etree.XMLParser:
    return etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)


def check_search(body: bytes, n: int) -> None:
    """Raises Transient unless `body` is a search result with as many ids as it promises."""
    try:
        root = etree.fromstring(body, parser=strict())
    except etree.XMLSyntaxError as error:
        raise Transient(f"not XML but {body[:60]!r} ({error.msg})") from None
    error, count, ids = root.findtext(".//ERROR"), root.findtext("Count") or "", root.findall("IdList/Id")
    if error or root.tag != "eSearchResult" or not count.isdigit():
        raise Transient(f"no search result but {error or f'<{local(root)}>'}")
    if len(ids) < min(int(count), n):
        raise Transient(f"{len(ids)} of {min(int(count), n)} promised ids")


def check_records(body: bytes, ids: list[str]) -> None:
    """Raises Transient unless `body` is UTF-8 and holds a record of every id asked for."""
    try:
        body.decode()
        got = {paper.paper_id for paper in parse_pubmed(io.BytesIO(body), worth=lambda _: False)}
    except UnicodeDecodeError:
        raise Transient("an answer that is not UTF-8") from None
    except NotPubMed as error:
        raise Transient(f"{error}; it begins {body[:60]!r}") from None
    if missing := [pmid for pmid in ids if pmid not in got]:
        shown = ", ".join(missing[:5])
        raise Transient(f"{len(ids) - len(missing)} of {len(ids)} records; missing are {shown}")
