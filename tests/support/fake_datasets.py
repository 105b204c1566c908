"""The Hub's data sets on loopback: five of them with a few rows of our own, in the form of the real ones."""

import hashlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from datasets import ClassLabel, Dataset, Features, Value

COMMIT = "1" * 40
PUBMEDQA = [  # (PMID, question, passages, decision)
    (
        91000001,
        "Does smoking predict erosions in rheumatoid arthritis?",
        ["We followed 210 smokers.", "It did."],
        "yes",
    ),
    (91000002, "Does celiac disease relapse after a gluten challenge?", ["Forty adults ate bread."], "maybe"),
    (91000003, "Do statins shorten hospital stays after hip surgery?", ["Stays were as long."], "no"),
]
MEDQA = [  # (stem, options, right one)
    ("A woman has ptosis that is worse at night.", ["Stroke", "Myasthenia gravis", "Migraine", "Gout"], 1),
    ("A man has chest pain on exertion.", ["Angina", "Gout", "Scurvy", "Rickets"], 0),
    ("Itchy plaques on both elbows; psoriasis is suspected.", ["Insulin", "Iron", "Calcipotriol", "Zinc"], 2),
]
MEDMCQA = [
    ("Anti-centromere antibodies are typical of", ["Gout", "Limited systemic sclerosis", "Asthma", "Rickets"], 1),
    ("The longest bone is the", ["Femur", "Tibia", "Ulna", "Radius"], 0),
]
ARC = [
    ("Which of these gives off its own light?", ["the Moon", "the Sun", "a mirror", "a stone"], "ABCD", "B"),
    ("What do plants take from the air?", ["gold", "salt", "carbon dioxide"], "123", "3"),
]
PAGES = [" = Tea = \n Tea is a drink , made of leaves . \n", " = Rain = \n Rain is water @-@ drops that fall . \n"]


def table(rows: list[dict], **features: object) -> bytes:
    """The rows as a parquet file; what is not in `features` has the type that its values have."""
    found = Dataset.from_list(rows)
    file = io.BytesIO()
    found.cast(Features({**found.features, **features})).to_parquet(file)
    return file.getvalue()


def pubmedqa() -> dict[str, bytes]:
    """qiaojin/PubMedQA, configuration pqa_labeled."""
    parts = ("labels", "meshes", "reasoning_required_pred", "reasoning_free_pred")
    rows = [
        {
            "pubid": pmid,
            "question": question,
            "context": {"contexts": passages, **{part: ["x"] for part in parts}},
            "long_answer": "",
            "final_decision": decision,
        }
        for pmid, question, passages, decision in PUBMEDQA
    ]
    name = "pqa_labeled/train-00000-of-00001.parquet"
    return {name: table(rows, pubid=Value("int32")), "README.md": card("pqa_labeled", train=name)}


def medqa() -> dict[str, bytes]:
    """GBaker/MedQA-USMLE-4-options-hf: a line for each question, and no configuration."""
    rows = [
        {"id": f"test-{n:05}", "sent1": stem, "sent2": "", "label": right}
        | {f"ending{place}": option for place, option in enumerate(options)}
        for n, (stem, options, right) in enumerate(MEDQA)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    places = ("train.json", "dev.json", "test.json")
    return dict.fromkeys(places, lines) | {"README.md": b"---\nlicense: cc-by-sa-4.0\n---\n# A data set\n"}


def medmcqa() -> dict[str, bytes]:
    """openlifescienceai/medmcqa: the place of the right option is a class label."""
    rows = [
        {"id": f"q{n}", "question": question}
        | dict(zip(("opa", "opb", "opc", "opd"), options, strict=True))
        | {"cop": right, "choice_type": "single", "exp": "", "subject_name": "Medicine", "topic_name": None}
        for n, (question, options, right) in enumerate(MEDMCQA)
    ]
    data = table(rows, cop=ClassLabel(names=list("abcd")), topic_name=Value("string"))
    return split("default", "data", data)


def arc() -> dict[str, bytes]:
    """allenai/ai2_arc, configuration ARC-Easy."""
    rows = [
        {
            "id": f"Mercury_{n}",
            "question": question,
            "choices": {"text": texts, "label": list(labels)},
            "answerKey": key,
        }
        for n, (question, texts, labels, key) in enumerate(ARC)
    ]
    return split("ARC-Easy", "ARC-Easy", table(rows))


def wikitext() -> dict[str, bytes]:
    """EleutherAI/wikitext_document_level, configuration wikitext-2-raw-v1."""
    return split("wikitext-2-raw-v1", "wikitext-2-raw-v1", table([{"page": page} for page in PAGES]))


def split(name: str, folder: str, data: bytes) -> dict[str, bytes]:
    """The same rows as each of the three splits."""
    places = {part: f"{folder}/{part}-00000-of-00001.parquet" for part in ("train", "test", "validation")}
    return dict.fromkeys(places.values(), data) | {"README.md": card(name, **places)}


def card(name: str, **places: str) -> bytes:
    """A README whose head names a configuration and its files."""
    listed = "".join(f"  - split: {part}\n    path: {place}\n" for part, place in places.items())
    return f"---\nconfigs:\n- config_name: {name}\n  data_files:\n{listed}---\n# A data set\n".encode()


class DataSets(ThreadingHTTPServer):
    """Serves `sets`, {data set: {file name: content}}, at one commit."""

    daemon_threads = True

    def __init__(self, sets: dict[str, dict[str, bytes]] | None = None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.sets = (
            sets
            if sets is not None
            else {
                "qiaojin/PubMedQA": pubmedqa(),
                "GBaker/MedQA-USMLE-4-options-hf": medqa(),
                "openlifescienceai/medmcqa": medmcqa(),
                "allenai/ai2_arc": arc(),
                "EleutherAI/wikitext_document_level": wikitext(),
            }
        )
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: DataSets

    def do_HEAD(self) -> None:
        self.answer("")

    def do_GET(self) -> None:
        self.answer("")

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())

    def answer(self, body: str) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        name = "/".join(path.removeprefix("api/").split("/")[1:3])
        if not path.removeprefix("api/").startswith("datasets/") or name not in self.server.sets:
            return self.send(b"", 404, {"X-Error-Code": "RepoNotFound"})
        rest = path.partition(name)[2].strip("/")
        if not path.startswith("api/"):
            return self.send_file(name, rest.split("/", 2)[2])
        return self.send(json.dumps(self.describe(name, rest, body)).encode())

    def describe(self, name: str, rest: str, body: str) -> object:
        """A data set; with `tree` its files, with `paths-info` those asked for in `body`."""
        kind, _, place = rest.partition("/")
        files = self.server.sets[name]
        if kind == "tree":
            folder = place.partition("/")[2]
            return [entry(file, data) for file, data in files.items() if file.startswith(folder)]
        if kind == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
            return [entry(file, files[file]) for file in wanted if file in files]
        return {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}

    def send_file(self, name: str, file: str) -> None:
        content = self.server.sets[name].get(file)
        if content is None:
            return self.send(b"", 404, {"X-Error-Code": "EntryNotFound"})
        return self.send(content, 200, {"ETag": f'"{entry(file, content)["oid"]}"', "X-Repo-Commit": COMMIT})

    def send(self, content: bytes, status: int = 200, headers: dict | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def entry(file: str, content: bytes) -> dict:
    """What the Hub says of a file."""
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {"type": "file", "path": file, "size": len(content), "oid": oid}
