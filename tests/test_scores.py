"""Stage 8 on made-up runs: a win, a tie, a loss, too few papers, no full fine-tune."""

import json
import math

import numpy as np
import pytest

from helpers.errors import CourseError
from helpers.questions import load
from helpers.scores import score
from helpers.scoring import criteria_hash

QUESTIONS = load()
NOTHING = "This is a difficult question and it should be put to a doctor."
PAPERS = 12


def answers(row, known, **more):
    """A results file: the reference for the first `known` questions, an empty phrase for the others."""
    return [
        {key: question[key] for key in ("id", "category", "difficulty", "question")}
        | {"response": question["reference"] if n < known else NOTHING, "time_seconds": 1.5, "model": row}
        | {"finish_reason": "stop", "tokens": 20, "timestamp": "2026-01-01T00:00:00Z"}
        | more
        for n, question in enumerate(QUESTIONS)
    ]


def papers(shift, n=PAPERS):
    """Per-paper rows: 1 bit a byte, plus `shift`, plus what is peculiar to the paper."""
    noise = np.random.default_rng(1).normal(0, 0.2, n)
    return [
        {
            "instrument": "bits_per_byte",
            "item": f"P{i}",
            "nll": (1 + noise[i] + shift * (1 + 0.1 * i)) * math.log(2) * 800,
            "bytes": 800,
        }
        for i in range(n)
    ] + [{"instrument": "recall", "item": "other", "right": True}]


def run(known, shifts, n=PAPERS):
    return score(
        {row: answers(row, k) for row, k in known.items()},
        QUESTIONS,
        {row: papers(shift, n) for row, shift in shifts.items()},
    )


ALL = {"base_4bit": 1, "base_bf16": 1, "qlora": 9, "full": 1}
SHIFTS = {"base_4bit": 0.0, "base_bf16": 0.0, "qlora": -0.05, "full": 0.05}


def verdicts(scores):
    return {(c["instrument"], c["a"], c["b"]): c["verdict"] for c in scores["comparisons"]}


def test_win_tie_and_loss():
    scores = run(ALL, SHIFTS)
    assert verdicts(scores) == {
        ("rubric", "qlora", "base_4bit"): "better",
        ("bits_per_byte", "qlora", "base_4bit"): "better",
        ("rubric", "full", "base_bf16"): "no measurable difference",
        ("bits_per_byte", "full", "base_bf16"): "worse",
    }
    assert scores["skipped"] == [] and "Not compared" not in scores["conclusion"]
    assert "rubric score, qlora − base_4bit: better (+0.800" in scores["conclusion"]


def test_every_number_follows_from_the_inputs():
    scores = run(ALL, SHIFTS)
    assert scores["criteria_hash"] == criteria_hash(QUESTIONS)
    row = scores["rows"]["qlora"]
    assert row["rubric"] == {"mean": pytest.approx(0.9, abs=1e-12), "n": 10}
    assert [one["score"] for one in row["questions"]] == [1.0] * 9 + [0.0]
    assert row["questions"][0]["met"] == [f"Q001.{n}" for n in range(1, 7)]
    expected = {p["item"]: p["nll"] / math.log(2) / p["bytes"] for p in papers(-0.05) if "nll" in p}
    assert row["bits_per_byte"]["papers"] == pytest.approx(expected, abs=1e-12)
    assert row["bits_per_byte"]["mean"] == pytest.approx(sum(expected.values()) / PAPERS, abs=1e-12)
    assert row["bits_per_byte"]["n"] == PAPERS
    bpb = next(c for c in scores["comparisons"] if c["instrument"] == "bits_per_byte" and c["a"] == "qlora")
    assert bpb["mean_difference"] == pytest.approx(-0.05 * (1 + 0.1 * 5.5), abs=1e-9) and bpb["n"] == PAPERS
    assert row["answers"]["words_mean"] == sum(one["words"] for one in row["questions"]) / 10
    assert row["answers"]["seconds_total"] == 15 and row["answers"]["seconds_mean"] == 1.5


def test_the_result_is_json_and_repeats():
    scores = run(ALL, SHIFTS)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores == run(ALL, SHIFTS)


def test_without_the_full_fine_tune():
    scores = run({"base_4bit": 1, "qlora": 1}, {"base_4bit": 0.0, "qlora": 0.0})
    assert list(scores["rows"]) == ["base_4bit", "qlora"]
    assert set(verdicts(scores).values()) == {"no measurable difference"}
    assert scores["skipped"] == [
        {"what": "full − base_bf16", "instrument": "rubric", "reason": "no questions scored for full and base_bf16"},
        {
            "what": "full − base_bf16",
            "instrument": "bits_per_byte",
            "reason": "no papers scored for full and base_bf16",
        },
    ]
    assert scores["conclusion"].endswith("Not compared: full − base_bf16.")


def test_without_items_or_without_the_unquantised_base():
    scores = score({row: answers(row, 1) for row in ("base_4bit", "qlora", "full")}, QUESTIONS, {})
    assert list(verdicts(scores)) == [("rubric", "qlora", "base_4bit")]
    assert scores["rows"]["qlora"]["bits_per_byte"] is None
    assert [s["reason"] for s in scores["skipped"]] == [
        "no papers scored for qlora and base_4bit",
        "no questions scored for base_bf16",
        "no papers scored for full and base_bf16",
    ]


def test_too_few_papers():
    scores = run(ALL, SHIFTS, n=4)
    assert verdicts(scores)["bits_per_byte", "qlora", "base_4bit"] == "too few items to decide"
    assert "too few papers to decide (n = 4)" in scores["conclusion"]


def test_nothing_at_all():
    scores = score({}, QUESTIONS, {})
    assert scores["rows"] == {} and scores["conclusion"].startswith("Nothing could be compared")


def test_ungraded_questions_are_asked_but_not_scored():
    mine = {"id": "Q011", "category": "Mine", "difficulty": "easy", "question": "What is vitiligo?"}
    answer = {"id": "Q011", "question": mine["question"], "response": "Loss of pigment.", "time_seconds": 1}
    scores = score({"base_4bit": [*answers("base_4bit", 10), answer]}, [*QUESTIONS, mine], {})
    assert scores["questions"]["n"] == 11 and scores["questions"]["not_graded"] == ["Q011"]
    assert scores["rows"]["base_4bit"]["rubric"] == {"mean": 1.0, "n": 10}
    assert scores["rows"]["base_4bit"]["questions"][-1]["score"] is None


def test_truncated_and_empty_answers_count():
    broken = answers("qlora", 0, finish_reason="length", response="")
    scores = score({"base_4bit": answers("base_4bit", 1), "qlora": broken[:9]}, QUESTIONS, {})
    counts = scores["rows"]["qlora"]["answers"]
    assert (counts["n"], counts["truncated"], counts["empty"], counts["missing"]) == (9, 9, 9, ["Q010"])
    assert scores["rows"]["qlora"]["rubric"] == {"mean": 0.0, "n": 9}
    assert scores["comparisons"][0]["n"] == 9


def test_what_does_not_belong_is_refused():
    with pytest.raises(CourseError, match="two answers to Q001"):
        score({"qlora": answers("qlora", 1) * 2}, QUESTIONS, {})
    with pytest.raises(CourseError, match="the answer to Q001 is to another question"):
        score({"qlora": answers("qlora", 1, question="Another?")}, QUESTIONS, {})
    with pytest.raises(CourseError, match="the answer to Q010 is to another question"):
        score({"qlora": answers("qlora", 1)}, QUESTIONS[:9], {})
    for bad in ({"nll": float("nan"), "bytes": 3}, {"nll": -1.0, "bytes": 3}, {"nll": 1.0, "bytes": 0}):
        with pytest.raises(CourseError, match="paper P1"):
            score({}, QUESTIONS, {"qlora": [{"instrument": "bits_per_byte", "item": "P1", **bad}]})
