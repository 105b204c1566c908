"""Servers asked politely and patiently: in turn, again where that may help, and believed only when checked."""

import queue
import random
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies, select_proxy
from tenacity import RetryCallState, Retrying, retry_if_exception_type
from urllib3.exceptions import HTTPError

from helpers.papers.rate_limit import Clock, Pace

LONGEST_HOLD = 3600.0  # seconds; what a server asks for beyond that is a mistake of its own


@dataclass(frozen=True)
class Patience:
    """How long, how often and how much, in seconds, tries and bytes."""

    first_contact: float = 6.0  # for a host's first answer; out of reach is one that gave none in twice the time
    silence: float = 30.0  # of a host that has answered before
    whole: float = 300.0  # until the last byte of one answer
    tries: int = 5  # of one request
    backoff: float = 1.0  # before the first retry; doubles, with jitter
    longest_wait: float = 60.0  # between two tries; a server that asks for more is left alone
    budget: float = 180.0  # of waiting, for one request
    largest_body: int = 64 * 2**20


PATIENCE = Patience()
WORDS = {  # what network libraries say, in lower case, and what we say
    "tunnel connection failed": "the proxy refused",
    "certificate_verify_failed": "its certificate cannot be verified",
    "connection refused": "connection refused",
    "name or service not known": "name or service not known",
    "name resolution": "name or service not known",
    "nodename nor servname": "name or service not known",
    "timed out": "timed out",
    "reset by peer": "connection reset by peer",
    "closed connection without response": "connection closed without a response",
    "incompleteread": "the answer broke off",
    "failed to decode": "the answer could not be unzipped",
    "exceeded 3 redirects": "redirected in a circle",
}


class Transient(Exception):
    """No good answer, and another try may mend it; `retry_after` is in seconds where a pause was asked for."""

    def __init__(self, cause: str, retry_after: float | None = None):
        super().__init__(cause)
        self.retry_after = retry_after


class Unfit(Transient):
    """An answer, but not what was promised."""


class Refused(Exception):
    """An HTTP status that no other try mends."""


class Unreachable(Exception):
    """The host never answered: refused, unknown, or silent."""


@dataclass
class Host:
    """A server by its address. `interval` is in seconds between the starts of two requests.

    The rule of pace belongs to the public servers: a loopback address has none but what it asks for itself.
    """

    url: str
    interval: float
    clock: Clock = field(default_factory=Clock)
    reached: bool = False

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        loopback = parts.hostname in ("127.0.0.1", "localhost", "::1")
        name = parts.netloc.rpartition("@")[2].replace(":", "-")
        self.pace = Pace(name, 0.0 if loopback else self.interval, self.clock)

    def persist(self, attempt: Callable[[], bytes]) -> bytes:
        """`attempt()` in its turn, and again while it raises Transient and PATIENCE lasts.

        A pause that the server asks for is kept by every process, not by this request alone.
        Raises the last Transient, or Unreachable if the host never answered at all.
        """
        patient = Retrying(
            stop=self.enough,
            wait=pause,
            sleep=self.clock.sleep,
            retry=retry_if_exception_type(Transient),
            reraise=True,
        )
        try:
            return patient(self.in_turn, attempt)
        except Transient as error:
            if self.reached:
                raise
            raise Unreachable(str(error)) from None

    def in_turn(self, attempt: Callable[[], bytes]) -> bytes:
        if not self.reached:
            probe(self.url, PATIENCE.first_contact)
        if (left := self.pace.left()) > PATIENCE.longest_wait:
            self.reached = True
            raise Transient(f"it asked to be left alone for another {left:,.0f} seconds", left)
        self.pace.wait()
        try:
            return attempt()
        except Transient as error:
            if error.retry_after:
                self.pace.hold(min(error.retry_after, LONGEST_HOLD))
            raise

    def enough(self, state: RetryCallState) -> bool:
        """Whether to give up: tries or budget used up, too long a pause asked for, or nobody there."""
        asked = getattr(state.outcome.exception(), "retry_after", None) or 0
        return (
            state.attempt_number >= PATIENCE.tries
            or state.idle_for + state.upcoming_sleep > PATIENCE.budget
            or asked > PATIENCE.longest_wait
            or (not self.reached and state.seconds_since_start + state.upcoming_sleep > 2 * PATIENCE.first_contact)
        )

    def request(self, method: str, url: str, **options: object) -> bytes:
        """The whole body of an answer with status 200, in one try.

        A POST is not redirected: its body may hold secrets.
        Raises Transient for what another try may mend, Refused for a status that none will.
        """
        silence = PATIENCE.silence if self.reached else PATIENCE.first_contact
        options |= {"timeout": silence, "stream": True, "allow_redirects": method == "GET"}
        try:
            with requests.Session() as session:
                session.max_redirects = 3
                with session.request(method, url, **options) as response:
                    self.reached = True
                    self.check_status(response)
                    return b"".join(self.chunks(response))
        except (requests.RequestException, HTTPError, OSError) as error:
            raise Transient(plain(error)) from None

    def check_status(self, response: requests.Response) -> None:
        status = response.status_code
        if response.is_redirect:
            raise Transient(f"HTTP {status}, a redirection")
        if status in (408, 425, 429) or status >= 500:
            asked = self.seconds_until(response.headers.get("Retry-After"))
            raise Transient(f"HTTP {status}" + (f", come back in {asked:,.0f} seconds" if asked else ""), asked)
        if status != 200:
            raise Refused(f"HTTP {status}")

    def chunks(self, response: requests.Response) -> Iterator[bytes]:
        """The body as it arrives. Raises Transient when it grows too large or takes too long."""
        size, began = 0, self.clock.time()
        while chunk := response.raw.read1(2**16, decode_content=True):
            size += len(chunk)
            if size > PATIENCE.largest_body:
                raise Transient(f"an answer of more than {PATIENCE.largest_body:,} bytes")
            if self.clock.time() - began > PATIENCE.whole:
                raise Transient(f"an answer that was not whole after {PATIENCE.whole:.0f} seconds")
            yield chunk

    def seconds_until(self, header: str | None) -> float | None:
        """A Retry-After header, seconds or a date, as seconds from now; None if there is none."""
        if not header:
            return None
        try:
            if re.fullmatch(r"\s*\d+(\.\d+)?\s*", header):
                return float(header)
            return max(0.0, parsedate_to_datetime(header).timestamp() - self.clock.time())
        except (ValueError, TypeError, OverflowError):
            return None


def pause(state: RetryCallState) -> float:
    """Seconds before the next try: what the server asked for, else exponential backoff with jitter."""
    asked = getattr(state.outcome.exception(), "retry_after", None)
    backoff = PATIENCE.backoff * 2 ** (state.attempt_number - 1)
    return min(PATIENCE.longest_wait, backoff) * random.uniform(0.5, 1.0) if asked is None else asked


def probe(url: str, seconds: float) -> None:
    """Return when a TCP connection towards `url` (or its proxy) stands.

    Raises Transient after `seconds` at the latest: name servers have time-outs of their own.
    """
    parts = urlsplit(url)
    if proxy := select_proxy(url, get_environ_proxies(url)):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    address = (parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme, 1080))
    outcome: queue.Queue = queue.Queue()

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=seconds / 2).close()  # a dead address leaves time for the next
            outcome.put(None)
        except OSError as error:
            outcome.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        error = outcome.get(timeout=seconds)
    except queue.Empty:
        error = TimeoutError("timed out")
    if error:
        raise Transient(f"{address[0]}: {plain(error)}")


def plain(error: Exception) -> str:
    """A network error in words, without the address and the object dump that libraries put into its text."""
    text = str(error).lower()
    known = (words for needle, words in WORDS.items() if needle in text)
    return next(known, None) or getattr(error, "strerror", None) or type(error).__name__


def require_plain(body: bytes) -> None:
    """Raises Unfit unless `body` is UTF-8 and declares no entities, which these servers never need and bombs do."""
    try:
        body.decode()
    except UnicodeDecodeError:
        raise Unfit("an answer that is not UTF-8") from None
    if b"<!ENTITY" in re.split(rb"<[A-Za-z]", body, maxsplit=1)[0]:
        raise Unfit("an answer that declares entities")
