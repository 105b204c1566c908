"""PubMed's XML, streamed, as papers."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from lxml import etree

from helpers.papers import Paper, Section, clean

SETS = ("PubmedArticleSet", "PubmedBookArticleSet")
RECORDS = ("PubmedArticle", "PubmedBookArticle", "DeleteCitation")
RAISED = str.maketrans("0123456789+-−=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ")
LOWERED = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
RETRACTED = ("RetractionIn", "PartialRetractionIn", "RetractedandRepublishedIn", "WithdrawnIn")
NOTICES = ("RetractionOf", "PartialRetractionOf", "ErratumFor", "ExpressionOfConcernFor", "ExpressionOfConcernIn")
NOTICE_TYPES = ("Retraction of Publication", "Published Erratum", "Expression of Concern", "Retraction Notice")


class NotPubMed(ValueError):
    """Bytes that are not a whole PubMed document."""


def local(element: etree._Element) -> str:
    """The tag without its namespace; "" for comments and processing instructions."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def shifted(text: str, table: dict[int, str]) -> str:
    """10<sup>9</sup> as 10⁹: joined as plain digits it would be another number. Words stay as they are."""
    return text.translate(table) if all(ord(letter) in table for letter in text) else text


def inline(element: etree._Element) -> str:
    """The text of an element with its inline markup and formulas read as a person would write them."""
    if not len(element):
        return element.text or ""
    parts = [element.text or ""]
    for child in element:
        parts += [written(child), child.tail or ""]
    return "".join(parts)


def written(element: etree._Element) -> str:
    name = local(element)
    if name == "sup":
        return shifted(inline(element).strip(), RAISED)
    if name == "sub":
        return shifted(inline(element).strip(), LOWERED)
    if name == "math":
        return formula(element)
    return inline(element) if name else ""


def formula(element: etree._Element) -> str:
    """Presentation MathML on one line."""
    name = local(element)
    parts = [formula(child) for child in element if not local(child).startswith("annotation")]
    if not parts:
        return " " if name == "mspace" else (element.text or "").strip() if name else ""
    if name == "mfenced":
        return f"({', '.join(parts)})"
    if name == "msqrt":
        return f"√({''.join(parts)})"
    if name == "mfrac":
        return "/".join(parts)
    if name in ("msup", "mover"):
        return parts[0] + shifted("".join(parts[1:]), RAISED)
    if name in ("msub", "munder"):
        return parts[0] + shifted("".join(parts[1:]), LOWERED)
    if name in ("msubsup", "munderover") and len(parts) == 3:
        return parts[0] + shifted(parts[1], LOWERED) + shifted(parts[2], RAISED)
    return "".join(parts)


def parse_pubmed(
    source: Path | BinaryIO, fetched: str = "", worth: Callable[[str], bool] | None = None
) -> Iterator[Paper]:
    """Every record of a PubMed XML document, in its order, in constant memory; plain or gzipped.

    A deletion comes out as a Paper with the flag "deleted" and nothing else. No DTD, entity or network is used.
    `worth` looks at title, abstract and MeSH headings as one text: a record that fails it is not read further and
    comes out with the flag "passed over". In bulk files that is nearly all, and reading them would take longest.
    Raises NotPubMed where the document is cut short, is no XML, or is something else.
    """
    try:
        with open_xml(source) as file:
            events = etree.iterparse(file, tag=RECORDS, resolve_entities=False, no_network=True, load_dtd=False)
            for _, element in events:
                if element.tag == "DeleteCitation":
                    yield from (deletion(pmid, fetched) for pmid in texts(element, "PMID"))
                elif paper := read_record(element, fetched, worth):
                    yield paper
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
            if events.root.tag not in SETS:
                raise NotPubMed(f"it holds <{local(events.root)}>, not <PubmedArticleSet>")
    except etree.XMLSyntaxError as error:
        raise NotPubMed(f"it is not whole XML ({error.msg})") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise NotPubMed(f"its gzip stream is damaged ({error})") from None


@contextmanager
def open_xml(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    """`source` as a stream of XML bytes, unzipped if it begins like gzip."""
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            with gzip.GzipFile(fileobj=file) if zipped else nullcontext(file) as stream:
                yield stream
    else:
        yield source


def deletion(pmid: str, fetched: str) -> Paper:
    return Paper(paper_id=pmid.strip(), source="PubMed", title="", fetched=fetched, flags=("deleted",))


def texts(parent: etree._Element | None, path: str) -> tuple[str, ...]:
    return () if parent is None else tuple(found.text or "" for found in parent.iterfind(path))


def first(parent: etree._Element, *paths: str) -> str:
    for path in paths:
        if (found := parent.findtext(path)) and found.strip():
            return clean(found)
    return ""


def read_record(record: etree._Element, fetched: str, worth: Callable[[str], bool] | None) -> Paper | None:
    """One PubmedArticle or PubmedBookArticle; None where it has no PMID.

    Built without validation, which would cost as much as the parsing: every field is made here.
    """
    book = record.tag == "PubmedBookArticle"
    citation = record.find("BookDocument" if book else "MedlineCitation")
    article = citation if book or citation is None else citation.find("Article")
    pmid = None if citation is None else citation.find("PMID")
    if article is None or pmid is None or not (pmid.text or "").strip():
        return None
    title = read_title(article)
    languages = texts(article, "Language") or ("eng",)
    types = texts(article if book else article.find("PublicationTypeList"), "PublicationType")
    flags = read_flags(citation, types)
    abstract = article.find("Abstract")
    mesh = texts(citation.find("MeshHeadingList"), "MeshHeading/DescriptorName")
    language = "eng" if "eng" in languages else languages[0]
    paper = {
        "paper_id": pmid.text.strip(),
        "source": "PubMed",
        "title": title,
        "language": language,
        "flags": flags,
        "fetched": fetched,
        "version": int(version) if (version := pmid.get("Version", "")).isdecimal() else 1,
    }
    if worth and abstract is not None and not worth(" ".join([title, *map(inline, abstract), *mesh])):
        return Paper.model_construct(**paper | {"flags": (*flags, "passed over")})
    return Paper.model_construct(
        **paper,
        abstract=read_abstract(abstract),
        year=read_year(article, book),
        journal=first(article, "Book/BookTitle" if book else "Journal/Title"),
        mesh=mesh,
        publication_types=types,
        doi=read_doi(record, article).lower(),
        licence=first(article, "Abstract/CopyrightInformation"),
    )


def read_title(article: etree._Element) -> str:
    """The title; NLM's square brackets around a translated one are taken off."""
    element = article.find("ArticleTitle")
    title = "" if element is None else clean(inline(element))
    if title.startswith("[") and title.endswith(("]", "].")):
        return title.removesuffix(".").removeprefix("[").removesuffix("]")
    return title


def read_abstract(abstract: etree._Element | None) -> tuple[Section, ...]:
    """The sections of <Abstract>; <OtherAbstract>, in another language, is never looked at."""
    if abstract is None:
        return ()
    return tuple(
        Section.model_construct(
            label=clean(part.get("Label") or ""), category=part.get("NlmCategory") or "", text=text
        )
        for part in abstract.iterchildren("AbstractText")
        if (text := clean(inline(part)))
    )


def read_year(article: etree._Element, book: bool) -> int | None:
    date = article.find("Book/PubDate" if book else "Journal/JournalIssue/PubDate")
    text = "" if date is None else (date.findtext("Year") or date.findtext("MedlineDate") or "")
    digits = text.strip()[:4] or (article.findtext("ArticleDate/Year") or "").strip()
    return int(digits) if digits.isdecimal() else None


def read_doi(record: etree._Element, article: etree._Element) -> str:
    """The record's own DOI, never one of its references'."""
    data = record.find("PubmedData/ArticleIdList")
    for identifier in () if data is None else data:
        if identifier.get("IdType") == "doi" and identifier.text:
            return identifier.text.strip()
    for location in article.iterfind("ELocationID"):
        if location.get("EIdType") == "doi" and location.get("ValidYN") != "N" and location.text:
            return location.text.strip()
    return ""


def read_flags(citation: etree._Element, types: tuple[str, ...]) -> tuple[str, ...]:
    """retracted: the paper was; notice: it is a notice about another paper, or bears an expression of concern.

    NLM marks a retraction as a publication type, as a RetractionIn link, or both
    (https://www.nlm.nih.gov/bsd/policy/errata.html).
    """
    links = citation.find("CommentsCorrectionsList")
    kinds = () if links is None else [link.get("RefType") for link in links]
    retracted = "Retracted Publication" in types or any(kind in RETRACTED for kind in kinds)
    notice = any(kind in NOTICE_TYPES for kind in types) or any(kind in NOTICES for kind in kinds)
    return ("retracted",) * retracted + ("notice",) * notice
