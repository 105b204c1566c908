"""The topic file: what to ask for, and what counts as a paper about it."""

import json
import re
from collections.abc import Iterable
from functools import cached_property
from itertools import groupby
from unicodedata import normalize

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from helpers.core import TOPICS, CourseError, relative_path, topic_file
from helpers.papers.paper import Paper

TITLE_WEIGHT = 6
RELATED_WEIGHT = 4
THRESHOLD = 6
CLAUSE = re.compile(r"[,;:.()]")
BEFORE = 4  # words before a term that its abbreviation may be made of: systemic lupus erythematosus (SLE)
EXPLAINED = re.compile(r"(?:[\s-]+\w+){0,2}\s*\(([A-Za-z]\w{1,7}?)s?[;,)]")
WORD = re.compile(r"\w+")
INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
GENERAL = frozenset(  # words of many terms that many other papers have too
    b"adult anti antibod associated chronic clinically disease diseases experimental idiopathic immun immune"
    b" inclusion infectious inflammatory isolated mediated multiple onset person primary progressive related sensitiv"
    b" syndrome system systemic tissue type".split()
)
EVERYWHERE = frozenset(b"a and by in of or the to with".split())
PLACEBO_QUERY = (
    '("Fractures, Bone"[Mesh] OR "Cataract"[Mesh] OR "Dental Caries"[Mesh] OR "Hearing Loss"[Mesh] OR "Hernia"[Mesh] '
    'OR "Sleep Apnea Syndromes"[Mesh] OR "Myocardial Infarction"[Mesh]) AND hasabstract AND english[la]'
)
LETTERS = bytes(ord(chr(n).lower()) if chr(n).isalnum() and n < 128 else 32 for n in range(256))


class Topic(BaseModel):
    """One disease area. In a term, `*` at the end stands for any ending; capitals (SLE) must be capitals.

    `related` words point to the topic without naming it: they count in a title, if the abstract names a term.
    `placebo_query` finds papers of other fields; those that name a term all the same are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(min_length=1)
    pubmed_query: str = Field(min_length=1)
    arxiv_query: str = Field(min_length=1)
    mesh: frozenset[str] = frozenset()
    terms: tuple[str, ...] = ()
    not_terms: tuple[str, ...] = ()
    related: tuple[str, ...] = ()
    placebo_query: str = PLACEBO_QUERY
    diseases: dict[str, tuple[str, ...]] = Field(min_length=1)

    @cached_property
    def words(self) -> re.Pattern:
        return any_of(term.lower() for term in all_terms(self) if not is_abbreviation(term))

    @cached_property
    def abbreviations(self) -> re.Pattern:
        return any_of(filter(is_abbreviation, all_terms(self)))

    @cached_property
    def hidden(self) -> re.Pattern:
        return any_of(term.lower() for term in self.not_terms)

    @cached_property
    def pointers(self) -> re.Pattern:
        return any_of(self.related)

    @cached_property
    def by_disease(self) -> dict[str, re.Pattern]:
        """A pattern for each disease's own terms as `mentions` returns them."""
        return {
            name: any_of(term if is_abbreviation(term) else term.lower() for term in terms)
            for name, terms in self.diseases.items()
        }

    @cached_property
    def glance(self) -> "Glance":
        return Glance(self)

    def mentions(self, text: str) -> list[str]:
        """The terms found in `text`: first words, in lower case and not inside `not_terms`, then abbreviations."""
        return self.read(text)[0]

    def read(self, text: str) -> tuple[list[str], set[str]]:
        """The terms found, and the abbreviations that `text` itself explains after one of them."""
        lower = self.unhidden(text)
        found = list(self.words.finditer(lower))
        explained = {short for mention in found if (short := explained_after(mention, text))}
        return [*(mention[0] for mention in found), *self.abbreviations.findall(text)], explained

    def unhidden(self, text: str) -> str:
        """`text` in lower case, every phrase of `not_terms` in it blank."""
        return self.hidden.sub(lambda match: " " * len(match[0]), text.lower())

    def score(self, paper: Paper) -> tuple[int, list[str]]:
        """TITLE_WEIGHT for each mention in the title, 1 for each in the abstract; and the terms mentioned.

        An abbreviation that the paper itself explains after a term, as in "rheumatoid arthritis (RA)", counts as the
        term does wherever else it stands. RELATED_WEIGHT for a title without a mention, but with a related word.
        Without either, abbreviations alone score nothing: IBD is also a disease of chickens.
        """
        text = " \n".join(section.text for section in paper.abstract)
        if not self.glance(f"{paper.title} {text}"):
            return 0, []
        (title, first), (abstract, later) = self.read(paper.title), self.read(text)
        terms, own = {*title, *abstract}, (first | later) - {*title, *abstract}
        related = not title and bool(self.pointers.search(self.unhidden(paper.title)))
        if all(term.isupper() for term in terms) and not related:
            return 0, sorted(terms)
        forms = own | {f"{short}s" for short in own}
        title += [word for word in WORD.findall(paper.title) if word in forms]
        abstract += [word for word in WORD.findall(text) if word in forms]
        score = TITLE_WEIGHT * len(title) + RELATED_WEIGHT * related + len(abstract) - len(own)
        return score, sorted(terms | own)

    def off_topic(self, paper: Paper) -> str:
        """Why the paper is not about the topic; "" if it is.

        Decided by its MeSH headings where it has any, else by `score`, which must reach THRESHOLD.
        """
        if paper.mesh:
            return "" if self.mesh.intersection(paper.mesh) else "none of its MeSH headings is the topic's"
        score, terms = self.score(paper)
        if score >= THRESHOLD:
            return ""
        return f"score {score} of {THRESHOLD}: {', '.join(terms)}" if terms else "no term of the topic"

    def diseases_of(self, paper: Paper) -> list[str]:
        """The diseases a paper names in its title; else those in its abstract."""
        for text in (paper.title, paper.text):
            mentions = set(self.mentions(text))
            if found := [name for name, own in self.by_disease.items() if any(map(own.fullmatch, mentions))]:
                return found
        return []


def explained_after(mention: re.Match, text: str) -> str:
    """The abbreviation in brackets after a term, or a word or two after it, if it is made of its letters; else ""."""
    match = EXPLAINED.match(text, mention.end())
    if not match or sum(map(str.isupper, match[1])) < 2:
        return ""
    before = CLAUSE.split(text[max(0, mention.start() - 80) : mention.start()])[-1].split()[-BEFORE:]
    phrase = " ".join([*before, text[mention.start() : match.start(1)]]).lower()
    return match[1] if re.search(r"\b" + ".*?".join(map(re.escape, match[1].lower())), phrase, re.DOTALL) else ""


class Glance:
    """A quick look at a text: can it mention the topic at all? True wherever it holds a term or a MeSH heading.

    A text passes when it has the words of some term, in any order. Most fail because they have no term's most telling
    word. What a term needs is looked for in the term as it would be in a text, so the two agree however words are cut
    and whichever of their beginnings is found.
    """

    def __init__(self, topic: Topic):
        self.topic = topic
        terms = sorted({*all_terms(topic), *topic.mesh})
        spelt = [stem_term(normalize(form, term)) for term in terms for form in ("NFC", "NFD")]
        self.telling = prefix_pattern({max(sorted(words), key=is_telling) for words in spelt})
        self.pattern = prefix_pattern({stem for words in spelt for stem in words})
        self.needed = {frozenset(self.pattern.findall(pad_words(b" ".join(words)))) for words in spelt}

    def __call__(self, text: str) -> bool:
        if any(map(text.__contains__, INVISIBLE)):
            text = text.translate(dict.fromkeys(map(ord, INVISIBLE)))
        words = pad_words(text.encode())
        if not self.telling.search(words):
            return False
        found = set(self.pattern.findall(words))
        return any(need <= found for need in self.needed)


def pad_words(raw: bytes) -> bytes:
    """Words of ASCII letters and digits in lower case, spaces around each."""
    return b" %b " % raw.translate(LETTERS)


def is_telling(stem: bytes) -> tuple[bool, int]:
    return len(stem) > 2 and stem.rstrip(b"*") not in GENERAL, len(stem)


def stem_term(term: str) -> list[bytes]:
    """The words of a term in lower case, cut at every letter that is not ASCII; the last may end in `*`."""
    words = term.encode().translate(LETTERS).split()
    words = [*words[:-1], words[-1] + b"*"] if term.endswith("*") else words
    return [word for word in words if word not in EVERYWHERE]


def prefix_pattern(stems: Iterable[bytes]) -> re.Pattern:
    """A pattern that finds the shortest stem that fits a word; grouped by first letter, which is faster."""
    groups = groupby(sorted(stems, key=lambda stem: (stem[:1], len(stem), stem)), key=lambda stem: stem[:1])
    return re.compile(
        b" (%b)"
        % b"|".join(
            letter
            + b"(?:%b)" % b"|".join(stem[1:-1] if stem.endswith(b"*") else stem[1:] + b"(?= )" for stem in group)
            for letter, group in groups
        )
    )


def all_terms(topic: Topic) -> list[str]:
    return [*topic.terms, *(term for terms in topic.diseases.values() for term in terms)]


def is_abbreviation(term: str) -> bool:
    """Whether a term is written as an abbreviation is (SLE, B27), so that its case must match too."""
    return term.isupper() or bool(re.fullmatch(r"[A-Z]\d?[A-Z]+", term))


def any_of(terms: Iterable[str]) -> re.Pattern:
    """A pattern that finds any of the terms as whole words, the longest where several begin alike; nothing for none.

    Grouped by first letter, which is several times faster.
    """
    groups: dict[str, list[str]] = {}
    for term in sorted(set(terms), key=lambda term: (-len(term), term)):
        ending = r"\w*" if term.endswith("*") else ""
        body = re.escape(term[1:].rstrip("*")).replace(r"\ ", r"[\s-]+").replace("'", "['’]")
        groups.setdefault(re.escape(term[0]), []).append(body + ending)
    found = [f"{first}(?:{'|'.join(bodies)})" for first, bodies in sorted(groups.items())]
    return re.compile(rf"(?<!\w)(?:{'|'.join(found)})(?!\w)" if found else "(?!)")


def load_topic(name: str) -> Topic:
    """The topic of that name in data/topics, or in the .json file of that path.

    Raises CourseError naming the file and the key that is wrong, or the topics there are.
    """
    path = topic_file(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in TOPICS.glob("*.json")))
        raise CourseError(
            f"TOPIC={name!r} is neither a name in data/topics nor a file", f"there is: {known}; or give a path"
        )
    try:
        return Topic.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise CourseError(
            f"the topic file {relative_path(path)} has a mistake in {key}: {first['msg']}",
            "data/topics/autoimmune.json shows every key",
        ) from None
    except ValueError as error:
        raise CourseError(f"the topic file {relative_path(path)} is not JSON: {error}", "mend it") from None
