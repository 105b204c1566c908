"""The harvest over real HTTP on loopback: routes, reruns, large searches, and what is said when some is missing."""

import gzip
import json
import re
import socket
import tarfile
import time
import traceback
import urllib.parse
from datetime import date, timedelta
from unittest import mock

import pytest
from support.loopback import BATCH, TOPIC, closed_port, gather, hurried, load

from helpers.core.errors import CourseError
from helpers.core.paths import ROOT, SAMPLE
from helpers.dataset import placebo
from helpers.papers import arxiv_api, collect, http, pubmed_api, pubmed_files, response_cache
from helpers.papers.paper import Paper


def synthetic(n: int) -> dict[str, str]:
    """`n` records that screening would not keep, for counting."""
    record = "<PubmedArticle><MedlineCitation><PMID>{0}</PMID><Article><ArticleTitle>{0}</ArticleTitle></Article>"
    return {str(pmid): record.format(pmid) + "</MedlineCitation></PubmedArticle>" for pmid in range(1, n + 1)}


def fetch_all(chosen, path, n: int) -> list[str]:
    """The PMIDs that a search for `n` records brings into a ledger, read back from it."""
    client = pubmed_api.PubMedClient(chosen, response_cache.Ledger(path))
    batches = client.search("anything", n)
    client.fetch(batches)
    return [
        paper.paper_id
        for batch in batches
        for paper in pubmed_api.parse_pubmed(pubmed_api.io.BytesIO(client.read(batch)[0]))
    ]


def test_a_rerun_makes_no_request(server, tmp_path):
    first, route, screened = gather(load(server), tmp_path)
    batches = -(-len(server.records) // BATCH)
    assert len(server.seen) == 1 + batches + 1
    assert route["name"] == "online" and route["incomplete"] is None
    assert route["sources"]["PubMed"] == {"asked": len(server.records), "got": len(server.records)}
    assert route["sources"]["arXiv"] == {"asked": 7, "got": 7}
    assert len(screened.kept) >= 26
    again, _, _ = gather(load(server), tmp_path)
    assert again == first and len(server.seen) == 1 + batches + 1


def test_records_nobody_asked_for_are_left_out(server, tmp_path):
    clean, _, _ = gather(load(server), tmp_path / "clean")
    server.plan = ["efetch:more"] * 3
    faulty, route, _ = gather(load(server), tmp_path / "faulty")
    assert faulty == clean and server.plan == []
    assert any("&id=" in form for _, _, form in server.asked("efetch")), "that history is not believed again"
    assert route["sources"]["PubMed"] == {"asked": len(server.records), "got": len(server.records)}


def test_records_come_from_the_history_server_and_by_id_once_it_failed(server, tmp_path):
    clean, _, _ = gather(load(server), tmp_path / "clean")
    assert all("WebEnv" in form and "&id=" not in form for _, _, form in server.asked("efetch"))
    with mock.patch.object(server, "histories", Forgetful()):
        before = len(server.asked("efetch"))
        assert gather(load(server), tmp_path / "forgotten")[0] == clean
    forms = [form for _, _, form in server.asked("efetch")[before:]]
    by_id = [form for form in forms if "&id=" in form]
    batches = -(-len(server.records) // BATCH)
    assert len(by_id) == batches < len(forms) <= 2 * batches
    server.plan, before = ["efetch:400"], len(server.asked("efetch"))
    assert gather(load(server), tmp_path / "refused")[0] == clean
    assert server.plan == [] and any("&id=" in form for _, _, form in server.asked("efetch")[before:])


class Forgetful(dict):
    """A history server that has forgotten every result."""

    def __contains__(self, key: object) -> bool:
        return False


def test_another_list_in_the_history_is_noticed(server, tmp_path):
    """The place on the history server is right, but what lies there has changed since the search."""
    clean, _, _ = gather(load(server), tmp_path / "clean")
    server.histories = Shifted()
    assert gather(load(server), tmp_path / "shifted")[0] == clean
    assert any("&id=" in form for _, _, form in server.asked("efetch"))


class Shifted(dict):
    def __getitem__(self, key: str) -> list[str]:
        return super().__getitem__(key)[1:]


@pytest.mark.parametrize(("n", "held"), [(9_999, 9_999), (401, 1_000), (400, 1_000), (1, 3), (500, 30)])
def test_one_search_and_one_request_to_200_records(server, tmp_path, n, held):
    server.records = synthetic(held)
    with hurried(tmp_path / "locks", batch=200):
        ids = fetch_all(load(server), tmp_path / "raw.jsonl", n)
    assert ids == [str(pmid) for pmid in range(held, max(held - n, 0), -1)]
    assert len(server.seen) == 1 + -(-min(n, held) // 200)


@pytest.mark.parametrize("n", [40, 97, 120, 200])
def test_a_large_search_is_split_by_date(server, tmp_path, n):
    """With 9 hits to an answer instead of 9,999; days far apart, and crowded ones."""
    server.records, server.most = synthetic(120), 9
    first = date(1951, 5, 17)
    server.dates = {pmid: first + timedelta(days=int(pmid) ** 3 // 40) for pmid in server.records}
    with mock.patch.object(pubmed_api, "MOST_HITS", 9):
        ids = fetch_all(load(server), tmp_path / "raw.jsonl", n)
        asked = len(server.seen)
        newest = sorted(server.records, key=server.dates.get, reverse=True)[: min(n, 120)]
        assert len(ids) == len(set(ids)) == min(n, 120) and set(newest) == set(ids)
        assert fetch_all(load(server), tmp_path / "raw.jsonl", n) == ids and len(server.seen) == asked
    assert asked < 100


def test_a_day_that_does_not_fit_and_a_count_that_is_not_kept(server, tmp_path):
    server.records, server.most = synthetic(60), 9
    server.dates = dict.fromkeys(server.records, date(2020, 2, 29))
    with mock.patch.object(pubmed_api, "MOST_HITS", 9):
        with pytest.raises(CourseError, match=r"60 records .* of one day, 2020-02-29") as caught:
            fetch_all(load(server), tmp_path / "day.jsonl", 50)
        assert "PAPERS_SOURCE=archive" in caught.value.way_out
        server.dates = {pmid: date(1600, 1, 1) + timedelta(days=int(pmid)) for pmid in server.records}
        with pytest.raises(CourseError, match=r"promised 50 records .* by date hold 0"):
            fetch_all(load(server), tmp_path / "lost.jsonl", 50)
        server.dates = {pmid: date(2000, 1, 1) + timedelta(days=int(pmid)) for pmid in server.records}
        assert len(fetch_all(load(server), tmp_path / "lost.jsonl", 50)) == 50


@pytest.mark.parametrize("fault", ["fewer", "429 hour", "400", "cut", "html", "error element"])
def test_pubmed_short_fails_and_resumes(server, tmp_path, fault):
    clean, _, _ = gather(load(server), tmp_path / "clean")
    server.plan = ["always:efetch:" + fault]
    with pytest.raises(CourseError) as caught:
        gather(load(server), tmp_path / "faulty")
    assert "PubMed" in caught.value.problem
    if fault == "429 hour":
        # whichever request was first
        told = r"HTTP 429, come back in 3,600 seconds|left alone for another 3,[56]\d\d seconds"
        assert re.search(told, caught.value.problem)
        time.sleep(0.2)  # for requests that were in flight
        server.plan, before = [], len(server.seen)
        with pytest.raises(CourseError, match=r"left alone for another 3,[56]\d\d seconds"):
            gather(load(server), tmp_path / "faulty")
        assert len(server.seen) == before
    server.plan, before = [], len(server.seen)
    with hurried(tmp_path / "an hour later"):
        assert gather(load(server), tmp_path / "faulty")[0] == clean
    assert not [r for r in server.seen[before:] if "esearch" in r[1]]


def test_a_lost_request_does_not_keep_the_others_from_being_kept(server, tmp_path):
    """One record that PubMed promises and never gives: everything else is in the ledger afterwards."""
    chosen, lost = load(server), sorted(server.records, key=int)[0]
    clean, _, _ = gather(chosen, tmp_path / "clean")
    server.histories, record = Forgetful(), server.records[lost]
    broken = {**server.records, lost: ""}
    with mock.patch.object(server, "records", broken), pytest.raises(CourseError, match=f"missing are {lost}"):
        gather(chosen, tmp_path / "broken")
    before = len(server.seen)
    assert gather(chosen, tmp_path / "broken")[0] == clean and record
    assert len([r for r in server.seen[before:] if "efetch" in r[1]]) == 1


def test_after_three_lost_requests_in_a_row_the_others_are_not_tried(server, tmp_path):
    server.records = synthetic(1_400)
    server.plan = ["always:efetch:5xx"]
    with pytest.raises(CourseError, match="HTTP 50"):
        fetch_all(load(server), tmp_path / "raw.jsonl", 1_400)
    in_flight = 9
    time.sleep(0.2)
    tried = len(server.asked("efetch"))
    assert tried <= (in_flight + pubmed_api.LOST) * http.PATIENCE.tries < 200
    time.sleep(0.3)
    assert len(server.asked("efetch")) == tried


def test_a_refusal_stops_the_others_at_once(server, tmp_path):
    server.records, server.delay, server.plan = synthetic(1_400), 0.05, ["efetch:400"]
    client, batches = (
        pubmed_api.PubMedClient(load(server), response_cache.Ledger(tmp_path / "raw.jsonl")),
        pubmed_api.cut_history(server.records),
    )
    with pytest.raises(CourseError, match="refused the request: HTTP 400"):
        client.fetch(batches)
    time.sleep(0.3)
    tried, held = len(server.seen), sum(client.request(batch) in client.ledger for batch in batches)
    assert held <= tried <= 30 < len(batches)
    client = pubmed_api.PubMedClient(load(server), response_cache.Ledger(tmp_path / "raw.jsonl"))
    client.fetch(batches)
    assert len(server.seen) == tried + len(batches) - held


@pytest.mark.parametrize("fault", ["empty later page", "json", "html", "cut", "fewer", "5xx", "400", "reset"])
def test_arxiv_short_is_said_and_the_stage_goes_on(server, tmp_path, fault):
    server.plan = ["always:arxiv:" + fault]
    _, route, screened = gather(load(server), tmp_path)
    short = route["incomplete"]
    assert short["source"] == "arXiv" and short["got"] == 0 < short["asked"] and short["cause"]
    assert {paper.source for paper in screened.kept} == {"PubMed"}
    assert "arXiv is incomplete" in collect.describe_route(route)
    server.plan = []
    assert gather(load(server), tmp_path)[1]["incomplete"] is None


@pytest.mark.parametrize(
    ("fault", "got"), [("empty later page", 3), ("total changes", 8), ("doubles", 6), ("fewer", 3), ("refused", 3)]
)
def test_a_later_page_of_arxiv_can_be_missing(server, tmp_path, fault, got):
    """What came is kept; the next run asks for the rest and ends with the same bytes as a run without faults."""
    with hurried(tmp_path / "locks", page=3):
        clean, _, _ = gather(load(server), tmp_path / "clean")
        server.plan = ["always:start=3:" + fault]
        _, route, screened = gather(load(server), tmp_path / "faulty")
        if fault == "total changes":  # eight of eight are there, whatever it says
            assert route["incomplete"] is None or route["incomplete"]["asked"] > 8
        else:
            assert got <= route["incomplete"]["got"] < 8 == route["incomplete"]["asked"]
        assert any(paper.source == "arXiv" for paper in screened.kept)
        server.plan = []
        server.come_back()
        assert gather(load(server), tmp_path / "faulty")[0] == clean


@pytest.mark.parametrize("place", [0, 2, 8])
def test_a_list_that_shifts_while_it_is_read_is_read_again(server, tmp_path, place):
    """Two new papers move the others between two runs: page 1 is in the ledger, page 2 is not."""
    with hurried(tmp_path / "locks", page=3):
        server.plan = ["always:start=3:5xx"]
        assert gather(load(server), tmp_path / "shifted")[1]["incomplete"]["got"] == 3
        server.plan = []
        new = [server.entries[0].replace("9901.00001v2", f"9902.0000{number}v1") for number in (1, 2)]
        server.entries[place:place] = new
        found, route, _ = gather(load(server), tmp_path / "shifted")
        assert route["incomplete"] is None and route["sources"]["arXiv"] == {"asked": 9, "got": 9}
        assert found == gather(load(server), tmp_path / "fresh")[0]
        asked = len(server.seen)
        assert gather(load(server), tmp_path / "shifted")[0] == found and len(server.seen) == asked


def test_no_network_reads_the_archive_and_says_so(tmp_path):
    nowhere = f"http://127.0.0.1:{closed_port()}"
    chosen = load(None, NCBI_EUTILS_BASE=nowhere, ARXIV_API_BASE=nowhere, PAPERS_ARCHIVE=str(SAMPLE / "pubmed.xml"))
    with hurried(tmp_path / "locks"):
        _, route, screened = gather(chosen, tmp_path)
        assert route["name"] == "archive" and "refused" in route["why"] and route["incomplete"]["cause"]
        assert route["files"] and screened.kept and "PubMed cannot be reached" in collect.describe_route(route)
        online = load(None, NCBI_EUTILS_BASE=nowhere, ARXIV_API_BASE=nowhere, PAPERS_SOURCE="online")
        with pytest.raises(CourseError, match="cannot be reached"):
            gather(online, tmp_path)


def test_without_a_network_one_waits_seconds_not_minutes(tmp_path):
    nowhere = f"http://127.0.0.1:{closed_port()}"
    began = time.monotonic()
    with (
        hurried(tmp_path / "locks", first_contact=1.0, backoff=1.0, budget=600.0),
        pytest.raises(CourseError, match="cannot be reached"),
    ):
        collect.count_hits(load(None, NCBI_EUTILS_BASE=nowhere), "lupus", tmp_path)
    assert time.monotonic() - began < 60, "the patience for a host that has answered before is ten minutes here"


def test_a_silent_host_is_known_in_time(tmp_path):
    with (
        hurried(tmp_path / "locks", first_contact=0.5, silence=600.0, whole=600.0),
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        base = f"http://127.0.0.1:{silent.getsockname()[1]}"
        nowhere = f"http://127.0.0.1:{closed_port()}"
        chosen = load(None, NCBI_EUTILS_BASE=base, ARXIV_API_BASE=nowhere, PAPERS_ARCHIVE=str(SAMPLE / "pubmed.xml"))
        began = time.monotonic()
        _, route, _ = gather(chosen, tmp_path)
        assert route["name"] == "archive" and "timed out" in route["why"]
        assert time.monotonic() - began < 60, "silence in the middle of an answer is borne for ten minutes here"


def test_secrets_are_sent_and_shown_nowhere(server, tmp_path):
    chosen = load(server, NCBI_API_KEY="canarykey", NCBI_EMAIL="canary@example.org", PAPERS_SOURCE="online")
    server.plan = ["esearch:redirects", "efetch:reset", "efetch:cut", "always:efetch:400"]
    with pytest.raises(CourseError) as caught:
        gather(chosen, tmp_path)
    asked = server.asked("fcgi")
    assert all("canarykey" in body and "canary%40example.org" in body for _, _, body in asked) and len(asked) > 4
    shown = "".join(traceback.format_exception(caught.value)) + "".join(path for _, path, _ in server.seen)
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert "canary" not in shown and b"canary" not in written and written


def test_a_torn_or_damaged_ledger_line_is_asked_again(server, tmp_path):
    clean, _, _ = gather(load(server), tmp_path)
    path, before = tmp_path / "raw" / "pubmed.jsonl", len(server.seen)
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole.replace(b"lupus", b"lupin", 1), b"[]\n" + whole[:-1], b'{"key": "a"}\n'):
        path.write_bytes(damaged)
        assert gather(load(server), tmp_path)[0] == clean
        asked = len(server.seen)
        assert asked > before or damaged.startswith(b"[]")
        assert gather(load(server), tmp_path)[0] == clean and len(server.seen) == asked
        before = asked


def test_ids_are_read_and_refused_by_line(server, tmp_path):
    file = tmp_path / "ids.txt"
    file.write_text("\ufeff# two papers\n99000001\n\nPMID: 099000003\n99000001\n")
    for source, place in (("auto", {}), ("archive", {"PAPERS_ARCHIVE": str(SAMPLE / "pubmed.xml")})):
        chosen = load(server, PAPERS_IDS=str(file), PAPERS_SOURCE=source, **place)
        _, route, screened = gather(chosen, tmp_path)
        assert [paper.paper_id for paper in screened.kept] == ["99000001", "99000003"]
        assert route["sources"] == {"PubMed": {"asked": 2, "got": 2}} and screened.asked == 2
    for text, complaint in (("99000001\n12x4\n", "line 2: '12x4'"), ("0\n", "line 1: '0'"), ("\n", "no PMID")):
        file.write_text(text)
        with pytest.raises(CourseError, match="PAPERS_IDS") as caught:
            gather(chosen, tmp_path)
        assert complaint in caught.value.problem
    file.unlink()
    with pytest.raises(CourseError, match="PAPERS_IDS"):
        gather(chosen, tmp_path)


def test_unknown_pmids_are_named_online_and_counted_in_the_archive(server, tmp_path):
    file = tmp_path / "ids.txt"
    file.write_text("99000001\n12345678\n99000003\n87654321\n")
    with hurried(tmp_path / "locks", batch=2), pytest.raises(CourseError) as caught:
        gather(load(server, PAPERS_IDS=str(file)), tmp_path)
    assert "12345678" in caught.value.problem and "87654321" in caught.value.problem
    assert "99000001" not in caught.value.problem and "take them out" in caught.value.way_out
    place = {"PAPERS_SOURCE": "archive", "PAPERS_ARCHIVE": str(SAMPLE / "pubmed.xml")}
    _, route, screened = gather(load(server, PAPERS_IDS=str(file), **place), tmp_path)
    assert route["sources"]["PubMed"] == {"asked": 4, "got": 2}
    assert screened.asked == 4 and screened.reasons == {"not_found": 2} and len(screened.kept) == 2


def test_excluded_papers_are_read_by_the_same_rules(server, tmp_path):
    file = tmp_path / "benchmark.txt"
    file.write_text("99000001\n12345678\n")
    assert collect.read_excluded_ids(load(server)) == frozenset()
    clean = gather(load(server), tmp_path)[2]
    screened = gather(load(server, PAPERS_EXCLUDE=str(file)), tmp_path)[2]
    assert screened.reasons["excluded"] == 1 and "excluded" not in clean.reasons
    file.write_text("# nothing\n")
    with pytest.raises(CourseError, match=r"PAPERS_EXCLUDE=.* holds no PMID"):
        gather(load(server, PAPERS_EXCLUDE=str(file)), tmp_path)


def test_a_deleted_id_is_not_found(tmp_path):
    chosen = ["1", "2", "3"]
    gone = Paper(paper_id="2", source="PubMed", title="", flags=("deleted",))
    papers = [Paper(paper_id="1", source="PubMed", title="a"), gone, Paper(paper_id="9", source="PubMed", title="b")]
    found = [(paper.paper_id, paper.flags) for paper in collect.select_by_id(papers, chosen)]
    assert found == [("1", ()), ("2", ("deleted",)), ("2", ("not found",)), ("3", ("not found",))]


def test_a_query_is_sent_or_asked_of_the_archive(server, tmp_path):
    query = '"lupus nephritis"[ti] AND english[la]'
    gather(load(server, PAPERS_QUERY=query), tmp_path)
    assert "lupus+nephritis" in server.asked("esearch")[0][2]
    chosen = load(None, PAPERS_SOURCE="archive", PAPERS_ARCHIVE=str(SAMPLE / "pubmed.xml"), PAPERS_QUERY=query)
    _, route, screened = gather(chosen, tmp_path)
    assert route["sources"]["PubMed"]["got"] == 3 == screened.asked
    assert [paper.paper_id for paper in screened.kept] == ["99000003"]


def test_another_query_can_be_tried(server, tmp_path):
    kept = gather(load(server), tmp_path)[2].kept
    found = collect.try_query("nephritis[ti]", kept)
    assert found and all("nephritis" in paper.title.lower() for paper in found) and len(found) < len(kept)
    assert collect.count_hits(load(server), "nephritis[ti]", tmp_path / "raw") == len(server.records)
    asked = len(server.seen)
    assert collect.count_hits(load(server), "nephritis[ti]", tmp_path / "raw") == len(server.records)
    assert len(server.seen) == asked and "retmax=0" in server.seen[-1][2]


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
    chosen = load(None, PAPERS_SOURCE="archive", PAPERS_ARCHIVE=str(tmp_path))
    _, route, screened = gather(chosen, tmp_path)
    titles = {paper.paper_id: paper.title for paper in screened.kept}
    assert titles["99000021"].startswith("Newer") and screened.asked == route["sources"]["PubMed"]["got"]
    with pytest.raises(CourseError, match=r"holds no \.xml"):
        gather(load(None, PAPERS_SOURCE="archive", PAPERS_ARCHIVE=str(ROOT / "helpers")), tmp_path)


def test_the_embedded_file_is_refused_if_its_hash_differs(tmp_path):
    forged = tmp_path / pubmed_files.MEMBER
    forged.parent.mkdir(parents=True)
    forged.write_bytes(b"something else")
    with tarfile.open(tmp_path / "package.tar.gz", "w:gz") as tar:
        tar.add(forged, pubmed_files.MEMBER)
    with pytest.raises(CourseError, match="sha256"):
        pubmed_files.extract_member(tmp_path / "package.tar.gz", tmp_path / "out.xml.gz")
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
    kept = response_cache.Ledger(tmp_path / "raw" / "pubmed.jsonl")
    assert kept.get(request) is None
    assert kept.get(request | {"base": server.eutils}) is not None
    assert {"key", "fetched", "sha256", "body"} == set(lines[0])


def test_arxiv_gives_no_more_than_it_has(server, tmp_path):
    papers, short = arxiv_api.search_arxiv(
        load(server), "anything", 10**6, response_cache.Ledger(tmp_path / "arxiv.jsonl")
    )
    assert short is None and len(papers) == 8 and "max_results=100" in server.seen[-1][1]


def test_the_placebo_is_asked_for_once_and_survives_a_faulty_server(server, tmp_path):
    settings = load(server)
    route = {"name": "online"}
    clean = list(placebo.find_candidates(settings, TOPIC, route, 100, tmp_path / "clean"))
    assert clean and not any(TOPIC.mentions(f"{paper.title} {paper.text}") for paper in clean)
    assert TOPIC.placebo_query[:40] in urllib.parse.unquote_plus(str(server.asked("esearch")[-1]))
    requests = len(server.seen)
    assert list(placebo.find_candidates(settings, TOPIC, route, 100, tmp_path / "clean")) == clean
    assert len(server.seen) == requests
    server.plan = ["efetch:more"] * 2
    assert list(placebo.find_candidates(settings, TOPIC, route, 100, tmp_path / "faulty")) == clean
