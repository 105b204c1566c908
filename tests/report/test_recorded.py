"""What of a run may be published."""

from helpers.papers.paper import Paper
from helpers.report import recorded

WORDS = "a trial of twelve weeks in adults with coeliac disease found no change in"
PAPERS = [Paper(paper_id="1", source="PubMed", title=WORDS, abstract=[{"text": f"We report that {WORDS} weight."}])]


def test_an_answer_that_repeats_an_abstract_is_left_out():
    passages = recorded.passages_of(PAPERS)
    short = " ".join(WORDS.split()[:11])
    answers = [{"response": f"It is said: {WORDS.upper()}.", "samples": [{"response": short}], "tokens": 7}]
    assert recorded.leave_out_passages(passages, answers) == [
        {"response": recorded.LEFT_OUT, "samples": [{"response": short}], "tokens": 7}
    ]
