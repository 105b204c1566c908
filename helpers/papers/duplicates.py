"""Papers that say nearly the same, found by the word shingles they share."""

from collections.abc import Iterable, Iterator
from math import ceil
from zlib import crc32

import numpy as np

from helpers.papers.paper import Paper, normalise_text

ALIKE = 0.5  # Jaccard similarity of two abstracts' shingles that makes them one cluster
LENGTH = 3  # words in a shingle


def shingle_text(text: str) -> set[int]:
    """Every run of LENGTH words, case and punctuation aside, as 32-bit numbers."""
    words = normalise_text(text).split()
    return {crc32(" ".join(words[n : n + LENGTH]).encode()) for n in range(len(words) - LENGTH + 1)}


def abstract_body(paper: Paper) -> str:
    """The abstract without its labels, which one copy of a paper may have and another lack."""
    return " ".join(part.text for part in paper.abstract)


def find_similar_pairs(papers: list[Paper], least: float) -> Iterator[tuple[int, int]]:
    """Numbers (a, b), a < b, of papers: their abstracts' shingles have a Jaccard similarity of at least `least`.

    Exact: of two such abstracts each has the other's among its rarest few shingles, so only those that share
    one are compared (prefix filtering: Chaudhuri, Ganti and Kaushik, ICDE 2006).
    """
    shingles = [np.array(sorted(shingle_text(abstract_body(paper))), dtype=np.uint32) for paper in papers]
    marks, counts = np.unique(np.concatenate([*shingles, np.empty(0, np.uint32)]), return_counts=True)
    places: dict[int, list[int]] = {}
    for b, whole in enumerate(shingles):
        often = counts[np.searchsorted(marks, whole)]
        rarest = np.argsort(often, kind="stable")[: len(whole) - ceil(least * len(whole) - 1e-9) + 1]
        nearby: set[int] = set()
        for mark in whole[rarest[often[rarest] > 1]].tolist():
            nearby.update(places.setdefault(mark, []))
            places[mark].append(b)
        for a in sorted(nearby):
            common = len(np.intersect1d(shingles[a], whole, assume_unique=True))
            if common >= least * (len(shingles[a]) + len(whole) - common):
                yield a, b


def cluster_papers(papers: list[Paper]) -> list[list[int]]:
    """Numbers of papers in groups: one title, or abstracts that are ALIKE; each group and the list ascend."""
    titles: dict[str, int] = {}
    named = [
        (titles.setdefault(title, n), n) for n, title in enumerate(normalise_text(p.title) for p in papers) if title
    ]
    return connected_groups(len(papers), [*named, *find_similar_pairs(papers, ALIKE)])


def connected_groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The numbers below `count` in groups that `pairs` connect; each group and the list ascend."""
    parent = list(range(count))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    for a, b in pairs:
        first, second = sorted((root(a), root(b)))
        parent[second] = first
    groups: dict[int, list[int]] = {}
    for number in range(count):
        groups.setdefault(root(number), []).append(number)
    return list(groups.values())
