"""The hard records in tests/papers/golden: two files in pieces, put together again in any order."""

import re

from helpers.core.paths import ROOT
from helpers.papers.topic import load_topic

GOLDEN = ROOT / "tests" / "papers" / "golden"
TOPIC = load_topic("autoimmune")
DAY = "2026-11-22"
PIECE = re.compile(r"^  <!-- ([\w-]+) -->\n(.*?)(?=^  <!-- |^</)", re.MULTILINE | re.DOTALL)


class Document:
    """One golden file in pieces, which can be put together again in another order."""

    def __init__(self, name: str):
        text = (GOLDEN / name).read_text(encoding="utf-8")
        self.pieces = dict(PIECE.findall(text))
        head, self.foot = text[: PIECE.search(text).start()], text[text.rindex("</") :]
        self.head = re.sub(r"<!--.*?-->\n", "", head)  # as in NLM's files, which hold no comments

    def of(self, *names: str) -> bytes:
        head = re.sub(r"(totalResults>)\d+", rf"\g<1>{len(names)}", self.head)
        return "".join([head, *(self.pieces[name] for name in names), self.foot]).encode()


PUBMED, ARXIV = Document("pubmed.xml"), Document("arxiv.atom")
