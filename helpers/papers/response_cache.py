"""Raw answers kept in an append-only file, so that no request is made twice."""

import json
from datetime import date
from pathlib import Path

from helpers.core import append_jsonl, hash_json
from helpers.papers.rate_limit import lock_pace


class Ledger:
    """Answers by request: {"sha256", "key", "fetched", "body"} a line; of two with one key the later counts.

    A line torn by a kill or damaged since is passed over, so its request is made again and nothing else is.
    Threads and processes may share the file.
    """

    def __init__(self, path: Path):
        self.path, self.places = Path(path), {}
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            while line := file.readline():
                if entry := read_entry(line):
                    self.places[entry["key"]] = file.tell() - len(line)

    def __contains__(self, request: dict) -> bool:
        return hash_json(request) in self.places

    def get(self, request: dict) -> tuple[bytes, str] | None:
        """(body, day it was fetched) of a request that was answered before."""
        place = self.places.get(hash_json(request))
        if place is None:
            return None
        with self.path.open("rb") as file:
            file.seek(place)
            entry = read_entry(file.readline())
        return (entry["body"].encode(), entry["fetched"]) if entry else None

    def keep(self, request: dict, body: bytes) -> tuple[bytes, str]:
        """Append an answer in UTF-8; it is on disk when this returns."""
        entry = {"key": hash_json(request), "fetched": date.today().isoformat(), "body": body.decode()}
        with lock_pace("ledger"):
            end = self.path.stat().st_size if self.path.exists() else 0
            append_jsonl(self.path, [{"sha256": digest(entry)} | entry])
            with self.path.open("rb") as file:
                file.seek(end)
                closed = file.read(1) == b"\n"  # a torn line before this one
        self.places[entry["key"]] = end + closed
        return body, entry["fetched"]


def digest(entry: dict) -> str:
    return hash_json([entry["key"], entry["fetched"], entry["body"]])


def read_entry(line: bytes) -> dict | None:
    """The entry in a line of the file, if all of it is there as it was written."""
    try:
        entry = json.loads(line)
        return entry if digest(entry) == entry["sha256"] else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
