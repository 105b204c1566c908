"""The topic file: what to ask for, and what counts as a paper about it."""

import json
import re
import unicodedata
from functools import cache, cached_property

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from helpers.errors import CourseError
from helpers.papers import Paper
from helpers.paths import TOPICS, relative
from helpers.stages import topic_file

TITLE_WEIGHT = 6
THRESHOLD = 6
WORD = re.compile(r"\w{3,}")


class Topic(BaseModel):
    """One disease area. In a term, `*` at the end stands for any ending; capitals (SLE) must be capitals."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(min_length=1)
    pubmed_query: str = Field(min_length=1)
    arxiv_query: str = Field(min_length=1)
    mesh: frozenset[str] = frozenset()
    terms: tuple[str, ...] = ()
    not_terms: tuple[str, ...] = ()
    diseases: dict[str, tuple[str, ...]] = Field(min_length=1)

    @cached_property
    def positive(self) -> re.Pattern:
        return one_of([*self.terms, *(term for terms in self.diseases.values() for term in terms)])

    @cached_property
    def negative(self) -> re.Pattern | None:
        return one_of(self.not_terms) if self.not_terms else None

    @cached_property
    def by_disease(self) -> dict[str, re.Pattern]:
        return {name: one_of(terms) for name, terms in self.diseases.items()}

    def mentions(self, text: str) -> list[str]:
        """The terms found in `text`, in order, after the phrases of `not_terms` are taken out."""
        return self.positive.findall(self.negative.sub(" ", text) if self.negative else text)

    def score(self, paper: Paper) -> tuple[int, list[str]]:
        """TITLE_WEIGHT for each mention in the title, 1 for each in the abstract; and the terms mentioned.

        Abbreviations alone score nothing: IBD is also a disease of chickens.
        """
        title, abstract = self.mentions(paper.title), self.mentions(" \n".join(s.text for s in paper.abstract))
        terms = sorted({*title, *abstract})
        if all(term.isupper() for term in terms):
            return 0, terms
        return TITLE_WEIGHT * len(title) + len(abstract), terms

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
            text = self.negative.sub(" ", text) if self.negative else text
            if found := [name for name, pattern in self.by_disease.items() if pattern.search(text)]:
                return found
        return []


class Glance:
    """A quick look at a text: can it mention the topic at all? True wherever it holds a term or a MeSH heading.

    A text passes when every word of some term occurs in it, in any order; most fail on their words' first letters.
    """

    def __init__(self, topic: Topic):
        needed = {frozenset(WORD.findall(term.lower())) for term in (*all_terms(topic), *topic.mesh)}
        self.heads: dict[str, list[str]] = {}
        for stem in sorted(frozenset().union(*needed)):
            self.heads.setdefault(stem[:3], []).append(stem)
        self.enough = cache(lambda found: any(need <= found for need in needed))

    def __call__(self, text: str) -> bool:
        words = set(WORD.findall(unicodedata.normalize("NFC", text).lower()))
        hits = [word for word in words if word[:3] in self.heads]
        return self.enough(frozenset(stem for word in hits for stem in self.heads[word[:3]] if word.startswith(stem)))


def all_terms(topic: Topic) -> list[str]:
    return [*topic.terms, *(term for terms in topic.diseases.values() for term in terms)]


def one_of(terms: list[str] | tuple[str, ...]) -> re.Pattern:
    """A pattern that finds any of the terms as whole words; the longest where several begin alike."""
    loose, exact = [], []
    for term in sorted(terms, key=lambda term: (-len(term), term)):
        ending = r"\w*" if term.endswith("*") else ""
        body = re.escape(term.rstrip("*")).replace(r"\ ", r"[\s-]+").replace("'", "['’]")
        (exact if term.isupper() or re.fullmatch(r"[A-Z]\d?[A-Z]+", term) else loose).append(body + ending)
    groups = [f"(?i:{'|'.join(loose)})"] * bool(loose) + ["|".join(exact)] * bool(exact)
    return re.compile(rf"(?<!\w)(?:{'|'.join(groups)})(?!\w)")


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
            f"the topic file {relative(path)} has a mistake in {key}: {first['msg']}",
            "data/topics/autoimmune.json shows every key",
        ) from None
    except ValueError as error:
        raise CourseError(f"the topic file {relative(path)} is not JSON: {error}", "mend it") from None
