"""make serve as a process: it starts, is asked, is told to go; and what it refuses to start with."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx
import openai
import psutil
import pytest
from support import tiny
from support.loopback import closed_port
from support.sweeps import times

from helpers.core import SECRETS, io, paths, stage_of
from helpers.core.errors import CourseError
from helpers.core.paths import ROOT, Folders, base_model_folder
from helpers.evaluation.run import Candidate
from helpers.papers import paper as papers
from helpers.serving import app, serve

pytestmark = pytest.mark.alone  # it times answers and ends processes

TOKEN = "a-token-that-nobody-guesses"
SECRET = "my own question about my own illness"
NAME = "tester/tiny"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
API_BLOCKS = re.compile(r"<!-- api: start -->(.*)<!-- api: end -->", re.S)


@contextmanager
def process(call, folder, log, **environment):
    """A server of its own in `folder`, in a session of its own; killed at the end if it still runs."""
    settings = {"ENV_FILE": "", "PROFILE": "smoke", "PYTHONUNBUFFERED": "1", **environment}
    with log.open("w") as out:
        started = subprocess.Popen(
            call, cwd=folder, env={**os.environ, **settings}, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield started
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def until(answers, started, log, seconds=180):
    """The first of what `answers()` gives that is true; fails with the log if the process ends before."""
    stop = time.monotonic() + seconds
    while True:
        try:
            if found := answers():
                return found
        except httpx.TransportError:
            pass
        assert started.poll() is None and time.monotonic() < stop, log.read_text()
        time.sleep(0.05)


def address_in(log):
    found = re.search(r"^(http://\S+) loads", log.read_text(), re.M)
    return found and found[1]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with a tiny base model and nothing else in it."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "helpers", root / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    tiny.write_model(root / "models" / "base" / "tester--tiny")
    return root


@contextmanager
def serving(repository, log, **environment):
    """(process, address) of make serve over the tiny model, before that is loaded."""
    words = [f"MODEL_NAME={NAME}", "WHICH=base", "PORT=0", "DTYPE=float32"]
    with process([sys.executable, "-m", "helpers", "serve", *words], repository, log, **environment) as started:
        yield started, until(lambda: address_in(log), started, log)


def begin(client, **fields):
    """A streamed answer of which the first word has come."""
    asked = client.build_request("POST", "/predict", json={"question": SECRET, "stream": True, **fields})
    answer = client.send(asked, stream=True)
    lines = answer.iter_lines()
    assert next(lines).startswith("data: "), "the first word"
    return lines


def test_a_life(repository, tmp_path):
    """Health first, then a model; many questions in the same memory; an answer to the last one, and status 0."""
    log = tmp_path / "log"
    with (
        serving(repository, log, API_TOKEN=TOKEN) as (started, address),
        httpx.Client(base_url=address, headers=BEARER, timeout=60) as client,
    ):
        assert httpx.get(f"{address}/health").json() == {"status": "alive"}
        loading = httpx.get(f"{address}/ready")
        assert loading.status_code in (200, 503)
        until(lambda: httpx.get(f"{address}/ready").status_code == 200, started, log)
        assert client.post("/predict", json={"question": SECRET}).json()["model"]["which"] == "base"
        assert httpx.post(f"{address}/predict", json={"question": SECRET}).status_code == 401
        memory_stays(started, client)
        health_answers(client)
        lines = begin(client, max_new_tokens=256)
        started.send_signal(signal.SIGTERM)
        assert "event: done" in list(lines), "what was begun is finished"
        assert started.wait(20) == 0
    told = log.read_text()
    assert TOKEN not in told and SECRET not in told
    assert told.startswith(address) and '$API_TOKEN" -H' in told and "Traceback" not in told


def memory_stays(started, client):
    """Other words every time, and every way to be answered or refused: less than 50 MB more."""
    kinds = [{}, {"stream": True}, {"temperature": 1.0}, {"max_new_tokens": 999}]
    n, measured = times(200, 1000), psutil.Process(started.pid)

    def some(numbers):
        def ask(n):
            return client.post("/predict", json={"question": f"{n} " * (n % 60 + 1), **kinds[n % 4]}).status_code

        with ThreadPoolExecutor(4) as clients:
            assert set(clients.map(ask, numbers)) == {200, 422}

    some(range(n // 4))
    before = measured.memory_info().rss
    some(range(n, 2 * n))
    assert measured.memory_info().rss - before < 50 * 2**20


def health_answers(client):
    """/health does not wait for answers that are written, nor for 200 sockets that dawdle; p99, of 100 looks p90."""
    place = (client.base_url.host, client.base_url.port)
    slow = [socket.create_connection(place) for _ in range(200)]
    for one in slow:
        one.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-")
    over, seconds, answers = threading.Event(), [], []

    def work():
        while not over.is_set():
            began = time.perf_counter()
            client.post("/predict", json={"question": "Why?", "max_new_tokens": 256, "temperature": 1.0})
            answers.append(time.perf_counter() - began)

    with ThreadPoolExecutor(4) as clients:
        busy = [clients.submit(work) for _ in range(4)]
        for _ in range(times(100, 2000)):
            began = time.perf_counter()
            assert client.get("/health").status_code == 200
            seconds.append(time.perf_counter() - began)
        over.set()
    for one in slow:
        one.close()
    assert all(one.exception() is None for one in busy)
    assert sorted(seconds)[int(times(90, 99) / 100 * len(seconds))] < median(answers) / 2


def test_a_second_signal_ends_it_at_once(repository, tmp_path):
    log = tmp_path / "log"
    with (
        serving(repository, log) as (started, address),
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        until(lambda: client.get("/ready").status_code == 200, started, log)
        with socket.create_connection((client.base_url.host, client.base_url.port)) as slow:  # its body never comes
            head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9"
            slow.sendall(f"{head}\r\n\r\n{{".encode())
            time.sleep(0.5)
            started.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                started.wait(1)
            started.send_signal(signal.SIGTERM)
            assert started.wait(5) == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["PORT=99999"], "PORT"),
        (["PROT=8000"], "did you mean PORT"),
        (["serve"], "NAME=value"),
        (["WHICH=placebo"], "WHICH"),
        (["API_TOKEN=short"], "16 or more visible"),
        (["API_TOKEN=spaces are not visible"], "16 or more visible"),
        (["API_HOST=0.0.0.0"], "API_TOKEN is not set"),
        (["API_HOST=::"], "API_TOKEN is not set"),
        (["API_HOST=nowhere.invalid"], "no address"),
        (["API_HOST=203.0.113.1", f"API_TOKEN={TOKEN}"], "cannot be had"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_it_does_not_start_with(words, told, monkeypatch):
    for word in words:
        name, _, value = word.partition("=")
        if name in SECRETS:
            monkeypatch.setenv(name, value)
    words = [word for word in words if word.partition("=")[0] not in SECRETS]
    with pytest.raises(CourseError) as refused:
        serve.open_socket(serve.read_command(words)[0]).close()
    assert told in str(refused.value)
    assert "short" not in str(refused.value) and TOKEN not in str(refused.value)


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CourseError, match=f"PORT={port} .*in use"):
            serve.open_socket(tiny.resolve(PORT=port))


def test_the_adapter_is_served_unless_something_else_is_said(monkeypatch):
    assert serve.read_command([])[0].WHICH == "qlora" and serve.read_command(["WHICH=base"])[0].WHICH == "base"
    monkeypatch.setenv("WHICH", "full")
    assert serve.read_command(["RUN=mine"])[0].WHICH == "full" and serve.read_command(["RUN=mine"])[1] == Folders(
        "mine"
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A repository with a base model, papers and rows, and both methods' models trained on those."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "ROOT", root)
        patch.setattr(paths, "BASE_MODELS", root / "models" / "base")
        folders, base = Folders(), tiny.write_model(base_model_folder(NAME))
        rows = [written(row) for row in tiny.ROWS]
        io.write_json(folders.training_data, rows)
        known = [paper(row["paper_id"], f"Lupus {n}") for n, row in enumerate(rows)]
        papers.write_papers(folders.papers, [*known, paper("999", "Lupus lupus, never read")])
        for method in ("qlora", "full"):
            tiny.fit(method, base, root / method, out=folders.model(method), epochs=1)
            inputs = {paths.relative_path(folders.training_data): io.hash_file(folders.training_data)}
            receipt = {"status": "done", "key": {"inputs": inputs}}
            io.write_json(stage_of(serve.STAGE[method]).receipt(folders), receipt)
    return root


def written(row):
    """A row as stage 3 writes it."""
    asked = row["prompt"] or "What?"
    text = f"User: {asked}\n\nAssistant: {row['completion']}"
    return row | {"prompt": asked, "text": text, "source": "PubMed", "title": "A study"}


def paper(id, title):
    abstract = [papers.Section(text="TNF-α was high.")]
    return papers.Paper(paper_id=id, source="PubMed", title=title, abstract=abstract)


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """The folders of a copy of it, which the test may damage."""
    root = shutil.copytree(made, tmp_path / "repository")
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setattr(paths, "BASE_MODELS", root / "models" / "base")
    return Folders()


@pytest.mark.parametrize("which", ["base", "qlora", "full"])
def test_every_model_says_where_it_comes_from(run, which):
    wanted, service = tiny.resolve(MODEL_NAME=NAME, WHICH=which, DTYPE="float32"), app.Service(8)
    serve.require_trained(wanted, run)
    serve.load_service(service, wanted, run)
    job = service.engine.job("Lupus, on TNF?", 4)
    service.engine.submit(job)
    answer = service.answer(app.Asked(question="Lupus, on TNF?"), job.done.result(20))
    service.engine.close()
    folder = base_model_folder(NAME) if which == "base" else run.model(which)
    assert answer.model.which == which and answer.model.revision == tiny.BASE["revision"]
    assert answer.model.weights_sha256 == {path.name: io.hash_file(path) for path in folder.glob("*.safetensors")}
    related = {paper.paper_id for paper in answer.related_training_papers.papers}
    assert len(related) == (0 if which == "base" else 3) and "999" not in related
    assert answer.model.data_sha256 == (None if which == "base" else io.hash_file(run.training_data))


def test_papers_are_named_only_where_they_are_those_that_were_read(run):
    candidate = Candidate("full", tiny.resolve(MODEL_NAME=NAME, WHICH="full"), run, None)
    made, library = serve.model_origin(candidate)
    assert library
    io.write_json(run.training_data, io.read_json(run.training_data)[:5])
    assert serve.model_origin(candidate) == (made, None), "the hash is that of what was read"
    stage_of(6).receipt(run).unlink()
    assert serve.model_origin(candidate) == (made.model_copy(update={"data_sha256": None}), None)


@pytest.mark.parametrize("which", ["qlora", "full"])
def test_damaged_and_missing_models_are_refused(run, which):
    candidate = Candidate(which, tiny.resolve(MODEL_NAME=NAME, WHICH=which), run, None)
    weights = next(run.model(which).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(CourseError, match=f"{weights.name} is missing or not the file that was saved"):
        serve.model_origin(candidate)
    shutil.rmtree(run.model(which))
    with pytest.raises(CourseError, match=rf"STAGES=1-{serve.STAGE[which]}"):
        serve.require_trained(candidate.settings, run)


def test_a_damaged_base_ends_the_server_with_what_to_do(run):
    (base_model_folder(NAME) / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CourseError, match=r"model\.safetensors is damaged\n→ make pipeline STAGES=1"):
        serve.serve_model(tiny.resolve(MODEL_NAME=NAME, PORT=0), run)


def test_the_log_says_where_but_not_what():
    try:
        raise ValueError("my own " + "question")
    except ValueError:
        told = serve.Discreet().formatException(sys.exc_info())
    assert "test_serve.py" in told and told.endswith("ValueError") and "my own question" not in told


def test_eight_clients_get_twice_what_one_gets(tmp_path):
    """Of the real model, side by side and in turn; /health is looked at all the while."""
    log, tokens, answers = tmp_path / "log", {1: [], 8: []}, []
    assert tiny.embedded().exists()
    with (
        process([sys.executable, "-m", "helpers", "serve", "WHICH=base", "PORT=0"], ROOT, log) as started,
        httpx.Client(base_url=until(lambda: address_in(log), started, log), timeout=60) as client,
        ThreadPoolExecutor(8) as clients,
    ):
        until(lambda: client.get("/ready").status_code == 200, started, log)
        seconds, over = [], threading.Event()
        looking = threading.Thread(target=look, args=(client, seconds, over))
        looking.start()
        for _ in range(times(2, 6)):
            for n, found in tokens.items():
                began = time.perf_counter()
                found.append(sum(clients.map(lambda number: length_of_answer(client, number), range(n))))
                answers.append(time.perf_counter() - began)
                found[-1] /= answers[-1]
        over.set()
        looking.join()
    one, eight = (median(found) for found in tokens.values())
    late = sorted(seconds)[int(0.99 * len(seconds))]
    print(f"{one:.1f} tokens/s for one client, {eight:.1f} for eight: {eight / one:.1f} times", end="; ")
    print(f"/health: {1000 * median(seconds):.0f} ms, p99 {1000 * late:.0f} ms (n = {len(seconds)})")
    assert eight > 2 * one
    assert late < median(answers) / 5, "99 of 100 looks at /health wait for no answer"


def length_of_answer(client, number):
    """Tokens of one answer."""
    asked = {"question": f"What is known about disease number {number}?", "max_new_tokens": 48}
    return client.post("/predict", json=asked).json()["tokens"]


def look(client, seconds, over):
    """How long /health takes, twenty times a second."""
    while not over.wait(0.05):
        began = time.perf_counter()
        assert client.get("/health").status_code == 200
        seconds.append(time.perf_counter() - began)


def test_transformers_serve_answers_openais_client(tmp_path):
    """An OpenAI-compatible address over a folder of ours, whole and as it is written."""
    log, port, folder = tmp_path / "log", closed_port(), str(tiny.embedded())
    call = [Path(sys.executable).with_name("transformers"), "serve", folder, f"--port={port}", "--device=cpu"]
    with process(call, tmp_path, log, HF_HUB_OFFLINE="1") as started:
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200, started, log)
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        asked = {"model": folder, "messages": [{"role": "user", "content": "What is 2 + 2?"}], "max_tokens": 8}
        whole = client.chat.completions.create(**asked, temperature=0)
        assert whole.choices[0].message.content.strip()
        parts = client.chat.completions.create(**asked, temperature=0, stream=True)
        text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        assert text.strip() == whole.choices[0].message.content.strip()


@pytest.mark.after_notebooks
def test_the_readmes_calls_get_an_answer(tmp_path):
    """Its make line, its curl line and its Python, at another port and on what the notebooks left."""
    log, port = tmp_path / "log", str(closed_port())
    text = API_BLOCKS.search((ROOT / "README.md").read_text())[1].replace("8000", port)
    blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```", text, re.M | re.S)[::-1])
    make = re.search(r"make serve.*", text)[0].split("#")[0].split()
    curl = re.search(r"^curl .*", text, re.M)[0]
    call = [*make, f"PYTHON={sys.executable}", "RUN=smoke", f"PORT={port}"]
    with process(call, ROOT, log) as started:
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200, started, log)
        told = subprocess.run(["bash", "-c", curl], text=True, capture_output=True, check=True)
        assert json.loads(told.stdout)["model"]["which"] == "qlora"
        done = subprocess.run([sys.executable, "-c", blocks["python"]], text=True, capture_output=True, timeout=60)
        assert done.returncode == 0 and app.NOTICE in done.stdout, done.stderr
