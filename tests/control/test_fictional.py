"""The invented world: nothing in it is real, nothing can be guessed, and no test question is trained on."""

import re
from collections import Counter
from itertools import chain, pairwise

import pytest
from support import tiny

from helpers.control import fictional
from helpers.core import CONTROL_GROUPS
from helpers.core.paths import BENCHMARK, GENERAL, SAMPLE, TOPICS
from helpers.dataset import contamination
from helpers.training import batches

FACTS = fictional.build_world()
ROWS = fictional.fictional_rows(FACTS, fictional.WORDINGS, 1)
ITEMS = [fictional.make_item(fact) for fact in FACTS]
STEMS = (  # of the international nonproprietary names that drugs of this field have
    *("mab", "cept", "nib", "limus", "kinra", "kin", "prazole", "olone", "sone", "sonide", "prim", "prine"),
    *("trexate", "stat", "vir", "mod", "olol", "pril", "sartan", "gliptin", "tide", "grel", "xaban", "arin"),
)


def test_the_world_is_the_same_for_the_same_seed_and_another_for_another():
    assert fictional.build_world() == FACTS
    assert fictional.build_world(seed=1) != FACTS
    assert (
        fictional.describe_world(FACTS)["sha256"] != fictional.describe_world(fictional.build_world(seed=1))["sha256"]
    )


def test_half_is_taught_and_half_only_read():
    syndromes = {group: {f.syndrome for f in FACTS if f.group == group} for group in CONTROL_GROUPS}
    assert len(syndromes["taught"]) == len(syndromes["read"]) == len(fictional.NAMES) / 2
    assert not syndromes["taught"] & syndromes["read"]
    asked = {row["paper_id"] for row in ROWS if row["prompt"]}
    assert asked == syndromes["taught"]


@pytest.mark.parametrize("attribute", fictional.OPTIONS)
def test_no_answer_is_the_likelier_guess(attribute):
    assert len(set(fictional.OPTIONS[attribute])) == 8 == 1 / fictional.CHANCE
    for group in CONTROL_GROUPS:
        counts = Counter(f.value for f in FACTS if (f.attribute, f.group) == (attribute, group))
        assert set(counts.values()) == {1}, "each of the eight belongs to as many syndromes"
        assert set(counts) == set(fictional.OPTIONS[attribute])


def of_one_syndrome():
    """The facts of every syndrome, in the order of OPTIONS."""
    return [[f for f in FACTS if f.syndrome == name] for name in {f.syndrome: None for f in FACTS}]


def test_every_profile_names_its_syndrome_once_and_first_and_says_all_four_facts_of_it_once():
    values = {value for options in fictional.OPTIONS.values() for value in options}
    for facts in of_one_syndrome():
        name = facts[0].syndrome
        for number in range(fictional.WORDINGS):
            text = fictional.write_profile(facts, number)
            assert text.count(name) == 1 and text.endswith(".") and not re.search(r"[{}]|\s\s", text)
            said = sorted((text.index(value), value) for value in values if value in text)
            assert text.index(name) < said[0][0], "no value before the name"
            order = [next(f.attribute for f in facts if f.value == value) for _, value in said]
            assert order == [facts[place].attribute for place in fictional.ORDERS[number]]
            assert all(text.count(value) == 1 for _, value in said)


def test_profiles_are_many_and_no_attribute_has_a_place_a_phrase_or_a_neighbour_of_its_own():
    assert fictional.WORDINGS == 12
    profiles = [fictional.write_profile(of_one_syndrome()[0], number) for number in range(fictional.WORDINGS)]
    assert len(set(profiles)) == fictional.WORDINGS
    for place in range(4):
        assert set(Counter(order[place] for order in fictional.ORDERS).values()) == {3}
    pairs = Counter(pair for order in fictional.ORDERS for pair in pairwise(order))
    assert len(pairs) == 4 * 3 and set(pairs.values()) == {3}
    for fact in of_one_syndrome()[0]:
        phrases = Counter(p for text in profiles for p in fictional.PHRASES[fact.attribute] if fact.put(p) in text)
        assert set(phrases.values()) == {3} and len(phrases) == 4


def test_a_question_does_not_say_its_answer_and_none_stands_twice():
    for wordings in chain(fictional.QUESTIONS.values(), fictional.ASKED.values()):
        assert all("{name}" in wording and "{value}" not in wording for wording in wordings)
        assert len(set(wordings)) == len(wordings) >= 2


def test_the_test_asks_in_words_that_are_never_trained_on():
    assert not set(chain(*fictional.ASKED.values())) & set(chain(*fictional.QUESTIONS.values()))
    trained = {row["prompt"] for row in ROWS}
    assert not trained & {item["question"] for item in ITEMS}
    tested = [(item["question"], f"{item['question']} {option}") for item in ITEMS for option in item["options"]]
    assert not contamination.find_contamination(ROWS, tested)
    patterns = {" ".join(re.findall(r"\w+", w.replace("{name}", ""))) for w in chain(*fictional.QUESTIONS.values())}
    for wording in chain(*fictional.ASKED.values()):
        assert not any(p in " ".join(re.findall(r"\w+", wording.replace("{name}", ""))) for p in patterns)


def test_each_test_wording_is_asked_of_half_of_the_syndromes():
    for attribute, wordings in fictional.ASKED.items():
        for group in CONTROL_GROUPS:
            facts = [f for f in FACTS if (f.attribute, f.group) == (attribute, group)]
            asked = Counter(w for w in wordings for f in facts if fictional.make_item(f)["question"] == f.put(w))
            assert sum(asked.values()) == len(facts) and max(asked.values()) - min(asked.values()) <= 4


def test_one_wording_repeated_is_as_many_profiles_as_many_wordings():
    one = fictional.fictional_rows(FACTS, 1, fictional.WORDINGS)
    count = [Counter(row["paper_id"] for row in rows if not row["prompt"]) for rows in (one, ROWS)]
    assert count[0] == count[1]
    assert len({row["text"] for row in one if not row["prompt"]}) == len(fictional.NAMES)
    assert [row for row in one if row["prompt"]] == [row for row in ROWS if row["prompt"]]


def test_rows_are_what_the_pipeline_trains_on():
    rows = batches.encode_rows(ROWS[:40], tiny.byte_tokenizer(), 256)
    assert len(rows) == 40
    for row in rows:
        assert row["text"].endswith(row["completion"])
        assert (row["answer_from"] == 1) == (row["prompt"] == "")


def names():
    return [*fictional.NAMES, *chain(*fictional.OPTIONS.values())]


@pytest.mark.parametrize("folder", [BENCHMARK, GENERAL, SAMPLE, TOPICS], ids=lambda folder: folder.name)
def test_nothing_of_it_stands_in_the_course(folder):
    text = " ".join(p.read_text(encoding="utf-8") for p in folder.rglob("*") if p.is_file()).lower()
    words = set(re.findall(r"\w+", text))
    assert len(words) > 50
    made_up = {word for name in names() for word in re.findall(r"[a-z]{4,}", name.lower())}
    ordinary = {"anti", "gland", "duct", "lobe", "node", "membrane", "valve", "plexus"}
    assert len(made_up - ordinary) >= 16 + 8 + 8 + 8
    assert not (made_up - ordinary) & words


def test_no_drug_is_named_as_drugs_are():
    assert not [name for name in fictional.OPTIONS["drug"] if name.endswith(STEMS)]


def test_no_allele_is_written_as_those_of_the_hla_genes():
    real = re.compile(r"(HLA-)?(A|B|C|E|F|G|DR[AB]\d?|D[QPOM][AB]\d?)\*\d\d")
    assert not [name for name in fictional.OPTIONS["allele"] if real.match(name)]
