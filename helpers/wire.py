"""Requests that are polite and patient: one pace for all processes, retries that obey the server, answers kept."""

import fcntl
import json
import os
import queue
import random
import socket
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from tenacity import RetryCallState, Retrying, retry_if_exception_type

from helpers.errors import CourseError
from helpers.files import append_jsonl, sha256_of

BACKOFF = 1.0  # seconds before the first retry; doubles, with jitter
LONGEST_WAIT = 60.0
TRIES = 5
FIRST_CONTACT = 8.0  # seconds after which a host that never answered counts as out of reach
TIMEOUT = 30.0
LARGEST_BODY = 64 * 2**20


class Transient(Exception):
    """An answer that another try may mend; `retry_after` is in seconds where the server named one."""

    def __init__(self, cause: str, retry_after: float | None = None):
        super().__init__(cause)
        self.retry_after = retry_after


class Unreachable(Exception):
    """The host never answered: refused, unknown, or silent."""


def is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


@contextmanager
def locked(name: str) -> Iterator:
    """An open file that one process of this user holds at a time."""
    with (Path(tempfile.gettempdir()) / f"course-{os.getuid()}-{name}").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def pace(name: str, interval: float, url: str) -> None:
    """Wait until `interval` seconds have passed since any process of this user last asked `name`.

    The rule belongs to the public servers: a loopback address is not paced.
    """
    if is_loopback(url):
        return
    with locked(f"{name}.pace") as file:
        file.seek(0)
        last = float(file.read() or 0)
        time.sleep(min(max(0.0, last + interval - time.time()), interval))
        file.truncate(0)
        file.write(str(time.time()))
        file.flush()


def probe(url: str, seconds: float = 6.0) -> None:
    """Return when a TCP connection towards `url` (or its proxy) stands.

    Raises Unreachable after `seconds` at the latest: name servers have time-outs of their own.
    """
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname):
        parts = urlsplit(proxy)
    address = (parts.hostname, parts.port or {"http": 80}.get(parts.scheme, 443))
    outcome: queue.Queue = queue.Queue()

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=seconds).close()
            outcome.put(None)
        except OSError as error:
            outcome.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        error = outcome.get(timeout=seconds)
    except queue.Empty:
        error = TimeoutError(f"no answer in {seconds:.0f} seconds")
    if error:
        raise Unreachable(f"{address[0]}: {error.strerror or error}" if error.args else address[0]) from None


def seconds_until(header: str | None) -> float | None:
    """A Retry-After header, seconds or a date, as seconds from now; None if there is none."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def wait(state: RetryCallState) -> float:
    """What the server asked for, else exponential backoff with jitter."""
    asked = getattr(state.outcome.exception(), "retry_after", None)
    backoff = min(LONGEST_WAIT, BACKOFF * 2 ** (state.attempt_number - 1)) * random.uniform(0.5, 1.0)
    return backoff if asked is None else asked


def patiently(attempt: Callable[[], bytes], reached: Callable[[], bool]) -> bytes:
    """`attempt()`, tried again while it raises Transient, TRIES times at most.

    Gives up at once if the server asks for a longer pause than LONGEST_WAIT, and after FIRST_CONTACT seconds
    on a host that was not `reached`. Raises the last Transient.
    """

    def enough(state: RetryCallState) -> bool:
        asked = getattr(state.outcome.exception(), "retry_after", None) or 0
        out_of_reach = not reached() and state.seconds_since_start > FIRST_CONTACT
        return state.attempt_number >= TRIES or asked > LONGEST_WAIT or out_of_reach

    return Retrying(stop=enough, wait=wait, retry=retry_if_exception_type(Transient), reraise=True)(attempt)


class Ledger:
    """Raw answers in an append-only file, by request: {"key", "fetched", "body"} a line.

    A line torn by a kill is passed over, so its request is made again and nothing else is.
    """

    def __init__(self, path: Path):
        self.path, self.places = Path(path), {}
        self.scan(0)

    def scan(self, start: int) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(start)
            while line := file.readline():
                try:
                    self.places[json.loads(line)["key"]] = file.tell() - len(line)
                except (ValueError, KeyError, TypeError):
                    continue

    def get(self, request: dict) -> tuple[bytes, str] | None:
        """(body, day it was fetched) of a request that was answered before."""
        place = self.places.get(sha256_of(request))
        if place is None:
            return None
        with self.path.open("rb") as file:
            file.seek(place)
            entry = json.loads(file.readline())
        return entry["body"].encode(), entry["fetched"]

    def keep(self, request: dict, body: bytes) -> tuple[bytes, str]:
        """Append an answer; it is on disk when this returns."""
        entry = {"key": sha256_of(request), "fetched": date.today().isoformat(), "body": body.decode()}
        with locked("ledger"):
            start = self.path.stat().st_size if self.path.exists() else 0
            append_jsonl(self.path, [entry])
        self.scan(start)
        return body, entry["fetched"]


def refused(service: str, code: int) -> CourseError:
    """The error for an HTTP status that no retry mends."""
    return CourseError(
        f"{service} refused the request: HTTP {code}", "check PAPERS_QUERY and the topic's query, then run again"
    )
