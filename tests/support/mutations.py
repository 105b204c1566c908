"""Documents mutated by chance, each a pure function of its number."""

import gzip
import random
import re
from typing import NamedTuple

from helpers.core.paths import SAMPLE
from support.hard_records import ARXIV, PUBMED

RECORD = re.compile(r"^  <(Pubmed(?:Book)?Article|DeleteCitation|entry)>.*?</\1>\n?", re.MULTILINE | re.DOTALL)


def sampled(name: str) -> list[str]:
    return [match[0] for match in RECORD.finditer((SAMPLE / name).read_text(encoding="utf-8"))]


RECORDS = [*PUBMED.pieces.values(), *sampled("pubmed.xml")]
ENTRIES = [*ARXIV.pieces.values(), *sampled("arxiv.atom")]
BOMB = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 20}">' for n in range(9))
VALUES = (
    ("", " ", "0", "-1", "3", "70", "999999999", "1" * 12, "9" * 5_000, "²", "٣٤", "１９９９", "1e309", "nan"),
    ("2020 Winter", "2020-13-45T99:99:99Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "2021-03-01"),
    (
        "http://arxiv.org/abs/",
        "http://arxiv.org/abs/v2",
        "https://arxiv.org/abs/9901.00001v" + "9" * 5_000,
        "10.5555/",
    ),
    ("[", "[]", "[].", "{}", "%s", "\u202e", "lupus " * 5_000, "x" * 200_000, "\u0301" * 3_000, "ﷺ" * 500, "ger"),
)
STRANGE = (
    *("&undeclared;", "&#0;", "&#xD800;", "&#x110000;", "&#xFFFE;", "&#38;#38;", "&", "&lt", "&#", "&lt;b&gt;"),
    *("<![CDATA[", "]]>", "<![CDATA[</PubmedArticle>]]>", "<!-- </PubmedArticle> -->", "<!-- -- -->", "<!-- x -->"),
    *("</PubmedArticle>", "<PubmedArticle>", "</entry>", "<PMID>1</PMID>", "<sup>9</sup>", "<a:b xmlns:a=''/>", "\0"),
    *("<?xml version='1.0'?>", "<?x ?>", "<!DOCTYPE x>", "<x/>", "<b>" * 300, "<i>" * 100 + "</i>" * 100),
    *("\x1b", "\ufffe", "\ufeff", "\u2028", "\x85", "\u200b", "<Language>eng</Language>", "<Abstract>", "lupus"),
)
TAG, ATTRIBUTE, TEXT = re.compile(rb"</?([A-Za-z:]+)"), re.compile(rb'="([^"]*)"'), re.compile(rb">([^<>]+)<")
COUNTED = re.compile(rb"(?:Results>|Index>|PerPage>|Count>|RetMax>|Version=\"|Year>|abs/[\d.]+v)(\d+)")
LEAF = re.compile(rb"<([A-Za-z:]+)(?:\s[^<>]*)?>[^<>]*</")


class Document(NamedTuple):
    kind: str  # pubmed, arxiv, search or archive (a file of PubMed's, gzipped)
    body: bytes
    mutations: list[str]


def document(number: int) -> Document:
    """Mutated document number `number`."""
    chance = random.Random(number)
    kind = chance.choices(("pubmed", "arxiv", "search", "archive"), (50, 30, 10, 10))[0]
    body, names = original(kind, chance).encode(), []
    for mutate in chance.choices(MUTATIONS, k=chance.choice((1, 1, 1, 1, 2, 5))):
        body = mutate(body, chance)
        names.append(mutate.__name__)
    if kind == "archive":
        body = gzip.compress(body, 1, mtime=0)
        if chance.random() < 0.7:
            mutate = chance.choice((flip_bytes, cut, cut_out, double))
            body = body[:2] + mutate(body[2:], chance)
            names.append(f"{mutate.__name__} of gzip")
    return Document(kind, body, names)


def original(kind: str, chance: random.Random) -> str:
    if kind == "search":
        n = chance.choice((0, 1, 7, 200))
        ids = "".join(f"<Id>{99_000_000 + place}</Id>" for place in range(n))
        head = '<?xml version="1.0" encoding="UTF-8" ?>\n<eSearchResult>\n'
        counts = f"<Count>{n}</Count><RetMax>{n}</RetMax><RetStart>0</RetStart>\n<WebEnv>M_1</WebEnv>\n"
        return f"{head}{counts}<IdList>{ids}</IdList></eSearchResult>\n"
    whole, pieces = (ARXIV, ENTRIES) if kind == "arxiv" else (PUBMED, RECORDS)
    chosen = chance.sample(pieces, chance.choice((1, 2, 3, 5)))
    head = re.sub(r"(totalResults>)\d+", rf"\g<1>{len(chosen)}", whole.head)
    return "".join([head, *chosen, whole.foot])


def flip_bytes(body: bytes, chance: random.Random) -> bytes:
    changed = bytearray(body)
    for place in chance.choices(range(len(body)), k=chance.choice((1, 3, 30))) if body else ():
        changed[place] = chance.choice((changed[place] ^ (1 << chance.randrange(8)), chance.randrange(256)))
    return bytes(changed)


def span(body: bytes, chance: random.Random, longest: int = 2_000) -> tuple[int, int]:
    start = chance.randrange(len(body) + 1)
    return start, min(len(body), start + chance.randrange(1, longest))


def cut(body: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(body) + 1)
    return body[:place] if chance.random() < 0.8 else body[place:]


def cut_out(body: bytes, chance: random.Random) -> bytes:
    start, stop = span(body, chance)
    return body[:start] + body[stop:]


def double(body: bytes, chance: random.Random) -> bytes:
    start, stop = span(body, chance)
    return body[:stop] + body[start:stop] * chance.choice((1, 1, 20)) + body[stop:]


def swap(body: bytes, chance: random.Random) -> bytes:
    a, b, c, d = sorted(chance.randrange(len(body) + 1) for _ in range(4))
    return body[:a] + body[c:d] + body[b:c] + body[a:b] + body[d:]


def elements(body: bytes) -> list[tuple[int, int]]:
    """[start, stop) of every line that is one whole element."""
    return [match.span() for match in re.finditer(rb"^ *<(\w+)\b[^\n]*</\1>\n", body, re.MULTILINE)]


def drop_element(body: bytes, chance: random.Random) -> bytes:
    start, stop = chance.choice(elements(body) or [(0, 0)])
    return body[:start] + body[stop:]


def move_element(body: bytes, chance: random.Random) -> bytes:
    start, stop = chance.choice(elements(body) or [(0, 0)])
    rest, (place, _) = body[:start] + body[stop:], chance.choice(elements(body) or [(0, 0)])
    return rest[:place] + body[start:stop] * chance.choice((1, 2)) + rest[place:]


def rename_tag(body: bytes, chance: random.Random) -> bytes:
    names = sorted({match[1] for match in TAG.finditer(body)}) or [b"x"]
    old = chance.choice(names)
    new = chance.choice([*names, b"x", b"mml:math", b"math", old.lower(), old.upper(), b"x:" + old, b"sup", b"msup"])
    pattern = rb"(</?)" + re.escape(old) + rb"(?=[\s/>])"
    return re.sub(pattern, rb"\1" + new, body, count=chance.choice((0, 0, 1, 2)))


def change(body: bytes, pattern: re.Pattern, chance: random.Random) -> bytes:
    """The first group of one match replaced by one of VALUES."""
    if not (found := list(pattern.finditer(body))):
        return body
    start, stop = chance.choice(found).span(1)
    return body[:start] + chance.choice(chance.choice(VALUES)).encode() + body[stop:]


def change_attribute(body: bytes, chance: random.Random) -> bytes:
    return change(body, ATTRIBUTE, chance)


def change_text(body: bytes, chance: random.Random) -> bytes:
    """The text of an element of some name, each name being as likely as any other."""
    names = sorted({match[1] for match in LEAF.finditer(body)}) or [b"x"]
    return change(body, re.compile(rb"<" + re.escape(chance.choice(names)) + rb"(?:\s[^<>]*)?>([^<>]*)<"), chance)


def miscount(body: bytes, chance: random.Random) -> bytes:
    """Another number where something is counted or numbered."""
    found = list(COUNTED.finditer(body)) or [re.search(rb"()", body)]
    start, stop = chance.choice(found).span(1)
    return body[:start] + chance.choice(VALUES[0]).encode() + body[stop:]


def insert_strange(body: bytes, chance: random.Random) -> bytes:
    """Something strange within a text, or anywhere."""
    places = [match.start(1) for match in TEXT.finditer(body)]
    place = chance.choice(places) if places and chance.random() < 0.7 else chance.randrange(len(body) + 1)
    return body[:place] + chance.choice(STRANGE).encode() + body[place:]


def declare_entities(body: bytes, chance: random.Random) -> bytes:
    """A DOCTYPE that declares entities, a bomb or a file among them; one is used."""
    outside = '<!ENTITY f SYSTEM "file:///etc/hostname"><!ENTITY % p SYSTEM "http://127.0.0.1:9/"> %p;'
    inside = chance.choice(('<!ENTITY e9 "x">', f'<!ENTITY e0 "BOOM">{BOMB}', outside, '<!ENTITY e9 "&e9;">'))
    head = f"<!DOCTYPE PubmedArticleSet [{inside}]>".encode()
    body = re.sub(rb"<!DOCTYPE[^>]*>", b"", body)
    body = re.sub(rb"(<\?xml[^>]*\?>)?", lambda match: match[0] + head, body, count=1)
    return change(body, TEXT, chance).replace(b">0<", b">&e9;<") if chance.random() < 0.2 else used(body, chance)


def used(body: bytes, chance: random.Random) -> bytes:
    places = [match.start(1) for match in TEXT.finditer(body)] or [len(body)]
    place = chance.choice(places)
    return body[:place] + chance.choice((b"&e9;", b"&f;", b"&e1;")) + body[place:]


def change_encoding(body: bytes, chance: random.Random) -> bytes:
    """Another declaration, another encoding, a byte order mark, or two of these."""
    if chance.random() < 0.6:
        name = chance.choice((b"utf-16", b"latin-1", b"us-ascii", b"utf-7", b"utf-9", b"cp1252", b"", b"UTF-8 "))
        body = re.sub(rb'encoding="[^"]*"', b'encoding="' + name + b'"', body, count=1)
    if chance.random() < 0.4:
        body = body.decode(errors="replace").encode(chance.choice(("utf-16", "utf-32", "utf-16-le", "utf-8-sig")))
    if chance.random() < 0.3:
        body = chance.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x00", b" ", b"\n<!-- x -->")) + body
    return body


def nest(body: bytes, chance: random.Random) -> bytes:
    """Text wrapped in many elements."""
    if not (found := list(TEXT.finditer(body))):
        return body
    start, stop = chance.choice(found).span(1)
    name, depth = chance.choice((b"i", b"sup", b"math", b"mfrac", b"Abstract")), chance.choice((3, 60, 240, 5_000))
    return body[:start] + b"<%s>" % name * depth + body[start:stop] + b"</%s>" % name * depth + body[stop:]


def empty(body: bytes, chance: random.Random) -> bytes:
    """One element without its content."""
    if not (found := list(re.finditer(rb"<(\w+)[^<>]*>([^<>]*)(?=</\1>)", body))):
        return b""
    start, stop = chance.choice(found).span(2)
    return body[:start] + body[stop:]


MUTATIONS = (
    *(flip_bytes, cut, cut_out, double, swap, drop_element, move_element, rename_tag, change_attribute, miscount),
    *(
        change_text,
        change_text,
        change_text,
        insert_strange,
        insert_strange,
        declare_entities,
        change_encoding,
        nest,
        empty,
    ),
)
