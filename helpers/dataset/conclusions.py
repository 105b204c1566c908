"""Conclusions of papers as options, and the background that is given with them."""

from collections import Counter
from collections.abc import Iterable

from helpers.dataset.distractors import hash_fraction
from helpers.dataset.facts import EMPTY
from helpers.dataset.parsed_paper import LATER, ParsedPaper, Place
from helpers.dataset.sections import AIM, CONCLUDES, FOUND, section_text
from helpers.papers import Paper, Topic, normalise_text
from helpers.text import (
    can_open,
    expand_abbreviations,
    has_undefined_abbreviation,
    is_complete,
    split_sentences,
    tidy_sentence,
)

BACKGROUND = 90  # words of background at most
LENGTHS = 0.4  # how much longer or shorter than the right one another conclusion may be
OFTEN = 2  # times a conclusion is a wrong option


def find_conclusions(
    papers: Iterable[Paper], topic: Topic, seed: int
) -> list[tuple[ParsedPaper, Place, str, list[str]]]:
    """(reading, place, conclusion, three wrong ones) of every paper that has a background and neighbours.

    The wrong ones come from papers on the same disease, or name no disease; they share most words with title and
    background, and none is wrong more than OFTEN times.
    """
    known = [(reading, concluding_sentences(reading)) for reading in (ParsedPaper(paper, topic) for paper in papers)]
    found, used = [], Counter()
    for reading, own in known:
        if not own or not background_of(reading) or reading.disease == "other":
            continue
        others = ((other, said) for other, said in known if other is not reading)
        neighbours = [(other.disease == reading.disease, other, said) for other, said in others]
        about = subjects_of(f"{reading.title} {background_of(reading)}", topic)
        for place, right in own:
            ranks = {}
            for close, other, said in neighbours:
                fit = nearest_conclusions(right, [text for _, text in said])
                shared = len(about & subjects_of(fit, topic))
                if fit and used[fit] < OFTEN and (close or (shared and open_to(other, fit))):
                    ranks[fit] = (not close, -shared, hash_fraction(seed, fit))
            wrong = sorted(ranks, key=ranks.get)[:3]
            if len(wrong) == 3:
                found.append((reading, place, right, wrong))
                used.update(wrong)
                break
    return found


def open_to(other: ParsedPaper, said: str) -> bool:
    """Whether a conclusion of another paper names no disease, so that it could be of this one."""
    return not other.topic.mentions(expand_abbreviations(said, other.known)) and not has_undefined_abbreviation(
        said, ""
    )


def subjects_of(text: str, topic: Topic) -> set[str]:
    """The longer words of a text that name something, without the diseases that all the options share."""
    diseases = set(normalise_text(" ".join(topic.mentions(text))).split())
    return {word for word in normalise_text(text).split() if len(word) > 4 and not EMPTY.match(word)} - diseases


def concluding_sentences(reading: ParsedPaper) -> list[tuple[Place, str]]:
    """(place, text) of the first conclusion and of the first two together, if they can stand by themselves."""
    passage = reading.roles.get("conclusions")
    if passage is None:
        return []
    text = section_text(reading.paper, passage.number)[passage.start : passage.end]
    spans = split_sentences(text)[:2]
    said = [tidy_sentence(text[start:end]) for start, end in spans]
    if not said or not can_open(said[0]) or not all(map(is_complete, said)) or LATER.search(said[0]):
        return []
    second = len(spans) > 1 and CONCLUDES.match(text[slice(*spans[1])]) and not LATER.search(said[1])
    ends = [end for _, end in (spans if second else spans[:1])]
    places = [Place(passage.number, passage.start + spans[0][0], passage.start + end) for end in ends]
    return [(place, conclusion_of(reading, place)) for place in places]


def conclusion_of(reading: ParsedPaper, place: Place) -> str:
    """One or two sentences as an option."""
    text = section_text(reading.paper, place.number)[place.start : place.end]
    return " ".join(tidy_sentence(text[start:end]) for start, end in split_sentences(text))


def nearest_conclusions(right: str, others: list[str]) -> str:
    """The first of `others` that is about as long as `right`, in as many sentences; "" if none is."""
    fits = (said for said in others if abs(len(said) - len(right)) <= LENGTHS * len(right))
    return next((said for said in fits if len(split_sentences(said)) == len(split_sentences(right))), "")


def background_of(reading: ParsedPaper) -> str:
    """The first whole sentences of the background, BACKGROUND words at most; "" if there is none.

    They end with the aim; in an unlabelled abstract before the first finding, which could give the conclusion away.
    """
    passage = reading.roles.get("background")
    if passage is None:
        return ""
    text = section_text(reading.paper, passage.number)[passage.start : passage.end]
    labelled = len(reading.paper.abstract) > 1
    taken, words = [], 0
    for start, end in split_sentences(text):
        words += len(text[start:end].split())
        sentence = text[start:end]
        aim, finding = AIM.search(sentence), FOUND.search(sentence)
        if words > BACKGROUND or not is_complete(tidy_sentence(sentence)) or (finding and not labelled and not aim):
            break
        taken.append(sentence)
        if aim:
            break
    return " ".join(taken)
