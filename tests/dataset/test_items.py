"""Probes ask for what the rows teach, in other words, with options that give nothing away."""

import json
from collections import Counter

import pytest
from support import invented

from helpers.core.errors import CourseError
from helpers.dataset import conclusions, contamination, distractors, facts
from helpers.dataset import items as probes
from helpers.dataset.parsed_paper import ParsedPaper
from helpers.dataset.sections import section_text
from helpers.papers.paper import Paper
from helpers.text import polarity


def validate(items: list[dict]) -> int:
    papers, training, held_out, _ = invented.built()
    return probes.validate_items(items, training, held_out, papers, invented.topic())


def of_kind(kind: str) -> list[dict]:
    return [item for item in invented.built()[3] if item["kind"] == kind]


def test_every_item_says_where_its_answer_stands():
    papers, _, _, items = invented.built()
    by_id = {paper.paper_id: paper for paper in papers}
    for item in items:
        assert set(item) == probes.KEYS and 0 <= item["answer"] < len(item["options"])
        start, end = item["span"]
        stands = section_text(by_id[item["paper_id"]], item["section"]["number"])[start:end]
        if item["kind"] != "conclusion":
            assert item["options"][item["answer"]].startswith(stands)
    assert validate(items) == len(items) and {item["instrument"] for item in items} == set(probes.INSTRUMENTS)


def test_recall_asks_of_taught_papers_and_the_others_of_held_out_ones():
    _, training, held_out, items = invented.built()
    taught, unseen = {row["paper_id"] for row in training}, {paper["paper_id"] for paper in held_out}
    for item in items:
        assert item["paper_id"] in (taught if item["instrument"] == "recall" else unseen)
    assert max(Counter(item["paper_id"] for item in items).values()) <= 4
    assert len({item["id"] for item in items}) == len(items) and items == sorted(items, key=lambda item: item["id"])


def test_recall_asks_for_what_a_row_states():
    _, training, _, items = invented.built()
    said: dict[str, str] = {}
    for row in training:
        said[row["paper_id"]] = said.get(row["paper_id"], "") + " " + row["completion"]
    for item in items:
        if item["instrument"] == "recall":
            left = item["question"].split("… ")[1]
            right = item["options"][item["answer"]]
            assert f"{left} {right}" in said[item["paper_id"]]
            wrong = [option for n, option in enumerate(item["options"]) if n != item["answer"]]
            assert all(f"{left} {option}" not in said[item["paper_id"]] for option in wrong)


def test_nothing_is_asked_in_the_words_of_a_row():
    _, training, _, items = invented.built()
    assert contamination.find_contamination(training, contamination.item_texts(items)) == []
    taught = {run for row in training for run in contamination.word_runs(row["text"])}
    for item in items:
        for option in item["options"]:
            assert taught.isdisjoint(contamination.word_runs(f"{item['question']} {option}"))


def test_the_right_answer_is_in_each_place_equally_often():
    groups = Counter((i["instrument"], len(i["options"]), i["answer"]) for i in invented.built()[3])
    for instrument in probes.INSTRUMENTS:
        for options in (2, 4):
            places = [groups[instrument, options, n] for n in range(options)]
            assert max(places) - min(places) <= 1


def test_both_directions_are_right_equally_often():
    for instrument in ("recall", "transfer"):
        right = [i["options"][i["answer"]] for i in of_kind("direction") if i["instrument"] == instrument]
        up = sum(option.startswith(tuple(polarity.UP)) for option in right)
        assert up * 2 == len(right) > 10


def test_numbers_have_one_form_and_their_rank_says_nothing():
    ranks = Counter()
    for item in of_kind("number"):
        values = [float(option.split()[0].rstrip("%").removesuffix("-fold")) for option in item["options"]]
        assert len(set(values)) == 4 and max(values) / min(values) < 20
        assert len({option.split()[0][-1] == "%" for option in item["options"]}) == 1
        assert len({len(option) for option in item["options"]}) == 1
        ranks[sorted(values).index(values[item["answer"]])] += 1
    assert set(ranks) == {0, 1, 2, 3} and max(ranks.values()) < 0.45 * ranks.total()


def test_conclusions_are_of_one_disease_and_length():
    papers, _, held_out, _ = invented.built()
    disease = {paper.paper_id: ParsedPaper(paper, invented.topic()).disease for paper in papers}
    unseen = {paper["paper_id"]: paper["abstract"] for paper in held_out}
    assert len(of_kind("conclusion")) >= 8
    used = Counter(o for i in of_kind("conclusion") for n, o in enumerate(i["options"]) if n != i["answer"])
    assert max(used.values()) <= conclusions.OFTEN
    for item in of_kind("conclusion"):
        right = item["options"][item["answer"]]
        for n, option in enumerate(item["options"]):
            assert abs(len(option) - len(right)) <= conclusions.LENGTHS * len(right)
            told = option.removeprefix("The findings suggest that ")
            (source,) = [id for id, text in unseen.items() if told in text]
            assert (source == item["paper_id"]) is (n == item["answer"])
            assert disease[source] == item["disease"] or not invented.topic().mentions(option)


DAMAGE = {
    "the answer's number": lambda item: item.update(answer=(item["answer"] + 1) % len(item["options"])),
    "the span": lambda item: item.update(span=[item["span"][0] + 1, item["span"][1]]),
    "the section": lambda item: item["section"].update(number=-1),
    "the right option": lambda item: item["options"].__setitem__(item["answer"], "something else"),
    "a wrong option": lambda item: item["options"].__setitem__(item["answer"] - 1, "x" * 400),
    "an option twice": lambda item: item["options"].__setitem__(item["answer"] - 1, item["options"][item["answer"]]),
    "an option less": lambda item: item["options"].pop(item["answer"] - 1),
    "the question": lambda item: item.update(question=item["question"] + " really"),
    "the template": lambda item: item.update(template="never"),
    "the paper": lambda item: item.update(paper_id="0"),
    "the side": lambda item: item.update(instrument="recall" if item["instrument"] != "recall" else "transfer"),
    "the kind": lambda item: item.update(kind="cell"),
    "the disease": lambda item: item.update(disease="measles"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_item_is_refused_by_name(damage):
    for kind in ("number", "molecule", "direction", "conclusion"):
        item = json.loads(json.dumps(of_kind(kind)[0]))
        DAMAGE[damage](item)
        with pytest.raises(CourseError, match=rf"1 of 1 probes are not in order \({item['id']}: "):
            validate([item])


def test_an_item_without_a_key_is_refused_by_number():
    item = of_kind("number")[0]
    with pytest.raises(CourseError, match="probe 2 lacks a key"):
        validate([item, {key: value for key, value in item.items() if key != "span"}])


def test_an_option_that_is_right_too_is_refused():
    papers = invented.built()[0]
    item = json.loads(json.dumps(next(i for i in of_kind("molecule") if i["instrument"] == "recall")))
    text = papers[int(item["paper_id"]) - 10_000].text
    also = next(
        marker for marker in invented.MARKERS if marker in text and marker not in item["options"][item["answer"]]
    )
    wrong = item["answer"] - 1
    item["options"][wrong] = also + item["options"][wrong][item["options"][wrong].find(" ") :]
    with pytest.raises(CourseError, match="gives itself away"):
        validate([item])


def test_too_many_items_of_a_paper_and_items_twice_are_refused():
    first = invented.built()[3][0]
    mine = [item for item in invented.built()[3] if item["paper_id"] == first["paper_id"]]
    with pytest.raises(CourseError, match="has 5 items"):
        validate([*mine, *(first | {"id": f"again-{n}"} for n in range(5 - len(mine)))])
    with pytest.raises(CourseError, match="the same id"):
        validate([first, first])


def test_an_item_that_a_row_repeats_is_refused_and_not_built():
    papers, training, held_out, items = invented.built()
    item = of_kind("number")[0]
    leaking = [dict(row) for row in training]
    leaking[0]["text"] += f" {item['question']} {item['options'][item['answer']]}"
    with pytest.raises(CourseError, match="shares eight words"):
        probes.validate_items([item], leaking, held_out, papers, invented.topic())
    again = probes.build_items(leaking, held_out, papers, invented.topic(), invented.KNOBS.SEED)
    assert item["question"] not in {other["question"] for other in again} and len(again) > len(items) - 10


def test_there_are_at_most_so_many_and_others_with_another_seed():
    papers, training, held_out, items = invented.built()
    few = probes.build_items(training, held_out, papers, invented.topic(), invented.KNOBS.SEED, most=20)
    counts = Counter(item["instrument"] for item in few)
    assert set(counts) == set(probes.INSTRUMENTS) and max(counts.values()) <= 20 and min(counts.values()) > 5
    assert probes.build_items(training, held_out, papers, invented.topic(), 43) != items


def test_chance_is_known():
    lines = probes.count_items(invented.built()[3])
    assert {line["kind"]: line["chance"] for line in lines} == {
        "conclusion": "25%", "direction": "50%", "molecule": "25%", "number": "25%"
    }  # fmt: skip
    assert sum(line["items"] for line in lines) == len(invented.built()[3])
    assert [line["instrument"] for line in lines] == sorted(
        (line["instrument"] for line in lines), key=list(probes.INSTRUMENTS).index
    )


@pytest.mark.parametrize(
    "right", ["84", "9", "1.45", "58.2%", "0.03%", "1,760", "300", "45", "2·5%", "98.6%", "7-fold"]
)
def test_wrong_numbers_look_like_the_right_one(right):
    found = distractors.other_numbers(right, "some 85 of 1.50 patients", "salt")
    assert len(found) == len({*found, right}) - 1 == 3
    for wrong in found:
        assert distractors.look_alike(wrong, right) and wrong not in ("85", "1.50")
        assert wrong.rstrip("%0123456789") == right.rstrip("%0123456789") or wrong[-1] == right[-1]
    assert found == distractors.other_numbers(right, "some 85 of 1.50 patients", "salt")


def test_a_number_without_neighbours_is_not_asked_for():
    everything = " ".join(map(str, range(10)))
    assert distractors.other_numbers("5", everything, "salt") == []


def test_keywords_name_a_study_without_repeating_its_title():
    for paper in invented.built()[0]:
        words = facts.find_keywords(ParsedPaper(paper, invented.topic()))
        assert len(words) in (2, 3) and contamination.word_runs(facts.list_words(words)).isdisjoint(
            contamination.word_runs(paper.title)
        )


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("A systematic review of clinical trials", []),
        ("Observational data on psoriasis and the skin barrier, 2002-2015", ["skin barrier", "psoriasis"]),
        ("Psoriasis-like skin inflammation in longitudinal work", ["psoriasis-like skin inflammation"]),
    ],
)
def test_keywords_are_subjects(title, words):
    paper = Paper(paper_id="1", source="PubMed", title=title)
    assert facts.find_keywords(ParsedPaper(paper, invented.topic())) == words


def test_a_corpus_without_facts_has_no_probes():
    paper = invented.paper(1)
    assert probes.build_items([], [], [paper], invented.topic(), 42) == []
    assert probes.count_items([]) == []
