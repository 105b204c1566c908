"""Hard records, written by hand: each is kept or dropped as a careful librarian would do it, and read to the letter.

golden/expected.json says for every record of the two files beside it what becomes of it, why, and where it
matters what its fields hold: the field itself, "sections" (label, category, text), "roles", and of title and abstract
together "holds", "lacks" (pieces of text) and "matches" (patterns). Records with the same "group" must stay in their
order; all others may come in any.
"""

import gzip
import io
import json
import random
import re
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
from support.hard_records import ARXIV, DAY, GOLDEN, PUBMED, TOPIC

from helpers.core.errors import CourseError
from helpers.papers import arxiv_api, pubmed_files, topic
from helpers.papers.paper import Paper
from helpers.papers.pubmed_xml import NotPubMed, parse_pubmed
from helpers.papers.screening import Screened, screen_papers

EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
RECORDS = {record["name"]: record for record in EXPECTED["records"]}
JUDGED = [record for record in RECORDS.values() if record["outcome"] not in ("deletion", "unread")]
ORDERS = 12


def write_files(folder: Path, pubmed: list[list[str]], arxiv: list[list[str]]) -> None:
    """Each list of names as one file; every second one of PubMed's is gzipped."""
    folder.mkdir()
    for number, names in enumerate(pubmed):
        body, path = PUBMED.of(*names), folder / f"pubmed{number:04}.xml"
        path = path.with_suffix(".xml.gz") if number % 2 else path
        path.write_bytes(gzip.compress(body) if number % 2 else body)
    for number, names in enumerate(arxiv):
        (folder / f"arxiv{number}.atom").write_bytes(ARXIV.of(*names))


def screen_files(folder: Path, worth: topic.Glance | None = None, arxiv_first: bool = False) -> tuple:
    """What screening makes of a folder: (Screened, its drops as {(source, paper id, title, reason): how many})."""
    pages = chain.from_iterable(arxiv_api.read_atom(path, DAY) for path in sorted(folder.glob("*.atom")))
    streams = [pubmed_files.stream_papers(folder, worth, DAY), pages]
    dropped = folder / "dropped.jsonl"
    papers = chain.from_iterable(streams[::-1] if arxiv_first else streams)
    screened = screen_papers(papers, TOPIC, 10_000, dropped, frozenset(EXPECTED["excluded"]))
    drops = [json.loads(line) for line in dropped.read_text(encoding="utf-8").splitlines()]
    return screened, Counter((d["source"], d["paper_id"], d["title"], d["reason"]) for d in drops)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> tuple[Screened, Counter]:
    folder = tmp_path_factory.mktemp("golden") / "files"
    write_files(folder, [list(PUBMED.pieces)], [list(ARXIV.pieces)])
    return screen_files(folder)


@pytest.fixture(scope="module")
def papers(tmp_path_factory) -> dict[str, list[Paper]]:
    """Each record read by itself."""
    page = tmp_path_factory.mktemp("page") / "page.atom"
    read = {name: list(parse_pubmed(io.BytesIO(PUBMED.of(name)), DAY)) for name in PUBMED.pieces}
    for name in ARXIV.pieces:
        page.write_bytes(ARXIV.of(name))
        read[name] = list(arxiv_api.read_atom(page, DAY))
    return read


def plain(paper: Paper) -> Paper:
    return paper.model_copy(update={"flags": tuple(flag for flag in paper.flags if flag != "instructions")})


def test_every_record_in_the_files_is_labelled_and_every_label_has_its_record():
    assert {*PUBMED.pieces, *ARXIV.pieces} == set(RECORDS)
    assert len(RECORDS) == len(EXPECTED["records"]) == len(PUBMED.pieces) + len(ARXIV.pieces) >= 80


@pytest.mark.parametrize("name", RECORDS)
def test_each_record_is_kept_or_dropped_as_labelled(name, outcome, papers):
    (screened, drops), record = outcome, RECORDS[name]
    key = (record["source"], record["paper_id"])
    same = [other for other in JUDGED if (other["source"], other["paper_id"]) == key]
    wanted = Counter(other["outcome"] for other in same)
    got = Counter(kept_or_dropped(key, screened, drops))
    told = f"{name}: expected {record['outcome']} ({record['why']})"
    assert got == wanted, f"{told}; of the records {key} {dict(wanted)} were expected, got {dict(got)}"
    if record["outcome"] == "kept":
        (kept,) = (paper for paper in screened.kept if paper.key == key)
        assert plain(kept) == papers[name][0], f"{told}; got another record of this id: {kept.title[:80]!r}"
    elif record["outcome"] not in ("deletion", "unread"):
        title = papers[name][0].title
        assert (*key, title, record["outcome"]) in drops, f"{told}; got {[drop for drop in drops if key == drop[:2]]}"


def kept_or_dropped(key: tuple[str, str], screened: Screened, drops: Counter) -> list[str]:
    reasons = [drop[3] for drop in drops.elements() if drop[:2] == key]
    return ["kept" for paper in screened.kept if paper.key == key] + reasons


@pytest.mark.parametrize("name", [name for name, record in RECORDS.items() if "fields" in record])
def test_each_record_is_read_to_the_letter(name, outcome, papers):
    fields = dict(RECORDS[name]["fields"])
    assert len(papers[name]) == 1, f"{name}: expected one record, got {len(papers[name])}"
    (paper,) = papers[name]
    kept = {p.key: p for p in outcome[0].kept}.get(paper.key, paper)
    text = f"{paper.title}\n{paper.text}"
    shown = text if len(text) < 400 else f"{paper.title[:100]} … {text[-300:]}"
    for piece in fields.pop("holds", ()):
        assert piece in text, f"{name}: expected {piece!r} in it, got {shown!r}"
    for piece in fields.pop("lacks", ()):
        assert piece not in text, f"{name}: {piece!r} should not be in it, got {shown!r}"
    for pattern in fields.pop("matches", ()):
        assert re.search(pattern, text), f"{name}: expected what matches {pattern!r}, got {shown!r}"
    got = json.loads(kept.model_dump_json()) | {
        "sections": [[s.label, s.category, s.text] for s in paper.abstract],
        "roles": [section.role for section in paper.abstract],
    }
    for field, value in fields.items():
        assert got[field] == value, f"{name}: expected {field} {value!r}, got {got[field]!r}"


def test_only_text_that_speaks_to_a_model_is_flagged(outcome):
    flagged = {paper.key for paper in outcome[0].kept if "instructions" in paper.flags}
    wanted = {(r["source"], r["paper_id"]) for r in JUDGED if "instructions" in r.get("fields", {}).get("flags", ())}
    assert flagged == wanted, f"not flagged: {wanted - flagged}; flagged without need: {flagged - wanted}"


def test_asked_is_kept_and_dropped(outcome):
    screened, drops = outcome
    assert screened.asked == len(JUDGED) == len(screened.kept) + drops.total()
    assert Counter(screened.reasons) == Counter(reason for *_, reason in drops.elements())
    wanted = Counter(r["outcome"] for r in JUDGED) - Counter(kept=len(screened.kept))
    assert Counter(screened.reasons) == wanted


@pytest.mark.parametrize("seed", range(ORDERS))
def test_the_order_of_files_and_records_does_not_matter(seed, outcome, tmp_path):
    """Records in any order over several files, arXiv first or last: the same papers, the same drops."""
    chance = random.Random(seed)
    names = shuffled(list(PUBMED.pieces), chance)
    cuts = sorted(chance.sample(range(1, len(names)), 4))
    files = [names[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    preprint_names = shuffled(list(ARXIV.pieces), chance)
    half = len(preprint_names) // 2
    write_files(tmp_path / "files", files, [preprint_names[:half], preprint_names[half:]])
    got = screen_files(tmp_path / "files", arxiv_first=chance.random() < 0.5)
    assert_same(got, outcome)


def shuffled(names: list[str], chance: random.Random) -> list[str]:
    """`names` in random order, those of one group among themselves in their old one."""
    order = chance.sample(names, len(names))
    for group in {RECORDS[name]["group"] for name in names if "group" in RECORDS[name]}:
        members = iter([name for name in names if RECORDS[name].get("group") == group])
        order = [next(members) if RECORDS[name].get("group") == group else name for name in order]
    return order


def assert_same(got: tuple[Screened, Counter], outcome: tuple[Screened, Counter]) -> None:
    lost = {paper.key for paper in outcome[0].kept} ^ {paper.key for paper in got[0].kept}
    assert not lost, f"kept in one order and not in the other: {sorted(lost)}"
    changed = [
        (a.key, a.title[:60], b.title[:60]) for a, b in zip(got[0].kept, outcome[0].kept, strict=True) if a != b
    ]
    assert not changed, f"kept, but read otherwise: {changed}"
    assert got[1] == outcome[1], f"dropped otherwise: {(got[1] - outcome[1], outcome[1] - got[1])}"


def test_a_quick_look_in_bulk_files_changes_nothing(outcome, tmp_path):
    """Records that are passed over unparsed would all have been dropped, and for the same reasons."""
    write_files(tmp_path / "files", [list(PUBMED.pieces)], [list(ARXIV.pieces)])
    assert_same(screen_files(tmp_path / "files", topic.Glance(TOPIC)), outcome)


@pytest.mark.parametrize("promised", [150, 151, 9_000])
def test_a_page_of_arxiv_gives_each_paper_once_however_many_the_search_found(promised, tmp_path):
    page, ids = tmp_path / "page.atom", [f"9901.{number:05}" for number in range(150)]
    entries = [ARXIV.pieces["patients-withdrawn"].replace(RECORDS["patients-withdrawn"]["paper_id"], n) for n in ids]
    page.write_text("".join([re.sub(r"(totalResults>)\d+", rf"\g<1>{promised}", ARXIV.head), *entries, ARXIV.foot]))
    got = [paper.paper_id for paper in arxiv_api.read_atom(page, DAY)]
    assert got == ids, f"{len(got)} papers, {len(set(got))} different"


DOCTYPE = re.search(r"<!DOCTYPE[^>]*>", PUBMED.head)[0].encode()


def whole() -> bytes:
    return PUBMED.of("book-chapter", "right-to-left", "cdata")


def damaged(old: bytes, new: bytes) -> bytes:
    assert old in whole()
    return whole().replace(old, new, 1)


BOMB = b"".join(b'<!ENTITY e%d "%s">' % (n + 1, b"&e%d;" % n * 20) for n in range(9))
DAMAGED = {
    "nothing at all": b"",
    "a byte order mark alone": b"\xef\xbb\xbf",
    "an HTML error page": b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>",
    "JSON": b'{"error":"API rate limit exceeded"}',
    "another kind of answer": b"<eSearchResult><Count>0</Count></eSearchResult>",
    "a single record": whole()[whole().index(b"<PubmedArticle>") : whole().index(b"</PubmedArticle>") + 16],
    "a comment before a single record": b"<!-- x --><PubmedArticle></PubmedArticle>",
    "another namespace": damaged(b"<PubmedArticleSet>", b'<PubmedArticleSet xmlns="urn:other">'),
    "U+0000 in a title": damaged(b"Heel pain", b"Heel\x00pain"),
    "U+0000 as a reference": damaged(b"</PublisherName>", b"&#0;</PublisherName>"),
    "a control character": damaged(b"Heel pain", b"Heel\x0bpain"),
    "a lone surrogate as a reference": damaged(b"</PublisherName>", b"&#xD83D;</PublisherName>"),
    "a lone surrogate as bytes": damaged(b"Heel pain", b"Heel\xed\xa0\xbdpain"),
    "a character that is none": damaged(b"Heel pain", "Heel\uffffpain".encode()),
    "Latin-1 that says it is UTF-8": damaged(b"Heel pain", "Heel p\u00e4in".encode("latin-1")),
    "an encoding that does not exist": damaged(b'encoding="utf-8"', b'encoding="utf-9"'),
    "an entity that nobody declared": damaged(b"</PublisherName>", b"&nbsp;</PublisherName>").replace(DOCTYPE, b""),
    "an entity bomb": b"<!DOCTYPE PubmedArticleSet [<!ENTITY e0 'BOOM'>%s]><PubmedArticleSet>&e9;</PubmedArticleSet>"
    % BOMB,
    "markup that is not closed": damaged(b"</ArticleTitle>", b"<i></ArticleTitle>"),
    "cut within a record": whole()[: len(whole()) // 2],
    "cut before the last tag": whole()[: whole().rindex(b"</")],
    "two documents in one": whole() + whole(),
    "text after the end": whole() + b"Rate exceeded.",
    "a hundred thousand open tags": b"<PubmedArticleSet>" + b"<b>" * 100_000,
}


@pytest.mark.parametrize("quick", [False, True], ids=["every record", "a quick look"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_document_is_refused(damage, quick, tmp_path):
    """With NotPubMed; and screening, which has read what came before the damage, leaves no list of drops."""
    worth, dropped = topic.Glance(TOPIC) if quick else None, tmp_path / "dropped.jsonl"
    with pytest.raises(NotPubMed):
        screen_papers(parse_pubmed(io.BytesIO(DAMAGED[damage]), DAY, worth), TOPIC, 100, dropped)
    assert list(tmp_path.iterdir()) == []


ZIPPED = gzip.compress(PUBMED.of(*PUBMED.pieces), mtime=0)
DAMAGED_GZIP = {
    "two bytes": ZIPPED[:2],
    "cut in its header": ZIPPED[:9],
    "cut in its middle": ZIPPED[: len(ZIPPED) // 2],
    "cut in its check sum": ZIPPED[:-5],
    "a wrong check sum": ZIPPED[:-8] + b"\0\0\0\0" + ZIPPED[-4:],
    "a wrong method": ZIPPED[:2] + b"\x07" + ZIPPED[3:],
    "a byte turned round": ZIPPED[:5000] + bytes([ZIPPED[5000] ^ 255]) + ZIPPED[5001:],
    "zeros in its middle": ZIPPED[:9000] + bytes(500) + ZIPPED[9500:],
    "something after its end": ZIPPED + b"Rate exceeded.",
}


@pytest.mark.parametrize("damage", DAMAGED_GZIP)
def test_a_damaged_gzip_file_is_refused_by_name(damage, tmp_path):
    (tmp_path / "pubmed0001.xml.gz").write_bytes(DAMAGED_GZIP[damage])
    with pytest.raises(CourseError, match=r"pubmed0001\.xml\.gz cannot be read as PubMed XML"):
        list(pubmed_files.stream_papers(tmp_path, fetched=DAY))


SOUND = {
    "a byte order mark": b"\xef\xbb\xbf" + whole(),
    "UTF-16": whole().decode().replace('encoding="utf-8"', 'encoding="utf-16"').encode("utf-16"),
    "ASCII with references": whole().decode().encode("ascii", "xmlcharrefreplace").replace(b"utf-8", b"us-ascii"),
    "lines that end as on Windows": whole().replace(b"\n", b"\r\n"),
    "no line breaks": re.sub(rb">\s*\n\s*<", b"><", whole()),
    "no DOCTYPE": whole().replace(DOCTYPE, b""),
    "the DOCTYPE of 2019": whole().replace(b"pubmed_260101", b"pubmed_190101").replace(b"https:", b"http:"),
    "no declaration": whole().split(b"\n", 1)[1],
    "a set of books": whole().replace(b"PubmedArticleSet", b"PubmedBookArticleSet"),
}


@pytest.mark.parametrize("quick", [False, True], ids=["every record", "a quick look"])
@pytest.mark.parametrize("form", SOUND)
def test_a_sound_document_is_read_in_any_form(form, quick, papers):
    worth = topic.Glance(TOPIC) if quick else None
    wanted = [papers[name][0] for name in ("book-chapter", "right-to-left", "cdata")]
    assert list(parse_pubmed(io.BytesIO(SOUND[form]), DAY, worth)) == wanted


class Trickle(io.BytesIO):
    """A stream that gives few bytes at a time, as a network or a pipe may."""

    def __init__(self, body: bytes, most: int):
        super().__init__(body)
        self.most = most

    def read(self, size: int = -1) -> bytes:
        return super().read(min(size, self.most) if size > 0 else self.most)


@pytest.mark.parametrize("quick", [False, True], ids=["every record", "a quick look"])
@pytest.mark.parametrize("most", [1, 17, 1_009, 40_009])
def test_where_the_stream_is_cut_into_pieces_does_not_matter(most, quick, tmp_path):
    body, worth = PUBMED.of(*list(PUBMED.pieces)[:: 40 if most == 1 else 1]), topic.Glance(TOPIC) if quick else None
    whole, cut = (tmp_path / "whole.jsonl"), (tmp_path / "cut.jsonl")
    wanted = screen_papers(parse_pubmed(io.BytesIO(body), DAY), TOPIC, 10_000, whole)
    got = screen_papers(parse_pubmed(Trickle(body, most), DAY, worth), TOPIC, 10_000, cut)
    assert got.kept == wanted.kept and got.reasons == wanted.reasons and wanted.kept


def test_a_gzip_file_of_two_members_is_read_whole(tmp_path):
    body = PUBMED.of(*PUBMED.pieces)
    (tmp_path / "one.xml").write_bytes(body)
    (tmp_path / "two.xml.gz").write_bytes(gzip.compress(body[:70_000]) + gzip.compress(body[70_000:]))
    one, two = (list(parse_pubmed(tmp_path / name, DAY)) for name in ("one.xml", "two.xml.gz"))
    assert one == two and len(one) > 100


@pytest.mark.parametrize("quick", [False, True], ids=["every record", "a quick look"])
def test_an_entity_from_outside_is_not_lost_in_silence(quick):
    """IL-1&beta; without its last letter is another molecule: the letter is there, or the document is refused."""
    body = PUBMED.of("cdata", "hostile-title").replace(b"&lt;script&gt;", b"IL-1&beta;")
    try:
        read = list(parse_pubmed(io.BytesIO(body), DAY, topic.Glance(TOPIC) if quick else None))
    except NotPubMed:
        return
    assert "IL-1β" in read[1].title, f"expected IL-1β in the title or NotPubMed, got {read[1].title!r}"
