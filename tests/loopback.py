"""One harvest over loopback, from the server that misbehaves to the bytes on disk."""

import dataclasses
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from helpers import eutils, harvest, preprints, screening, settings, topics, wire
from helpers.papers import write_papers
from helpers.paths import SAMPLE
from tests.faulty_server import Server, read_entries, read_records

TOPIC = topics.load_topic("autoimmune")
BATCH = 7
QUICK = wire.Patience(first_contact=1.0, silence=0.5, whole=5.0, backoff=0.01, budget=6.0, largest_body=2**20)


@contextmanager
def hurried(folder: Path, batch: int = BATCH, page: int = preprints.PAGE, **patience: object) -> Iterator[None]:
    """Small batches and pages, little patience, and files of pace and lock of its own, in this process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        mock.patch.object(eutils, "BATCH", batch),
        mock.patch.object(preprints, "PAGE", page),
        mock.patch.object(wire, "PATIENCE", dataclasses.replace(QUICK, **patience)),
        mock.patch.object(tempfile, "tempdir", str(folder)),
    ):
        yield


def serve(seed: object = 0) -> Server:
    """The written sample."""
    server = Server(read_records(SAMPLE / "pubmed.xml"), read_entries(SAMPLE / "arxiv.atom"), seed=seed)
    server.silence, server.large = 1.5, 2 * 2**20
    return server


def load(server: Server | None, **values: object) -> settings.Settings:
    bases = {"NCBI_EUTILS_BASE": server.eutils, "ARXIV_API_BASE": server.arxiv} if server else {}
    return settings.load({"PAPERS_SOURCE": "auto", **bases, **values}, environment={})[0]


def gather(chosen: settings.Settings, folder: Path) -> tuple[bytes, dict, screening.Screened]:
    """(papers.jsonl and dropped.jsonl, route, screened) of one harvest; raw answers in `folder`/raw."""
    found = harvest.collect(chosen, TOPIC, folder / "raw")
    excluded = harvest.excluded(chosen)
    screened = screening.screen(found.papers, TOPIC, chosen.MAX_PAPERS, folder / "dropped.jsonl", excluded)
    write_papers(folder / "papers.jsonl", screened.kept)
    return (folder / "papers.jsonl").read_bytes() + (folder / "dropped.jsonl").read_bytes(), found.route, screened


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
