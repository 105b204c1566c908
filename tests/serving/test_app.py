"""The API over real sockets: what it answers, what it refuses, and that it stays awake meanwhile."""

import json
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest
from support import tiny
from support.serving import Watched, served

from helpers.evaluation import retrieval
from helpers.papers import paper
from helpers.report.format import NOTICE
from helpers.serving import app, security
from helpers.serving import serve as serve_module

TOKEN = "a-token-that-nobody-guesses"
SECRET = "my own question about my own illness"
STUDY = paper.Paper(
    paper_id="1", source="PubMed", title="Lupus <b>and</b> kidneys", abstract=[paper.Section(text="Nephritis.")]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def engine(folder):
    return Watched(folder)


@pytest.fixture
def address(engine):
    with served(engine, library=retrieval.Library([STUDY])) as (url, _):
        yield url


CLIENT = httpx.Client(timeout=30)


def ask(address, question="What is lupus?", **fields):
    return CLIENT.post(f"{address}/predict", json={"question": question, **fields})


def streamed(address, **fields):
    """[(event, data)] of a streamed answer."""
    found = [part.split("data: ", 1) for part in ask(address, stream=True, **fields).text.split("\n\n") if part]
    return [(before.removeprefix("event: ").strip(), json.loads(data)) for before, data in found]


def until(condition, seconds=10.0):
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop, "it did not happen in time"
        time.sleep(0.005)


def stands_still(steps, seconds=0.5):
    """Whether the model takes no step for a while."""
    before = len(steps)
    time.sleep(seconds)
    return len(steps) == before


def test_an_answer_has_all_that_belongs_to_it(address):
    answer = ask(address).json()
    assert list(answer) == list(app.PredictAnswer.model_fields)
    assert answer["notice"] == NOTICE and answer["model"]["id"] == "tester/tiny"
    assert answer["tokens"] <= 24 and answer["finish_reason"] in ("stop", "length") and answer["seconds"] > 0
    related = answer["related_training_papers"]
    assert related["note"] == "similar text, not the origin of the answer"
    assert related["papers"] == [{"paper_id": "1", "source": "PubMed", "title": STUDY.title}]
    assert ask(address, "Bridges?").json()["related_training_papers"]["papers"] == []


def test_a_streamed_answer_is_the_same_answer(address):
    """Also where a token is a third of a character: half ones are not sent."""
    for question in ("What is lupus?", "α β γ", "Why?"):
        whole = ask(address, question, max_new_tokens=60).json()
        events = streamed(address, question=question, max_new_tokens=60)
        *parts, (name, done) = events
        assert name == "done" and {event for event, _ in parts} <= {""}
        assert done | {"seconds": 0} == whole | {"seconds": 0}
        assert "".join(part["text"] for _, part in parts) == whole["response"]
        assert len(parts) > 1 or len(whole["response"]) < 2


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (422, {}),
        (422, {"question": ""}),
        (422, {"question": " \n\t"}),
        (422, {"question": "\x85\u3000\ufeff"}),  # spaces to some readers of the schema, and none to others
        (422, {"question": "x" * 4001}),
        (422, {"question": ["x"]}),
        (422, {"question": None}),
        (422, {"question": "x", "max_new_tokens": 0}),
        (422, {"question": "x", "max_new_tokens": 257}),
        (422, {"question": "x", "max_new_tokens": "5"}),
        (422, {"question": "x", "max_new_tokens": True}),
        (422, {"question": "x", "temperature": -0.1}),
        (422, {"question": "x", "temperature": 2.1}),
        (422, {"question": "x", "temperature": float("nan")}),
        (422, {"question": "x", "temperature": float("inf")}),
        (422, {"question": "x", "stream": "yes"}),
        (422, {"question": "x", SECRET: 1}),
        (422, {"question": "x", "chat_template": "{{ cycler }}"}),
        (422, {"question": "x" * 500}),  # more tokens than this model's context leaves
        (422, [SECRET]),
        (422, b'{"question": "\\ud800 ' + SECRET.encode() + b'"}'),
        (422, b'{"question": "' + SECRET.encode()),
        (422, b"{\"question\": 'x'}"),
        (400, b'{"question": "\xff"}'),
        (400, b"[" * 60_000),
        (400, b'{"max_new_tokens": ' + b"9" * 10_000 + b"}"),
        (200, {"question": "\x00\x1b[31m\x7f ok \u202e", "max_new_tokens": 2}),
        (200, {"question": "x", "max_new_tokens": 2, "temperature": 2}),
        (200, {"question": "x", "max_new_tokens": None, "think": True}),
    ],
    ids=lambda value: str(value)[:48],
)
def test_every_field_is_bounded(address, status, body):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = CLIENT.post(f"{address}/predict", content=content, headers={"Content-Type": "application/json"})
    assert found.status_code == status
    if status != 200:
        assert list(found.json()) == ["error"] and SECRET not in found.text and "Traceback" not in found.text


def test_other_kinds_of_body_are_refused(address):
    """Those that a web page of another origin may send without asking among them."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        found = CLIENT.post(f"{address}/predict", content=b'{"question": "x"}', headers={"Content-Type": kind})
        assert found.status_code == 415 and list(found.json()) == ["error"]
    assert "access-control-allow-origin" not in found.headers


def test_a_body_that_is_too_large_is_not_read(address):
    with socket.create_connection(address.removeprefix("http://").split(":")) as client:
        client.settimeout(5)
        client.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 65537\r\n\r\n"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 413")
    sent = 0

    def endless():
        nonlocal sent
        for _ in range(10_000):
            sent += 1024
            yield b" " * 1024

    headers = {"Content-Type": "application/json"}
    with suppress(httpx.TransportError):  # closed while we were still sending
        assert CLIENT.post(f"{address}/predict", content=endless(), headers=headers).status_code == 413
    assert sent < 10_000 * 1024 / 2
    fits = json.dumps({"question": "x", "max_new_tokens": 1}).ljust(security.LARGEST_BODY)
    assert CLIENT.post(f"{address}/predict", content=fits, headers=headers).status_code == 200


def test_a_body_that_does_not_arrive_is_given_up(address, monkeypatch):
    monkeypatch.setattr(security, "PATIENCE", 0.3)
    with socket.create_connection(address.removeprefix("http://").split(":")) as client:
        client.settimeout(5)
        client.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99\r\n\r\n{"
        )
        told = b"".join(iter(lambda: client.recv(1000), b""))
    assert told.startswith(b"HTTP/1.1 408") and b'{"error":' in told


def test_only_this_machines_names_are_answered_to(address):
    for host, status in (
        ("evil.example", 400),
        ("localhost.evil.example", 400),
        ("[", 400),
        ("LOCALHOST:1", 200),
        ("[::1]:8000", 200),
    ):
        assert CLIENT.get(f"{address}/health", headers={"Host": host}).status_code == status


def test_the_token_guards_all_but_health(engine):
    with served(engine, token=TOKEN) as (url, _):
        assert CLIENT.get(f"{url}/health").status_code == CLIENT.get(f"{url}/ready").status_code == 200
        for given in ("", TOKEN, f"Bearer {TOKEN}!", "Bearer " + TOKEN[:-1], "Bearer é", f"Basic {TOKEN}"):
            headers = {"Authorization": given.encode("latin-1")}
            for found in (
                CLIENT.post(f"{url}/predict", json={"question": "x"}, headers=headers),
                CLIENT.get(f"{url}/openapi.json", headers=headers),
                CLIENT.get(f"{url}/nothing", headers=headers),
            ):
                assert found.status_code == 401 and found.headers["WWW-Authenticate"] == "Bearer", given
        headers = {"Authorization": f"Bearer {TOKEN}", "Host": "course.example"}
        assert CLIENT.post(f"{url}/predict", json={"question": "x"}, headers=headers).status_code == 200


def test_errors_have_one_form(address):
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/predict", 405), ("OPTIONS", "/predict", 405)):
        found = CLIENT.request(method, f"{address}{path}")
        assert found.status_code == status and list(found.json()) == ["error"]
    assert found.headers["Allow"] == "POST"
    assert CLIENT.get(f"{address}/docs").status_code == CLIENT.get(f"{address}/redoc").status_code == 404
    assert "server" not in found.headers


def test_without_a_model_there_is_health_only(engine):
    with served(engine, unready="the model is still loading") as (url, service):
        for found in (CLIENT.get(f"{url}/ready"), ask(url)):
            assert (found.status_code, found.json()) == (503, {"error": "the model is still loading"})
            assert int(found.headers["Retry-After"]) > 0
        assert CLIENT.get(f"{url}/health").json() == {"status": "alive"}
        service.unready = ""
        assert CLIENT.get(f"{url}/ready").json() == {"status": "ready"}


def test_a_failure_tells_nothing_of_itself(address, engine, caplog):
    engine.fault = RuntimeError(SECRET)
    found = ask(address)
    assert (found.status_code, found.json()) == (500, {"error": app.FAILED})
    engine.fault = RuntimeError(SECRET)
    assert streamed(address)[-1] == ("error", {"error": app.FAILED})
    assert sum(record.levelno >= logging.ERROR for record in caplog.records) == 2, "and yet it is logged"
    assert ask(address).status_code == 200


def test_too_many_are_told_to_come_again(address, engine):
    engine.pause = 0.02
    with ThreadPoolExecutor(30) as clients:
        found = list(clients.map(lambda n: ask(address, f"Question {n}?", max_new_tokens=20), range(30)))
    told = {answer.status_code for answer in found}
    assert told == {200, 503}
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in found if answer.status_code == 503)
    assert sum(answer.status_code == 200 for answer in found) >= 8


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_row(address, engine, stream):
    engine.pause = 0.03
    with socket.create_connection(address.removeprefix("http://").split(":")) as client:
        body = json.dumps({"question": "What is lupus?", "max_new_tokens": 200, "stream": stream}).encode()
        head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: len(engine.steps) >= 5)
    until(lambda: stands_still(engine.steps))
    assert len(engine.steps) < 100, "the model went on after the client had left"


def test_a_connection_that_says_nothing_is_closed(address, monkeypatch):

    monkeypatch.setattr(serve_module, "PATIENCE", 0.2)
    host, port = address.removeprefix("http://").split(":")
    for first in (b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /heal"):
        with socket.create_connection((host, port), timeout=5) as client:
            client.sendall(first)
            told = b"".join(iter(lambda client=client: client.recv(1000), b""))
            assert told.count(b"200 OK") == first.count(b"\r\n\r\n")
