"""Conclusions of papers as options, and the background that is given with them."""

from collections.abc import Iterable

from helpers import distractors
from helpers.papers import Paper, normal
from helpers.passages import text_of
from helpers.reading import LATER, Place, Reading
from helpers.sentences import complete, opens, split, tidy
from helpers.topics import Topic

BACKGROUND = 90  # words of background at most
LENGTHS = 0.3  # how much longer or shorter than the right one another conclusion may be


def find(papers: Iterable[Paper], topic: Topic, seed: int) -> list[tuple[Reading, Place, str, list[str]]]:
    """(reading, place, conclusion, three wrong ones) of every paper that has a background and neighbours.

    The wrong ones are those of papers on the same disease that share most words with the title.
    """
    known = [(reading, concluding(reading)) for reading in (Reading(paper, topic) for paper in papers)]
    found = []
    for reading, own in known:
        if not own or not background(reading) or reading.disease == "other":
            continue
        neighbours = [said for other, said in known if other.disease == reading.disease and other is not reading]
        title = set(normal(reading.title).split())
        for place, right in own:
            wrong = {fit for said in neighbours if (fit := nearest(right, [text for _, text in said]))}
            ranks = {
                said: (-len(title & set(normal(said).split())), distractors.fraction(seed, said)) for said in wrong
            }
            if len(ranks) >= 3:
                found.append((reading, place, right, sorted(ranks, key=ranks.get)[:3]))
                break
    return found


def concluding(reading: Reading) -> list[tuple[Place, str]]:
    """(place, text) of the first conclusion and of the first two together, if they can stand by themselves."""
    passage = reading.roles.get("conclusions")
    if passage is None:
        return []
    text = text_of(reading.paper, passage.number)[passage.start : passage.end]
    spans = split(text)[:2]
    said = [tidy(text[start:end]) for start, end in spans]
    if not said or not opens(said[0]) or not all(map(complete, said)) or LATER.search(said[0]):
        return []
    ends = [spans[0][1]] if len(spans) == 1 or LATER.search(said[1]) else [spans[0][1], spans[1][1]]
    places = [Place(passage.number, passage.start + spans[0][0], passage.start + end) for end in ends]
    return [(place, conclusion(reading, place)) for place in places]


def conclusion(reading: Reading, place: Place) -> str:
    """One or two sentences as an option."""
    text = text_of(reading.paper, place.number)[place.start : place.end]
    return " ".join(tidy(text[start:end]) for start, end in split(text))


def nearest(right: str, others: list[str]) -> str:
    """The first of `others` that is about as long as `right`; "" if none is."""
    return next((said for said in others if abs(len(said) - len(right)) <= LENGTHS * len(right)), "")


def background(reading: Reading) -> str:
    """The first whole sentences of the background, BACKGROUND words at most; "" if there is none."""
    passage = reading.roles.get("background")
    if passage is None:
        return ""
    text = text_of(reading.paper, passage.number)[passage.start : passage.end]
    taken, words = [], 0
    for start, end in split(text):
        words += len(text[start:end].split())
        if words > BACKGROUND or not complete(tidy(text[start:end])):
            break
        taken.append(text[start:end])
    return " ".join(taken)
