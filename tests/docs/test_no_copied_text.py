"""Abstracts belong to their publishers: no file of the repository repeats a dozen words of one."""

import subprocess

import pytest

from helpers.core.paths import ROOT
from helpers.dataset.contamination import word_runs
from helpers.papers import pubmed_files
from helpers.report.recorded import QUOTE


@pytest.fixture(scope="module")
def ours() -> dict[int, str]:
    """{hash of QUOTE words in a row: the file they stand in} of every text file that git tracks.

    A file's own words are fewer than the archive's, so these are kept and the archive is read past them.
    """
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = {}
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            text = (ROOT / name).read_text(encoding="utf-8", errors="replace").replace("\\n", " ").replace('\\"', '"')
            found |= dict.fromkeys(map(hash, word_runs(text, QUOTE)), name)
    return found


@pytest.mark.slow
def test_no_tracked_file_repeats_an_abstract_of_the_archive(ours):
    told, papers, read = set(), 0, 0
    for paper in pubmed_files.stream_papers(pubmed_files.fetch_archive()):
        papers += 1
        for part in paper.abstract:
            runs = word_runs(part.text, QUOTE)
            read += len(runs)
            found = [(ours[known], run) for run in runs if (known := hash(run)) in ours]
            told |= {f"{name} repeats PMID {paper.paper_id}: {' '.join(run)}" for name, run in found}
    assert papers >= 20_788 and read > 2_000_000, "the archive was not read"
    assert not told, "\n".join(sorted(told)[:40])
