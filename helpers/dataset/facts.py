"""Facts of a paper that a probe can ask for: a number, a name or a direction, with a few words around it."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from helpers.dataset.contamination import LENGTH, WORD
from helpers.dataset.distractors import is_mentioned
from helpers.dataset.parsed_paper import ParsedPaper, Place
from helpers.dataset.prompts import ITEM_PROMPTS
from helpers.dataset.sections import section_text
from helpers.text import (
    DOWN,
    UP,
    VERB_STEMS,
    Gap,
    find_entities,
    find_number_gaps,
    find_polar_word,
    opposite_of,
    starts_with_vowel,
    uncapitalise,
)

SHOWN = LENGTH - 1  # words of a sentence that a probe may show, the answer's among them
AFTER = 3  # of these at most so many after the answer,
OBJECT = 5  # after a direction, so that what it is of is named
LEAST = 2  # telling words among them
MOST, LONGEST = 3, 7  # keywords, and words of one
ALONE = 2  # words of a keyword that is the only one
STEM = 5  # letters that tell a name from others
CLAUSE = re.compile(r"[()\[\]“”\";:]")
STOP = re.compile(  # where a phrase of a title ends: punctuation, small words, verbs
    r"[^\w\s'’⁺/-]+|-(?!\w)|(?<!\w)-|(?<![\w-])(?:the|an?|of|in|on|for|with|and|or|to|by|from|as|at|is|are|was|were"
    r"|be|via|through|after|before|during|between|among|amongst|versus|vs|its|their|who|which|that|using|based|under"
    r"|into|than|do|does|not|no|what|how|can|against|about|within|without|following|towards?|my|we|our|it|have|has"
    r"|there|more|reported|treat\w+|complicated|predicting|evaluating|identif\w+|reveals?|shows?|going|burdened"
    r"|derived|presents?|presented|mimicking|like|rather|outstrips|when|where|tracking|throughout|related|associated|admitted|receiving|belonging|interven\w+|(?:19|20)\d\d"
    rf"|{VERB_STEMS}(?:s|es|ies|e|ed|ing|y))(?![\w-])",
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
    r"|critical|responses?|longitudinal|observational|concise|work|double-blind(?:ed)?|serious|adverse|preliminary|altered|future|directions|diverse|years|\d+-\d+|real|world|results|going|beyond|\d+)$",
    re.IGNORECASE,
)


HANGS = re.compile(  # a word after which something must come
    r"(?:the|an?|of|in|on|for|with|and|or|to|by|from|as|at|than|vs\.?|versus|between|among|after|before|during|within"
    r"|per|its|their|both|that|which|who|was|were|is|are|had|has|have|not|compared|into|only|more|all|part|rather|over|due|such|thanks|coupled|[TB]|\w+ly|bowel|juvenile|(?:auto)?immune|multiple|rheumatoid|in-\w+|\w+['’]|\w+(?:ive|ous|ic|tory|(?<!viv)(?<!hospit)(?<!tri)(?<!interv)al))[,;]?$",
    re.IGNORECASE,
)
ODD = re.compile(  # unlike the other drugs: made by the body, a toxin, a procedure
    r"(?:insulin|cortisol|testosterone|thiamine|heparin|imiquimod|streptozotocin|cuprizone|plasma"
    r"|rapamycin|vitamin|probiotic)",
    re.IGNORECASE,
)
OPEN = re.compile(r"(?:and|or|vs\.?|versus|to|than|while|whereas|but|from(?= $))[, ]*$", re.IGNORECASE)
BE = re.compile(r"\b(?:is|are|was|were|had|has|have)\b")
BROKEN = re.compile(rf"{CLAUSE.pattern}|\brespectively,?|\bbut\b")
LEADS = re.compile(r"(?:-.*|\W*|and|or|but|as|so|while|whereas|which|that|[\d.,%]+)[,;]?$", re.IGNORECASE)
BREAK = re.compile(
    r"(?:while|whilst|but|whereas|although|though|because|when|if|that|which|who|\W*\d.*)$", re.IGNORECASE
)
VAGUE = re.compile(  # a word that does not say what was measured or counted
    r"(?:\w+(?:ed|ly)|baseline|populations?|groups?|arms?|controls?|overall|average|median|means?|totals?|values?|years?"
    r"|months?|weeks?|about|approximately|among|between|after|before|during|within|without|there|their|these|those"
    r"|which|where|compared|respectively|estimate[sd]?|participants|subjects|individuals|cases?|Japanese|Chinese"
    r"|range|ratio|least|increase|decrease|significantly|authors|found|showed|underwent|received|similar|develop|activit(?:y|ies)|disease|periods?|follow-up|duration|additional|only|other|total|pooled|however)[,;]?$",
    re.IGNORECASE,
)


class Fact(NamedTuple):
    """`right` at `place` is what is asked for; `left` and `tail` are the words before and after it.

    `kind` is number, direction, or the kind of a name; `about` the name the sentence begins with, if `left` is
    without it.
    """

    kind: str
    place: Place
    right: str
    left: str
    tail: str
    about: str = ""

    @property
    def shown(self) -> str:
        return f"{self.left} {write_option(self.right, self.tail)}"


def find_facts(reading: ParsedPaper) -> Iterator[Fact]:
    """The numbers, names and directions of the sentences that stand alone, where they can be asked well."""
    for place, _, said in reading.sentences:
        turned = find_polar_word(said)
        up_or_down = turned and turned[0] in UP | DOWN
        directions = [Gap("direction", *turned.span())] if up_or_down else []
        for found in (find_number_gaps(said), reading.names(said), directions):
            yield from filter(None, (fact_at(reading, place, said, gap) for gap in found))


def fact_at(reading: ParsedPaper, place: Place, said: str, gap: Gap) -> Fact | None:
    """The fact that fills a gap of a sentence; None if too little stands around it, or the paper's words differ."""
    unit = re.match(r"\s?%|-fold", said[gap.end :]) if gap.kind == "number" else None
    end = gap.end + (unit.end() if unit else 0)
    right = said[gap.start : end]
    left, tail = cut_window(said[: gap.start], said[end:], SHOWN - count([right]), gap.kind)
    original = section_text(reading.paper, place.number)[place.start : place.end]
    about = opening_name(reading, said[: gap.start], left)
    shown = f"{reading.title} {about} {left} {tail}"
    if not left or original.count(right) != 1 or is_mentioned(right, shown):
        return None
    if gives_itself_away(reading, gap.kind, right, left, tail, shown):
        return None
    start = place.start + original.index(right)
    return Fact(gap.kind, Place(place.number, start, start + len(right)), right, left, tail, about)


def opening_name(reading: ParsedPaper, before: str, left: str) -> str:
    """The name a sentence begins with, unless the words left of the gap hold it; "" if it begins with none."""
    near = len(" ".join(before.split()[:6]))
    found = find_entities(before, reading.topic, reading.headings)
    name = next((before[e.start : e.end] for e in found if e.end <= near), "")
    return "" if is_mentioned(name, left) else uncapitalise(name)


def gives_itself_away(reading: ParsedPaper, kind: str, right: str, left: str, tail: str, shown: str) -> bool:
    """Whether grammar or what is `shown` points to one option: "an increased", "dexamethasone pulse"."""
    article = re.search(r"\ban?$", left, re.IGNORECASE)
    if kind == "number":
        return bool(article) or bool(re.search(r"(?:^|\s)[A-Z][\w-]+$|,$", left))
    if kind == "direction":
        turned = starts_with_vowel(right) != starts_with_vowel(opposite_of(right))
        return bool(article and turned) or bool(re.match(r"than \W*\d", tail))
    stem = re.match(r"[^\W\d_]*", right)[0][:STEM]
    groups = (own for own in reading.topic.by_disease.values() if own.search(right.lower()))
    return (
        bool(ODD.match(right))
        or bool(re.search(r"\d|\bpulse|\binfections?\b", tail))
        or bool(
            re.search(
                r"-(?:associated|induced|related|mediated|positive)$|\b(?:epidermal|synovial|endogenous|diabetic)$|inhibitor",
                left,
            )
        )
        or (len(stem) > 2 and re.search(rf"\b{stem}", shown, re.IGNORECASE))
        or any(own.search(shown.lower()) for own in groups)
    )


def cut_window(before: str, after: str, words: int, kind: str) -> tuple[str, str]:
    """The last words before a gap and the first ones after it, `words` in all; ("", "") if they tell too little.

    Neither goes beyond a bracket, those after it not beyond a comma. Before a number it must be said what was
    measured, after a direction of what it is.
    """
    left = BROKEN.split(before)[-1].split() if before.endswith(" ") else []
    after = re.split(rf"{CLAUSE.pattern}|,|\.(?:\s|$)", after)[0].split() if re.match(r"\s|[.,;:]", after) else []
    tail = whole_tail(after, AFTER)
    if kind == "direction" and len(tail) < len(first_words(until_break(after), AFTER)):
        tail = whole_tail(after, OBJECT)
    left = first_words(left[::-1], words - count(tail))[::-1]
    while left and (LEADS.match(left[0]) or (kind == "direction" and left[0] == "of")):
        left = left[1:]
    tail = first_words(tail, words - count(left))
    telling = [word for word in left + tail if len(word) > 4 and not EMPTY.match(word)]
    hanging = left and OPEN.match(left[-1] if tail else f"{left[-1]} ")
    if not left:
        return "", ""
    cut = kind == "direction" and after and (not tail or after[len(tail) : len(tail) + 1] == ["of"])
    cut = cut or (kind == "number" and left[0].lower() == "of")
    cut = cut or (kind == "direction" and not tail and not BE.search(" ".join(left)))
    if len(left) < 2 or len(telling) < LEAST or hanging or cut or (tail and HANGS.match(tail[-1])):
        return "", ""
    measured = any(len(w) > 3 and not (EMPTY.match(w) or VAGUE.match(w) or HANGS.match(w)) for w in left)
    return (" ".join(left), " ".join(tail)) if measured or kind not in ITEM_PROMPTS else ("", "")


def whole_tail(parts: list[str], most: int) -> list[str]:
    """The first of `parts` that hold at most `most` words, without a last word that leaves something open."""
    tail = first_words(until_break(parts), most)
    while tail and HANGS.match(tail[-1]):
        tail = tail[:-1]
    return tail


def until_break(parts: list[str]) -> list[str]:
    """The parts up to another clause or another number."""
    return parts[: next((n for n, part in enumerate(parts) if BREAK.match(part)), len(parts))]


def first_words(parts: list[str], most: int) -> list[str]:
    """The first of `parts` that hold at most `most` words; "IL-17A" holds two."""
    return [part for n, part in enumerate(parts, start=1) if count(parts[:n]) <= most]


def count(parts: list[str]) -> int:
    return len(WORD.findall(" ".join(parts)))


def write_option(answer: str, tail: str) -> str:
    """An answer with the words that follow it."""
    return f"{answer} {tail}".strip()


def take_turns(found: list[Fact]) -> list[Fact]:
    """First a number, a name and a direction, then the next of each."""
    seen: Counter = Counter()
    turns = []
    for fact in found:
        kind = fact.kind if fact.kind in ITEM_PROMPTS else "name"
        turns.append((seen[kind], kind, fact))
        seen[kind] += 1
    return [fact for _, _, fact in sorted(turns, key=lambda turn: turn[:2])]


def find_keywords(reading: ParsedPaper, about: str = "") -> list[str]:
    """Phrases that name what a paper is about, MOST at most; [] if its title has none, or but a short one.

    `about` comes first, then phrases of the title in another order than the title's. A single word must be a name.
    """
    title = reading.title
    names = {title[e.start : e.end].lower() for e in find_entities(title, reading.topic, reading.headings)}
    unique = list(dict.fromkeys(phrase for stretch in STOP.split(title) if (phrase := subject(stretch, names))))
    unique = [phrase for phrase in unique if not any(phrase in other for other in unique if other != phrase)]
    best = sorted(unique, key=lambda phrase: (-len(phrase), unique.index(phrase)))[:MOST]
    found = [lower_phrase(phrase, title) for phrase in reversed(unique) if phrase in best]
    if about and not any(is_mentioned(about, phrase) for phrase in found):
        found = [about, *found[: MOST - 1]]
    return found if len(found) > 1 or any(len(phrase.split()) >= ALONE for phrase in found) else []


def subject(stretch: str, names: set[str]) -> str:
    """What a stretch of a title names, without empty words around it; "" if that is nothing, or too much."""
    words = [word for word in stretch.split() if word.strip("-'’/")]
    while words and EMPTY.match(words[0]):
        words = words[1:]
    while words and EMPTY.match(words[-1]):
        words = words[:-1]
    phrase = " ".join(words).strip("-/'’")
    named = len(words) > 1 or phrase.lower() in names
    return phrase if len(phrase) > 3 and len(words) <= LONGEST and named else ""


def lower_phrase(phrase: str, title: str) -> str:
    """A phrase without the capitals that it has for being in a title."""
    words = title.split()
    capitals = sum(word[0].isupper() for word in words) > len(words) / 2
    return " ".join(uncapitalise(word) if capitals or word == words[0] else word for word in phrase.split())


def list_words(words: list[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
