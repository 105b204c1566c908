"""Probes: multiple-choice items for the evaluation, none of them in the words of a training row.

- recall: facts that training rows teach, asked by keywords of the title and a few words around the answer
- transfer: the same kinds of items from held-out papers
- reading: title and background of a held-out paper, and four conclusions, three of them of its neighbours

Four options, matched in type and length; a direction ("increased") has two. Chance is one over the options.
"""

from collections import Counter
from collections.abc import Iterable

from helpers.core import CourseError
from helpers.dataset.conclusions import background_of, concluding_sentences, find_conclusions, nearest_conclusions
from helpers.dataset.contamination import find_contamination, item_texts
from helpers.dataset.distractors import (
    NUMBER,
    hash_fraction,
    is_mentioned,
    look_alike,
    number_occurs,
    other_names,
    other_numbers,
    same_shape,
)
from helpers.dataset.facts import ODD, Fact, find_facts, find_keywords, list_words, take_turns, write_option
from helpers.dataset.parsed_paper import ParsedPaper, Place
from helpers.dataset.prompts import ITEM_PROMPTS, choose_prompt
from helpers.dataset.sections import section_label
from helpers.papers import Paper, Topic, normalise_text
from helpers.text import UP, opposite_of

INSTRUMENTS = {"recall": "training", "transfer": "held_out", "reading": "held_out"}
KEYS = frozenset(
    {"id", "instrument", "kind", "paper_id", "source", "question", "options", "answer", "section", "span", "template"}
    | {"disease"}
)
OF_A_PAPER = 4  # items in all
AT_MOST = {"recall": 4, "transfer": 4, "reading": 1}  # items of one paper
MANY = 4  # facts looked at for each item


def build_items(
    training: list[dict], held_out: list[dict], papers: Iterable[Paper], topic: Topic, seed: int, most: int = 300
) -> list[dict]:
    """At most `most` items of each instrument, sorted by id.

    `training` and `held_out` are what `rows.build` made of `papers`. An item that shares eight words in a row with a
    training row gives way. Every item is checked (`validate`) before it is returned.
    """
    papers = list(papers)
    sides = sort_out(papers, training, held_out)
    pool = names_of(rank_papers([*sides["training"], *sides["held_out"]], seed)[: MANY * most], topic)
    unseen = [row for paper in held_out for row in paper["rows"]]
    items = [
        *ask_conclusions(rank_papers(sides["held_out"], seed)[: 4 * most], topic, seed),
        *ask_facts("recall", sides["training"], training, topic, seed, most, pool),
        *ask_facts("transfer", sides["held_out"], unseen, topic, seed, most, pool),
    ]
    leaking = {leak.tested for leak in find_contamination(training, item_texts(items))}
    kept = limit_items(limit_per_paper(item for item in items if item["id"] not in leaking), most)
    done = sorted(spread_answers(kept, seed), key=lambda item: item["id"])
    validate_items(done, training, held_out, papers, topic)
    return done


def sort_out(papers: Iterable[Paper], training: list[dict], held_out: list[dict]) -> dict[str, list[Paper]]:
    """{"training": papers with training rows, "held_out": held-out papers}."""
    taught = {(row["source"], row["paper_id"]) for row in training}
    unseen = {(paper["source"], paper["paper_id"]) for paper in held_out}
    papers = list(papers)
    return {
        "training": [paper for paper in papers if paper.key in taught],
        "held_out": [paper for paper in papers if paper.key in unseen],
    }


def rank_papers(papers: Iterable[Paper], seed: int) -> list[Paper]:
    """The papers in the order of a hash: the first are asked about where there are too many."""
    return sorted(papers, key=lambda paper: hash_fraction(seed, *paper.key))


# facts


def ask_facts(
    instrument: str, papers: list[Paper], rows: list[dict], topic: Topic, seed: int, most: int, pool: set[tuple]
) -> list[dict]:
    """Items about facts that `rows` of these papers state in so many words; wrong names come from `pool`."""
    stated: dict[tuple, list[str]] = {}
    for row in rows:
        stated.setdefault((row["source"], row["paper_id"]), []).append(f" {normalise_text(row['completion'])} ")
    found: list[tuple[ParsedPaper, Fact]] = []
    for paper in rank_papers(papers, seed):
        if len(found) >= MANY * most:
            break
        reading = ParsedPaper(paper, topic)
        taught = [
            fact
            for fact in find_facts(reading)
            if any(f" {normalise_text(fact.shown)} " in said for said in stated.get(paper.key, ()))
        ]
        found += [(reading, fact) for fact in take_turns(taught)]
    numbered, items = Counter(), []
    for reading, fact in found:
        if numbered[reading.paper.key] >= AT_MOST[instrument]:
            continue
        if (wrong := wrong_answers(reading, fact, pool, seed)) and find_keywords(reading, fact.about):
            numbered[reading.paper.key] += 1
            number = f"{instrument}-{reading.paper.paper_id}-{numbered[reading.paper.key]}"
            items.append(make_item(number, instrument, reading, fact, wrong))
    return items


def names_of(papers: Iterable[Paper], topic: Topic) -> set[tuple[str, str]]:
    """(kind, name) of what the findings of papers name."""
    readings = (ParsedPaper(paper, topic) for paper in papers)
    said = ((reading, sentence.said) for reading in readings for sentence in reading.findings)
    named = ((name.kind, text[name.start : name.end]) for reading, text in said for name in reading.names(text))
    return {(kind, name) for kind, name in named if not ODD.match(name)}


def wrong_answers(reading: ParsedPaper, fact: Fact, pool: Iterable[tuple[str, str]], seed: int) -> list[str]:
    """Three answers that are wrong for the paper, for a direction one; [] if there are none."""
    salt = f"{seed}:{reading.paper.key}:{fact.place}"
    if fact.kind == "direction":
        return [opposite_of(fact.right)]
    if fact.kind == "number":
        return other_numbers(fact.right, whole_text(reading), salt)
    return other_names(fact.right, fact.kind, pool, whole_text(reading), salt)


def whole_text(reading: ParsedPaper) -> str:
    """Title, abstract and what its abbreviations mean: no wrong answer may stand in it."""
    return "\n".join([reading.paper.title, reading.paper.text, *reading.known.values()])


def ask_conclusions(papers: list[Paper], topic: Topic, seed: int) -> list[dict]:
    """Items that ask which of four conclusions belongs to a title and a background."""
    return [
        make_item(
            f"reading-{reading.paper.paper_id}-1", "reading", reading, Fact("conclusion", place, right, "", ""), wrong
        )
        for reading, place, right, wrong in find_conclusions(papers, topic, seed)
    ]


# items


def make_item(id: str, instrument: str, reading: ParsedPaper, fact: Fact, wrong: list[str]) -> dict:
    """An item with the right option first."""
    paper = reading.paper
    kind = fact.kind if fact.kind in ITEM_PROMPTS else "name"
    template = choose_prompt(ITEM_PROMPTS, kind, paper, fact.place.start)
    return {
        "id": id,
        "instrument": instrument,
        "kind": fact.kind,
        "paper_id": paper.paper_id,
        "source": paper.source,
        "question": write_question(reading, kind, template, fact),
        "options": [write_option(answer, fact.tail) for answer in (fact.right, *wrong)],
        "answer": 0,
        "section": {"number": fact.place.number, "label": section_label(paper, fact.place.number)},
        "span": [fact.place.start, fact.place.end],
        "template": template,
        "disease": reading.disease,
    }


def write_question(reading: ParsedPaper, kind: str, template: str, fact: Fact) -> str:
    """What is asked, up to where the options go on."""
    parts = (
        {"title": reading.title, "background": background_of(reading)}
        if kind == "conclusion"
        else {"keywords": list_words(find_keywords(reading, fact.about)), "left": fact.left}
    )
    return ITEM_PROMPTS[kind][template].format(**parts)


def limit_per_paper(items: Iterable[dict]) -> list[dict]:
    """The first OF_A_PAPER items of each paper."""
    seen, kept = Counter(), []
    for item in items:
        key = (item["source"], item["paper_id"])
        seen[key] += 1
        if seen[key] <= OF_A_PAPER:
            kept.append(item)
    return kept


def limit_items(items: list[dict], most: int) -> list[dict]:
    """The first `most` items of each instrument, both directions equally often."""
    first = [
        balance_directions([item for item in items if item["instrument"] == name])[:most] for name in INSTRUMENTS
    ]
    return [item for group in first for item in balance_directions(group)]


def balance_directions(items: list[dict]) -> list[dict]:
    """The items without the last of those whose right option is the commoner direction."""
    sides = {True: [], False: []}
    for item in items:
        if item["kind"] == "direction":
            sides[item["options"][0].lower().startswith(tuple(UP))].append(item["id"])
    fewest = min(map(len, sides.values()))
    surplus = {id for side in sides.values() for id in side[fewest:]}
    return [item for item in items if item["id"] not in surplus]


def spread_answers(items: list[dict], seed: int) -> list[dict]:
    """The items with the right option, so far the first, in each place equally often, by instrument and chance."""
    groups: dict[tuple, list[dict]] = {}
    for item in sorted(items, key=lambda item: hash_fraction(seed, item["id"])):
        groups.setdefault((item["instrument"], len(item["options"])), []).append(item)
    placed = []
    for group in groups.values():
        for number, item in enumerate(group):
            right, *wrong = item["options"]
            wrong.sort(key=lambda said: hash_fraction(seed, item["id"], said))
            answer = number % len(item["options"])
            placed.append(item | {"options": [*wrong[:answer], right, *wrong[answer:]], "answer": answer})
    return placed


# checks


def count_items(items: Iterable[dict]) -> list[dict[str, object]]:
    """[{"instrument", "kind", "items", "papers", "chance"}]: how many there are, and what guessing gets right."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for item in items:
        groups.setdefault((item["instrument"], item["kind"]), []).append(item)
    return [
        {
            "instrument": instrument,
            "kind": kind,
            "items": len(group),
            "papers": len({item["paper_id"] for item in group}),
            "chance": f"{sum(1 / len(item['options']) for item in group) / len(group):.0%}",
        }
        for (instrument, kind), group in sorted(
            groups.items(), key=lambda g: (list(INSTRUMENTS).index(g[0][0]), g[0])
        )
    ]


def validate_items(
    items: list[dict], training: list[dict], held_out: list[dict], papers: Iterable[Paper], topic: Topic
) -> int:
    """How many items were derived from their papers again and found in order: all of them.

    Raises CourseError naming those that were not, and why.
    """
    if incomplete := [n for n, item in enumerate(items, start=1) if item.keys() != KEYS]:
        raise CourseError(
            f"probe {incomplete[0]} lacks a key or has one too many", f"it has {', '.join(sorted(KEYS))}"
        )
    sides = sort_out(papers, training, held_out)
    known = {side: {paper.key: ParsedPaper(paper, topic) for paper in group} for side, group in sides.items()}
    leaking = {leak.tested for leak in find_contamination(training, item_texts(items))}
    of_paper, ids = Counter((i["source"], i["paper_id"]) for i in items), Counter(i["id"] for i in items)
    askable: dict[tuple, list[Fact]] = {}
    faults: dict[str, str] = {}
    for item in items:
        key = (item["source"], item["paper_id"])
        reading = known[INSTRUMENTS[item["instrument"]]].get(key)
        if reading is None:
            faults[item["id"]] = f"{item['instrument']} may not ask about paper {item['paper_id']}"
            continue
        if key not in askable:
            askable[key] = [*find_facts(reading), *conclusions_of(reading)]
        fault = find_item_fault(item, reading, askable[key])
        fault = fault or ("it shares eight words in a row with a training row" if item["id"] in leaking else "")
        fault = fault or (f"its paper has {of_paper[key]} items" if of_paper[key] > OF_A_PAPER else "")
        if fault := fault or ("another has the same id" if ids[item["id"]] > 1 else ""):
            faults[item["id"]] = fault
    if faults:
        shown = "; ".join(f"{id}: {fault}" for id, fault in list(faults.items())[:10])
        raise CourseError(
            f"{len(faults)} of {len(items)} probes are not in order ({shown})",
            "build them again: FORCE=3 make pipeline",
        )
    return len(items)


def conclusions_of(reading: ParsedPaper) -> list[Fact]:
    return [Fact("conclusion", place, right, "", "") for place, right in concluding_sentences(reading)]


def find_item_fault(item: dict, reading: ParsedPaper, askable: list[Fact]) -> str:
    """Why an item does not follow from its paper; "" if it does."""
    spot = Place(item["section"]["number"], *item["span"])
    fact = next((fact for fact in askable if fact.place == spot and fact.kind == item["kind"]), None)
    if fact is None:
        return f"nothing of kind {item['kind']} can be asked at {item['span']} of section {spot.number}"
    again = make_item(item["id"], item["instrument"], reading, fact, [])
    if {**again, "options": 0, "answer": 0} != {**item, "options": 0, "answer": 0}:
        return "its question or its labels would be different"
    if not 0 <= item["answer"] < len(item["options"]) or item["options"][item["answer"]] != again["options"][0]:
        return f"its right option is not what stands at {item['span']}"
    if len({normalise_text(said) for said in item["options"]}) != (2 if item["kind"] == "direction" else 4):
        return "its options are not four different ones (two for a direction)"
    wrong = [said for n, said in enumerate(item["options"]) if n != item["answer"]]
    return next(
        (f"its option {said!r} gives itself away" for said in wrong if not fits_option(said, fact, reading)), ""
    )


def fits_option(said: str, fact: Fact, reading: ParsedPaper) -> bool:
    """Whether a wrong option is wrong for the paper and looks like the right one."""
    if fact.kind == "conclusion":
        return nearest_conclusions(fact.right, [said]) != ""
    answer = said.removesuffix(f" {fact.tail}") if fact.tail else said
    if write_option(answer, fact.tail) != said:
        return False
    if fact.kind == "direction":
        return answer == opposite_of(fact.right)
    if fact.kind == "number":
        number = NUMBER.fullmatch(answer) and look_alike(answer, fact.right)
        return bool(number) and not number_occurs(answer, whole_text(reading))
    return same_shape(answer, fact.right) and not is_mentioned(answer, whole_text(reading))
