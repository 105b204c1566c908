"""A Hugging Face Hub on loopback: one model, its revisions, and faults on demand."""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """Serves `revisions`, {commit: {file name: content}}, of the model `name`; the last one is main.

    `faults` is {file name: what goes wrong when it is fetched}: an HTTP status, "damaged" (right size, wrong
    bytes), "stalled" (half of it, and then nothing) or "unknown" (the Hub fails when asked about it). `refusal`,
    (status, the Hub's error code), answers every request instead.
    """

    daemon_threads, request_queue_size = True, 64

    def __init__(self, name: str, revisions: dict[str, dict[str, bytes]]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.name, self.revisions = name, revisions
        self.faults: dict[str, int | str] = {}
        self.refusal: tuple[int, str] | None = None
        self.sent: list[str] = []  # names of the files that are sent whole
        self.tokens: set[str] = set()  # Authorization headers
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def entry(self, name: str, content: bytes) -> dict:
        """What the Hub says of a file: git's hash, and the sha256 of a large one, which git keeps outside."""
        entry = {"size": len(content), "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}
        if name.endswith((".safetensors", ".bin")):
            entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization", ""))
        path = unquote(urlsplit(self.path).path).strip("/")
        if self.server.refusal:
            return self.refuse(*self.server.refusal)
        if path.startswith(f"api/models/{self.server.name}"):
            return self.describe(path.removeprefix(f"api/models/{self.server.name}").strip("/"))
        if path.startswith(f"{self.server.name}/resolve/"):
            commit, _, name = path.removeprefix(f"{self.server.name}/resolve/").partition("/")
            return self.send_file(commit, name)
        return self.refuse(404, "RepoNotFound")

    def describe(self, what: str) -> None:
        """The model at a revision, or ("tree") its files."""
        kind, _, revision = what.partition("/")
        commit = list(self.server.revisions)[-1] if revision in ("", "main") else revision
        if commit not in self.server.revisions:
            return self.refuse(404, "RevisionNotFound")
        entries = {name: self.server.entry(name, data) for name, data in self.server.revisions[commit].items()}
        if kind != "tree":
            siblings = [{"rfilename": name, **entry} for name, entry in entries.items()]
            about = {"id": self.server.name, "sha": commit, "siblings": siblings}
            return self.send(json.dumps(about | {"cardData": {"license": "apache-2.0"}}).encode())
        files = [{"type": "file", "path": n, "oid": entry.pop("blobId"), **entry} for n, entry in entries.items()]
        for file in files:
            if "lfs" in file:
                file["lfs"] = file["lfs"] | {"oid": file["lfs"]["sha256"]}
        return self.send(json.dumps(files).encode())

    def send_file(self, commit: str, name: str) -> None:
        files = self.server.revisions[commit]
        content, fault = files[name], self.server.faults.get(name)
        entry = self.server.entry(name, content)
        tag = entry["lfs"]["sha256"] if "lfs" in entry else entry["blobId"]
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": commit}
        if self.command == "HEAD":
            return self.refuse(500, "") if fault == "unknown" else self.send(content, headers)
        if isinstance(fault, int):
            return self.refuse(fault, "")
        if fault == "damaged":
            content = content[:-1] + bytes([content[-1] ^ 1])
        if fault == "stalled":
            self.send(content[: len(content) // 2], headers, length=len(content))
            time.sleep(60)
            return None
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.server.sent.append(name)
        return self.send(content[start:], headers, status=206 if start else 200)

    def refuse(self, status: int, code: str) -> None:
        self.send(b"", {"X-Error-Code": code, "X-Error-Message": "refused"}, status)

    def send(self, content: bytes, headers: dict | None = None, status: int = 200, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length or len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass
