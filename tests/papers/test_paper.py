"""Records parsed, all of a document or those worth it; papers written and read; queries asked of them."""

import io
import threading
import time

import pytest

from helpers.core.errors import CourseError
from helpers.core.paths import SAMPLE
from helpers.papers import arxiv_api, pubmed_xml, topic
from helpers.papers.paper import Paper, Section, bare_doi, clean_text, read_papers, write_papers
from helpers.papers.pubmed_xml import NotPubMed, parse_pubmed
from helpers.papers.query import compile_query

TOPIC = topic.load_topic("autoimmune")
HEADINGS = (
    "<MeshHeadingList><MeshHeading><DescriptorName>Lupus Nephritis</DescriptorName></MeshHeading></MeshHeadingList>"
)
LONG = " ".join(["Lupus is an autoimmune disease that affects many organs."] * 8)


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


def test_the_details_of_the_sample_are_read():
    kept = {p.paper_id: p for p in arxiv_api.read_atom(SAMPLE / "arxiv.atom", "2026-11-22") if p.version == 2}
    kept |= {p.paper_id: p for p in parse_pubmed(SAMPLE / "pubmed.xml")}
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
    assert found.title == text == clean_text(text)


@pytest.mark.parametrize(
    "document",
    [b"", b"<html/>", b"<PubmedArticleSet>", b"<PubmedArticleSet>\x00</PubmedArticleSet>", b"{}", b"\xff\xfe<"],
)
def test_what_is_not_pubmed_is_refused(document):
    with pytest.raises(NotPubMed):
        list(parse_pubmed(io.BytesIO(document)))


@pytest.mark.parametrize("worth", [None, lambda text: True], ids=["all", "worthy"])
def test_entities_are_neither_expanded_nor_fetched(tmp_path, worth):
    (tmp_path / "secret").write_text("SECRET")
    head = f'<!DOCTYPE PubmedArticleSet [<!ENTITY e "BOOM"><!ENTITY f SYSTEM "{tmp_path / "secret"}">]>'
    for title in ("a &e; b", "a &f; b"):
        document = f"{head}<PubmedArticleSet>{record(title=title)}</PubmedArticleSet>"
        with pytest.raises(NotPubMed, match=title[2:5]):
            list(parse_pubmed(io.BytesIO(document.encode()), worth=worth))


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


FAR = f"<AbstractText>{'Steel bridges rust in the rain of autumn. ' * 20}</AbstractText>"
GLANCE = topic.Glance(TOPIC)


def article(pmid: int, title: str = "Bridges", abstract: str = FAR, more: str = "", after: str = "") -> str:
    """A record with all that NLM's have in their order."""
    return (
        f'<PubmedArticle>\n<MedlineCitation Status="MEDLINE"><PMID Version="1">{pmid}</PMID><Article>'
        f"<ArticleTitle>{title}</ArticleTitle><Abstract>{abstract}</Abstract><Language>eng</Language>"
        f"<PublicationTypeList><PublicationType>Journal Article</PublicationType></PublicationTypeList></Article>"
        f"{more}</MedlineCitation><PubmedData>{after}</PubmedData></PubmedArticle>\n"
    )


def skim(body: str, head: str = '<?xml version="1.0" encoding="utf-8"?>\n', worth=GLANCE) -> list[Paper]:
    document = f"{head}<PubmedArticleSet>{body}</PubmedArticleSet>"
    return list(parse_pubmed(io.BytesIO(document.encode()), "2026-11-22", worth))


def test_only_what_is_worth_it_is_parsed(monkeypatch):
    body = article(1) + article(2, "Lupus <i>vulgaris</i> &amp; bridges", f"<AbstractText>{LONG}</AbstractText>")
    body += article(3, "[Two <sup>2</sup> &lt; bridges].") + article(
        4, abstract="<AbstractText>Short.</AbstractText>"
    )
    read = []
    monkeypatch.setattr(pubmed_xml, "read_record", lambda element, day: read.append(element.findtext(".//PMID")))
    first, third = skim(body)
    assert read == ["2", "4"]
    assert (first.paper_id, first.title, first.flags, first.abstract) == ("1", "Bridges", ("passed over",), ())
    assert (third.paper_id, third.title, third.fetched) == ("3", "Two ² < bridges", "2026-11-22")


@pytest.mark.parametrize(
    "more",
    [
        '<CommentsCorrectionsList><CommentsCorrections RefType="RetractionIn"/></CommentsCorrectionsList>',
        '<CommentsCorrectionsList><CommentsCorrections RefType="ExpressionOfConcernIn"/></CommentsCorrectionsList>',
        '<CommentsCorrectionsList><CommentsCorrections RefType="ErratumFor"/></CommentsCorrectionsList>',
        HEADINGS,
    ],
)
def test_what_bears_a_mark_or_a_heading_is_parsed(more):
    (found,) = skim(article(1, more=more))
    assert "passed over" not in found.flags and (found.flags or found.mesh)


ODD = {
    "a comment": article(1) + "<!-- </PubmedArticle> -->" + article(2) + article(3),
    "a comment in a record": article(1) + article(2, after="<!-- </PubmedData></PubmedArticle> -->") + article(3),
    "CDATA": article(1) + article(2, after="<![CDATA[</PubmedArticle>]]>") + article(3),
    "an instruction": article(1) + article(2, after="<?pmc </PubmedArticle> ?>") + article(3),
    "space in the tag": article(1) + article(2).replace("</PubmedArticle>", "</PubmedArticle >") + article(3),
    "an attribute": article(1) + article(2).replace("<PubmedArticle>", '<PubmedArticle x="1">') + article(3),
    "two languages": article(1)
    + article(2).replace("<Language>eng</Language>", "<Language>fre</Language><Language>eng</Language>")
    + article(3),
    "no space at all": "".join(line for line in (article(1) + article(2) + article(3)).splitlines()),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_documents_are_read_whole_by_the_quick_way_too(odd):
    whole, quick = skim(ODD[odd], worth=None), skim(ODD[odd])
    assert [p.paper_id for p in quick] == [p.paper_id for p in whole] == ["1", "2", "3"]
    assert [(p.title, p.language) for p in quick] == [("Bridges", "eng")] * 3


@pytest.mark.parametrize(
    "head",
    [
        "",
        "\ufeff",
        "<?xml version='1.0' encoding='UTF-8'?>",
        '<?xml version="1.0"?><!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD" "https://dtd.nlm.nih.gov/x.dtd">',
        "<!-- hello -->",
        '<?xml version="1.0" encoding="us-ascii"?>',
        '<!DOCTYPE PubmedArticleSet [<!ENTITY x "y">]>',
    ],
)
def test_any_sound_head_will_do(head):
    assert [p.paper_id for p in skim(article(1) + article(2), head)] == ["1", "2"]


@pytest.mark.parametrize("size", [1, 7, 300, 5000, 10**6])
def test_where_pieces_end_does_not_matter(size, monkeypatch):
    body = "".join(article(n) for n in range(30)) + "<DeleteCitation><PMID>5</PMID><PMID>6</PMID></DeleteCitation>"
    whole = skim(body)
    monkeypatch.setattr(pubmed_xml, "BLOCK", size)
    found = skim(body)
    assert [p.paper_id for p in found] == [p.paper_id for p in whole] == [*map(str, range(30)), "5", "6"]
    assert found == whole or size < 100, "only a head that is cut through makes the parser read all"
    assert [p.flags for p in whole[-2:]] == [("deleted",)] * 2


@pytest.mark.parametrize("damage", ["</PubmedArticleSet", "</PubmedArticle", "<i>", "\x00"])
def test_damage_anywhere_is_noticed_by_the_quick_way(damage):
    body = article(1) + article(2, after=damage) + article(3)
    with pytest.raises(NotPubMed):
        skim(body)
    with pytest.raises(NotPubMed):
        skim(article(1), worth=GLANCE, head="<x>")


def test_a_record_without_end_is_left_to_the_parser(monkeypatch):
    monkeypatch.setattr(pubmed_xml, "LONGEST", 2**16)
    monkeypatch.setattr(pubmed_xml, "BLOCK", 2**12)
    body = article(1) + article(2, abstract=f"<AbstractText>{'Steel ' * 50_000}</AbstractText>") + article(3)
    assert [p.paper_id for p in skim(body)] == ["1", "2", "3"]


def test_a_reading_given_up_leaves_nothing_running():
    before = threading.active_count()
    papers = parse_pubmed(io.BytesIO(f"<PubmedArticleSet>{article(1) * 3}".encode()), worth=GLANCE)
    next(papers)
    papers.close()
    until = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_papers_are_written_in_one_order_and_read_back(tmp_path):
    papers = [paper(2), paper(10), paper(1).model_copy(update={"source": "arXiv"})]
    for name, order in (("a", papers), ("b", papers[::-1])):
        write_papers(tmp_path / name, order)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(read_papers(tmp_path / "a"), key=lambda p: p.key) == sorted(papers, key=lambda p: p.key)
    (tmp_path / "a").write_text('{"paper_id": "1"}\n')
    with pytest.raises(CourseError, match="no paper"):
        read_papers(tmp_path / "a")


@pytest.mark.parametrize(
    "doi", ["10.1/A", "https://doi.org/10.1/a", "http://dx.doi.org/10.1/a", "doi: 10.1/a ", "10.1/a"]
)
def test_a_doi_is_one_however_it_is_written(doi):
    assert bare_doi(doi) == "10.1/a"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ('"lupus nephritis"[tiab] AND english[la]', True),
        ("(asthma OR lupus) AND hasabstract NOT mice", True),
        ("lupus NOT nephritis", False),
        ("nephrit* 2020:2022[dp]", True),
        ("nephritis[mesh]", False),
        ("Lupus Erythematosus, Systemic[mesh]", True),
        ('"lupus nephritis"[Title/Abstract]', True),
        ("CD4+[ti] AND hasabstract", True),
        ("lupus nephritis 2021[dp]", True),
    ],
)
def test_a_query_can_be_asked_of_a_paper(query, found):
    mesh = ("Lupus Erythematosus, Systemic",)
    subject = paper(1, title="CD4+ cells and lupus nephritis in children", year=2021, mesh=mesh)
    assert compile_query(query)(subject) is found


@pytest.mark.parametrize(
    "query",
    [
        "",
        "(lupus",
        "lupus)",
        "AND",
        "lupus AND",
        '"lupus',
        "lupus[nonsense]",
        '""',
        "lupus or cat",
        "*",
        "2020[dp] : 2021[dp]",
        "(" * 999,
    ],
)
def test_a_query_that_does_not_parse_is_refused(query):
    with pytest.raises(CourseError, match="PAPERS_QUERY"):
        compile_query(query)
