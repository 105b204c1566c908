"""E-utilities: PubMed searched and fetched over the network, politely, each answer kept."""

import io
import math
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date, timedelta
from urllib.request import Request

from Bio import Entrez
from lxml import etree

from helpers.core import HIDDEN, CourseError, Settings, report_progress, spellings_of
from helpers.papers.http import Host, Refused, Transient, Unfit, require_plain
from helpers.papers.markup import local_name
from helpers.papers.pubmed_xml import NotPubMed, parse_pubmed
from helpers.papers.response_cache import Ledger

BATCH = 200
MOST_HITS = 9_999  # esearch gives no more, whatever retmax says
NCBI = "https://eutils.ncbi.nlm.nih.gov/entrez/eutils"
SLOW = 3.0  # seconds that an answer may take without slowing the harvest: others are asked for meanwhile
LOST = 3  # requests lost in a row after which the others are not tried
YEARS = date(1700, 1, 1), date(2100, 12, 31)  # before PubMed's earliest record, and after its last
DAY = timedelta(days=1)
NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Found:
    """A search's answer: ids, newest first, and how many it has in all.

    `history` is its WebEnv and query key on the history server; None if the answer was in the ledger.
    """

    ids: tuple[str, ...]
    count: int
    history: tuple[str, str] | None


@dataclass(frozen=True)
class Batch:
    """Ids to fetch together, and where they stand in a result on the history server."""

    ids: tuple[str, ...]
    start: int = 0
    history: tuple[str, str] | None = None


def cut_history(ids: Iterable[str], history: tuple[str, str] | None = None) -> list[Batch]:
    ids = tuple(ids)
    return [Batch(ids[start : start + BATCH], start, history) for start in range(0, len(ids), BATCH)]


class PubMedClient:
    """E-utilities at the pace NCBI allows, every answer kept in the ledger and never asked for again."""

    def __init__(self, settings: Settings, ledger: Ledger):
        self.base, self.ledger = settings.NCBI_EUTILS_BASE, ledger
        email, key = settings.NCBI_EMAIL, settings.NCBI_API_KEY
        self.secrets = {name: s.get_secret_value() for name, s in (("email", email), ("api_key", key)) if s}
        self.rate = 10 if key else 3  # requests a second, https://support.nlm.nih.gov/kbArticle/?pn=KA-05317
        self.host = Host(self.base, 1.01 / self.rate)  # a hundredth slower than is allowed
        self.named = bool(settings.PAPERS_IDS)
        self.history_works = True

    def count(self, query: str) -> int:
        """How many records match. Raises as `search` does."""
        return self.find(query, 0).count

    def search(self, query: str, n: int) -> list[Batch]:
        """The newest `n` PMIDs that match (all, if they are fewer), cut into batches; [] if nothing matches.

        Raises Unreachable if the host never answered, CourseError if it refused or never gave what it promised.
        """
        for fresh in (False, True):  # PubMed may have changed since an answer that the ledger holds
            found = self.find(query, min(n, MOST_HITS), fresh=fresh)
            promised = min(n, found.count)
            parts = [found]
            if promised > MOST_HITS:
                parts = self.split(query, found, *YEARS, fresh)
            batches, held = [], set()
            for part in parts:
                ids = part.ids[: promised - len(held)]
                batches += cut_history(ids, part.history)
                held.update(ids)
                if len(held) == promised:
                    return batches
        raise CourseError(
            f"PubMed promised {promised:,} records for {query!r}, and its answers by date hold {len(held):,}",
            "run stage 3 again in a while; what was fetched is kept and not asked for again",
            "pubmed-answers-429-or-not-at-all",
        )

    def split(self, query: str, found: Found, first: date, last: date, fresh: bool) -> Iterator[Found]:
        """`found` in parts that one answer holds, by halving the Entrez dates `first` to `last`; newest first.

        Raises CourseError where a single day has too many.
        """
        if found.count <= MOST_HITS:
            yield found
            return
        if first == last:
            raise CourseError(
                f"PubMed has {found.count:,} records for {query!r} of one day, {first}, and gives {MOST_HITS:,}",
                "narrow the query, or read PubMed's files instead: PAPERS_SOURCE=archive",
            )
        middle = first + (last - first) // 2
        for start, end in ((middle + DAY, last), (first, middle)):
            half = self.find(query, MOST_HITS, start, end, fresh=fresh)
            yield from self.split(query, half, start, end, fresh)

    def find(
        self, query: str, n: int, first: date | None = None, last: date | None = None, fresh: bool = False
    ) -> Found:
        """One search for `n` ids at most, between two Entrez dates if they are given; `fresh` asks again."""
        request = {"base": self.base, "search": query, "retmax": n}
        dates = {}
        if first:
            request |= {"from": first.isoformat(), "to": last.isoformat()}
            dates = {"datetype": "edat", "mindate": f"{first:%Y/%m/%d}", "maxdate": f"{last:%Y/%m/%d}"}

        def attempt() -> bytes:
            body = self.send(Entrez.esearch, term=query, retmax=n, usehistory="y", **dates)
            check_search(body, n)
            return body

        kept = None if fresh else self.ledger.get(request)
        self.host.reached |= kept is not None
        body, _ = kept or self.ledger.keep(request, self.whole(attempt))
        root = etree.fromstring(body, parser=strict_parser())
        history = (root.findtext("WebEnv") or "", root.findtext("QueryKey") or "")
        ids = tuple(dict.fromkeys(found.text for found in root.iterfind("IdList/Id")))
        there = all(history) and not kept
        return Found(ids[:n], int(root.findtext("Count")), history if there else None)

    def fetch(self, batches: list[Batch]) -> None:
        """Every batch into the ledger, several requests in flight.

        A request that is lost does not keep the others from being tried, until LOST are lost in a row.
        Raises Unreachable if the host never answered, CourseError naming what is missing and why.
        """
        missing = [batch for batch in batches if self.request(batch) not in self.ledger]
        self.host.reached |= len(missing) < len(batches)
        lost, row = [], 0
        pool = ThreadPoolExecutor(math.ceil(self.rate * SLOW))
        futures = [pool.submit(self.fetch_one, batch) for batch in missing]
        try:
            for done, future in enumerate(as_completed(futures), len(batches) - len(missing) + 1):
                report_progress(f"fetching {count_total(batches):,} PubMed records", done, len(batches))
                try:
                    future.result()
                    row = 0
                except Transient as error:
                    lost.append(error)
                    row += 1
                if row == LOST:
                    break
        except Refused as error:
            raise explain_refusal(error) from None
        finally:
            if not all(future.done() for future in futures):
                self.host.clock.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
        if lost:
            raise self.short(lost)

    def fetch_one(self, batch: Batch) -> None:
        """By its place on the history server, and by its ids once that has failed."""

        def attempt() -> bytes:
            history = batch.history if self.history_works else None
            where = {"id": ",".join(batch.ids)}
            if history:
                where = dict(zip(("WebEnv", "query_key"), history, strict=True))
                where |= {"retstart": batch.start, "retmax": len(batch.ids)}
            try:
                body = self.send(Entrez.efetch, retmode="xml", **where)
                check_records(body, batch.ids, exact=history is not None)
            except (Unfit, Refused) as error:
                if not history:
                    raise
                self.history_works = False
                raise Transient(f"from the history server: {error}", retry_after=0) from None
            return body

        self.ledger.keep(self.request(batch), self.host.persist(attempt))

    def request(self, batch: Batch) -> dict:
        """What stands for a batch in the ledger: its ids, wherever they were fetched from."""
        return {"base": self.base, "fetch": batch.ids}

    def read(self, batch: Batch) -> tuple[bytes, str]:
        """The XML of a batch that was fetched, and the day it was."""
        return self.ledger.get(self.request(batch))

    def send(self, utility: Callable, **fields: object) -> bytes:
        """The answer of one E-utility, by POST: key and e-mail are in no URL, and so in no exception and no log."""
        request = build_request(utility, db="pubmed", tool="autoimmune-finetuning-course", **self.secrets, **fields)
        address, _, query = request.full_url.partition("?")
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        body = self.host.request("POST", address.replace(NCBI, self.base), data=request.data or query, headers=kind)
        for form in (form for secret in self.secrets.values() for form in spellings_of(secret)):
            body = body.replace(form.encode(), HIDDEN.encode())  # NCBI's errors repeat the key; answers are kept
        return body

    def whole(self, attempt: Callable[[], bytes]) -> bytes:
        try:
            return self.host.persist(attempt)
        except Refused as error:
            raise explain_refusal(error) from None
        except Transient as error:
            raise self.short([error]) from None

    def short(self, lost: list[Transient]) -> CourseError:
        """The error for answers that never came whole; PMIDs that were named by hand and do not exist are listed."""
        unknown = [pmid for error in lost for pmid in getattr(error, "missing", ())]
        if self.named and all(getattr(error, "missing", ()) for error in lost):
            more = f" and {len(unknown) - 20:,} more" if len(unknown) > 20 else ""
            return CourseError(
                f"PubMed has no record of these PMIDs: {', '.join(unknown[:20])}{more}",
                "take them out of the file that PAPERS_IDS names",
                "pmids-without-a-record",
            )
        return CourseError(
            f"PubMed's answers are not complete: {lost[0]}",
            "run stage 3 again in a while: what was fetched is kept; or read PubMed's file: PAPERS_SOURCE=archive",
            "pubmed-answers-429-or-not-at-all",
        )


def count_total(batches: Iterable[Batch]) -> int:
    return sum(len(batch.ids) for batch in batches)


def explain_refusal(error: Refused) -> CourseError:
    return CourseError(
        f"PubMed refused the request: {error}",
        "check what was asked for (PAPERS_QUERY or the topic's query, PAPERS_IDS) and NCBI_API_KEY, then run again",
        "pubmed-refuses-the-request",
    )


BUILDING = threading.Lock()


def build_request(utility: Callable, **fields: object) -> Request:
    """The request that Bio.Entrez makes of these fields. Its opener hands it back instead of sending it.

    That opener has no time-out, retries at once and ignores Retry-After (Biopython 1.88); ours is wire.Host.
    """
    with BUILDING, warnings.catch_warnings(action="ignore"):  # it warns when there is no e-mail address
        send, Entrez._open = Entrez._open, lambda request: request
        try:
            return utility(**fields)
        finally:
            Entrez._open = send


def strict_parser() -> etree.XMLParser:
    return etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)


def check_search(body: bytes, n: int) -> None:
    """Raises Unfit unless `body` is a search result with as many different ids as it promises."""
    require_plain(body)
    try:
        root = etree.fromstring(body, parser=strict_parser())
    except etree.XMLSyntaxError as error:
        raise Unfit(f"not XML but {body[:60]!r} ({error.msg})") from None
    error, count = root.findtext(".//ERROR"), root.findtext("Count") or ""
    if error or root.tag != "eSearchResult" or not NUMBER.fullmatch(count):
        raise Unfit(f"no search result but {error or f'<{local_name(root)}>'}")
    ids = {found.text for found in root.iterfind("IdList/Id")}
    if not all(NUMBER.fullmatch(pmid or "") for pmid in ids):
        raise Unfit("a search result with ids that are no PMIDs")
    if len(ids) < min(int(count), n):
        raise Unfit(f"{len(ids)} of {min(int(count), n)} promised ids")


def check_records(body: bytes, ids: tuple[str, ...], exact: bool = False) -> None:
    """Raises Unfit unless `body` holds a record of every id asked for; if `exact`, of no other."""
    require_plain(body)
    try:
        papers = parse_pubmed(io.BytesIO(body), worth=lambda _: False)
        got = {paper.paper_id for paper in papers if "deleted" not in paper.flags}
    except NotPubMed as error:
        raise Unfit(f"{error}; it begins {body[:60]!r}") from None
    missing = [pmid for pmid in ids if pmid not in got]
    if missing or (exact and len(got) > len(ids)):
        unfit = Unfit(f"{len(ids) - len(missing)} of {len(ids)} records; missing are {', '.join(missing[:5])}")
        unfit.missing = missing
        raise unfit
