"""Stage 8's numbers on made-up runs, against plain sums over the items."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from support.made_up import QUESTIONS, RATES, WIN, answers, choices, declared, items, run, texts, without

from helpers.core.errors import CourseError
from helpers.evaluation import repeats
from helpers.evaluation.scores import score_run
from helpers.grading.rubric import criteria_hash


def compared(scores, instrument, a="qlora", b="base_4bit"):
    return next(c for c in scores["comparisons"] if (c["instrument"], c["a"], c["b"]) == (instrument, a, b))


def test_every_number_follows_from_the_inputs():
    scores = run(WIN, known={"qlora": 9})
    assert scores["criteria_hash"] == criteria_hash(QUESTIONS)
    row, told = scores["rows"]["qlora"], items("qlora", WIN["qlora"])
    for name in ("recall", "transfer", "reading", "cloze"):
        asked = [one for one in told if one["instrument"] == name]
        right = [np.argmax(np.array(one["scores"]) / one["bytes"]) == one["answer"] for one in asked]
        assert row["measures"][name]["mean"] == pytest.approx(np.mean(right), abs=1e-12)
        assert list(row["measures"][name]["items"].values()) == [float(one) for one in right]
        assert row["measures"][name]["chance"] == 0.25 and row["measures"][name]["n"] == len(asked)
        assert row["measures"][name]["clusters"] == len({one["paper_id"] for one in asked})
    for name in ("bits_per_byte", "general_bits"):
        asked = [one for one in told if one["instrument"] == name]
        bits = [one["nll"] / math.log(2) / one["bytes"] for one in asked]
        assert row["measures"][name]["mean"] == pytest.approx(np.mean(bits), abs=1e-12)
        assert row["measures"][name]["n"] == row["measures"][name]["clusters"] == len(bits)
        assert row["measures"][name]["chance"] is None
    assert row["measures"]["rubric"]["mean"] == pytest.approx(0.9, abs=1e-12)
    assert [one["score"] for one in row["questions"]] == [1.0] * 9 + [0.0]
    assert row["answers"]["words_mean"] == sum(one["words"] for one in row["questions"]) / 10
    assert (row["answers"]["seconds_total"], row["answers"]["seconds_mean"]) == (15, 1.5)
    for c in scores["comparisons"]:
        ours, theirs = (scores["rows"][one]["measures"][c["instrument"]]["items"] for one in (c["a"], c["b"]))
        assert c["mean_difference"] == pytest.approx(np.mean([ours[i] - theirs[i] for i in ours]), abs=1e-9)
        assert c["n"] == len(ours)
    for measure in (one for row in scores["rows"].values() for one in row["measures"].values()):
        assert measure["low"] <= measure["mean"] <= measure["high"]


def test_items_of_a_paper_go_together():
    scores = run(WIN)
    c = compared(scores, "recall")
    assert (c["n"], c["clusters"]) == (180, 60) and "60 clusters flipped whole" in c["method"]
    assert compared(scores, "cloze")["clusters"] > 1
    rights = np.array(
        [list(scores["rows"][row]["measures"]["recall"]["items"].values()) for row in ("qlora", "base_4bit")]
    )
    assert (c["gained"], c["lost"]) == (int((rights[0] > rights[1]).sum()), int((rights[0] < rights[1]).sum()))


def test_roles_and_the_family():
    scores = run(WIN)
    roles = {(c["instrument"], c["a"], c["b"]): c["role"] for c in scores["comparisons"]}
    assert [c["role"] for c in scores["comparisons"]].index("primary") == 0
    assert roles["recall", "qlora", "base_4bit"] == "primary"
    assert {place for place, role in roles.items() if role == "family"} == {
        ("recall", "full", "base_bf16"),
        ("recall", "qlora", "placebo_qlora"),
    }
    assert {place[0] for place, role in roles.items() if role == "guard"} == {"cloze", "general_bits"}
    assert roles["recall", "placebo_qlora", "base_4bit"] == "control"
    assert roles["recall", "base_bf16", "base_4bit"] == roles["transfer", "qlora", "base_4bit"] == "exploratory"
    corrected = [c for c in scores["comparisons"] if c["p_holm"] is not None]
    assert {c["role"] for c in corrected} == {"primary", "family"} and len(corrected) == 3
    assert all(c["p_value"] <= c["p_holm"] <= min(1, 3 * c["p_value"]) for c in corrected)
    ranked = sorted(corrected, key=lambda c: c["p_value"])
    assert all(a["p_holm"] <= b["p_holm"] for a, b in pairwise(ranked))


def test_the_result_is_json_and_repeats():
    scores = run(WIN)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores == run(WIN)


def test_without_the_full_fine_tune():
    scores = run(without("full", "base_bf16"))
    assert list(scores["rows"]) == ["base_4bit", "base_rag", "qlora", "placebo_qlora"]
    gaps = {gap["what"]: gap for gap in scores["skipped"]}
    assert gaps["full − base_bf16"] == {
        "what": "full − base_bf16",
        "instrument": "all",
        "reason": "full and base_bf16 were not tested",
    }
    assert gaps["base_aa − base_4bit"]["reason"] == "base_aa was not tested"
    nobody = {gap["instrument"] for gap in scores["skipped"] if gap["what"] == "every pair"}
    assert "rubric_sampled" in nobody and not nobody & set(scores["rows"]["qlora"]["measures"])


def test_one_row_lacks_an_instrument():
    told = {row: items(row, RATES[row]) for row in ("base_4bit", "qlora")}
    told["qlora"] = [one for one in told["qlora"] if one["instrument"] != "recall"]
    scores = score_run({}, QUESTIONS, told)
    gap = {"what": "qlora − base_4bit", "instrument": "recall", "reason": "no items scored for qlora"}
    assert gap in scores["skipped"] and "recall" not in scores["rows"]["qlora"]["measures"]
    assert scores["verdict"]["code"] == "nothing" and "no items scored for qlora" in scores["conclusion"]


def test_only_shared_items_are_compared():
    told = {row: choices(row, "recall", RATES[row], 30, 2) for row in ("base_4bit", "qlora")}
    scores = score_run({}, QUESTIONS, told | {"qlora": told["qlora"][:40]})
    c, base = compared(scores, "recall"), told["base_4bit"][:40]
    assert (c["n"], c["clusters"]) == (40, 20) and scores["rows"]["base_4bit"]["measures"]["recall"]["n"] == 60
    before = sum(one["scores"][1] > -30 for one in base) / 40
    assert f"from {100 * before:.1f} % to" in scores["conclusion"], "the headline's rates are those compared"


def test_nothing_at_all():
    scores = score_run({}, QUESTIONS, {})
    assert scores["rows"] == {} and scores["comparisons"] == scores["skipped"] == scores["seeds"] == []
    assert scores["conclusion"] == "Nothing could be compared: no model was tested."


def test_ungraded_questions_are_asked_but_not_scored():
    mine = {"id": "Q011", "category": "Mine", "difficulty": "easy", "question": "What is vitiligo?"}
    answer = {"id": "Q011", "question": mine["question"], "response": "Loss of pigment.", "time_seconds": 1}
    answer["samples"] = [{"response": "Loss of pigment.", "finish_reason": "stop", "tokens": 3, "thinking": ""}]
    row = score_run({"base_4bit": [*answers("base_4bit", 10), answer]}, [*QUESTIONS, mine], {})["rows"]["base_4bit"]
    assert row["measures"]["rubric"]["mean"] == 1.0 and row["measures"]["rubric"]["n"] == 10
    assert row["questions"][-1]["score"] is None and row["questions"][-1]["sampled"] == []


def test_truncated_and_empty_answers_count():
    broken = answers("qlora", 0, finish_reason="length", response="")
    scores = score_run({"base_4bit": answers("base_4bit", 1), "qlora": broken[:9]}, QUESTIONS, {})
    counts = scores["rows"]["qlora"]["answers"]
    assert (counts["n"], counts["truncated"], counts["empty"], counts["missing"]) == (9, 9, 9, ["Q010"])
    assert counts["truncated_in_thought"] == 0
    assert scores["rows"]["qlora"]["measures"]["rubric"]["mean"] == 0 and compared(scores, "rubric")["n"] == 9


def test_samples_are_graded_and_their_failures_counted():
    good = {"response": QUESTIONS[0]["reference"], "thinking": "", "finish_reason": "stop", "tokens": 9}
    lost = {"response": "", "thinking": "Let me see", "finish_reason": "length", "tokens": 9}
    given = answers("qlora", 10, samples=[])
    given[0] |= {"samples": [good, good, lost, good]}
    scores = score_run({"qlora": given, "base_4bit": answers("base_4bit", 0)}, QUESTIONS, {})
    row = scores["rows"]["qlora"]
    assert row["questions"][0]["sampled"] == [1.0, 1.0, 0.0, 1.0] and row["questions"][1]["sampled"] == []
    assert row["measures"]["rubric_sampled"]["items"] == {"Q001": 0.75}
    kinds = ("samples", "sampled_truncated", "sampled_empty", "sampled_truncated_in_thought", "truncated_in_thought")
    assert [row["answers"][kind] for kind in kinds] == [4, 1, 1, 1, 0]


def test_a_harmful_mean_is_clipped_and_its_differences_are_not():
    scores = run({"base_4bit": 0.3, "qlora": 0.3}, known={"qlora": 0, "base_4bit": 0})
    measure = scores["rows"]["qlora"]["measures"]["rubric"]
    assert (measure["low"], measure["mean"], measure["high"]) == (0, 0, 0)


@pytest.mark.parametrize("options", [2, 4])
def test_chance_and_the_normalisation(options):
    """The longer option wins where its log-probability a byte is higher, though its sum is lower."""
    scores, sizes = [-10.0, -12.0, -99.0, -99.0][:options], [5, 10, 5, 5][:options]
    item = {"instrument": "reading", "item": "a", "paper_id": "P", "scores": scores, "bytes": sizes, "answer": 1}
    measure = score_run({}, QUESTIONS, {"qlora": [item]})["rows"]["qlora"]["measures"]["reading"]
    assert (measure["mean"], measure["chance"]) == (1.0, 1 / options)


def test_repeated_trainings_split_the_variance():
    scores = run(RATES | {"qlora_s43": 0.44, "qlora_s44": 0.47}, seed=42)
    assert run(RATES)["seeds"] == []
    split = next(one for one in scores["seeds"] if one["instrument"] == "recall")
    measured = set(scores["rows"]["qlora_s43"]["measures"])
    assert {one["instrument"] for one in scores["seeds"]} == measured and len(measured) == 7
    assert split["method"] == "qlora" and list(split["differences"]) == ["42", "43", "44"]
    rows = {"42": "qlora", "43": "qlora_s43", "44": "qlora_s44"}
    base = scores["rows"]["base_4bit"]["measures"]["recall"]["mean"]
    for seed, row in rows.items():
        mean = scores["rows"][row]["measures"]["recall"]["mean"]
        assert split["differences"][seed] == pytest.approx(mean - base, abs=1e-9)
    squared = split["question_variance"] / split["n"] + split["seed_variance"] / 3
    assert split["standard_error"] ** 2 == pytest.approx(squared, rel=1e-12)
    assert any(said.startswith("Trained with 3 seeds") for said in scores["verdict"]["sentences"])
    assert not any(c["a"] == "qlora_s43" for c in scores["comparisons"])


def test_the_split_finds_the_variances_it_was_given():
    """400 experiments: 3 trainings, 60 items of 20 papers; spread of papers 0.3, of seeds 0.2, of answers 0.8."""
    random, clusters = np.random.default_rng(4), {i: i // 3 for i in range(60)}
    found, means = [], []
    for _ in range(400):
        paper, seeds = np.repeat(random.normal(0, 0.3, 20), 3), random.normal(0, 0.2, (3, 1))
        table = paper + seeds + random.normal(0, 0.8, (3, 60))
        found.append(repeats.split_variance({str(s): dict(enumerate(row)) for s, row in enumerate(table)}, clusters))
        means.append(table.mean())
    assert np.mean([one["seed_variance"] for one in found]) == pytest.approx(0.2**2, rel=0.15)
    expected = 60 * (0.3**2 / 20 + 0.8**2 / 180)
    assert np.mean([one["question_variance"] for one in found]) == pytest.approx(expected, rel=0.15)
    assert np.mean([one["standard_error"] ** 2 for one in found]) == pytest.approx(np.var(means), rel=0.2)


def test_a_declaration_stays_as_it_was_made_unless_other_items_decide():
    measured = {"qlora": items("qlora", 0.5)}
    assert score_run({}, QUESTIONS, measured)["declaration"] == {"kept": None}
    for kept in (True, False):
        said = declared(measured, kept)
        assert score_run({}, QUESTIONS, measured, declared=said)["declaration"] == said
    fewer = declared({"qlora": measured["qlora"][1:]})
    assert score_run({}, QUESTIONS, measured, declared=fewer)["declaration"]["kept"] is False


def test_answers_that_do_not_belong_are_refused():
    with pytest.raises(CourseError, match="two answers to Q001"):
        score_run({"qlora": answers("qlora", 1) * 2}, QUESTIONS, {})
    with pytest.raises(CourseError, match="the answer to Q001 is to another question"):
        score_run({"qlora": answers("qlora", 1, question="Another?")}, QUESTIONS, {})
    with pytest.raises(CourseError, match="the answer to Q010 is to another question"):
        score_run({"qlora": answers("qlora", 1)}, QUESTIONS[:9], {})


@pytest.mark.parametrize("bad", [{"nll": float("nan")}, {"nll": -1.0}, {"bytes": 0}])
def test_impossible_texts_are_refused(bad):
    item = texts("qlora", "bits_per_byte", 0, 1)[0] | bad
    with pytest.raises(CourseError, match="qlora: bits_per_byte-0 has nll"):
        score_run({}, QUESTIONS, {"qlora": [item]})


@pytest.mark.parametrize(
    "bad",
    [
        {"scores": [-1.0, float("nan"), -1.0, -1.0]},
        {"scores": [-1.0, 0.5, -1.0, -1.0]},
        {"scores": [-1.0, -1.0]},
        {"scores": [-1.0], "bytes": [3], "answer": 0},
        {"bytes": [10, 0, 10, 10]},
        {"answer": 4},
        {"answer": -1},
    ],
)
def test_impossible_choices_are_refused(bad):
    item = choices("qlora", "recall", 0.5, 1, 1)[0] | bad
    with pytest.raises(CourseError, match="qlora: recall-0 has scores"):
        score_run({}, QUESTIONS, {"qlora": [item]})


def test_items_that_are_not_the_same_are_refused():
    one = choices("qlora", "recall", 0.5, 2, 1)
    with pytest.raises(CourseError, match="qlora: recall has recall-0 twice"):
        score_run({}, QUESTIONS, {"qlora": [*one, one[0]]})
    for changed in ({"answer": 0}, {"bytes": [10, 10, 10, 9]}, {"paper_id": "other"}):
        with pytest.raises(CourseError, match="qlora: recall-0 is another item than the one other models had"):
            score_run({}, QUESTIONS, {"base_4bit": one, "qlora": [one[0] | changed, one[1]]})
