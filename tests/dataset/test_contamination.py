"""What is tested is not taught."""

import random

import pytest
from support import invented
from support.sweeps import times

from helpers.core.errors import CourseError
from helpers.dataset import build, contamination
from helpers.grading import questions
from helpers.training import finetune

ASKED = questions.load_questions()
ALIAS = "one two three four five six seven eight"


def sown(text: str, place: int = 0) -> list[dict]:
    """The invented training rows, `text` planted in one of them."""
    training = [dict(row) for row in invented.built()[1]]
    training[place]["text"] += f" {text}"
    return training


def test_our_own_questions_share_nothing_with_the_rows():
    _, training, _, items = invented.built()
    assert (
        contamination.find_contamination(
            training, [*contamination.tested_texts(ASKED), *contamination.item_texts(items)]
        )
        == []
    )
    assert contamination.drop_contaminated(training, contamination.tested_texts(ASKED)) == training


@pytest.mark.parametrize("number", range(len(ASKED)))
def test_a_question_a_reference_or_a_rubric_that_is_planted_is_found(number):
    question = ASKED[number]
    texts = [question["question"], question["reference"], *(c["text"] for c in question["criteria"])]
    for place, text in enumerate(text for text in texts if contamination.word_runs(text)):
        found = contamination.find_contamination(sown(text.upper(), place), contamination.tested_texts(ASKED))
        assert found and {leak.row for leak in found} == {place + 1}
        assert any(question["id"] in leak.tested for leak in found)
        assert all(tuple(leak.words.split()) in contamination.word_runs(text) for leak in found)


def test_options_and_long_aliases_are_looked_for_too():
    criterion = {"id": "Z.1", "points": 1, "text": "short", "any_of": [["x", ALIAS]]}
    question = {"id": "Z", "question": "?", "options": [f"zero {ALIAS}"], "criteria": [criterion]}
    found = contamination.find_contamination(sown(f"zero {ALIAS}"), contamination.tested_texts([question]))
    assert {leak.tested for leak in found} == {"option of Z", "alias of Z.1"} and {leak.row for leak in found} == {1}
    assert (
        contamination.find_contamination(
            sown("one two three four five six seven"), contamination.tested_texts([question])
        )
        == []
    )


def test_every_planted_run_of_eight_words_is_found_wherever_it_stands():
    dice = random.Random(5)
    training = invented.built()[1]
    for _ in range(times(40, 2000)):
        words = dice.choice(ASKED)["reference"].split()
        start = dice.randrange(len(words) - 8)
        piece = dice.choice((", ", " ", " - ", "\n")).join(words[start : start + dice.randrange(9, 14)])
        place = dice.randrange(len(training))
        assert place + 1 in {
            leak.row
            for leak in contamination.find_contamination(sown(piece, place), contamination.tested_texts(ASKED))
        }


def test_rows_give_way_to_questions():
    papers, training, held_out, _ = invented.built()
    planted = [{"id": "A", "question": training[0]["completion"].upper()}, {"id": "B", "question": "?"}]
    planted[1]["reference"] = training[-1]["completion"].replace(",", " ")
    cleaned, unseen = build.build_rows(papers, invented.KNOBS, invented.topic(), planted)
    assert training[0] not in cleaned and training[-1] not in cleaned and unseen == held_out
    assert len(training) - 60 < len(cleaned) < len(training) and not contamination.find_contamination(
        cleaned, contamination.tested_texts(planted)
    )


def test_planted_references_are_found_unless_they_are_put_in_other_words():
    lines = contamination.count_planted_found(invented.built()[1], ASKED)
    verbatim, capitals, *others = lines
    assert verbatim["planted as"] == "it stands" and verbatim["sentences"] >= 45
    assert verbatim["found"] == verbatim["sentences"] and verbatim["missed"] == "0%"
    assert capitals["found"] == capitals["sentences"]
    assert all(0 < line["found"] <= line["sentences"] for line in others) and len(others) == 4
    assert others[-1]["found"] < others[-1]["sentences"], "a search for word runs should miss a paraphrase"
    assert lines == contamination.count_planted_found(invented.built()[1], ASKED)


def test_planting_needs_references():
    assert (
        contamination.count_planted_found(invented.built()[1], [{"id": "A", "question": "Why?"}])[0]["sentences"] == 0
    )


def test_rows_of_held_out_papers_are_refused_by_number():
    mine = [{"paper_id": "1"}, {"paper_id": "7"}, {"paper_id": "7"}]
    with pytest.raises(CourseError, match=r"2 rows come from held-out papers \(first: row 2, paper 7\)"):
        finetune.refuse_held_out(mine, [{"paper_id": "7"}])
    finetune.refuse_held_out(mine, [{"paper_id": "2"}])


def test_a_split_that_leaks_is_never_returned(monkeypatch):
    papers, training, held_out, _ = invented.built()
    contamination.check_split(training, held_out)
    other = {"source": "PubMed", "paper_id": "0", "title": training[0]["title"].upper()}
    for unseen in (other, {**other, "paper_id": training[0]["paper_id"], "title": "Other"}):
        with pytest.raises(AssertionError, match="held-out"):
            contamination.check_split(training, [unseen])
    monkeypatch.setattr(build, "split_papers", lambda papers, seed: (papers[:2], papers[1:3]))
    with pytest.raises(AssertionError, match="held-out"):
        build.build_rows(papers, invented.KNOBS, invented.topic())
