"""What every request must pass before the API hears of it: host, token, kind, size and time of its body."""

import asyncio
import hmac
import logging
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 64 * 1024  # bytes
PATIENCE = 10.0  # seconds for a body to arrive
OPEN = ("/health", "/ready")  # paths that need no token

log = logging.getLogger(__name__)


class RequestRefused(Exception):
    """A request that goes no further: the status, a sentence and the headers of the answer."""

    def __init__(self, status: int, problem: str, **headers: str):
        super().__init__(problem)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.response = JSONResponse({"error": problem}, status, headers)


class Guard:
    """Stands before an ASGI application.

    With a `token`, everything but OPEN needs it. With `hosts`, a request must be addressed to one of them: a web page
    whose name has been made to point at this machine is not (DNS rebinding). Bodies must be JSON, which a page
    of another origin cannot send without being asked first.
    """

    def __init__(self, app: ASGIApp, token: str | None = None, hosts: Collection[str] = ()):
        self.app, self.hosts = app, hosts
        self.expected = token.encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            self.check(scope["path"], headers)
            if scope["method"] == "POST" and scope["path"] not in OPEN:
                receive = replay_body(await read_body(headers, receive), receive)
        except RequestRefused as refused:
            await refused.response(scope, receive, send)
            return
        except ConnectionError:  # the client went away: there is nobody to answer
            return
        try:
            await self.app(scope, receive, send)
        except Exception:  # answered with 500 already; to let it out would cut the connection
            log.exception("a request failed")

    def check(self, path: str, headers: Headers) -> None:
        """Raises Refused for a host that is not ours, or without the token."""
        if self.hosts and parse_hostname(headers.get("host", "")) not in self.hosts:
            raise RequestRefused(400, "the Host header names another server")
        scheme, _, given = headers.get("authorization", "").partition(" ")
        known = hmac.compare_digest(given.strip().encode("latin-1"), self.expected or b"")
        if self.expected and path not in OPEN and not (known and scheme.lower() == "bearer"):
            raise RequestRefused(401, "the API_TOKEN is needed: Authorization: Bearer …", WWW_Authenticate="Bearer")


def parse_hostname(host: str) -> str:
    """A Host header without its port, in lower case; "" if it is none."""
    if set(host) & set("@/?#\\"):
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def read_body(headers: Headers, receive: Receive) -> bytes:
    """The whole body of a request. Raises Refused if it is too large, too slow or no JSON by its own account."""
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > LARGEST_BODY:
        raise too_large()
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestRefused(415, "the body must be application/json", Connection="close")
    whole, more = b"", True
    try:
        async with asyncio.timeout(PATIENCE):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionError
                whole, more = whole + message.get("body", b""), message.get("more_body", False)
                if len(whole) > LARGEST_BODY:
                    raise too_large()
    except TimeoutError:
        problem = f"the body did not arrive within {PATIENCE:g} seconds"
        raise RequestRefused(408, problem, Connection="close") from None
    return whole


def too_large() -> RequestRefused:
    return RequestRefused(413, f"a body has at most {LARGEST_BODY // 1024} KiB", Connection="close")


def replay_body(whole: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, then what comes after it."""
    messages = [{"type": "http.request", "body": whole, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
