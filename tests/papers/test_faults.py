"""Twenty-four kinds of faults and kills at random moments: the same bytes as without them, or a named cause."""

import io
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.faults import FAULTS, ODDITIES
from support.faulty_server import Server
from support.loopback import gather, hurried, load, serve
from support.sweeps import times

from helpers.core.errors import CourseError
from helpers.core.paths import ROOT
from helpers.papers.pubmed_xml import parse_pubmed
from helpers.papers.response_cache import read_entry

SEEDS = times(1, 20)
KILLS = times(4, 100)
PAGE = 3  # arXiv papers to a page
ONLY_ARXIV = {
    "empty first page": ("start=0",),
    "empty later page": ("start=3", "start=6"),
    "total changes": ("start=0", "start=3", "start=6"),
    "doubles": ("start=3", "start=6"),
}
PARTS = ("esearch", "efetch", "arxiv")
CAUSES = {
    "refused": "refused",
    "429 seconds": "HTTP 429",
    "429 date": "HTTP 429",
    "429": "HTTP 429",
    "5xx": "HTTP 50[0234]",
    "reset": "reset by peer|closed without a response",
    "silent": "timed out",
    "stall": "timed out",
    "long length": "the answer broke off",
    "cut": "whole XML|not XML|not Atom|not UTF-8",
    "cut gzip": "whole XML|not XML|not Atom|not UTF-8|unzipped|broke off",
    "html": "html",
    "json": "header",
    "error element": "Search Backend failed",
    "json error": "API rate limit exceeded",
    "empty first page": "a page of 0 papers",
    "empty later page": "a page of 0 papers",
    "total changes": "number of results changed|were promised",
    "doubles": "papers of an earlier one",
    "fewer": "missing are|promised",
    "odd text": "not UTF-8|whole XML|not XML|not Atom",
    "redirects": "redirect",
    "bomb": "declares entities",
    "too large": "more than 1,048,576 bytes",
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> bytes:
    """The files of a harvest without faults."""
    folder, server = tmp_path_factory.mktemp("clean"), serve()
    with hurried(folder / "locks", page=PAGE):
        files, route, screened = gather(load(server), folder)
    server.close()
    assert route["incomplete"] is None and len(screened.kept) > 20
    return files


def online(server: Server):
    return load(server, PAPERS_SOURCE="online")


def test_the_catalogue_is_whole():
    assert len(FAULTS) == 24 and CAUSES.keys() == FAULTS.keys() and ONLY_ARXIV.keys() <= FAULTS.keys()


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_leaves_no_trace(tmp_path, clean, fault, seed):
    """One to three times, at requests drawn by chance."""
    chance, server = random.Random(f"{fault} {seed}"), serve(f"{fault} {seed}")
    server.away = chance.uniform(0.02, 0.2)
    often = 1 if fault in ("refused", "silent") else chance.randint(1, 3)
    parts = chance.choices(ONLY_ARXIV.get(fault, PARTS), k=often)
    server.plan = [f"{part}:{fault}" for part in parts]
    with hurried(tmp_path / "locks", page=PAGE, backoff=0.05):
        files, route, _ = gather(online(server), tmp_path)
    server.close()
    met = len(parts) - len(server.plan)
    assert met == len(parts) or (met and fault == "odd text"), "some odd text needs no second request"
    assert files == clean and route["incomplete"] is None


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_lasting_fault_is_named_and_outlived(tmp_path, clean, fault, seed):
    """PubMed's ends the harvest, arXiv's is said; either way the next run goes on from there to the same bytes."""
    chance, server = random.Random(f"{fault} {seed}"), serve(f"{fault} {seed}")
    part = chance.choice(ONLY_ARXIV.get(fault, PARTS))
    server.plan = [f"always:{part}:{fault}"]
    with hurried(tmp_path / "locks", page=PAGE, tries=4, budget=2.5):
        began = time.monotonic()
        files, cause = attempt(server, tmp_path)
        assert time.monotonic() - began < 60, "2.5 seconds of patience for each request, on a busy machine"
        if files == clean:
            assert not cause and fault in ("odd text", "total changes"), "no shortfall, no complaint"
        else:
            assert re.search(CAUSES[fault], cause), cause
        before, server.plan, server.seen = kept(tmp_path), [], []
        server.come_back()
    with hurried(tmp_path / "later", page=PAGE):
        assert gather(online(server), tmp_path)[0] == clean
    server.close()
    assert kept(tmp_path)[: len(before)] == before, "what was fetched is kept"
    if cause and part == "efetch":
        assert not server.asked("esearch"), "and not asked for again"


def attempt(server: Server, folder: Path) -> tuple[bytes, str]:
    """(files, "") of a harvest, or ("", cause) if PubMed's part failed or arXiv's is short."""
    try:
        files, route, _ = gather(online(server), folder)
    except CourseError as error:
        return b"", error.problem
    short = route["incomplete"]
    if short is None:
        return files, ""
    assert short["source"] == "arXiv" and short["got"] < short["asked"]
    return b"", short["cause"]


def kept(folder: Path) -> list[bytes]:
    """The lines of PubMed's ledger."""
    ledger = folder / "raw" / "pubmed.jsonl"
    return ledger.read_bytes().splitlines() if ledger.exists() else []


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("oddity", ODDITIES)
def test_odd_text_is_read_as_it_is_meant_or_refused(tmp_path, clean, part, oddity):
    """Marks, other forms of letters and a wrong label change nothing; bytes that are no text are refused."""
    server = serve(oddity)
    server.plan = [f"always:{part}:{oddity}"]
    with hurried(tmp_path / "locks", page=PAGE, tries=3):
        files, cause = attempt(server, tmp_path)
    server.close()
    if oddity in ("nul", "surrogate"):
        assert re.search(CAUSES["odd text"], cause)
    else:
        assert files == clean and not cause


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = {places!r}
from support.loopback import gather, hurried, load
folder = Path(sys.argv[3])
with hurried(folder / "locks", batch=2, page=3):
    gather(load(None, NCBI_EUTILS_BASE=sys.argv[1], ARXIV_API_BASE=sys.argv[2]), folder)
"""


@pytest.mark.slow
def test_kills_at_random_moments_lose_and_double_nothing(tmp_path, clean):
    """A harvest is killed up to three times in a row and then left to end, until KILLS were made."""
    chance, kills, rounds = random.Random(11), 0, 0
    while kills < KILLS:
        server, folder = serve(rounds), tmp_path / str(rounds)
        server.delay, rounds = 0.01, rounds + 1
        for _ in range(min(chance.randint(1, 3), KILLS - kills)):
            kills += killed(server, folder, chance.uniform(0, 0.35))
        with hurried(folder / "locks", batch=2, page=PAGE):
            assert gather(load(server), folder)[0] == clean
            asked = len(server.seen)
            assert gather(load(server), folder)[0] == clean and len(server.seen) == asked
        server.close()
        check_ledger(folder / "raw" / "pubmed.jsonl", set(server.records))
    print(f"{kills} kills in {rounds} harvests")


def killed(server: Server, folder: Path, seconds: float) -> bool:
    """Start a harvest, and kill it so long after its first request; False if it had ended by then."""
    before = len(server.seen)
    script = CHILD.format(places=[str(ROOT), str(ROOT / "tests")])
    child = subprocess.Popen([sys.executable, "-c", script, server.eutils, server.arxiv, str(folder)])
    while len(server.seen) == before and child.poll() is None:
        time.sleep(0.002)
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    ended = child.wait()
    assert ended in (0, -signal.SIGKILL), "the harvest failed by itself"
    return ended == -signal.SIGKILL


def check_ledger(path: Path, pmids: set[str]) -> None:
    """Every whole line has a key of its own, and together they hold each record once."""
    entries = [entry for line in path.read_bytes().splitlines() if (entry := read_entry(line))]
    assert len({entry["key"] for entry in entries}) == len(entries)
    bodies = [entry["body"].encode() for entry in entries if "<PubmedArticleSet>" in entry["body"]]
    held = [paper.paper_id for body in bodies for paper in parse_pubmed(io.BytesIO(body))]
    assert sorted(held) == sorted(pmids)
