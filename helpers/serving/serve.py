"""The API's process: `python -m helpers serve [NAME=value …]`, or `make serve`. Any setting may be given.

It listens at once and loads the model beside that: /health answers, /ready says when there is a model. A first signal
lets it answer what is waiting and ends it with status 0, a second one ends it at once.
"""

import asyncio
import ipaddress
import logging
import os
import re
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Collection, Iterable

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from helpers.core import (
    RECORD,
    CourseError,
    Folders,
    Settings,
    base_model_folder,
    hash_file,
    load_settings,
    parse_words,
    read_json,
    read_receipt,
    relative_path,
    stage_of,
)
from helpers.dataset import read_seen_rows
from helpers.evaluation import Candidate, Library
from helpers.models import MANIFEST, damaged_files, load_tokenizer, read_manifest
from helpers.papers import papers_from_json, read_papers
from helpers.pipeline import TRAINS
from helpers.serving.app import Made, Service, create_app
from helpers.serving.engine import DEADLINE, Engine
from helpers.serving.security import PATIENCE, Guard

SHORTEST_TOKEN = 16  # characters
VISIBLE = rf"[!-~]{{{SHORTEST_TOKEN},}}"
LOCAL = ("127.0.0.1", "localhost", "::1")
STAGE = {method: number for number, method in TRAINS.items()}  # which stage trains what is served

log = logging.getLogger(__name__)


class Discreet(logging.Formatter):
    """Says of an exception what kind it is and where it was raised, but not its words, which may be a question's."""

    def formatException(self, found: tuple) -> str:
        return "".join(traceback.format_tb(found[2])) + found[0].__name__


class Impatient(H11Protocol):
    """A connection that is closed when no whole request comes on it for a while; uvicorn waits for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.loop.call_later(PATIENCE, self.look, None)

    def look(self, before: object) -> None:
        """Close it if all that was seen `before` is answered and nothing has come since."""
        if self.transport.is_closing():
            return
        if self.cycle is before and (before is None or before.response_complete):
            self.transport.close()
        else:
            self.loop.call_later(PATIENCE, self.look, self.cycle)


class Server(uvicorn.Server):
    """Ends with status 0 when it was asked to, where uvicorn would raise the signal once more."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: object) -> None:
        if self.should_exit:
            os._exit(128 + sig)
        self.service.unready = "the server is shutting down"
        self.should_exit = True


def main(words: list[str]) -> int:
    """Serve until a signal comes; the process's exit status."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)  # bm25s says what it does at a level that it sets itself
    handler.setFormatter(Discreet("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # below that it writes a line for every broken request
    try:
        serve_model(*read_command(words))
    except CourseError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


def read_command(words: Iterable[str]) -> tuple[Settings, Folders]:
    """Settings and folders from `NAME=value` words; the adapter is served where nothing says WHICH.

    Raises CourseError for a bad setting, and for an address that anyone could ask without a token.
    """
    values = parse_words(words, "make serve WHICH=full PORT=8001")
    resolved, origins = load_settings(values, command_line=values)
    if origins["WHICH"] == "default":
        resolved = resolved.model_copy(update={"WHICH": "qlora"})
    if resolved.API_TOKEN and not re.fullmatch(VISIBLE, api_secret(resolved)):
        raise CourseError(
            f"API_TOKEN is not {SHORTEST_TOKEN} or more visible ASCII characters without spaces",
            "take a long random one: python -c 'import secrets; print(secrets.token_urlsafe())'",
            "an-api_token-is-needed",
        )
    return resolved, Folders(resolved.RUN)


def api_secret(resolved: Settings) -> str | None:
    return resolved.API_TOKEN.get_secret_value() if resolved.API_TOKEN else None


def serve_model(resolved: Settings, folders: Folders) -> None:
    """Listen, load the model meanwhile, and answer until a signal comes.

    Raises CourseError where the address is not to be had or the model does not load.
    """
    require_trained(resolved, folders)
    listener, token = open_socket(resolved), api_secret(resolved)
    host, port = listener.getsockname()[:2]
    service = Service(resolved.MAX_NEW_TOKENS)
    hosts = () if token else {*LOCAL, host}
    server, failed = server_of(service, token, hosts), []

    def prepare() -> None:
        try:
            load_service(service, resolved, folders)
        except Exception as error:
            failed.append(error)
            server.should_exit = True
        else:
            print("ready", flush=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)  # until uvicorn runs and does the same
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"{address} loads the model ({resolved.WHICH}) and answers until Ctrl-C", flush=True)
    print(example_request(address, token is not None), flush=True)
    threading.Thread(target=prepare, name="loading", daemon=True).start()
    server.run([listener])
    if failed:
        raise failed[0]
    if service.engine:
        service.engine.close()


def server_of(service: Service, token: str | None = None, hosts: Collection[str] = ()) -> Server:
    """uvicorn before the API, with the guard between them."""
    config = uvicorn.Config(
        Guard(create_app(service, token is not None), token, hosts),
        http=Impatient,
        loop="asyncio",
        ws="none",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=round(2 * DEADLINE) + 5,
    )
    return Server(config, service)


def example_request(address: str, token: bool) -> str:
    """A line for the shell that asks a question."""
    bearer = ' -H "Authorization: Bearer $API_TOKEN"' * token
    return (
        f"curl -s {address}/predict{bearer} -H 'Content-Type: application/json'"
        """ -d '{"question": "What is lupus?"}'"""
    )


def open_socket(resolved: Settings) -> socket.socket:
    """A socket that listens at API_HOST and PORT.

    Raises CourseError if it cannot be had, or is not loopback and there is no token.
    """
    host, port = resolved.API_HOST, resolved.PORT
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise CourseError(
            f"API_HOST={host!r} is no address of this machine", "set API_HOST=127.0.0.1", "an-api_token-is-needed"
        ) from None
    if not resolved.API_TOKEN and not ipaddress.ip_address(address[0]).is_loopback:
        raise CourseError(
            f"API_HOST={host!r} is open to other machines, and API_TOKEN is not set",
            "set API_TOKEN in .env, or API_HOST=127.0.0.1",
            "an-api_token-is-needed",
        )
    try:
        return socket.create_server(address, family=family, backlog=2048)
    except OSError as error:
        raise CourseError(
            f"PORT={port} at API_HOST={host!r} cannot be had: {os.strerror(error.errno)}",
            "choose another one, or PORT=0 for any that is free",
            "the-port-is-taken",
        ) from None


def require_trained(resolved: Settings, folders: Folders) -> None:
    """Raises CourseError if the model that is wanted is not on disk, naming the stages that make it."""
    which, base = resolved.WHICH, base_model_folder(resolved.MODEL_NAME)
    run = f" RUN={folders.run}" * bool(folders.run)
    if not (base / MANIFEST).exists():
        raise CourseError(
            f"there is no model in {relative_path(base)}",
            f"make pipeline STAGES=1{run}",
            "there-is-no-model-to-serve-or-export",
        )
    if which == "base" or (folders.model(which) / RECORD).exists():
        return
    number = STAGE[which]
    receipt = read_receipt(stage_of(number), folders)
    reason = f": {receipt['reason']}" if receipt and receipt["reason"] else ""
    raise CourseError(
        f"there is no model in {relative_path(folders.model(which))}{reason}",
        f"make pipeline STAGES=1-{number}{run}, or serve another one (WHICH=base)",
        "there-is-no-model-to-serve-or-export",
    )


def load_service(service: Service, resolved: Settings, folders: Folders) -> None:
    """Fill `service` and say that it is ready.

    Raises CourseError where files are damaged or do not belong together.
    """
    base = base_model_folder(resolved.MODEL_NAME)
    if damaged := damaged_files(base):
        raise CourseError(
            f"{relative_path(base)}: {damaged[0]} is damaged",
            "make pipeline STAGES=1",
            "a-file-differs-from-its-hash",
        )
    candidate = Candidate(resolved.WHICH, resolved, folders, load_tokenizer(base))
    service.made, service.library = model_origin(candidate)
    service.engine = Engine(candidate.trained(), candidate.tokenizer)
    service.unready = ""


def model_origin(candidate: Candidate) -> tuple[Made, Library | None]:
    """What the model was made from, and the papers it read, if they are still those that it read.

    Raises CourseError if a file of the model is not the one that was saved.
    """
    which, folders = candidate.which, candidate.folders
    made = read_manifest(candidate.settings.MODEL_NAME)
    facts = {"which": which, "id": made["id"], "revision": made["revision"]}
    if which == "base":
        return Made(**facts, weights_sha256=weight_hashes(made["files"]), data_sha256=None), None
    folder, stage = folders.model(which), stage_of(STAGE[which])
    record = read_json(folder / RECORD)
    for name, sha in record["files"].items():
        if not (folder / name).exists() or hash_file(folder / name) != sha:
            again = f"make pipeline STAGES={stage.number} FORCE={stage.number}"
            raise CourseError(
                f"{relative_path(folder)}: {name} is missing or not the file that was saved",
                again,
                "the-adapter-is-not-the-saved-one",
            )
    data = candidate.settings.TRAINING_DATA or folders.training_data
    receipt = read_receipt(stage, folders)
    sha = receipt["key"]["inputs"].get(relative_path(data)) if receipt else None
    there = sha is not None and data.exists() and hash_file(data) == sha
    library = library_of(candidate) if there else None
    return Made(**facts, weights_sha256=weight_hashes(record["files"]), data_sha256=sha), library


def weight_hashes(hashes: dict[str, str]) -> dict[str, str]:
    return {name: sha for name, sha in hashes.items() if name.endswith(".safetensors")}


def library_of(candidate: Candidate) -> Library:
    """The papers of the rows that the model has read; where they are not at hand, what the rows say of them."""
    rows = read_seen_rows(candidate.folders.model(candidate.which), candidate.rows_taught)
    ids, place = {row["paper_id"] for row in rows}, candidate.folders.papers
    at_hand = read_papers(place) if place.exists() else []
    return Library([paper for paper in at_hand if paper.paper_id in ids] or papers_from_json(rows))
