"""What an exam found: intervals beside means, and sentences that are honest whatever came out."""

import pytest

from helpers.grading.rubric import Graded
from helpers.report import findings


def choice(item, right, paper):
    scores = [-1.0, -9.0] if right else [-9.0, -1.0]
    named = {"instrument": "recall", "item": item, "paper_id": paper}
    return named | {"scores": scores, "bytes": [2, 2], "answer": 0}


def text(instrument, item, nll):
    return {"instrument": instrument, "item": item, "paper_id": item, "nll": nll, "bytes": 100}


def sat(right, nll):
    texts = [text(name, f"{name}{n}", nll + n) for name in ("bits_per_byte", "general_bits") for n in range(4)]
    return [choice(f"r{n}", n < right, f"p{n}") for n in range(10)] + texts


MEASURED = {"base_4bit": sat(4, 80), "base_rag": sat(9, 80)[:10], "qlora": sat(5, 70)}
GRADES = [Graded(0.5), Graded(0.0), Graded(None)]


def test_every_mean_stands_over_its_interval():
    recall, papers, general = findings.finding_rows(MEASURED)
    assert recall["instrument"] == "recall" and recall["n"] == "10" and recall["guessing"] == "50.0 %"
    assert recall["qlora"] == "50.0 %\n23.7 to 76.3 %", "Wilson's interval of 5 in 10"
    assert papers["instrument"] == "held-out papers, bits per byte" and papers["guessing"] == "–"
    assert papers["base_rag"] == general["base_rag"] == "–", "who did not sit it has no figure"


def test_a_tuned_model_stands_beside_its_base_and_the_comparison_is_left_to_stage_8():
    rubric, measured, last = findings.finding_sentences("qlora", MEASURED, GRADES)
    assert "0.25 of 1 (n = 2, 95 % interval" in rubric, "what has no criteria is not graded"
    assert "50.0 % for qlora (95 % interval 23.7 to 76.3 %) and 40.0 % for base_4bit (95 % interval" in measured
    assert "bits per byte for qlora" in measured and "n = 10, guessing 50.0 %" in measured
    assert "notebook 8" in last


def test_before_there_are_papers_the_answer_is_about_plain_knowledge():
    before = {"base_4bit": [text("general_bits", f"g{n}", 80 + n) for n in range(3)]}
    _, measured, last = findings.finding_sentences("base_4bit", before, GRADES)
    assert measured.startswith("Surprise at general English: ") and " and " not in measured
    assert "baseline" in last


@pytest.mark.parametrize(
    ("grades", "said"), [([Graded(0.0)] * 10, "all alike"), ([Graded(None)], "no answer is graded")]
)
def test_no_interval_is_made_of_nothing(grades, said):
    rubric, *_ = findings.finding_sentences("qlora", MEASURED, grades)
    assert said in rubric and "interval" not in rubric


def test_who_was_not_examined_gets_no_sentence():
    assert findings.finding_sentences("full", {}, []) == [] == findings.finding_rows({})
