"""Facts of a paper that a probe can ask for: a number, a name or a direction, with a few words around it."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from helpers import abbreviations, flips, gaps, leaks, wordings
from helpers.distractors import mentioned
from helpers.passages import text_of
from helpers.reading import Place, Reading

SHOWN = leaks.LENGTH - 1  # words of a sentence that a probe may show, the answer's among them
AFTER = 3  # of these at most so many after the answer
LEAST = 2  # telling words among them
CLAUSE = re.compile(r"[()\[\]“”\";:]")
STOP = re.compile(  # where a phrase of a title ends: punctuation, small words, verbs
    r"[^\w\s'’⁺/-]+|-(?!\w)|(?<!\w)-|(?<![\w-])(?:the|an?|of|in|on|for|with|and|or|to|by|from|as|at|is|are|was|were"
    r"|be|via|through|after|before|during|between|among|amongst|versus|vs|its|their|who|which|that|using|based|under"
    r"|into|than|do|does|not|no|what|how|can|against|about|within|without|following|towards?|my|we|our|it|have|has"
    r"|there|more|reported|treat\w+|complicated|predicting|evaluating|identif\w+|reveals?|shows?|going|burdened"
    r"|derived|presents?|presented|mimicking"
    rf"|{flips.VERB_STEMS}(?:s|es|ies|e|ed|ing|y))(?![\w-])",
    re.IGNORECASE,
)
EMPTY = re.compile(  # words of a title that say nothing of its subject
    r"(?:stud(?:y|ies)|analys[ei]s|reviews?|trials?|reports?|cases?|series|cohorts?|effects?|roles?|associations?"
    r"|impacts?|relationships?|evaluation|compar\w+|patients?|results?|data|evidence|research|systematic"
    r"|meta-analysis|literature|clinical|novel|new|recent|updates?|advances|use|treatment|therapy|risk|factors?"
    r"|outcomes?|characteristics|people|management|approach|multicent\w+|multinational|nationwide|prospective"
    r"|retrospective|cross-sectional|randomi[sz]ed|controlled|population-based|adults?|children|young|real-world"
    r"|long-term|early|investigation|assessment|insights?|identification|mechanisms?|potential|possible|increased"
    r"|reduced|pilot|expression|presentation|manifestation|presenting|feature|initial|rare|occurrence|inhibition"
    r"|determination|perspectives?|diagnosis|prognostic|further|different\w*|specific|function|levels?|changes?"
    r"|first|two|three|single|large|small|low|high|type|general|considerations|applications|treatments|narrative"
    r"|scoping|comprehensive|network|follow-up|validation|development|rationale|design|frequency|prevalence|role"
    r"|critical|responses?|going|beyond|\d+)$",
    re.IGNORECASE,
)


class Fact(NamedTuple):
    """`right` at `place` is what is asked for; `left` and `tail` are the words before and after it.

    `kind` is number, direction, or the kind of a name.
    """

    kind: str
    place: Place
    right: str
    left: str
    tail: str

    @property
    def shown(self) -> str:
        return f"{self.left} {option(self.right, self.tail)}"


def find(reading: Reading) -> Iterator[Fact]:
    """A number, a name and a direction of each sentence that stands alone, where they can be asked well."""
    for place, _, said in reading.sentences:
        turned = flips.telling(said)
        up_or_down = turned and turned[0] in flips.UP | flips.DOWN
        directions = [gaps.Gap("direction", *turned.span())] if up_or_down else []
        for found in (gaps.numbers(said), reading.names(said), directions):
            facts = (fact for gap in found if (fact := fact_at(reading, place, said, gap)))
            if fact := next(facts, None):
                yield fact


def fact_at(reading: Reading, place: Place, said: str, gap: gaps.Gap) -> Fact | None:
    """The fact that fills a gap of a sentence; None if too little stands around it, or the paper's words differ."""
    unit = re.match(r"\s?%|-fold", said[gap.end :]) if gap.kind == "number" else None
    end = gap.end + (unit.end() if unit else 0)
    right = said[gap.start : end]
    left, tail = window(said[: gap.start], said[end:], SHOWN - count([right]))
    original = text_of(reading.paper, place.number)[place.start : place.end]
    if not left or original.count(right) != 1 or mentioned(right, f"{reading.title} {left} {tail}"):
        return None
    start = place.start + original.index(right)
    return Fact(gap.kind, Place(place.number, start, start + len(right)), right, left, tail)


def window(before: str, after: str, words: int) -> tuple[str, str]:
    """The last words before a gap and the first ones after it, `words` in all; ("", "") if they tell too little.

    Neither goes beyond a bracket, those after it not beyond a comma.
    """
    left = CLAUSE.split(before)[-1].split() if before.endswith(" ") else []
    tail = re.split(rf"{CLAUSE.pattern}|,|\.(?:\s|$)", after)[0].split() if re.match(r"\s|[.,;:]", after) else []
    tail = first_words(tail, AFTER)
    left = first_words(left[::-1], words - count(tail))[::-1]
    tail = first_words(tail, words - count(left))
    telling = [word for word in left + tail if len(word) > 4 and not EMPTY.match(word)]
    hanging = left and left[-1].lower().strip(",") in ("and", "or", "vs", "vs.", "versus", "to", "than")
    if len(left) < 2 or len(telling) < LEAST or hanging:
        return "", ""
    return " ".join(left), " ".join(tail)


def first_words(parts: list[str], most: int) -> list[str]:
    """The first of `parts` that hold at most `most` words; "IL-17A" holds two."""
    return [part for n, part in enumerate(parts, start=1) if count(parts[:n]) <= most]


def count(parts: list[str]) -> int:
    return len(leaks.WORD.findall(" ".join(parts)))


def option(answer: str, tail: str) -> str:
    """An answer with the words that follow it."""
    return f"{answer} {tail}".strip()


def by_turns(found: list[Fact]) -> list[Fact]:
    """First a number, a name and a direction, then the next of each."""
    seen: Counter = Counter()
    turns = []
    for fact in found:
        kind = fact.kind if fact.kind in wordings.PROBES else "name"
        turns.append((seen[kind], kind, fact))
        seen[kind] += 1
    return [fact for _, _, fact in sorted(turns, key=lambda turn: turn[:2])]


def keywords(title: str) -> list[str]:
    """Two or three phrases that name what a title is about, in another order than the title's; [] if it has none."""
    phrases = []
    for stretch in STOP.split(title):
        words = [word for word in stretch.split() if word.strip("-'’/")]
        while words and EMPTY.match(words[0]):
            words = words[1:]
        while words and EMPTY.match(words[-1]):
            words = words[:-1]
        phrase = " ".join(words[-3:]).strip("-/'’")
        if len(phrase) > 3:
            phrases.append(phrase)
    unique = list(dict.fromkeys(phrases))
    best = sorted(unique, key=lambda phrase: (-len(phrase), unique.index(phrase)))[:3]
    found = [lowered(phrase, title) for phrase in reversed(unique) if phrase in best]
    return found if len(found) > 1 else []


def lowered(phrase: str, title: str) -> str:
    """A phrase without the capitals that it has for being in a title."""
    words = title.split()
    capitals = sum(word[0].isupper() for word in words) > len(words) / 2
    return " ".join(
        abbreviations.uncapitalised(word) if capitals or word == words[0] else word for word in phrase.split()
    )


def listed(words: list[str]) -> str:
    """ "a, b and c"."""
    return f"{', '.join(words[:-1])} and {words[-1]}"
