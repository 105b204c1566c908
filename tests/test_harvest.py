"""The harvest over real HTTP on loopback: faults, kills, reruns, and what is said when something is missing."""

import gzip
import json
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import traceback
from itertools import pairwise
from pathlib import Path

import pytest

from helpers import archive, eutils, harvest, screening, settings, topics, wire
from helpers.errors import CourseError
from helpers.papers import write_papers
from helpers.paths import ROOT, SAMPLE
from tests.faulty_server import Server, read_entries, read_records

TOPIC = topics.load_topic("autoimmune")
BATCH = 7


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(eutils, "BATCH", BATCH)
    monkeypatch.setattr(wire, "BACKOFF", 0.01)
    running = Server(read_records(SAMPLE / "pubmed.xml"), read_entries(SAMPLE / "arxiv.atom"))
    yield running
    running.shutdown()
    running.server_close()


def load(server: Server | None, **values: object) -> settings.Settings:
    bases = {"NCBI_EUTILS_BASE": server.eutils, "ARXIV_API_BASE": server.arxiv} if server else {}
    return settings.load({"PAPERS_SOURCE": "auto", **bases, **values}, environment={})[0]


def gather(chosen: settings.Settings, folder: Path) -> tuple[bytes, dict, screening.Screened]:
    """(papers.jsonl, route, screened) of one harvest; raw answers in `folder`/raw."""
    found = harvest.collect(chosen, TOPIC, folder / "raw")
    screened = screening.screen(found.papers, TOPIC, chosen.MAX_PAPERS)
    write_papers(folder / "papers.jsonl", screened.kept)
    return (folder / "papers.jsonl").read_bytes(), found.route, screened


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_rerun_makes_no_request(server, tmp_path):
    first, route, screened = gather(load(server), tmp_path)
    batches = -(-len(server.records) // BATCH)
    assert len(server.seen) == 1 + batches + 1
    assert route["name"] == "online" and route["incomplete"] is None
    assert route["sources"]["PubMed"] == {"asked": len(server.records), "got": len(server.records)}
    assert route["sources"]["arXiv"] == {"asked": 8, "got": 8}
    assert len(screened.kept) >= 26
    again, _, _ = gather(load(server), tmp_path)
    assert again == first and len(server.seen) == 1 + batches + 1


PASSING = ["500", "reset", "cut", "cut short of length", "html", "text", "error", "json", "fewer"]


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_leaves_no_trace(server, tmp_path, fault):
    clean, _, _ = gather(load(server), tmp_path / "clean")
    calm = len(server.seen)
    server.plan = [f"esearch:{fault}", f"efetch:{fault}", f"efetch:{fault}", f"arxiv:{fault}"]
    faulty, route, _ = gather(load(server), tmp_path / "faulty")
    assert server.plan == [] and len(server.seen) == 2 * calm + 4
    assert faulty == clean and route["incomplete"] is None


def test_records_nobody_asked_for_are_left_out(server, tmp_path):
    clean, _, _ = gather(load(server), tmp_path / "clean")
    server.plan = ["efetch:more", "efetch:more"]
    faulty, route, _ = gather(load(server), tmp_path / "faulty")
    assert faulty == clean and server.plan == []
    assert route["sources"]["PubMed"] == {"asked": len(server.records), "got": len(server.records)}


def test_retry_after_is_obeyed(server, tmp_path):
    server.plan = ["efetch:429", "arxiv:429"]
    gather(load(server), tmp_path)
    for part in ("efetch", "arxiv"):
        refused, retried = server.asked(part)[:2]
        assert retried[0] - refused[0] >= 1.0


def test_a_burst_of_500_is_outlasted_and_an_endless_one_named(server, tmp_path):
    server.plan = ["efetch:500"] * (wire.TRIES - 1)
    gather(load(server), tmp_path / "burst")
    server.plan = ["always:efetch:500"]
    with pytest.raises(CourseError, match="HTTP 500"):
        gather(load(server), tmp_path / "endless")


@pytest.mark.parametrize("fault", ["fewer", "429 hour", "400", "cut", "html", "error"])
def test_pubmed_short_fails_and_resumes(server, tmp_path, fault):
    clean, _, _ = gather(load(server), tmp_path / "clean")
    broken = BATCH * 3
    server.plan = ["always:efetch:" + fault]
    with pytest.raises(CourseError) as caught:
        gather(load(server), tmp_path / "faulty")
    assert "PubMed" in caught.value.problem
    server.plan, before = [], len(server.seen)
    assert gather(load(server), tmp_path / "faulty")[0] == clean
    assert len(server.seen) - before < broken and not [r for r in server.seen[before:] if "esearch" in r[1]]


@pytest.mark.parametrize("fault", ["empty", "text", "html", "cut", "fewer", "500", "400", "reset"])
def test_arxiv_short_is_said_and_the_stage_goes_on(server, tmp_path, fault):
    server.plan = ["always:arxiv:" + fault]
    _, route, screened = gather(load(server), tmp_path)
    short = route["incomplete"]
    assert short["source"] == "arXiv" and short["got"] == 0 < short["asked"] and short["cause"]
    assert {paper.source for paper in screened.kept} == {"PubMed"}
    assert "arXiv is incomplete" in harvest.describe(route)
    server.plan = []
    assert gather(load(server), tmp_path)[1]["incomplete"] is None


def test_a_later_page_of_arxiv_can_be_missing(server, tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.preprints.PAGE", 3)
    server.plan = ["always:start=3:empty"]
    _, route, screened = gather(load(server), tmp_path)
    assert route["incomplete"]["got"] == 3 and route["incomplete"]["asked"] == 8
    assert any(paper.source == "arXiv" for paper in screened.kept)


def test_no_network_reads_the_archive_and_says_so(tmp_path):
    nowhere = f"http://127.0.0.1:{closed_port()}"
    began = time.monotonic()
    chosen = load(None, NCBI_EUTILS_BASE=nowhere, ARXIV_API_BASE=nowhere, PAPERS_ARCHIVE=str(SAMPLE / "pubmed.xml"))
    _, route, screened = gather(chosen, tmp_path)
    assert time.monotonic() - began < 5
    assert route["name"] == "archive" and "refused" in route["why"] and route["incomplete"]["cause"]
    assert route["files"] and screened.kept and "PubMed cannot be reached" in harvest.describe(route)
    online = load(None, NCBI_EUTILS_BASE=nowhere, ARXIV_API_BASE=nowhere, PAPERS_SOURCE="online")
    with pytest.raises(CourseError, match="cannot be reached"):
        gather(online, tmp_path)


def test_a_silent_host_is_known_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(eutils, "FIRST_CONTACT", 0.5)
    monkeypatch.setattr(wire, "FIRST_CONTACT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        base = f"http://127.0.0.1:{silent.getsockname()[1]}"
        nowhere = f"http://127.0.0.1:{closed_port()}"
        chosen = load(None, NCBI_EUTILS_BASE=base, ARXIV_API_BASE=nowhere, PAPERS_ARCHIVE=str(SAMPLE / "pubmed.xml"))
        began = time.monotonic()
        _, route, _ = gather(chosen, tmp_path)
        assert time.monotonic() - began < 4 and route["name"] == "archive" and "timed out" in route["why"]


def test_secrets_are_sent_and_shown_nowhere(server, tmp_path):
    chosen = load(server, NCBI_API_KEY="canarykey", NCBI_EMAIL="canary@example.org")
    server.plan = ["efetch:reset", "efetch:400"]
    with pytest.raises(CourseError) as caught:
        gather(chosen, tmp_path)
    assert all("canarykey" in body for _, path, body in server.seen if "fcgi" in path)
    shown = "".join(traceback.format_exception(caught.value)) + "".join(path for _, path, _ in server.seen)
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert "canary" not in shown and b"canary" not in written and written


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from helpers import eutils
from tests.test_harvest import gather, load
eutils.BATCH = 3
chosen = load(None, NCBI_EUTILS_BASE=sys.argv[1], ARXIV_API_BASE=sys.argv[2])
gather(chosen, Path(sys.argv[3]))
"""


def test_kill_9_in_mid_harvest_loses_nothing(server, tmp_path):
    clean, _, _ = gather(load(server), tmp_path / "clean")
    server.delay = 0.03
    arguments = [sys.executable, "-c", KILLED.format(root=str(ROOT)), server.eutils, server.arxiv]
    folder = tmp_path / "killed"
    for kill_after in (3, 9):
        before = len(server.seen)
        child = subprocess.Popen([*arguments, str(folder)])
        while len(server.seen) - before < kill_after:
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert not (folder / "papers.jsonl").exists()
    subprocess.run([*arguments, str(folder)], check=True)
    assert (folder / "papers.jsonl").read_bytes() == clean
    batches = -(-len(server.records) // 3)
    assert len([r for r in server.seen if "efetch" in r[1]]) <= -(-len(server.records) // BATCH) + batches + 2


def test_a_torn_ledger_line_is_asked_again(server, tmp_path):
    clean, _, _ = gather(load(server), tmp_path)
    ledger = tmp_path / "raw" / "pubmed.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-100])
    before = len(server.seen)
    assert gather(load(server), tmp_path)[0] == clean
    assert len(server.seen) == before + 1
    assert gather(load(server), tmp_path)[0] == clean and len(server.seen) == before + 1


def test_requests_are_paced_across_threads_and_files():
    times, name = [], f"test-{time.time_ns()}"

    def ask() -> None:
        for _ in range(4):
            wire.pace(name, 0.05, "https://example.org/")
            times.append(time.time())

    workers = [threading.Thread(target=ask) for _ in range(3)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    assert len(times) == 12 and all(b - a > 0.045 for a, b in pairwise(sorted(times)))
    began = time.monotonic()
    wire.pace(name, 5, "http://127.0.0.1:1/")
    assert time.monotonic() - began < 1


def test_ids_are_read_and_refused_by_line(server, tmp_path):
    file = tmp_path / "ids.txt"
    file.write_text("# two papers\n99000001\n\nPMID: 99000003\n99000001\n")
    for source, place in (("auto", {}), ("archive", {"PAPERS_ARCHIVE": str(SAMPLE / "pubmed.xml")})):
        chosen = load(server, PAPERS_IDS=str(file), PAPERS_SOURCE=source, **place)
        _, route, screened = gather(chosen, tmp_path)
        assert [paper.paper_id for paper in screened.kept] == ["99000001", "99000003"]
        assert route["sources"]["PubMed"] == {"asked": 2, "got": 2}
    for text, complaint in (("99000001\n12x4\n", "line 2: '12x4'"), ("\n", "no PMID")):
        file.write_text(text)
        with pytest.raises(CourseError, match="PAPERS_IDS") as caught:
            gather(chosen, tmp_path)
        assert complaint in caught.value.problem
    file.unlink()
    with pytest.raises(CourseError, match="PAPERS_IDS"):
        gather(chosen, tmp_path)


def test_an_unknown_pmid_is_named(server, tmp_path):
    (tmp_path / "ids.txt").write_text("99000001\n12345678\n")
    with pytest.raises(CourseError, match="missing are 12345678"):
        gather(load(server, PAPERS_IDS=str(tmp_path / "ids.txt")), tmp_path)


def test_a_query_is_sent_or_asked_of_the_archive(server, tmp_path):
    query = '"lupus nephritis"[ti] AND english[la]'
    gather(load(server, PAPERS_QUERY=query), tmp_path)
    assert "lupus+nephritis" in server.asked("esearch")[0][2]
    chosen = load(None, PAPERS_SOURCE="archive", PAPERS_ARCHIVE=str(SAMPLE / "pubmed.xml"), PAPERS_QUERY=query)
    _, route, screened = gather(chosen, tmp_path)
    assert route["sources"]["PubMed"]["got"] == 3 == screened.asked
    assert [paper.paper_id for paper in screened.kept] == ["99000003"]


@pytest.mark.parametrize("content", [None, b"", b"<html><p>hello</p></html>", b"hello", b"\x1f\x8bnonsense", b"cut"])
def test_a_bad_archive_is_named(tmp_path, content):
    file = tmp_path / "papers.xml.gz"
    if content == b"cut":
        content = gzip.compress((SAMPLE / "pubmed.xml").read_bytes())[:-2000]
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CourseError, match=r"papers\.xml\.gz") as caught:
        gather(load(None, PAPERS_SOURCE="archive", PAPERS_ARCHIVE=str(file)), tmp_path)
    assert "PAPERS_ARCHIVE" in str(caught.value)


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    text = (SAMPLE / "pubmed.xml").read_text()
    (tmp_path / "b.xml").write_text(text.replace("Thymectomy in", "Newer: thymectomy in"))
    (tmp_path / "a.xml").write_text(text)
    _, _, screened = gather(load(None, PAPERS_SOURCE="archive", PAPERS_ARCHIVE=str(tmp_path)), tmp_path)
    titles = {paper.paper_id: paper.title for paper in screened.kept}
    assert titles["99000021"].startswith("Newer") and screened.asked == 2 * 42
    with pytest.raises(CourseError, match=r"holds no \.xml"):
        gather(load(None, PAPERS_SOURCE="archive", PAPERS_ARCHIVE=str(ROOT / "helpers")), tmp_path)


def test_the_embedded_file_is_refused_if_its_hash_differs(tmp_path):
    forged = tmp_path / archive.MEMBER
    forged.parent.mkdir(parents=True)
    forged.write_bytes(b"something else")
    with tarfile.open(tmp_path / "package.tar.gz", "w:gz") as tar:
        tar.add(forged, archive.MEMBER)
    with pytest.raises(CourseError, match="sha256"):
        archive.extract(tmp_path / "package.tar.gz", tmp_path / "out.xml.gz")
    assert not (tmp_path / "out.xml.gz").exists()


def test_no_hits_is_an_error_with_the_query(server, tmp_path):
    server.records = {}
    with pytest.raises(CourseError, match="finds nothing for 'nonsense'"):
        gather(load(server, PAPERS_QUERY="nonsense"), tmp_path)


def test_the_ledger_keeps_loopback_answers_apart(server, tmp_path):
    gather(load(server), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "raw" / "pubmed.jsonl").read_text().splitlines()]
    other = load(server, NCBI_EUTILS_BASE="https://eutils.ncbi.nlm.nih.gov/entrez/eutils")
    request = {"base": other.NCBI_EUTILS_BASE, "search": TOPIC.pubmed_query, "retmax": 375}
    ledger = wire.Ledger(tmp_path / "raw" / "pubmed.jsonl")
    assert ledger.get(request) is None
    assert ledger.get(request | {"base": server.eutils}) is not None and {"key", "fetched", "body"} == set(lines[0])
