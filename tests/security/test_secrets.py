"""Canaries: secrets set to what is known, failures that tempt to show them, and every byte searched afterwards."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import traceback
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, quote_plus, unquote_plus

import nbformat
import pytest
from support import fake_hub, tiny
from support.canaries import CANARIES, files_with, found_in
from support.faults import send
from support.faulty_server import Handler
from support.loopback import closed_port, gather, hurried, load, serve
from support.sweeps import times

from helpers.core import paths, redaction, settings
from helpers.core.errors import CourseError
from helpers.core.paths import RAW, ROOT, Folders
from helpers.core.settings import SECRETS
from helpers.grading import judge
from helpers.grading.questions import load_questions
from helpers.models import download
from helpers.pipeline import session as session_module
from helpers.pipeline import stages
from helpers.pipeline.notebook import scrub_notebook
from helpers.report import tables

NCBI = {name: value for name, value in CANARIES.items() if name.startswith("NCBI")}
NAME, COMMIT = "tester/tiny", "a" * 40


def test_there_is_a_canary_for_every_secret():
    assert set(CANARIES) == set(SECRETS)
    fields = settings.Settings.model_fields.items()
    assert {name for name, field in fields if "SecretStr" in str(field.annotation)} == set(SECRETS)


@pytest.mark.parametrize("secret", CANARIES.values())
@pytest.mark.parametrize("disguise", ["plain", "URL", "form", "JSON", *range(6)])
def test_a_secret_is_found_and_hidden_however_it_is_written(secret, disguise):
    around = b"token:"[: disguise if isinstance(disguise, int) else 0] + secret.encode() + b"@host"
    written = {
        "plain": secret,
        "URL": quote(secret, safe=""),
        "form": quote_plus(secret),
        "JSON": json.dumps({"key": secret}),
    }.get(disguise, base64.b64encode(around).decode())
    assert found_in(written) and not found_in(redaction.hide_secrets(f"said: {written}.", [secret]))
    assert redaction.hide_secrets("an ordinary text", [secret]) == "an ordinary text"


# what is shown of settings


def test_settings_show_no_secret():
    made, origins = settings.load_settings(CANARIES, environment={})
    rows = [
        {"setting": name, "value": settings.show_setting(made, name), "from": origins[name]}
        for name in settings.NAMES
    ]
    told = [repr(made), str(made), made.model_dump_json(), f"{made.model_dump()}", tables.html_table(rows).data]
    assert not found_in("\n".join(told))
    for name in SECRETS:
        with pytest.raises(ValueError, match="secrets do not go into artefacts"):
            settings.settings_as_json(made, [name])


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_of_the_wrong_type_is_not_repeated(name):
    with pytest.raises(CourseError, match=rf"{name}=\(hidden\)") as error:
        settings.load_settings({name: [CANARIES[name]]}, environment={})
    assert not found_in("".join(traceback.format_exception(error.value)))


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_in_the_parameters_cell_is_refused(tmp_path, name):
    cell = nbformat.v4.new_code_cell(f"{name} = {CANARIES[name]!r}", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "3_download_papers.ipynb")
    with pytest.raises(CourseError, match=f"{name} stands in the parameters cell") as error:
        stages.read_parameters(tmp_path / "3_download_papers.ipynb")
    assert not found_in(str(error.value))


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_in_another_cell_is_refused(monkeypatch, name):

    monkeypatch.setenv("PROFILE", "smoke")
    with pytest.raises(CourseError, match=f"{name} stands in a cell") as error:
        session_module.begin("3_download_papers", {name: CANARIES[name]})
    assert not found_in(str(error.value))


def test_a_report_hides_what_its_cells_say_and_print():
    output = nbformat.v4.new_output
    outputs = [
        output("stream", text=f"{CANARIES}"),
        output("display_data", {"text/html": quote(CANARIES["HF_TOKEN"]), "application/json": CANARIES}),
        output("error", ename="E", evalue=CANARIES["NCBI_API_KEY"], traceback=list(CANARIES.values())),
    ]
    cells = [nbformat.v4.new_code_cell(f"key = {CANARIES['NCBI_API_KEY']!r}", outputs=outputs)]
    cells += [nbformat.v4.new_markdown_cell(f"My key is {CANARIES['HF_TOKEN']}")]
    text = nbformat.writes(nbformat.v4.new_notebook(cells=cells))
    assert found_in(text) and not found_in(scrub_notebook(text, list(CANARIES.values())))


# PubMed and arXiv


class Echo(Handler):
    """Answers well or badly as planned, and repeats in each answer all that it was sent, in three spellings."""

    def answer(self, form: str) -> None:
        self.server.headers.append(str(self.headers))
        sent = f"{self.path} {self.headers} {form}".replace("<", "")
        self.told = unquote_plus(form).replace("<", "")
        said = f"{self.told} {sent} {quote(sent)} {base64.b64encode(sent.encode()).decode()}"
        self.said = said.replace("--", "- -")  # it will stand in a comment
        super().answer(form)

    def end_headers(self) -> None:
        self.send_header("X-Echo", quote(self.told, safe="@+/= "))
        super().end_headers()


def echoing(status: int = 200, whole: bool = False, **headers: str):
    """A fault that answers with what was sent; `whole`: in a comment behind the answer asked for."""

    def answer(handler, body):
        page = handler.said.encode()
        send(handler, body + b"<!--" + page + b"-->" if whole else page, status, **headers)

    return answer


def named(status: int = 200):
    """As NCBI words it: the key in the first sixty characters of a JSON object."""

    def answer(handler, body):
        told = {"error": "API key invalid", "api-key": handler.asked.get("api_key")}
        send(handler, json.dumps(told).encode(), status, kind="application/json")

    return answer


def error_in_xml(handler, body):
    told = handler.told.replace("&", " ")
    send(handler, f"<eSearchResult><ERROR>{told} is not valid</ERROR></eSearchResult>".encode())


FAILURES = {
    "400": echoing(400),
    "403": echoing(403),
    "500": echoing(500),
    "200 text": echoing(200),
    "200 JSON": named(),
    "400 JSON": named(400),
    "200 XML": error_in_xml,
    "429": echoing(429, Retry_After="3600"),
    "429 in 10 ms": echoing(429, Retry_After="0.01"),
    "silence": lambda handler, body: handler.server.back.wait(handler.server.silence),
}


@pytest.fixture
def echo(monkeypatch, tmp_path):
    """A server that repeats what it is told."""
    server = serve()
    server.RequestHandlerClass, server.headers = Echo, []
    monkeypatch.setattr("support.faulty_server.ALL", FAILURES | {"echo": echoing(whole=True)})
    with hurried(tmp_path / "locks"):
        yield server
    server.close()


def search(echo, place, capfd, **values):
    """One harvest with every canary set: its error or None. Nothing it says or leaves holds one."""
    place.mkdir()
    error = None
    try:
        gather(load(echo, PAPERS_SOURCE="online", **(CANARIES | values)), place)
    except CourseError as raised:
        error = raised
    said = "".join(traceback.format_exception(error)) if error else ""
    assert not found_in(said + "".join(capfd.readouterr())), said
    assert not files_with(place)
    return error


@pytest.mark.parametrize("part", ["esearch", "efetch"])
@pytest.mark.parametrize("fault", FAILURES)
def test_no_failure_of_a_server_makes_us_repeat_what_it_was_sent(echo, tmp_path, capfd, part, fault):
    echo.plan = [f"always:{part}:{fault}"]
    assert search(echo, tmp_path / "found", capfd) is not None


def test_an_answer_that_repeats_what_it_was_sent_is_kept_without_it(echo, tmp_path, capfd):
    echo.plan = ["always:search:echo", "always:efetch:echo", "always:arxiv:echo"]
    assert search(echo, tmp_path / "found", capfd) is None
    asked = [form for _, path, form in echo.seen if "eutils" in path]
    assert asked and all(found_in(form) for form in asked), "PubMed was told"
    assert redaction.HIDDEN in (tmp_path / "found" / "raw" / "pubmed.jsonl").read_text(), "and answered so"


def test_ncbis_secrets_go_to_ncbi_only_and_in_no_address(echo, tmp_path, capfd):
    assert search(echo, tmp_path / "found", capfd) is None
    for _, path, form in echo.seen:
        assert not found_in(path) and bool(found_in(form)) == ("eutils" in path)
        assert "api_key=" + quote_plus(NCBI["NCBI_API_KEY"]) in form or "arxiv" in path
        assert not any(found_in(form) and quote_plus(CANARIES[name]) in form for name in set(CANARIES) - set(NCBI))
    assert not found_in("".join(echo.headers)), "no secret is a header there"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirection_takes_no_secret_to_another_host(echo, tmp_path, capfd, monkeypatch, status):
    other = serve()
    elsewhere = echoing(status, Location=other.eutils.replace("127.0.0.1", "localhost") + "/esearch.fcgi")
    monkeypatch.setattr("support.faulty_server.ALL", {"away": elsewhere})
    echo.plan = ["always:esearch:away"]
    error = search(echo, tmp_path / "found", capfd)
    assert "a redirection" in str(error) and other.seen == []
    other.close()


def test_a_server_that_is_not_there_is_named_without_what_it_would_have_been_told(tmp_path, capfd):
    address = f"http://user:{quote(CANARIES['API_TOKEN'], safe='')}@127.0.0.1:{closed_port()}"
    with hurried(tmp_path / "locks"), pytest.raises(CourseError) as error:
        gather(load(None, PAPERS_SOURCE="online", NCBI_EUTILS_BASE=address, **CANARIES), tmp_path)
    assert not found_in("".join(traceback.format_exception(error.value)) + "".join(capfd.readouterr()))
    assert not files_with(tmp_path)


# the judge and the Hub


class Repeats(BaseHTTPRequestHandler):
    """Answers each POST as `server.how` says, with the Authorization header in it."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append(self.headers.get("Authorization"))
        key = self.headers.get("Authorization", "")
        self.server.how(self, key)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def repeating(how):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Repeats)
    server.daemon_threads, server.how, server.heard = True, how, []
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def says(key):
    return json.dumps({"choices": [{"message": {"content": f"1: yes\n{key}"}}], "id": key}).encode()


def well(handler, key):
    send(handler, says(key), kind="application/json")


REPLIES = {
    "a page": lambda handler, key: send(handler, key.encode(), 401, kind="text/html", X_Echo=key),
    "a reply": well,
    "no reply": lambda handler, key: send(handler, key.encode()),
    "too many": lambda handler, key: send(handler, key.encode(), 429, Retry_After="0"),
    "elsewhere": lambda handler, key: send(handler, b"", 307, Location=handler.server.other),
}


@pytest.mark.parametrize("how", REPLIES)
def test_a_judge_that_repeats_its_key(tmp_path, monkeypatch, capfd, how):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    question = load_questions()[0]
    with (
        repeating(REPLIES[how]) as server,
        repeating(well) as other,
        hurried(tmp_path / "locks", tries=2),
    ):
        server.other = f"http://localhost:{other.server_port}/v1/chat/completions"
        base = {"JUDGE_MODEL": "m", "JUDGE_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1"}
        chosen = settings.load_settings(CANARIES | base, environment={})[0]
        try:
            said = judge.grade_again({"qlora": [{"id": question["id"], "response": "no"}]}, [question], chosen)
        except CourseError as error:
            said = "".join(traceback.format_exception(error))
        assert server.heard[0] == f"Bearer {CANARIES['JUDGE_API_KEY']}" and other.heard == []
    assert not found_in(json.dumps(said) + "".join(capfd.readouterr())) and not files_with(tmp_path)


class Gated(fake_hub.Handler):
    """A Hub that says the token back, and sends whoever wants a file to another host."""

    def refuse(self, status: int, code: str) -> None:
        key = self.headers.get("Authorization", "")
        headers = {"X-Error-Code": code, "X-Error-Message": f"{key} may not", "X-Echo": key}
        self.send(key.encode(), headers, status)

    def send_file(self, commit: str, name: str) -> None:
        if not self.server.elsewhere:
            return super().send_file(commit, name)
        entry = self.server.entry(name, self.server.revisions[commit][name])
        tag = f'"{entry["lfs"]["sha256"] if "lfs" in entry else entry["blobId"]}"'
        place = f"{self.server.elsewhere}{self.path}"
        facts = {"Location": place, "X-Linked-Etag": tag, "ETag": tag, "X-Linked-Size": str(entry["size"])}
        return self.send(b"", {**facts, "X-Repo-Commit": commit}, 302)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "BASE_MODELS", tmp_path / "base")
    content = tiny.contents(tiny.write_model(tmp_path / "made", manifest=False))
    with fake_hub.Hub(NAME, {COMMIT: content}) as hub:
        hub.RequestHandlerClass, hub.elsewhere = Gated, ""
        yield hub


def fetch(hub):
    return download.fetch_model(tiny.resolve(MODEL_NAME=NAME, HF_ENDPOINT=hub.address, **CANARIES))


@pytest.mark.parametrize(
    "refusal", [(401, "GatedRepo"), (403, "GatedRepo"), (401, ""), (404, "RepoNotFound"), (503, "")]
)
def test_a_hub_that_repeats_the_token(hub, tmp_path, capfd, refusal):
    hub.refusal = refusal
    with pytest.raises(CourseError) as error:
        fetch(hub)
    assert hub.tokens == {f"Bearer {CANARIES['HF_TOKEN']}"}
    shown = "".join(error.value._render_traceback_()) + str(error.value) + "".join(capfd.readouterr())
    assert not found_in(shown) and not files_with(tmp_path)


def test_the_token_stays_with_the_hub_when_files_lie_elsewhere(hub, tmp_path, capfd):
    with fake_hub.Hub(NAME, hub.revisions) as store:
        hub.elsewhere = store.address.replace("127.0.0.1", "localhost")
        fetch(hub)
        assert "model.safetensors" in store.sent and store.tokens == {""}
    assert hub.tokens == {f"Bearer {CANARIES['HF_TOKEN']}"}
    assert not found_in("".join(capfd.readouterr())) and not files_with(tmp_path)


# whole stages, through the runner and papermill


@pytest.fixture
def course(tmp_path):
    """A copy of the course in which a pipeline can run, its secrets but one in .env."""
    root = tmp_path / "course"
    shutil.copytree(ROOT / "helpers", root / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "notebooks", root / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for name in ("benchmark", "topics", "general", "sample"):
        shutil.copytree(ROOT / "data" / name, root / "data" / name)
    secrets = (f"{name}='{value}'\n" for name, value in CANARIES.items() if name != "NCBI_API_KEY")
    (root / ".env").write_text("".join(secrets))
    return root


def pipeline(root, *words):
    """(status, text) of a pipeline with a secret on its line; nothing it says or leaves holds any, but .env."""
    temporary = root.with_name("tmp")
    temporary.mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k != "ENV_FILE"} | {"TMPDIR": str(temporary)}
    environment["NCBI_API_KEY"] = CANARIES["NCBI_API_KEY"]
    line = [
        sys.executable,
        "-m",
        "helpers",
        "pipeline",
        "PROFILE=smoke",
        *words,
    ]
    done = subprocess.run(line, cwd=root, env=environment, text=True, capture_output=True, timeout=300)
    said = done.stdout + done.stderr
    assert not found_in(said), said
    assert set(files_with(root, temporary)) == {str(root / ".env")}
    return done.returncode, said


@pytest.mark.slow
def test_a_pipeline_that_fails_leaves_no_secret(course, echo):
    """PubMed's search repeats the key and is kept; then it refuses to send records, with the key in its words."""
    echo.plan = ["always:esearch:echo", "always:efetch:400 JSON"]
    where = (f"NCBI_EUTILS_BASE={echo.eutils}", f"ARXIV_API_BASE={echo.arxiv}", "PAPERS_SOURCE=online")
    status, said = pipeline(course, "STAGES=3", *where)
    assert status == 1 and "PubMed refused the request: HTTP 400" in said
    for left in ("reports/3_download_papers.failed.html", "reports/3_download_papers.failed.ipynb"):
        assert "HTTP 400" in (course / left).read_text()
    assert redaction.HIDDEN in (course / "data/raw/pubmed.jsonl").read_text()
    assert all(quote_plus(NCBI["NCBI_API_KEY"]) in form for _, path, form in echo.asked("eutils"))


@pytest.mark.skipif(times(0, 1) == 0, reason="three more stages; SWEEP=full runs them")
def test_more_pipelines_leave_no_secret(course, echo, hub):
    where = (f"NCBI_EUTILS_BASE={echo.eutils}", f"ARXIV_API_BASE={echo.arxiv}", "PAPERS_SOURCE=online", "STAGES=3")
    echo.plan = ["esearch:429"]
    assert pipeline(course, *where)[0] == 1
    shutil.rmtree(course.with_name("tmp"))  # the pause it asked for
    echo.plan = ["always:esearch:echo", "always:efetch:echo", "arxiv:500", "always:arxiv:echo"]
    assert pipeline(course, *where)[0] == 0
    hub.refusal = (403, "GatedRepo")
    status, said = pipeline(course, "STAGES=1", f"MODEL_NAME={NAME}", f"HF_ENDPOINT={hub.address}")
    assert status == 1 and "is gated" in said


@pytest.mark.after_notebooks
def test_the_notebooks_left_no_secret():
    """They ran with every secret set (tests/support/smoke.py)."""
    smoke = Folders("smoke")
    places = (smoke.data, smoke.models, smoke.reports)
    assert all(any(place.rglob("*")) for place in places)
    assert not files_with(*places)
    ledgers = {path.name: found for path in RAW.glob("*.jsonl") if (found := found_in(path.read_bytes()))}
    assert not ledgers
