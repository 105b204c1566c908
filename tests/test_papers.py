"""Records parsed and screened."""

import io
import json
from collections import Counter

import pytest

from helpers import harvest, screening, settings, topics
from helpers.errors import CourseError
from helpers.papers import Paper, Section, clean, read_papers, write_papers
from helpers.paths import SAMPLE
from helpers.pubmed import NotPubMed, parse_pubmed
from helpers.queries import compile_query

TOPIC = topics.load_topic("autoimmune")
LONG = " ".join(["Lupus is an autoimmune disease that affects many organs."] * 8)


@pytest.fixture(scope="module")
def screened(tmp_path_factory) -> screening.Screened:
    chosen, _ = settings.load({"PAPERS_SOURCE": "sample"}, environment={})
    dropped = tmp_path_factory.mktemp("screened") / "dropped.jsonl"
    return screening.screen(harvest.collect(chosen, TOPIC).papers, TOPIC, chosen.MAX_PAPERS, dropped)


def parse(articles: str) -> list[Paper]:
    return list(parse_pubmed(io.BytesIO(f"<PubmedArticleSet>{articles}</PubmedArticleSet>".encode())))


def record(
    title: str = "Lupus", abstract: str = f"<AbstractText>{LONG}</AbstractText>", pmid: int = 1, more: str = ""
) -> str:
    return (
        f'<PubmedArticle><MedlineCitation><PMID Version="1">{pmid}</PMID><Article>'
        f"<ArticleTitle>{title}</ArticleTitle><Abstract>{abstract}</Abstract><Language>eng</Language></Article>{more}</MedlineCitation></PubmedArticle>"
    )


def paper(number: int, **fields: object) -> Paper:
    words = " ".join(f"word{number}x{n}" for n in range(80))
    given = {"title": f"Lupus, study {number}", "abstract": (Section(text=f"Lupus. {words}."),)} | fields
    return Paper(paper_id=str(number), source="PubMed", **given)


def test_every_sample_record_is_kept_or_dropped_as_written_down(screened):
    outcomes = Counter((p.source, p.paper_id, "kept") for p in screened.kept)
    outcomes += Counter((d.source, d.paper_id, d.reason) for d in screened.dropped)
    expected = json.loads((SAMPLE / "expected.json").read_text())
    assert outcomes == Counter((e["source"], e["paper_id"], e["outcome"]) for e in expected)
    assert screened.asked == len(expected) == len(screened.kept) + len(screened.dropped)
    assert set(screened.reasons) == set(screening.REASONS) - {"over_limit"}


def test_the_details_of_the_sample_are_read(screened):
    kept = {p.paper_id: p for p in screened.kept}
    assert kept["99000022"].title.startswith("CD4⁺ regulatory") and "10⁶ cells/L" in kept["99000022"].title
    assert "consume O₂ differently" in kept["99000022"].text and "CD25high" in kept["99000022"].text
    assert "expressed as J=a/b,r²." in kept["99000023"].text and "≥2.5" in kept["99000013"].text
    assert kept["99000024"].title == "" and kept["99000025"].title.startswith("Vitiligo")
    assert kept["99000002"].version == 2 and "95 invented" in kept["99000002"].text
    book = kept["99000026"]
    assert (book.journal, book.year, book.title) == (
        "Course Sample Records: the book",
        2023,
        "Guillain-Barré syndrome",
    )
    assert kept["99000001"].mesh == ("Lupus Erythematosus, Systemic", "Humans")
    assert kept["99000001"].doi == "10.5555/course.99000001" and kept["9901.00001"].version == 2
    assert [s.role for s in kept["99000001"].abstract] == ["background", "methods", "results", "conclusions"]
    assert kept["9901.00001"].licence == "CC0 metadata" and "CC0" in kept["99000001"].licence


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("10<sup>9</sup>/L", "10⁹/L"),
        ("LE<sub>min</sub>", "LEmin"),
        ("Foxp3<sup>-/-</sup> mice", "Foxp3-/- mice"),
        ("<b>CD8<sup>+</sup></b> T", "CD8⁺ T"),
        ("a<!-- no -->b", "ab"),
        ("e\u0301t\u00e9\u00a0\u200b x\u0085y", "été x y"),
        ('<m:math xmlns:m="http://www.w3.org/1998/Math/MathML"><m:msqrt><m:mi>x</m:mi></m:msqrt>'
         '<m:annotation>tex</m:annotation></m:math>', "√(x)"),
        ("p &lt; 0.05 &amp; n≥3", "p < 0.05 & n≥3"),
    ],
)  # fmt: skip
def test_inline_markup_reads_as_a_person_would_write_it(markup, text):
    (found,) = parse(record(title=markup))
    assert found.title == text == clean(text)


def test_screening_looks_at_each_mark():
    links = '<CommentsCorrectionsList><CommentsCorrections RefType="{}"/></CommentsCorrectionsList>'
    for kind, reason in (
        ("RetractionIn", "retracted"),
        ("ErratumFor", "notice"),
        ("ErratumIn", ""),
        ("CommentIn", ""),
    ):
        (found,) = parse(record(more=links.format(kind)))
        assert screening.judge(found, TOPIC)[0] == reason
    assert screening.judge(paper(1, language="fre"), TOPIC)[0] == "language"
    assert (
        screening.judge(
            paper(1, title="Stars in the Lupus constellation", abstract=(Section(text="star " * 80),)), TOPIC
        )[0]
        == "off_topic"
    )
    assert screening.judge(paper(1, mesh=("Fractures, Bone",)), TOPIC)[0] == "off_topic"


@pytest.mark.parametrize(
    "document",
    [b"", b"<html/>", b"<PubmedArticleSet>", b"<PubmedArticleSet>\x00</PubmedArticleSet>", b"{}", b"\xff\xfe<"],
)
def test_what_is_not_pubmed_is_refused(document):
    with pytest.raises(NotPubMed):
        list(parse_pubmed(io.BytesIO(document)))


def test_entities_are_neither_expanded_nor_fetched(tmp_path):
    (tmp_path / "secret").write_text("SECRET")
    head = f'<!DOCTYPE PubmedArticleSet [<!ENTITY e "BOOM"><!ENTITY f SYSTEM "{tmp_path / "secret"}">]>'
    document = f"{head}<PubmedArticleSet>{record(title='a &e; b &f; c')}</PubmedArticleSet>"
    (found,) = parse_pubmed(io.BytesIO(document.encode()))
    assert found.title == "a b c"


def test_an_entity_bomb_goes_off_nowhere():
    bomb = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 20}">' for n in range(9))
    head = f'<!DOCTYPE PubmedArticleSet [<!ENTITY e0 "BOOM">{bomb}]>'
    with pytest.raises(NotPubMed, match="amplification"):
        list(parse_pubmed(io.BytesIO(f"{head}<PubmedArticleSet>{record(title='&e9;')}</PubmedArticleSet>".encode())))


def test_a_record_without_a_pmid_is_passed_over_and_doubtful_ones_survive():
    assert parse("<PubmedArticle/><PubmedArticle><MedlineCitation><PMID/></MedlineCitation></PubmedArticle>") == []
    (found,) = parse(
        '<PubmedArticle><MedlineCitation><PMID Version="x">7</PMID><Article/></MedlineCitation></PubmedArticle>'
    )
    assert (found.paper_id, found.title, found.year, found.version) == ("7", "", None, 1)


def test_the_order_of_arrival_cannot_show(tmp_path):
    chosen, _ = settings.load({"PAPERS_SOURCE": "sample"}, environment={})
    papers = [p for p in harvest.collect(chosen, TOPIC).papers if "deleted" not in p.flags]
    for name, order in (("a", papers), ("b", papers[::-1])):
        write_papers(tmp_path / name, screening.screen(order, TOPIC, 20).kept)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert len(read_papers(tmp_path / "a")) == 20
    (tmp_path / "a").write_text('{"paper_id": "1"}\n')
    with pytest.raises(CourseError, match="no paper"):
        read_papers(tmp_path / "a")


def test_the_limit_is_kept_and_said():
    found = screening.screen([paper(n) for n in range(30)], TOPIC, 10)
    assert len(found.kept) == 10 and found.reasons == {"over_limit": 20}


def test_a_glance_misses_no_paper_of_the_topic():
    chosen, _ = settings.load({"PAPERS_SOURCE": "sample"}, environment={})
    glance, seen = topics.Glance(TOPIC), 0
    for found in harvest.collect(chosen, TOPIC).papers:
        text = " ".join([found.title, found.text, *found.mesh])
        if TOPIC.mentions(text) or TOPIC.mesh.intersection(found.mesh):
            seen += 1
            assert glance(text), found.paper_id
    assert seen > 30 and not glance("A paper about bridges of steel and their rust")
    for term in topics.all_terms(TOPIC):
        assert glance(f"On {term.rstrip('*')}, a study") and TOPIC.mentions(f"On {term.rstrip('*')}, a study")


def test_passing_over_records_changes_no_decision(screened):
    whole = screening.screen(parse_pubmed(SAMPLE / "pubmed.xml", harvest.SAMPLE_DAY), TOPIC, 300)
    quick = screening.screen(
        parse_pubmed(SAMPLE / "pubmed.xml", harvest.SAMPLE_DAY, topics.Glance(TOPIC)), TOPIC, 300
    )
    assert quick.kept == whole.kept and quick.reasons == whole.reasons
    bridges = f"<PubmedArticleSet>{record('Bridges', '<AbstractText>Steel rusts.</AbstractText>')}</PubmedArticleSet>"
    (passed,) = parse_pubmed(io.BytesIO(bridges.encode()), worth=topics.Glance(TOPIC))
    assert passed.abstract == () and screening.judge(passed, TOPIC) == ("off_topic", "no word of the topic")


def test_terms_are_told_from_their_look_alikes():
    assert TOPIC.mentions("coeliac disease and the coeliac trunk") == ["coeliac"]
    assert TOPIC.mentions("psoriasiform change, sle, Lupus anticoagulant") == []
    assert TOPIC.score(paper(1, title="IBD in chickens", abstract=(Section(text="IBD " * 80),)))[0] == 0
    assert TOPIC.diseases_of(paper(1, title="Crohn’s disease with psoriasis")) == [
        "inflammatory bowel disease",
        "psoriasis",
    ]


def test_a_wrong_topic_is_explained(tmp_path):
    with pytest.raises(CourseError, match="TOPIC='asthma'"):
        topics.load_topic("asthma")
    for text, complaint in (("{", "not JSON"), ('{"name": "x"}', "pubmed_query"), ("[]", "mistake")):
        (tmp_path / "topic.json").write_text(text)
        with pytest.raises(CourseError, match=complaint):
            topics.load_topic(str(tmp_path / "topic.json"))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ('"lupus nephritis"[tiab] AND english[la]', True),
        ("(asthma OR lupus) AND hasabstract NOT mice", True),
        ("lupus NOT nephritis", False),
        ("nephrit* 2020:2022[dp]", True),
        ("lupus[mesh]", False),
    ],
)
def test_a_query_can_be_asked_of_a_paper(query, found):
    subject = paper(1, title="Lupus nephritis in children", year=2021)
    assert compile_query(query)(subject) is found


@pytest.mark.parametrize("query", ["", "(lupus", "lupus)", "AND", "lupus AND", '"lupus', "lupus[nonsense]", '""'])
def test_a_query_that_does_not_parse_is_refused(query):
    with pytest.raises(CourseError, match="PAPERS_QUERY"):
        compile_query(query)
