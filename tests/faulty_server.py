"""E-utilities and the arXiv API on loopback, from real or sample records, with faults on demand.

By hand: python -m tests.faulty_server --archive data/raw/pubmed21n1298.xml.gz --port 8070
Then:    NCBI_EUTILS_BASE=http://127.0.0.1:8070/eutils ARXIV_API_BASE=http://127.0.0.1:8070/arxiv make pipeline
"""

import argparse
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from lxml import etree

from helpers.archive import list_files
from helpers.pubmed import open_xml
from helpers.topics import Glance, load_topic

ATOM = "{http://www.w3.org/2005/Atom}"
FEED = """<?xml version='1.0' encoding='UTF-8'?>
<feed xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/" xmlns:arxiv="http://arxiv.org/schemas/atom"
 xmlns="http://www.w3.org/2005/Atom"><id>https://arxiv.org/api/loopback</id><title>arXiv Query</title>
<opensearch:itemsPerPage>{n}</opensearch:itemsPerPage><opensearch:totalResults>{total}</opensearch:totalResults>
<opensearch:startIndex>{start}</opensearch:startIndex>{entries}</feed>"""


class Server(ThreadingHTTPServer):
    """`plan` holds faults for the requests to come, as "part of the path:fault"; "always:" ones stay."""

    daemon_threads = True

    def __init__(self, records: dict[str, str], entries: list[str], port: int = 0, delay: float = 0):
        super().__init__(("127.0.0.1", port), Handler)
        self.records, self.entries, self.delay = records, entries, delay
        self.plan: list[str] = []
        self.seen: list[tuple[float, str, str]] = []  # (time, path with query, POST body)
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

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


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.answer("")

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

    def answer(self, form: str) -> None:
        with self.server.lock:
            self.server.seen.append((time.monotonic(), self.path, form))
        parts = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(form or parts.query).items()}
        time.sleep(self.server.delay)
        if parts.path.endswith("esearch.fcgi"):
            body = search(self.server.records, asked)
        elif parts.path.endswith("efetch.fcgi"):
            body = fetch(self.server.records, asked)
        else:
            body = page(self.server.entries, asked)
        FAULTS.get(self.server.fault(self.path), send)(self, body)

    def log_message(self, *_: object) -> None:
        pass


def search(records: dict[str, str], asked: dict[str, str]) -> bytes:
    ids = sorted(records, key=int, reverse=True)[: int(asked["retmax"])]
    found = "".join(f"<Id>{pmid}</Id>" for pmid in ids)
    return (
        f"<eSearchResult><Count>{len(records)}</Count><RetMax>{len(ids)}</RetMax><IdList>{found}</IdList></eSearchResult>"
    ).encode()


def fetch(records: dict[str, str], asked: dict[str, str]) -> bytes:
    found = "".join(records[pmid] for pmid in asked["id"].split(",") if pmid in records)
    return f"<PubmedArticleSet>{found}</PubmedArticleSet>".encode()


def page(entries: list[str], asked: dict[str, str]) -> bytes:
    start, n = int(asked["start"]), int(asked["max_results"])
    shown = entries[start : start + n]
    return FEED.format(n=n, total=len(entries), start=start, entries="".join(shown)).encode()


def send(handler: Handler, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "text/xml; charset=UTF-8")
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def reset(handler: Handler, body: bytes) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.rfile.close()


def fewer(body: bytes) -> bytes:
    """The same answer without its last record, id or entry."""
    for end in (b"</PubmedArticle>", b"</Id>", b"</entry>", b"</ns0:entry>"):
        begin = end.replace(b"/", b"")[:-1]
        if end in body:
            return body[: body.rindex(begin)] + body[body.rindex(end) + len(end) :]
    return body


def more(body: bytes) -> bytes:
    """The same answer with a copy of its first record under an id nobody asked for."""
    record = body[body.index(b"<PubmedArticle>") : body.index(b"</PubmedArticle>")] + b"</PubmedArticle>"
    stranger = re.sub(rb'(<PMID Version="1">)\d+', rb"\g<1>77777777", record)
    return body.replace(b"</PubmedArticleSet>", stranger + b"</PubmedArticleSet>")


def empty(body: bytes) -> bytes:
    return FEED.format(n=0, total=0, start=0, entries="").encode()


FAULTS: dict[str, Callable[[Handler, bytes], None]] = {
    "429": lambda handler, body: send(handler, b"slow down", 429, Retry_After="1"),
    "429 hour": lambda handler, body: send(handler, b"slow down", 429, Retry_After="3600"),
    "400": lambda handler, body: send(handler, b"bad request", 400),
    "500": lambda handler, body: send(handler, b"oops", 500),
    "reset": reset,
    "cut": lambda handler, body: send(handler, body[: len(body) // 2]),
    "cut short of length": lambda handler, body: send(handler, body[: len(body) // 2], length=len(body)),
    "html": lambda handler, body: send(handler, b"<html><body>Service unavailable</body></html>"),
    "text": lambda handler, body: send(handler, b"Rate exceeded."),
    "error": lambda handler, body: send(
        handler, b"<eSearchResult><ERROR>Search Backend failed</ERROR></eSearchResult>"
    ),
    "json": lambda handler, body: send(handler, b'{"error":"API rate limit exceeded"}'),
    "fewer": lambda handler, body: send(handler, fewer(body)),
    "more": lambda handler, body: send(handler, more(body)),
    "empty": lambda handler, body: send(handler, empty(body)),
}


def read_records(path: Path, worth: Callable[[str], bool] = lambda text: True) -> dict[str, str]:
    """{PMID: XML} of the records in a PubMed file or folder whose text passes; the newest of each."""
    records = {}
    for file in list_files(path):
        with open_xml(file) as stream:
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
    parser.add_argument("--plan", nargs="*", default=[], help='faults, e.g. "efetch:500" "always:arxiv:empty"')
    chosen = parser.parse_args()
    records = read_records(chosen.archive, Glance(load_topic("autoimmune")))
    server = Server(records, read_entries(chosen.arxiv), chosen.port)
    server.plan = chosen.plan
    print(f"NCBI_EUTILS_BASE={server.eutils} ARXIV_API_BASE={server.arxiv}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
