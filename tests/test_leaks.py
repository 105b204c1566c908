"""What is tested is not taught."""

import pytest

from helpers import questions, rows, tuning
from helpers.archive import stream
from helpers.errors import CourseError
from helpers.paths import SAMPLE
from helpers.screening import screen
from helpers.topics import load_topic


@pytest.fixture(scope="module")
def kept():
    return screen(stream(SAMPLE / "pubmed.xml"), load_topic("autoimmune"), 300).kept


def test_rows_that_repeat_a_question_or_its_reference_are_left_out(kept):
    training, _ = rows.build(kept, 42, 6)
    planted = [
        {"question": training[0]["completion"].upper()},
        {"question": "?", "reference": training[-1]["completion"].replace(",", " ")},
    ]
    cleaned, _ = rows.build(kept, 42, 6, planted)
    assert training[0] not in cleaned and training[-1] not in cleaned
    assert len(training) - 20 < len(cleaned) < len(training)


def test_the_sample_and_our_own_questions_share_nothing(kept):
    assert rows.build(kept, 42, 6, questions.load()) == rows.build(kept, 42, 6)


def test_rows_of_held_out_papers_are_refused_by_number():
    mine = [{"paper_id": "1"}, {"paper_id": "7"}, {"paper_id": "7"}]
    with pytest.raises(CourseError, match=r"2 rows come from held-out papers \(first: row 2, paper 7\)"):
        tuning.refuse_held_out(mine, [{"paper_id": "7"}])
    tuning.refuse_held_out(mine, [{"paper_id": "2"}])
