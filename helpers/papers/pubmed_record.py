"""One record of PubMed's XML, read into a Paper."""

import re

from lxml import etree

from helpers.papers.markup import inline_text
from helpers.papers.paper import Paper, Section, bare_doi, clean_text

RETRACTED = ("RetractionIn", "PartialRetractionIn", "RetractedandRepublishedIn", "WithdrawnIn")
NOTICES = ("RetractionOf", "PartialRetractionOf", "ErratumFor", "ExpressionOfConcernFor", "ExpressionOfConcernIn")
NOTICE_TYPES = ("Retraction of Publication", "Published Erratum", "Expression of Concern", "Retraction Notice")
RENAMED = re.compile(r"\W*(?:retracted|withdrawn)(?: article| paper)?\s*[:\])]", re.IGNORECASE)  # by their publishers
YEAR = re.compile(r"\b(?:1[5-9]|20)\d\d\b", re.ASCII)
VERSION = re.compile(r"[1-9]\d{0,3}", re.ASCII)
ARXIV = re.compile(r"arXiv:((?:[a-z.-]+/)?\d[\d.]*)(?:v\d+)?", re.IGNORECASE)


def deleted_paper(pmid: str, fetched: str) -> Paper:
    return Paper(paper_id=pmid.strip(), source="PubMed", title="", fetched=fetched, flags=("deleted",))


def read_texts(parent: etree._Element | None, path: str) -> tuple[str, ...]:
    return () if parent is None else tuple((found.text or "").strip() for found in parent.iterfind(path))


def read_text(parent: etree._Element, path: str) -> str:
    """What the first element at `path` says; "" where there is none."""
    found = parent.find(path)
    return "" if found is None else clean_text(inline_text(found))


def read_record(record: etree._Element, fetched: str) -> Paper | None:
    """One PubmedArticle or PubmedBookArticle; None where it has no PMID.

    Built without validation, which would cost as much as the parsing: every field is made here.
    """
    book = record.tag == "PubmedBookArticle"
    citation = record.find("BookDocument" if book else "MedlineCitation")
    article = citation if book or citation is None else citation.find("Article")
    pmid = None if citation is None else citation.find("PMID")
    if article is None or pmid is None or not (pmid.text or "").strip():
        return None
    languages = read_texts(article, "Language") or ("eng",)
    types = read_texts(article if book else article.find("PublicationTypeList"), "PublicationType")
    title, journal = read_title(article), read_text(article, "Book/BookTitle" if book else "Journal/Title")
    return Paper.model_construct(
        paper_id=pmid.text.strip(),
        source="PubMed",
        title=title or (journal if book else ""),
        abstract=read_abstract(article.find("Abstract")),
        year=read_year(article, book),
        journal=journal,
        language="eng" if "eng" in languages else languages[0],
        mesh=read_texts(citation.find("MeshHeadingList"), "MeshHeading/DescriptorName"),
        publication_types=types,
        doi=bare_doi(read_doi(record, article)),
        licence=read_text(article, "Abstract/CopyrightInformation"),
        fetched=fetched,
        flags=read_flags(citation, types, title),
        version=int(found[0]) if (found := VERSION.fullmatch(pmid.get("Version", ""))) else 1,
    )


def read_title(article: etree._Element) -> str:
    return strip_brackets(read_text(article, "ArticleTitle"))


def strip_brackets(title: str) -> str:
    """A title without the square brackets that NLM puts around a translated one; "" for one that is not available."""
    inner = title.removesuffix(".").removeprefix("[").removesuffix("]")
    if not (title.startswith("[") and title.endswith(("]", "].")) and brackets_match(inner)):
        return title
    return "" if inner == "Not Available" else inner


def brackets_match(inner: str) -> bool:
    """Whether brackets around `inner` belong together: none in it closes before it opens."""
    depth = 0
    for letter in inner:
        depth += (letter == "[") - (letter == "]")
        if depth < 0:
            return False
    return True


def read_abstract(abstract: etree._Element | None) -> tuple[Section, ...]:
    """The sections of <Abstract>; <OtherAbstract>, in another language, is never looked at."""
    if abstract is None:
        return ()
    return tuple(
        Section.model_construct(
            label=clean_text(part.get("Label") or ""), category=part.get("NlmCategory") or "", text=text
        )
        for part in abstract.iterchildren("AbstractText")
        if (text := clean_text(inline_text(part)))
    )


def read_year(article: etree._Element, book: bool) -> int | None:
    """The year of the issue, else of electronic publication."""
    issue = "Book/PubDate" if book else "Journal/JournalIssue/PubDate"
    for path in (f"{issue}/Year", f"{issue}/MedlineDate", "ArticleDate/Year"):
        if found := YEAR.search(article.findtext(path) or ""):
            return int(found[0])
    return None


def read_doi(record: etree._Element, article: etree._Element) -> str:
    """The record's own DOI, never one of its references'; for a preprint of arXiv's, the one arXiv gives it."""
    identifiers = [*record.iterfind("PubmedData/ArticleIdList/*"), *article.iterfind("ArticleIdList/*")]
    places = [place for place in article.iterfind("ELocationID") if place.get("ValidYN") != "N"]
    found = [(element.get("IdType"), element.text or "") for element in identifiers]
    found += [(element.get("EIdType"), element.text or "") for element in places]
    named = (ARXIV.fullmatch(text.strip()) for kind, text in found if kind == "pii")
    own = [text for kind, text in found if kind == "doi"] + [f"10.48550/arxiv.{match[1]}" for match in named if match]
    return next((text for text in own if text.strip()), "")


def read_flags(citation: etree._Element, types: tuple[str, ...], title: str) -> tuple[str, ...]:
    """retracted: the paper was; notice: it is a notice about another paper, or bears an expression of concern.

    NLM marks a retraction as a publication type, as a RetractionIn link, or both
    (https://www.nlm.nih.gov/bsd/policy/errata.html); publishers put it before the title.
    """
    links = citation.find("CommentsCorrectionsList")
    kinds = () if links is None else [link.get("RefType") for link in links]
    marked = "Retracted Publication" in types or any(kind in RETRACTED for kind in kinds)
    notice = any(kind in NOTICE_TYPES for kind in types) or any(kind in NOTICES for kind in kinds)
    retracted = marked or (RENAMED.match(title) and not notice)
    return ("retracted",) * bool(retracted) + ("notice",) * notice
