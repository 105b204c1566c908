"""Papers that say nearly the same are found, all of them and no others, in time."""

import random
import time

import pytest
from support.sweeps import times

from helpers.papers import duplicates
from helpers.papers.paper import Paper, Section


def paper(number: int, text: str, title: str = "") -> Paper:
    sections = tuple(Section(label="AIM" * (number % 2), text=part) for part in text.split("|"))
    return Paper(paper_id=str(number), source="PubMed", title=title, abstract=sections)


def test_shingles_ignore_case_punctuation_and_labels():
    one = duplicates.shingle_text("Lupus, in mice: a study of two years.")
    assert one == duplicates.shingle_text("LUPUS in mice (a study) of two years") and len(one) == 6
    assert duplicates.shingle_text("too short") == duplicates.shingle_text("") == set()
    assert duplicates.abstract_body(paper(1, "Lupus hurts.|It does.")) == "Lupus hurts. It does."


def test_shingles_are_the_same_on_every_machine():
    assert sorted(duplicates.shingle_text("one two three four")) == [1044035734, 2015744983]


def similarity(a: Paper, b: Paper) -> float:
    one, two = (duplicates.shingle_text(duplicates.abstract_body(p)) for p in (a, b))
    return len(one & two) / len(one | two) if one | two else 0.0


@pytest.mark.parametrize("seed", range(times(6, 100)))
@pytest.mark.parametrize("least", [0.5, 0.8, 1.0])
def test_no_pair_is_missed_and_none_is_invented(seed, least):
    """Against every pair compared: texts made from one another by changing, cutting and adding words."""
    chance = random.Random(seed)
    texts = ["", "one two", "one two three"]
    for _ in range(60):
        words = chance.choice(texts).split() if chance.random() < 0.7 else []
        words = words or chance.choices([f"w{n}" for n in range(40)], k=chance.randrange(5, 60))
        for _ in range(chance.randrange(6)):
            words[chance.randrange(len(words))] = f"w{chance.randrange(60)}"
        texts.append(" ".join(words[: chance.randrange(len(words) // 2, len(words) + 1)]))
    papers = [paper(n, text) for n, text in enumerate(texts)]
    every = [(a, b) for b in range(len(papers)) for a in range(b) if similarity(papers[a], papers[b]) >= least]
    assert list(duplicates.find_similar_pairs(papers, least)) == every
    assert least > 0.5 or every


def test_clusters_join_titles_and_texts_and_what_they_connect():
    text = " ".join(f"w{n}" for n in range(100))
    papers = [
        paper(0, text),
        paper(1, "another thing entirely, said here", title="A study"),
        paper(2, text.replace("w50", "x"), title="A STUDY!"),
        paper(3, "alone with its own words here"),
        paper(4, ""),
        paper(5, ""),
    ]
    assert duplicates.cluster_papers(papers) == [[0, 1, 2], [3], [4], [5]]
    assert duplicates.cluster_papers([]) == [] and duplicates.connected_groups(3, [(2, 1)]) == [[0], [1, 2]]


def test_phrases_that_all_share_cost_little():
    """Two thousand papers with the same forty words in common: no pair of them is worth a comparison."""
    stock = " ".join(f"phrase{n}" for n in range(40))
    papers = [paper(n, stock + " " + " ".join(f"own{n}x{m}" for m in range(160))) for n in range(2000)]
    bare = [paper(n, " ".join(f"own{n}x{m}" for m in range(200))) for n in range(2000)]
    usual, seconds = (seconds_without_pairs(some) for some in (bare, papers))
    assert seconds < 5 * usual, "two million comparisons would take a hundred times as long"


def seconds_without_pairs(papers: list[Paper]) -> float:
    """Seconds of the processor until no pair is found."""
    start = time.process_time()
    assert list(duplicates.find_similar_pairs(papers, 0.8)) == []
    return time.process_time() - start
