"""Pace, patience and retries: on a virtual clock, in real time, and over real HTTP."""

import multiprocessing
import random
import socket
import threading
import time
from bisect import bisect_right
from email.utils import formatdate
from itertools import pairwise
from math import inf
from pathlib import Path

import pytest
from Bio import Entrez
from support.loopback import hurried, load
from support.sweeps import times

from helpers.papers import http, pubmed_api, response_cache
from helpers.papers.rate_limit import Clock, Pace, Stopped

pytestmark = pytest.mark.alone  # it times requests

REQUESTS = 10_000


class VirtualClock:
    """A time that two processes share. It stands still while one of them is awake, and jumps when all sleep."""

    def __init__(self, context, parties: int):
        self.now, self.wakes = context.Value("d", 1e6, lock=False), context.Array("d", parties, lock=False)
        self.turn, self.me = context.Condition(), 0

    def time(self) -> float:
        return self.now.value

    def sleep(self, seconds: float) -> None:
        with self.turn:
            self.wakes[self.me] = self.now.value + seconds
            if self.now.value < min(self.wakes) < inf:
                self.now.value = min(self.wakes)
                self.turn.notify_all()
            self.turn.wait_for(lambda: self.wakes[self.me] <= self.now.value or seconds == inf)


def ask_for_long(clock: VirtualClock, me: int, folder: Path, n: int, seed: int, results) -> None:
    """`n` requests of one process to a server that is slow, fails, and asks for pauses."""
    clock.me, rng, starts, pauses = me, random.Random(seed + me), [], []
    host = http.Host("https://example.org/", 0.34, clock, reached=True)

    def attempt() -> bytes:
        starts.append(clock.time())
        clock.sleep(rng.choice([0.01, 0.2, 1.5]))
        luck = rng.random()
        if luck < 0.03:
            asked = rng.choice([0.5, 1, 7, 30])
            pauses.append((clock.time(), asked))
            raise http.Transient("HTTP 429", asked)
        if luck < 0.06:
            raise http.Transient("HTTP 500")
        return b""

    with hurried(folder, budget=1e9, longest_wait=60.0, tries=1_000, backoff=1.0):
        while len(starts) < n:
            host.persist(attempt)
    results.put((starts, pauses))
    clock.sleep(inf)  # the other may need longer


def test_no_request_too_early_in_thousands_from_two_processes(tmp_path):
    """Starts of both processes are never closer than the interval, nor within a pause that was asked for."""
    context = multiprocessing.get_context("spawn")
    clock, results = VirtualClock(context, 2), context.Queue()
    workers = [
        context.Process(target=ask_for_long, args=(clock, me, tmp_path, REQUESTS // 2, 7, results), daemon=True)
        for me in range(2)
    ]
    [worker.start() for worker in workers]
    answers = [results.get(timeout=300) for _ in workers]
    [worker.join(30) for worker in workers]
    starts = sorted(start for answer in answers for start in answer[0])
    pauses = [pause for answer in answers for pause in answer[1]]
    assert len(starts) >= REQUESTS and len(pauses) > REQUESTS // 100 and min(len(a[0]) for a in answers) > 0
    assert [b - a for a, b in pairwise(starts) if b - a < 0.34 - 1e-6] == []
    within = [bisect_right(starts, at + asked - 1e-6) - bisect_right(starts, at) for at, asked in pauses]
    assert sum(within) == 0
    both = sorted((start, me) for me, answer in enumerate(answers) for start in answer[0])
    assert sum(a[1] != b[1] for a, b in pairwise(both)) > REQUESTS // 10, "the two processes took turns"


def test_requests_are_paced_across_threads(tmp_path):
    with hurried(tmp_path):
        turns = []

        def ask() -> None:
            turns.extend(Pace("test", 0.05).wait() for _ in range(4))

        workers = [threading.Thread(target=ask) for _ in range(3)]
        [worker.start() for worker in workers]
        [worker.join() for worker in workers]
        assert len(turns) == 12 and all(b - a >= 0.05 for a, b in pairwise(sorted(turns)))
        assert Pace("other", 60).left() == 0 and 0 < Pace("test", 0.05).left() <= 0.05


def test_loopback_is_not_paced_but_a_pause_is_kept(tmp_path):
    with hurried(tmp_path):
        host = http.Host("http://127.0.0.1:1/", 3.0)
        began = time.time()
        assert host.pace.wait() <= host.pace.wait() < began + 3, "its interval, were it paced"
        assert http.Host("https://example.org/", 3.0).pace.interval == 3.0
        host.pace.hold(0.2)
        assert http.Host("http://127.0.0.1:1/", 3.0).pace.wait() >= began + 0.2


def test_a_clock_set_back_or_a_damaged_file_stops_nobody(tmp_path):
    with hurried(tmp_path):
        pace = Pace("test", 0.01)
        pace.hold(3_600)
        assert pace.left() > 3_500
        next(tmp_path.glob("*-test.pace")).write_bytes(b"\0" * 4)
        assert pace.left() == 0
        Pace("test", 0.01, Later()).hold(10)
        assert pace.left() <= 0.01


class Later(Clock):
    """An hour fast."""

    def time(self) -> float:
        return time.time() + 3_600


def test_a_stopped_clock_wakes_every_sleeper(tmp_path):
    clock, ends = Clock(), []

    def sleep() -> None:
        try:
            clock.sleep(60)
        except Stopped:
            ends.append(time.monotonic())

    sleepers = [threading.Thread(target=sleep) for _ in range(5)]
    [sleeper.start() for sleeper in sleepers]
    began = time.monotonic()
    clock.stopped.set()
    [sleeper.join(60) for sleeper in sleepers]
    assert len(ends) == 5 and max(ends) - began < 30, "half of what they would have slept"


def fetch(server, folder: Path, n: int, **values: object) -> pubmed_api.PubMedClient:
    """`n` synthetic records fetched one by one, each request at the pace of the public server."""
    record = "<PubmedArticle><MedlineCitation><PMID>{}</PMID><Article/></MedlineCitation></PubmedArticle>"
    server.records = {str(pmid): record.format(pmid) for pmid in range(1, n + 1)}
    client = pubmed_api.PubMedClient(load(server, **values), response_cache.Ledger(folder / "raw.jsonl"))
    client.host.pace = Pace("paced", client.host.interval, client.host.clock)
    client.fetch(pubmed_api.cut_history(server.records))
    return client


@pytest.mark.parametrize(("limit", "key", "n"), [(3, None, times(13, 120)), (10, "secret", times(41, 400))])
def test_slow_answers_do_not_slow_the_harvest(server, tmp_path, limit, key, n):
    """Each answer takes half a second or more, and the pace is still that of the rate limit."""
    server.delay = 0.5
    with hurried(tmp_path / "locks", batch=1, silence=10.0):
        fetch(server, tmp_path, n, NCBI_API_KEY=key)
    starts = [at for at, _, _ in server.seen]
    rate = (len(starts) - 1) / (starts[-1] - starts[0])
    print(f"{len(starts)} requests, {rate:.3f} a second, {rate / limit:.1%} of {limit}")
    assert len(starts) == n and limit * 0.95 <= rate <= limit
    assert min(last - first for first, last in zip(starts, starts[limit:], strict=False)) > 0.9


@pytest.mark.parametrize("part", ["esearch", "efetch"])
@pytest.mark.parametrize("fault", ["429 seconds", "429 date"])
def test_retry_after_is_obeyed(server, tmp_path, part, fault):
    server.plan = [f"{part}:{fault}"]
    client = pubmed_api.PubMedClient(load(server), response_cache.Ledger(tmp_path / "raw.jsonl"))
    client.fetch(client.search("anything", 100))
    at = [when for when, _, _ in server.asked(part)]
    assert server.plan == [] and max(at) - min(at) >= 1.0


def test_a_retry_after_is_seconds_or_a_date():
    host = http.Host("https://example.org/", 1.0)
    assert host.seconds_until("120") == 120 and host.seconds_until(" 0.5 ") == 0.5
    assert 58 < host.seconds_until(formatdate(time.time() + 60, usegmt=True)) <= 60
    assert host.seconds_until(formatdate(time.time() - 60, usegmt=True)) == 0
    for nonsense in (None, "", "soon", "-3", "nan", "1e400", "Mon, 99 Foo 2026"):
        assert host.seconds_until(nonsense) is None


def persisting(tmp_path: Path, attempt, **patience: object) -> tuple[list[float], Exception]:
    """When `attempt` was called, by a clock that only sleeps move, and what it ended with."""
    clock, called = Idle(), []

    def counted() -> bytes:
        called.append(clock.now)
        return attempt(len(called))

    with hurried(tmp_path, **patience), pytest.raises(http.Transient) as caught:
        http.Host("http://127.0.0.1:9/", 1.0, clock, reached=True).persist(counted)
    return called, caught.value


class Idle:
    def __init__(self) -> None:
        self.now = 1e6

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_retries_back_off_with_jitter_within_their_budget(tmp_path):
    def fail(_: int) -> bytes:
        raise http.Transient("HTTP 500")

    called, error = persisting(tmp_path / "a", fail, tries=7, backoff=1.0, longest_wait=10.0, budget=1e6)
    waits = [after - before for before, after in pairwise(called)]
    assert len(waits) == 6 and str(error) == "HTTP 500"
    bounds = [1, 2, 4, 8, 10, 10]
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, bounds, strict=True))
    assert len({round(wait / most, 6) for wait, most in zip(waits, bounds, strict=True)}) > 3
    called, _ = persisting(tmp_path / "b", fail, tries=100, backoff=1.0, longest_wait=10.0, budget=30.0)
    assert 15 < called[-1] - called[0] <= 30

    def ask(_: int) -> bytes:
        raise http.Transient("HTTP 429", 20)

    called, _ = persisting(tmp_path / "c", ask, tries=100, longest_wait=60.0, budget=50.0)
    assert [round(after - before, 3) for before, after in pairwise(called)] == [20, 20]
    called, _ = persisting(tmp_path / "d", ask, tries=100, longest_wait=10.0)
    assert len(called) == 1


def test_an_answer_that_only_drips_is_given_up(tmp_path):
    """A byte now and then keeps the connection from being silent, but not from taking too long."""

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.recv(2**16)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        try:
            for _ in range(200):
                connection.sendall(b" ")
                time.sleep(0.05)
        except OSError:
            connection.close()

    with hurried(tmp_path, whole=0.5), socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener,), daemon=True).start()
        url, began = f"http://127.0.0.1:{listener.getsockname()[1]}/", time.monotonic()
        with pytest.raises(http.Transient, match="not whole after"):
            http.Host(url, 0.0, reached=True).request("GET", url)
        assert 0.4 < time.monotonic() - began < 8, "all of it would take ten seconds"


def test_biopython_builds_the_request_and_nothing_else():
    opener = Entrez._open
    request = pubmed_api.build_request(
        Entrez.efetch, db="pubmed", id="1,2", retmode="xml", api_key="key", email="e@x.org"
    )
    assert Entrez._open is opener
    assert request.full_url.startswith(pubmed_api.NCBI + "/efetch.fcgi") and "id=1%2C2" in request.full_url
    long = pubmed_api.build_request(Entrez.esearch, db="pubmed", term="x" * 2_000)
    assert long.full_url == pubmed_api.NCBI + "/esearch.fcgi" and b"x" * 2_000 in long.data


def test_answers_of_many_threads_are_all_in_the_ledger(tmp_path):
    with hurried(tmp_path):
        book = response_cache.Ledger(tmp_path / "raw.jsonl")
        (tmp_path / "raw.jsonl").write_bytes(b'{"key": "torn by a k')

        def write(me: int) -> None:
            for number in range(20):
                book.keep({"me": me, "number": number}, f"{me} {number} é\0".encode() * 500)

        workers = [threading.Thread(target=write, args=(me,)) for me in range(6)]
        [worker.start() for worker in workers]
        [worker.join() for worker in workers]
        for reader in (book, response_cache.Ledger(tmp_path / "raw.jsonl")):
            for me in range(6):
                for number in range(20):
                    assert reader.get({"me": me, "number": number})[0] == f"{me} {number} é\0".encode() * 500
        assert {"me": 6, "number": 0} not in book and book.get({"me": 6, "number": 0}) is None
