"""One harvest over loopback, from the server that misbehaves to the bytes on disk."""

import dataclasses
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from helpers.core import settings
from helpers.core.paths import SAMPLE
from helpers.papers import arxiv_api, collect, http, pubmed_api, screening, topic
from helpers.papers.paper import write_papers
from support.faulty_server import Server, read_entries, read_records

TOPIC = topic.load_topic("autoimmune")
BATCH = 7
QUICK = http.Patience(first_contact=1.0, silence=0.5, whole=5.0, backoff=0.01, budget=6.0, largest_body=2**20)


@contextmanager
def hurried(folder: Path, batch: int = BATCH, page: int = arxiv_api.PAGE, **patience: object) -> Iterator[None]:
    """Small batches and pages, little patience, and files of pace and lock of its own, in this process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        mock.patch.object(pubmed_api, "BATCH", batch),
        mock.patch.object(arxiv_api, "PAGE", page),
        mock.patch.object(http, "PATIENCE", dataclasses.replace(QUICK, **patience)),
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
    return settings.load_settings({"PAPERS_SOURCE": "auto", **bases, **values}, environment={})[0]


def gather(chosen: settings.Settings, folder: Path) -> tuple[bytes, dict, screening.Screened]:
    """(papers.jsonl and dropped.jsonl, route, screened) of one harvest; raw answers in `folder`/raw."""
    found = collect.collect_papers(chosen, TOPIC, folder / "raw")
    excluded = collect.read_excluded_ids(chosen)
    screened = screening.screen_papers(found.papers, TOPIC, chosen.MAX_PAPERS, folder / "dropped.jsonl", excluded)
    write_papers(folder / "papers.jsonl", screened.kept)
    return (folder / "papers.jsonl").read_bytes() + (folder / "dropped.jsonl").read_bytes(), found.route, screened


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
