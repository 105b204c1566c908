"""The faults that faulty_server.py answers with: 24 kinds, those of odd text one by one, and a few others."""

import gzip
import re
import socket
import struct
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from itertools import pairwise

FEED = """<?xml version='1.0' encoding='UTF-8'?>
<feed xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/" xmlns:arxiv="http://arxiv.org/schemas/atom"
 xmlns="http://www.w3.org/2005/Atom"><id>https://arxiv.org/api/loopback</id><title>arXiv Query</title>
<opensearch:itemsPerPage>{n}</opensearch:itemsPerPage><opensearch:totalResults>{total}</opensearch:totalResults>
<opensearch:startIndex>{start}</opensearch:startIndex>{entries}</feed>"""
Handler = BaseHTTPRequestHandler  # of support.faulty_server: its `server` has records, entries and chance
Fault = Callable[[Handler, bytes], None]


def feed(entries: list[str], total: int, start: int) -> bytes:
    return FEED.format(n=len(entries), total=total, start=start, entries="".join(entries)).encode()


def send(
    handler: Handler,
    body: bytes,
    status: int = 200,
    length: int | None = None,
    kind: str = "text/xml; charset=UTF-8",
    **headers: str,
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def hang_up(handler: Handler) -> None:
    """End the connection with a reset."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.rfile.close()


def refuse(handler: Handler, body: bytes) -> None:
    handler.server.leave(handler.server.away)
    hang_up(handler)


def too_many_until(handler: Handler, body: bytes) -> None:
    """429 with a date; a date has whole seconds only."""
    send(
        handler, b"slow down", 429, Retry_After=format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    )


def burst(handler: Handler, body: bytes) -> None:
    send(handler, b"oops", handler.server.random.choice([500, 502, 503, 504]))


def stay_silent(handler: Handler, body: bytes) -> None:
    handler.server.back.wait(handler.server.silence)
    hang_up(handler)


def stall(handler: Handler, body: bytes) -> None:
    send(handler, body[: len(body) // 2], length=len(body))
    handler.wfile.flush()
    stay_silent(handler, body)


def promise_more(handler: Handler, body: bytes) -> None:
    send(handler, body, length=len(body) + 1 + handler.server.random.randrange(10_000))


def cut(handler: Handler, body: bytes) -> None:
    send(handler, body[: handler.server.random.randrange(len(body))])


def cut_gzip(handler: Handler, body: bytes) -> None:
    zipped = gzip.compress(body)
    send(handler, zipped[: handler.server.random.randrange(1, len(zipped) - 8)], Content_Encoding="gzip")


def html(handler: Handler, body: bytes) -> None:
    send(handler, b"<html><body>Service unavailable</body></html>", kind="text/html")


def empty(handler: Handler, body: bytes) -> None:
    send(handler, feed([], 0, 0))


def change_total(handler: Handler, body: bytes) -> None:
    """Another number of results than the pages before; a first page that promises too many."""
    start, total = int(handler.asked["start"]), len(handler.server.entries)
    step = handler.server.random.randrange(1, 4)
    other = str(total - step if start and handler.server.random.random() < 0.5 else total + step).encode()
    send(handler, re.sub(rb"(totalResults>)\d+", rb"\g<1>" + other, body))


def double(handler: Handler, body: bytes) -> None:
    """A page whose first papers are those of an earlier one."""
    entries, start, n = handler.server.entries, int(handler.asked["start"]), int(handler.asked["max_results"])
    moved = handler.server.random.randrange(1, min(start, n) + 1) if start else 0
    shown = [*entries[start - moved : start], *entries[start : start + n]]
    send(handler, feed(shown[: len(entries[start : start + n])], len(entries), start))


def fewer(handler: Handler, body: bytes) -> None:
    """The same answer without its last record, id or entry."""
    for end in (b"</PubmedArticle>", b"</Id>", b"</entry>", b"</ns0:entry>"):
        begin = end.replace(b"/", b"")[:-1]
        if end in body:
            body = body[: body.rindex(begin)] + body[body.rindex(end) + len(end) :]
            break
    send(handler, body)


def more(handler: Handler, body: bytes) -> None:
    """The same answer with a copy of its first record under an id nobody asked for."""
    record = body[body.index(b"<PubmedArticle>") : body.index(b"</PubmedArticle>")] + b"</PubmedArticle>"
    stranger = re.sub(rb'(<PMID Version="1">)\d+', rb"\g<1>77777777", record)
    send(handler, body.replace(b"</PubmedArticleSet>", stranger + b"</PubmedArticleSet>"))


def odd_text(handler: Handler, body: bytes) -> None:
    handler.server.random.choice([*ODDITIES.values()])(handler, body)


def insert(handler: Handler, body: bytes, odd: bytes) -> None:
    """`odd` somewhere between the first and the last tag."""
    ends = [found.end() for found in re.finditer(rb"<[A-Za-z][^>]*>", body)]
    place = handler.server.random.choice(ends)
    send(handler, body[:place] + odd + body[place:])


def direct(handler: Handler, body: bytes) -> None:
    """Titles wrapped in marks of direction, which are no letters."""
    marked = re.sub(r"(<(ArticleTitle|title)>)([^<]+)", "\\1\u202b\u200f\\3\u202c", body.decode())
    send(handler, marked.encode())


def redirect(handler: Handler, body: bytes) -> None:
    send(handler, b"", 302, Location=handler.path)


def bomb(handler: Handler, body: bytes) -> None:
    """A billion laughs in the place of the first text."""
    names = "abcdefghij"
    declared = '<!ENTITY a "laugh ">' + "".join(
        f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in pairwise(names)
    )
    root = re.search(rb"<([A-Za-z]\w*)", body)
    doctype = f"<!DOCTYPE {root[1].decode()} [{declared}]>".encode()
    armed = body[: root.start()] + doctype + body[root.start() :]
    send(handler, re.sub(rb"(<(?:ArticleTitle|title|Id)>)", rb"\1&j;", armed, count=1))


def swell(handler: Handler, body: bytes) -> None:
    """The right answer, and white space after it."""
    send(handler, body, length=len(body) + handler.server.large)
    for _ in range(handler.server.large // 2**16):
        handler.wfile.write(b" " * 2**16)


FAULTS: dict[str, Fault] = {
    "refused": refuse,
    "429 seconds": lambda handler, body: send(handler, b"slow down", 429, Retry_After="1"),
    "429 date": too_many_until,
    "429": lambda handler, body: send(handler, b"slow down", 429),
    "5xx": burst,
    "reset": lambda handler, body: hang_up(handler),
    "silent": stay_silent,
    "stall": stall,
    "long length": promise_more,
    "cut": cut,
    "cut gzip": cut_gzip,
    "html": html,
    "json": lambda handler, body: send(handler, b'{"header": {"type": "esearch", "version": "0.3"}}'),
    "error element": lambda handler, body: send(
        handler, b"<eSearchResult><ERROR>Search Backend failed</ERROR></eSearchResult>"
    ),
    "json error": lambda handler, body: send(handler, b'{"error":"API rate limit exceeded","count":"4"}'),
    "empty first page": empty,
    "empty later page": empty,
    "total changes": change_total,
    "doubles": double,
    "fewer": fewer,
    "odd text": odd_text,
    "redirects": redirect,
    "bomb": bomb,
    "too large": swell,
}
ODDITIES: dict[str, Fault] = {
    "charset": lambda handler, body: send(handler, body, kind="text/xml; charset=ISO-8859-1"),
    "mark": lambda handler, body: send(handler, b"\xef\xbb\xbf" + body),
    "nul": lambda handler, body: insert(handler, body, b"\0"),
    "surrogate": lambda handler, body: insert(handler, body, b"\xed\xa0\x80"),
    "decomposed": lambda handler, body: send(handler, unicodedata.normalize("NFD", body.decode()).encode()),
    "direction": direct,
}
OTHERS: dict[str, Fault] = {
    "429 hour": lambda handler, body: send(handler, b"slow down", 429, Retry_After="3600"),
    "400": lambda handler, body: send(handler, b"bad request", 400),
    "more": more,
}
ALL = FAULTS | ODDITIES | OTHERS
