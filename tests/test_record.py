"""What of a run may be published."""

from helpers import record
from helpers.papers import Paper

WORDS = "a trial of twelve weeks in adults with coeliac disease found no change in"
PAPERS = [Paper(paper_id="1", source="PubMed", title=WORDS, abstract=[{"text": f"We report that {WORDS} weight."}])]


def test_an_answer_that_repeats_an_abstract_is_left_out():
    passages = record.passages_of(PAPERS)
    short = " ".join(WORDS.split()[:11])
    answers = [{"response": f"It is said: {WORDS.upper()}.", "samples": [{"response": short}], "tokens": 7}]
    assert record.without(passages, answers) == [
        {"response": record.LEFT_OUT, "samples": [{"response": short}], "tokens": 7}
    ]
