"""E-utilities and the arXiv API on loopback, from real or sample records, with 24 kinds of faults on demand.

By hand: PYTHONPATH=tests python -m support.faulty_server --archive data/raw/pubmed21n1298.xml.gz --port 8070
         --plan efetch:reset
Then:    NCBI_EUTILS_BASE=http://127.0.0.1:8070/eutils ARXIV_API_BASE=http://127.0.0.1:8070/arxiv make pipeline
"""

import argparse
import gzip
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from lxml import etree

from helpers.papers.pubmed_files import list_archive_files
from helpers.papers.topic import Glance, load_topic
from support.faults import ALL, feed, send

ATOM = "{http://www.w3.org/2005/Atom}"
FIRST_DAY = date(2021, 1, 1)
RANGE = (("mindate", "0001/01/01"), ("maxdate", "9999/12/31"))


class Server(ThreadingHTTPServer):
    """`plan` holds faults for the requests to come, as "part of the path:fault"; "always:" ones stay.

    `most` is the number of hits that one search gives; `dates` the Entrez dates of records, which else follow from
    the order of their PMIDs; `histories` the results on the history server; `silence` and `away` are in seconds.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, records: dict[str, str], entries: list[str], port: int = 0, delay: float = 0, seed: object = 0
    ):
        super().__init__(("127.0.0.1", port), Handler)
        self.records, self.entries, self.delay, self.random = records, entries, delay, random.Random(seed)
        self.most, self.silence, self.away, self.large = 9_999, 60.0, 60.0, 200 * 2**20
        self.dates: dict[str, date] = {}
        self.histories: dict[str, list[str]] = {}
        self.plan: list[str] = []
        self.seen: list[tuple[float, str, str]] = []  # (time, path with query, POST body)
        self.lock, self.back, self.gone, self.closed = threading.Lock(), threading.Event(), False, False
        self.start()

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.005,), daemon=True).start()

    def close(self) -> None:
        self.closed = True
        self.back.set()
        self.shutdown()
        self.server_close()

    def leave(self, seconds: float) -> None:
        """Refuse connections from now on for so long, or until `come_back`."""
        with self.lock:
            if self.gone or self.closed:
                return
            self.gone = True
        self.shutdown()
        self.server_close()
        threading.Thread(target=self.return_after, args=(seconds,), daemon=True).start()

    def return_after(self, seconds: float) -> None:
        self.back.wait(seconds)
        if not self.closed:
            self.socket = socket.socket(self.address_family, self.socket_type)
            self.server_bind()
            self.server_activate()
            self.start()
            self.gone = False

    def come_back(self) -> None:
        while self.gone:
            self.back.set()
            time.sleep(0.01)
        self.back.clear()

    def handle_error(self, request: object, address: object) -> None:
        """A client that hangs up is no error here."""
        if not isinstance(sys.exception(), ConnectionError | ValueError):
            super().handle_error(request, address)

    @property
    def eutils(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/eutils"

    @property
    def arxiv(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/arxiv"

    def asked(self, part: str) -> list[tuple[float, str, str]]:
        return [request for request in self.seen if part in request[1]]

    def fault(self, path: str) -> str:
        """The fault planned for this path, taken off the plan unless it is there for good; "" if there is none."""
        with self.lock:
            for planned in self.plan:
                part, _, fault = planned.removeprefix("always:").partition(":")
                if part in path:
                    if not planned.startswith("always:"):
                        self.plan.remove(planned)
                    return fault
        return ""

    def day(self, pmid: str) -> date:
        """The Entrez date of a record."""
        return self.dates.get(pmid) or FIRST_DAY + timedelta(days=int(pmid) % 1000)

    def search(self, asked: dict[str, str]) -> bytes:
        """All records whatever the query, newest first, between `mindate` and `maxdate`; `most` at most."""
        first, last = (asked.get(name, default).replace("/", "-") for name, default in RANGE)
        found = [pmid for pmid in self.records if first <= self.day(pmid).isoformat() <= last]
        found.sort(key=int, reverse=True)
        ids = found[: min(int(asked["retmax"]), self.most)]
        kept = ""
        if asked.get("usehistory") == "y":
            with self.lock:
                key = f"MCID_{len(self.histories)}"
                self.histories[key] = found
            kept = f"<QueryKey>1</QueryKey><WebEnv>{key}</WebEnv>"
        listed = "".join(f"<Id>{pmid}</Id>" for pmid in ids)
        return (
            f"<eSearchResult><Count>{len(found)}</Count><RetMax>{len(ids)}</RetMax>{kept}"
            f"<IdList>{listed}</IdList></eSearchResult>"
        ).encode()

    def fetch(self, asked: dict[str, str]) -> bytes:
        """Records by id, or by their place in a result of an earlier search."""
        if "WebEnv" in asked:
            if asked["WebEnv"] not in self.histories:
                return b"<eFetchResult><ERROR>Unable to obtain query #1</ERROR></eFetchResult>"
            start = int(asked["retstart"])
            ids = self.histories[asked["WebEnv"]][start : start + int(asked["retmax"])]
        else:
            ids = asked["id"].split(",")
        found = "".join(self.records[pmid] for pmid in ids if pmid in self.records)
        return f"<PubmedArticleSet>{found}</PubmedArticleSet>".encode()

    def page(self, asked: dict[str, str]) -> bytes:
        start, n = int(asked["start"]), int(asked["max_results"])
        return feed(self.entries[start : start + n], len(self.entries), start)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.answer("")

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        form = self.rfile.read(length)
        if len(form) < length:
            raise ConnectionError("the client is gone")
        self.answer(form.decode())

    def answer(self, form: str) -> None:
        with self.server.lock:
            self.server.seen.append((time.monotonic(), self.path, form))
        parts = urlsplit(self.path)
        self.asked = {name: values[0] for name, values in parse_qs(form or parts.query).items()}
        time.sleep(self.server.delay)
        if parts.path.endswith("esearch.fcgi"):
            body = self.server.search(self.asked)
        elif parts.path.endswith("efetch.fcgi"):
            body = self.server.fetch(self.asked)
        else:
            body = self.server.page(self.asked)
        ALL.get(self.server.fault(self.path), send)(self, body)

    def log_message(self, *_: object) -> None:
        pass


def read_records(path: Path, worth: Callable[[str], bool] = lambda text: True) -> dict[str, str]:
    """{PMID: XML} of the records in a PubMed file or folder whose text passes; the newest of each."""
    records = {}
    for file in list_archive_files(path):
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            tags = ("PubmedArticle", "PubmedBookArticle")
            for _, element in etree.iterparse(stream, tag=tags, resolve_entities=False):
                if worth(" ".join(element.itertext())):
                    records[element.findtext(".//PMID")] = etree.tostring(
                        element, encoding="unicode", with_tail=False
                    )
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
    return records


def read_entries(path: Path) -> list[str]:
    """The entries of an Atom page, or of a folder of saved pages ({"body": …} as JSON)."""
    pages = sorted(path.glob("*_s*.json")) if path.is_dir() else [path]
    bodies = [json.loads(file.read_text())["body"].encode() if path.is_dir() else file.read_bytes() for file in pages]
    roots = [etree.fromstring(body) for body in bodies]
    return [etree.tostring(entry, encoding="unicode") for root in roots for entry in root.iterfind(f"{ATOM}entry")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archive", type=Path, default=Path("data/sample/pubmed.xml"))
    parser.add_argument("--arxiv", type=Path, default=Path("data/sample/arxiv.atom"))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0, help="seconds before each answer")
    parser.add_argument("--plan", nargs="*", default=[], help='faults, e.g. "efetch:5xx" "always:arxiv:html"')
    chosen = parser.parse_args()
    records = read_records(chosen.archive, Glance(load_topic("autoimmune")))
    server = Server(records, read_entries(chosen.arxiv), chosen.port, chosen.delay)
    server.plan = chosen.plan
    print(f"NCBI_EUTILS_BASE={server.eutils} ARXIV_API_BASE={server.arxiv}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
