"""Views: the ways in which one paper is turned into training rows, without a second model.

A view names places in a paper, and turns a place and a wording into a prompt and an answer. The answer comes from the
characters at that place by small, fixed repairs alone, so that it can be derived again and checked.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from helpers.core import CourseError
from helpers.dataset.parsed_paper import ParsedPaper, Place, Sentence
from helpers.dataset.prompts import KIND, ROW_PROMPTS, choose_prompt, fill_prompt, hash_paper
from helpers.dataset.sections import ABSTRACT, AIM, CASE, TITLE, section_text
from helpers.papers import Paper, Topic
from helpers.text import (
    FURNITURE,
    VERB_STEMS,
    Gap,
    can_open,
    capitalise,
    defined_term,
    drop_statistics,
    expand_abbreviations,
    find_number_gaps,
    find_polar_word,
    is_complete,
    negate,
    open_gap,
    split_sentences,
    tidy_sentence,
    uncapitalise,
)

LONGEST = 180  # words in an answer
SHORTEST = 8
LONGEST_CLOZE, LONGEST_CLAIM = 40, 32  # words
WHOLE = 0.9  # the share of a section's words that an answer keeps
AT_MOST = 3  # places of one view in one paper
ROLES = {  # views that ask for a whole section
    "title_to_conclusion": "conclusions",
    "section_results": "results",
    "section_background": "background",
    "section_methods": "methods",
}
VIEWS = (  # in the order of a paper's rows: what a person would ask first
    *ROLES, "entity_question", "yes_no", "fact_card", "numeric_cloze", "entity_cloze", "text",
)  # fmt: skip
WEIGHT = ("results", "conclusions", "", "background", "methods")
LONGER = re.compile(r"\w{2,}(?:ar|al|ic|ous|ive|oid|ed|ory|ary|ent|ant|ble) $")  # before the tail of a longer name
TITLE_VERB = re.compile(rf"\b(?:is|are|was|were|do(?:es)? not|{VERB_STEMS}(?:s|es|ies))\b", re.IGNORECASE)


def parse_formats(setting: str) -> tuple[str, ...]:
    """The views that VIEWS names, in the order of this module.

    Raises CourseError that lists the names.
    """
    names = [name.strip() for name in setting.split(",")]
    wrong = [name for name in names if name not in VIEWS]
    if setting.strip() == "all":
        return VIEWS
    if wrong:
        raise CourseError(f"VIEWS={setting!r}: {wrong[0]!r} is no view", f"give all, or some of {', '.join(VIEWS)}")
    return tuple(view for view in VIEWS if view in names)


def offered_places(reading: ParsedPaper, view: str) -> list[tuple[Place, str]]:
    """(place, wording's name) of the rows that `view` makes of a paper: AT_MOST, the best first."""
    found, turns = [], Counter()
    for place, kind in islice(find_places(reading, view), AT_MOST):
        found.append((place, choose_prompt(ROW_PROMPTS, kind, reading.paper, turns[kind])))
        turns[kind] += 1
    return found


def is_allowed(reading: ParsedPaper, view: str, place: Place, wording: str) -> bool:
    """Whether `view` asks at `place` in that wording."""
    return (place, wording) in offered_places(reading, view)


def derive_row(paper: Paper, row: dict, topic: Topic) -> tuple[str, str]:
    """(prompt, completion) as a row's view, section, span and template make them of its paper.

    Raises ValueError if the view makes nothing of that place.
    """
    reading, place = ParsedPaper(paper, topic), Place(row["section"]["number"], *row["span"])
    if not is_allowed(reading, row["view"], place, row["template"]):
        raise ValueError(f"{row['view']} makes no {row['template']} of {place} in paper {paper.paper_id}")
    return write_row(reading, row["view"], place, row["template"])


def find_places(reading: ParsedPaper, view: str) -> Iterator[tuple[Place, str]]:
    """(place, kind of question) of everything `view` can ask about a paper, the best first."""
    if not reading.title:
        return iter(())
    if view in ROLES:
        return passage_places(reading, ROLES[view])
    of = {
        "entity_question": entity_places,
        "yes_no": claim_places,
        "fact_card": card_places,
        "numeric_cloze": number_places,
        "entity_cloze": name_places,
        "text": text_places,
    }
    return of[view](reading)


def write_row(reading: ParsedPaper, view: str, place: Place, wording: str) -> tuple[str, str]:
    """(prompt, completion) of a row."""
    kind, title = KIND[wording], reading.title
    if view in ROLES:
        return fill_prompt(wording, title=title), passage_text(reading, place)
    if kind == "text":
        return "", running_abstract(reading, place, wording)
    if kind == "card":
        return fill_prompt(wording, title=title), "\n".join(f"- {line}" for line in fact_card(reading, place))
    if kind == "title_claim":
        return yes_or_no(reading, claim_of_title(title), place, wording)
    said = reading.said(place)
    if kind == "claim":
        return yes_or_no(reading, drop_statistics(said), place, wording)
    if kind in ("number", "name"):
        gap = number_gap(said, title) if kind == "number" else reading.names(said)[0]
        return fill_prompt(wording, title=title, sentence=open_gap(said, gap)), said
    return fill_prompt(wording, title=title, name=subject_of(reading, said)), said


def by_weight(sentences: Iterable[Sentence]) -> list[Sentence]:
    """Results first, then conclusions, then the others."""
    return sorted(sentences, key=lambda sentence: WEIGHT.index(sentence.role))


# sections


def passage_places(reading: ParsedPaper, role: str) -> Iterator[tuple[Place, str]]:
    """The section with that role, if it begins by itself and an answer can hold it."""
    if (passage := reading.roles.get(role)) is None:
        return
    text = section_text(reading.paper, passage.number)
    spans = [(passage.start + a, passage.start + b) for a, b in whole_sentences(text[passage.start : passage.end])]
    if not spans or not can_open(tidy_sentence(text[slice(*spans[0])])):
        return
    if role in ("results", "methods"):
        spans = before_obscure(reading, passage.number, spans)
        kept = [text[start:end] for start, end in spans]
        if CASE.search(text) or not told_whole(text[passage.start : passage.end], kept):
            return
    place = Place(passage.number, spans[0][0], spans[-1][1]) if spans else None
    if place is None or not SHORTEST <= len(text[place.start : place.end].split()) <= 2 * LONGEST:
        return
    if role in ("conclusions", "background") and reading.obscure(passage_text(reading, place)):
        return
    aims = [
        AIM.search(said) or said.startswith("To ")
        for said in (tidy_sentence(text[start:end]) for start, end in spans)
    ]
    if role == "conclusions" and reading.title.endswith("?"):
        yield place, "question_title"
    elif role == "background" and all(aims):
        yield place, "aim"
    elif role != "background" or not aims[0]:
        yield place, role


def whole_sentences(text: str) -> list[tuple[int, int]]:
    """The sentences from the beginning on that an answer can hold, up to the first that is furniture or cut off."""
    spans, words = [], 0
    for start, end in split_sentences(text):
        words += len(text[start:end].split())
        if not is_complete(tidy_sentence(text[start:end])) or (words > LONGEST and spans):
            break
        spans.append((start, end))
    return spans


def told_whole(text: str, kept: list[str]) -> bool:
    """Whether `kept` hold nearly all words of a section, furniture aside: the main result often comes last."""
    said = (text[start:end] for start, end in split_sentences(text))
    words = sum(len(sentence.split()) for sentence in said if not FURNITURE.search(sentence))
    return sum(len(sentence.split()) for sentence in kept) >= WHOLE * words


def before_obscure(reading: ParsedPaper, number: int, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The sentences before the first with an abbreviation that nothing explains; [] if that leaves fewer than two."""
    for n, (_, end) in enumerate(spans):
        if reading.obscure(passage_text(reading, Place(number, spans[0][0], end))):
            return spans[:n] if n > 1 else []
    return spans


def passage_text(reading: ParsedPaper, place: Place) -> str:
    """Several sentences as one answer."""
    text = section_text(reading.paper, place.number)[place.start : place.end]
    said = [tidy_sentence(text[start:end], alone=n == 0) for n, (start, end) in enumerate(split_sentences(text))]
    return capitalise(expand_abbreviations(" ".join(said), reading.known))


# cards and running text


def card_places(reading: ParsedPaper) -> Iterator[tuple[Place, str]]:
    """From the first result or conclusion to the last, if they make a card of three lines."""
    kept = [s for s in reading.essential(whole_abstract(reading)) if s.role in ("results", "conclusions")]
    if kept and len(fact_card(reading, place := Place(ABSTRACT, kept[0].place.start, kept[-1].place.end))) >= 3:
        yield place, "card"


def fact_card(reading: ParsedPaper, place: Place) -> list[str]:
    """Six lines at most, two of them conclusions, without their test statistics."""
    kept = reading.essential(place)
    results, ends = ([drop_statistics(s.said) for s in kept if s.role == role] for role in ("results", "conclusions"))
    return results[: 6 - len(ends[:2])] + ends[:2]


def text_places(reading: ParsedPaper) -> Iterator[tuple[Place, str]]:
    """From the first essential sentence to the last, if there are three; twice if they have another order too."""
    kept = reading.essential(whole_abstract(reading))
    if len(kept) >= 3:
        place = Place(ABSTRACT, kept[0].place.start, kept[-1].place.end)
        wanted = list(ROW_PROMPTS["text"])[: 1 if conclusions_first(kept) == kept else 2]
        if not any(reading.obscure(running_abstract(reading, place, wording)) for wording in wanted):
            yield from [(place, "text")] * len(wanted)


def running_abstract(reading: ParsedPaper, place: Place, wording: str) -> str:
    """The title and the essential sentences, in their order or with the conclusions first."""
    kept, abstract = reading.essential(place), section_text(reading.paper, ABSTRACT)
    lines, words = [], 0
    for sentence in conclusions_first(kept) if wording == "conclusion_first" else kept:
        line = tidy_sentence(abstract[sentence.place.start : sentence.place.end])
        words += len(line.split())
        if words > LONGEST:
            break
        lines.append(line)
    title = reading.title if reading.title.endswith(("?", "!")) else f"{reading.title}."
    return f"{title} {capitalise(expand_abbreviations(' '.join(lines), reading.known))}"


def conclusions_first(kept: list[Sentence]) -> list[Sentence]:
    """The conclusions first, the rest in their order."""
    return sorted(kept, key=lambda sentence: sentence.role != "conclusions")


def whole_abstract(reading: ParsedPaper) -> Place:
    return Place(ABSTRACT, 0, len(section_text(reading.paper, ABSTRACT)))


# one sentence


def number_places(reading: ParsedPaper) -> Iterator[tuple[Place, str]]:
    for place, _, said in by_weight(reading.sentences):
        if len(said.split()) <= LONGEST_CLOZE and number_gap(said, reading.title):
            yield place, "number"


def number_gap(said: str, title: str) -> Gap | None:
    """The number that says most: the one with most digits, the first of several; none that the title gives."""
    found = [
        gap for gap in find_number_gaps(said) if not re.search(rf"\b{re.escape(said[slice(*gap[1:])])}\b", title)
    ]
    return max(found, key=lambda gap: (gap.end - gap.start, -gap.start), default=None)


def name_places(reading: ParsedPaper) -> Iterator[tuple[Place, str]]:
    for place, _, said in by_weight(reading.findings):
        if len(said.split()) <= LONGEST_CLOZE and reading.names(said):
            yield place, "name"


def claim_places(reading: ParsedPaper) -> Iterator[tuple[Place, str]]:
    """The title, if it is a statement (PubMedQA's idea), then results and conclusions that can be turned round."""
    if claim_of_title(reading.title):
        yield Place(TITLE, 0, len(reading.title)), "title_claim"
    for place, role, said in by_weight(reading.findings):
        if (
            role in ("results", "conclusions")
            and len(said.split()) <= LONGEST_CLAIM
            and find_polar_word(drop_statistics(said))
        ):
            yield place, "claim"


def claim_of_title(title: str) -> str:
    """The statement that a title makes, with a full stop; "" if it makes none that can be turned round."""
    said = re.split(r"(?::|\.) ", title)[0].rstrip(".")
    states = TITLE_VERB.search(said) and 5 <= len(said.split()) <= LONGEST_CLAIM and "?" not in title
    return f"{said}." if states and find_polar_word(said) else ""


def yes_or_no(reading: ParsedPaper, claim: str, place: Place, wording: str) -> tuple[str, str]:
    """A question about a claim, which a hash of the paper and the place turns round for half of them."""
    turned = hash_paper(reading.paper, f"claim {place}") % 2
    asked = negate(claim) if turned else claim
    return fill_prompt(wording, title=reading.title, claim=asked), f"{'No' if turned else 'Yes'}. {claim}"


def entity_places(reading: ParsedPaper) -> Iterator[tuple[Place, str]]:
    """Definitions, then findings that begin with a name."""
    for place, role, said in reading.sentences:
        if role not in ("results", "conclusions") and defined_term(said):
            yield place, "definition"
    for place, role, said in by_weight(reading.findings):
        if role in ("results", "conclusions") and not defined_term(said) and subject_of(reading, said):
            yield place, "about"


def subject_of(reading: ParsedPaper, said: str) -> str:
    """What a sentence defines, or the name among its first words that the title lacks; "" if there is none."""
    if name := defined_term(said):
        return uncapitalise(name)
    near = len(" ".join(said.split()[:SHORTEST]))
    named = (gap for gap in reading.names(said) if gap.end <= near and not LONGER.search(said[: gap.start]))
    found = next((said[gap.start : gap.end] for gap in named), "")
    return uncapitalise(found)
