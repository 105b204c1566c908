"""Looking up instead of learning: the training papers that share most words with a question, found by BM25."""

from collections.abc import Iterable

import bm25s

from helpers.papers import Paper

FOUND = 2  # papers put before a question
WORDS = 400  # of each paper, at most: nearly every abstract as a whole


class Library:
    """Papers that can be searched by what a question says (BM25: Robertson and Zaragoza 2009)."""

    def __init__(self, papers: Iterable[Paper]):
        self.papers = list(papers)
        texts = [f"{paper.title} {paper.text}" for paper in self.papers]
        self.index = bm25s.BM25()
        self.index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)

    def find(self, question: str, n: int = FOUND) -> list[Paper]:
        """The `n` papers that fit best, the best first; fewer if fewer share a word with the question."""
        words = bm25s.tokenize([question], stopwords="en", show_progress=False, return_ids=False)
        if not words[0]:
            return []
        places, scores = self.index.retrieve(words, k=min(n, len(self.papers)), show_progress=False)
        return [self.papers[place] for place, score in zip(places[0], scores[0], strict=True) if score > 0]

    def before(self, question: str, n: int = FOUND) -> str:
        """The `n` papers found, to be read before the question; "" if nothing is found."""
        found = (f"{paper.title}\n{shorten_text(paper.text)}\n\n" for paper in self.find(question, n))
        return "".join(found)


def shorten_text(text: str) -> str:
    """The first WORDS words."""
    words = text.split()
    return " ".join(words[:WORDS]) + (" …" if len(words) > WORDS else "")
