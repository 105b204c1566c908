"""PubMed's XML, streamed, as papers."""

import gzip
import html
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from lxml import etree

from helpers.papers.markup import inline_text, local_name
from helpers.papers.paper import Paper, clean_text
from helpers.papers.pubmed_record import deleted_paper, read_record, read_texts, strip_brackets

SETS = ("PubmedArticleSet", "PubmedBookArticleSet")
RECORDS = ("PubmedArticle", "PubmedBookArticle", "DeleteCitation")
BLOCK = 2**19  # bytes read at a time; unzipped about 3 MB
MOST = 2**23  # bytes unzipped at a time, whatever a file pretends to hold
LONGEST = 2**26  # bytes; a record that has not ended by then is left to the parser
SAFE = {"resolve_entities": False, "no_network": True, "load_dtd": False}
SAFE |= {"remove_comments": True, "remove_pis": True}
PARSER = etree.XMLParser(**SAFE)

# How a document must begin for records to be passed over unparsed. NLM's files and answers do.
PLAIN = re.compile(
    rb"""(?:\xef\xbb\xbf)?(?:<\?xml\s+version=["']1.0["'](?:\s+encoding=["'](?i:utf-8)["'])?\s*\?>)?\s*"""
    rb"""(?:<!DOCTYPE\s+PubmedArticleSet\s[^<>\[\]]*>)?\s*<PubmedArticleSet>"""
)
BEGINNING = re.compile(
    rb'\s*<PubmedArticle>\s*<MedlineCitation[^<>]*>\s*<PMID(?: Version="([1-9]\d?)")?>(\d+)</PMID>\s*'
    rb"(?:<Date(Completed|Revised)>(?:\s*<(?:Year|Month|Day)>\d+</\w+>)*\s*</Date\w+>\s*)*<Article[ >]"
)
ENDING = b"</PubmedArticle>"
CLOSED = (b"</MedlineCitation>", b"</PubmedData>")  # what can stand before it
ELEMENTS = b"ArticleTitle Abstract Language PublicationTypeList CommentsCorrectionsList MeshHeadingList"
TAGS = {name: (b"<%b>" % name, b"</%b>" % name) for name in ELEMENTS.split()}
MARKS = (b"retract", b"withdrawn", b"erratumfor", b"published erratum", b"concern")  # retracted, or a notice
MARKUP = re.compile(rb"<[^<>]*>")
HEADING = re.compile(rb"<DescriptorName[^<>]*>([^<]*)")
SHORT = 80  # words; an abstract that may be too short to keep is read, for the right reason to drop it
LONG = 1000  # letters; an abstract of so many has more words than that
UNREAD = Paper(paper_id="", source="PubMed", title="")


class NotPubMed(ValueError):
    """Bytes that are not a whole PubMed document."""


def parse_pubmed(
    source: Path | BinaryIO, fetched: str = "", worth: Callable[[str], bool] | None = None, threads: bool = True
) -> Iterator[Paper]:
    """Every record of a PubMed XML document, in its order, in constant memory; plain or gzipped.

    A deletion comes out as a Paper with the flag "deleted" and nothing else. No DTD, entity or network is used.
    `worth` looks at title, abstract and MeSH headings as one text. A record that fails it, or has no abstract, need
    not be parsed and then has only id, version, title, language, and, if it failed, the flag "passed over". In bulk
    files that is nearly all, and a thread reads ahead unless `threads` is False.
    Raises NotPubMed where the document is cut short, is no XML, or is something else.
    """
    try:
        pieces = read_bytes(source)
        yield from read_worthy(pieces, fetched, worth, threads) if worth else read_all(pieces, fetched)
    except etree.XMLSyntaxError as error:
        raise NotPubMed(f"it is not whole XML ({error.msg})") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise NotPubMed(f"its gzip stream is damaged ({error})") from None


def read_bytes(source: Path | BinaryIO) -> Iterator[bytes]:
    """The bytes of `source` in pieces, unzipped if it begins like gzip."""
    with Path(source).open("rb") if isinstance(source, str | Path) else nullcontext(source) as file:
        head = file.read(BLOCK)
        pieces = chain([head], iter(lambda: file.read(BLOCK), b""))
        yield from unzip_stream(pieces) if head.startswith(b"\x1f\x8b") else pieces


def unzip_stream(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The content of a gzip stream of one or several members.

    The gzip module would take it in small steps, each of which waits for Python. Raises EOFError if it is cut short.
    """
    member = zlib.decompressobj(wbits=31)
    for piece in pieces:
        while piece:
            if member.eof:
                member = zlib.decompressobj(wbits=31)
            yield member.decompress(piece, MOST)
            piece = member.unconsumed_tail or member.unused_data.lstrip(b"\0")
    yield member.flush()
    if not member.eof:
        raise EOFError("it ends too early")


def read_all(pieces: Iterable[bytes], fetched: str) -> Iterator[Paper]:
    """Every record of the document, parsed."""
    parser = etree.XMLPullParser(("end",), tag=RECORDS, **SAFE)
    for piece in pieces:
        parser.feed(piece)
        for _, element in parser.read_events():
            yield from read_element(element, fetched)
            element.clear()
            while element.getprevious() is not None:
                del element.getparent()[0]
    root = parser.close()
    if root.tag not in SETS:
        raise NotPubMed(f"it holds <{local_name(root)}>, not <PubmedArticleSet>")


def read_element(element: etree._Element, fetched: str) -> Iterator[Paper]:
    if (entity := next(element.iter(etree.Entity), None)) is not None:
        raise NotPubMed(f"its entity {entity.text} is explained in another document")
    if element.tag == "DeleteCitation":
        yield from (deleted_paper(pmid, fetched) for pmid in read_texts(element, "PMID"))
    elif paper := read_record(element, fetched):
        yield paper


def read_worthy(
    pieces: Iterator[bytes], fetched: str, worth: Callable[[str], bool], threads: bool
) -> Iterator[Paper]:
    """As `read_all`, but parsed are only the records that are `worth` it or in doubt.

    All bytes go through a parser that builds nothing, so that damage is noticed anywhere. They are cut at the ends of
    records; where a record turns out not to be whole, the rest of the document is left to `read_all`.
    """
    head = next(pieces, b"")
    plain = PLAIN.match(head)
    if not plain:
        yield from read_all(chain([head], pieces), fetched)
        return
    pieces = check_wellformed(chain([head], pieces))
    pieces = read_ahead(pieces) if threads else pieces
    left = next(pieces)[plain.end() :]
    for piece in chain([b""], pieces):
        *records, left = (left + piece).split(ENDING)
        for number, record in enumerate(records):
            if paper := pass_over(record, fetched, worth):
                yield paper
                continue
            try:
                root = etree.fromstring(plain[0] + record + ENDING + b"</PubmedArticleSet>", PARSER)
            except etree.XMLSyntaxError:
                left = ENDING.join([*records[number:], left])
                break
            for element in root.iter(RECORDS):
                yield from read_element(element, fetched)
        else:
            if len(left) < LONGEST:
                continue
        break
    yield from read_all(chain([plain[0] + left], pieces), fetched)


def check_wellformed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """`pieces`, each after a parser has found nothing wrong in it. Raises XMLSyntaxError."""

    class Nothing:
        def close(self) -> None:
            pass

    parser = etree.XMLParser(target=Nothing(), **SAFE)
    for piece in pieces:
        parser.feed(piece)
        yield piece
    parser.close()


def read_ahead(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """`pieces`, the next few made by a thread meanwhile: unzipping and checking leave Python free."""
    with ThreadPoolExecutor(1) as reader:
        coming = deque(reader.submit(next, pieces, None) for _ in range(3))
        while (piece := coming.popleft().result()) is not None:
            coming.append(reader.submit(next, pieces, None))
            yield piece


def pass_over(record: bytes, fetched: str, worth: Callable[[str], bool]) -> Paper | None:
    """The paper, if the raw record bears no mark that screening must know, and has no abstract or none `worth` it.

    Elements are looked for in the order of NLM's DTD; a record in another order is not passed over.
    """
    begun = BEGINNING.match(record)
    if not begun or not record[-40:].rstrip().endswith(CLOSED):
        return None
    title, place = find_element(record, b"ArticleTitle", begun.end())
    abstract, place = find_element(record, b"Abstract", place)
    language, place = find_element(record, b"Language", place)
    types, place = find_element(record, b"PublicationTypeList", place)
    stop = record.find(b"</MedlineCitation>", place)
    if not types or stop < 0 or record.find(b"<MedlineCitation", stop) >= 0 or (b"!" in record and b"<!" in record):
        return None
    rest = record[place:stop]
    links, _ = find_element(rest, b"CommentsCorrectionsList", 0)
    headings, _ = find_element(rest, b"MeshHeadingList", 0)
    told = (title + types + links).lower()
    if any(mark in told for mark in MARKS) or len(language) != 3:
        return None
    if language != b"eng" and record.count(b"<Language>") != 1:
        return None
    title = parse_title(title) if b"<" in title else strip_markup(title)
    if title is None or (not abstract and record.find(b"<Abstract", 0, stop) >= 0):
        return None
    if abstract:
        text = strip_markup(abstract.partition(b"<CopyrightInformation")[0].replace(b"</AbstractText>", b" "))
        if b"<?" in abstract or (len(text) < LONG and len(text.split()) <= SHORT):
            return None
        named = map(strip_markup, HEADING.findall(headings)) if headings else ()
        if worth(" ".join([title, text, *named])):
            return None
    return UNREAD.model_copy(
        update={
            "paper_id": begun[2].decode(),
            "title": strip_brackets(clean_text(title)),
            "language": language.decode(),
            "fetched": fetched,
            "flags": ("passed over",) if abstract else (),
            "version": int(begun[1] or 1),
        }
    )


def find_element(record: bytes, name: bytes, start: int) -> tuple[bytes, int]:
    """What the first element of this name after `start` holds, and where it ends; b"" and `start` without one."""
    opening, closing = TAGS[name]
    begin = record.find(opening, start)
    if begin < 0:
        return b"", start
    end = record.find(closing, begin)
    return record[begin + len(opening) : end], end


def parse_title(raw: bytes) -> str | None:
    """The text of a title with markup; None where it cannot be read on its own."""
    try:
        return inline_text(etree.fromstring(b"<ArticleTitle>%b</ArticleTitle>" % raw, PARSER))
    except etree.XMLSyntaxError:
        return None


def strip_markup(raw: bytes) -> str:
    """The text of raw XML without its markup."""
    text = MARKUP.sub(b"", raw).decode()
    return html.unescape(text) if "&" in text else text
