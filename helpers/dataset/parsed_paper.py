"""One paper, read: its sentences, what they are for, its abbreviations and names; found once, used by every view."""

import re
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

from helpers.dataset.sections import ABSTRACT, AIM, DONE, FOUND, Span, find_sections, section_text
from helpers.papers import Paper, Topic
from helpers.text import (
    Gap,
    capitalise,
    expand_abbreviations,
    find_definitions,
    find_entities,
    find_name_gaps,
    has_undefined_abbreviation,
    mesh_pattern,
    numbered_abbreviations,
    split_sentences,
    stands_alone,
    tidy_sentence,
)

LATER = re.compile(  # a call for more work, or that something is not known
    r"\b(?:further|future|more|additional|larger|prospective|long-term) (?:\w+[ ,-]+){0,4}?(?:stud(?:y|ies)|research"
    r"|trials?|investigations?|work|analys[ei]s|evidence)\b|\b(?:warrants?|warranted|needed)\b|stud(?:y|ies) (?:is"
    r"|are) required|\b(?:remains?|is|are) (?:still |poorly |not (?:fully |well )?)?(?:unclear|unknown|uncertain"
    r"|controversial|understood|elucidated|to be (?:determined|elucidated))",
    re.IGNORECASE,
)

FOOTNOTES = re.compile(r"[✰☆★†‡*,.\s]+$")  # at the end of a title


class Place(NamedTuple):
    """Where an answer comes from: [start, end) in the text of a section (`passages.text_of`)."""

    number: int
    start: int
    end: int


class Sentence(NamedTuple):
    """A sentence that stands alone: `said` is its text in the third person, abbreviations written out."""

    place: Place
    role: str
    said: str


class ParsedPaper:
    """A paper and what the views need to know of it."""

    def __init__(self, paper: Paper, topic: Topic):
        self.paper, self.topic = paper, topic
        self.title = FOOTNOTES.sub("", paper.title)
        self._names: dict[str, list[Gap]] = {}

    @cached_property
    def disease(self) -> str:
        """The first of the topic's diseases that the paper names; "other" if it names none."""
        return next(iter(self.topic.diseases_of(self.paper)), "other")

    @cached_property
    def known(self) -> dict[str, str]:
        """The abbreviations the paper defines."""
        return find_definitions(f"{self.paper.title}\n{section_text(self.paper, ABSTRACT)}")

    @cached_property
    def numbered(self) -> set[str]:
        """What stands in brackets like a short form with a digit."""
        return numbered_abbreviations(f"{self.paper.title}\n{section_text(self.paper, ABSTRACT)}")

    @cached_property
    def roles(self) -> dict[str, Span]:
        return find_sections(self.paper)

    @cached_property
    def headings(self) -> re.Pattern | None:
        return mesh_pattern(self.paper)

    @cached_property
    def sentences(self) -> list[Sentence]:
        """Those that stand alone, in their order."""
        found = []
        for number, section in enumerate(self.paper.abstract):
            for start, end in split_sentences(section.text):
                said = self.said(place := Place(number, start, end))
                if stands_alone(said) and not self.obscure(said):
                    found.append(Sentence(place, self.role_at(place), said))
        return found

    @cached_property
    def findings(self) -> list[Sentence]:
        """Of `sentences` those that say something about the world: no aims, no methods, no calls for more work.

        What is said twice counts once.
        """
        found = {
            sentence.said: sentence
            for sentence in reversed(self.sentences)
            if sentence.role != "methods"
            and not LATER.search(sentence.said)
            and not AIM.search(sentence.said)
            and (FOUND.search(sentence.said) or not DONE.search(sentence.said))
        }
        return list(found.values())[::-1]

    @cached_property
    def offsets(self) -> list[int]:
        """Where each section begins in the text of the whole abstract."""
        return [0, *accumulate(len(section.text) + 1 for section in self.paper.abstract)]

    def role_at(self, place: Place) -> str:
        """What the sentence at `place` is for; "" if that is not known. It may begin with a heading."""
        here = ((role, p) for role, p in self.roles.items() if p.number == place.number)
        return next((role for role, p in here if p.start < place.end <= p.end), "")

    def said(self, place: Place) -> str:
        """The one sentence at `place` as it can stand alone."""
        sentence = tidy_sentence(section_text(self.paper, place.number)[place.start : place.end])
        return capitalise(expand_abbreviations(sentence, self.known))

    def obscure(self, said: str) -> bool:
        """Whether a text of the paper holds a short form that neither it nor the title explains."""
        return has_undefined_abbreviation(said, self.title, self.numbered)

    def names(self, said: str) -> list[Gap]:
        """The names in a sentence's text that can be asked for."""
        if said not in self._names:
            self._names[said] = find_name_gaps(said, self.title, find_entities(said, self.topic, self.headings))
        return self._names[said]

    def essential(self, place: Place) -> list[Sentence]:
        """The findings that begin within a stretch of the whole abstract, placed in its text."""
        moved = [
            Sentence(Place(ABSTRACT, *(self.offsets[spot.number] + at for at in spot[1:])), role, said)
            for spot, role, said in self.findings
        ]
        return [sentence for sentence in moved if place.start <= sentence.place.start < place.end]
