"""The record every source is turned into: one paper, its sections, where it came from."""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from helpers.core import CourseError, read_jsonl, relative_path, write_jsonl

ROLES = {
    "conclusions": r"CONCLUSION|INTERPRETATION|IMPLICATION|SIGNIFICANCE|TAKE.?HOME",
    "results": r"RESULT|FINDING|OUTCOME\b",
    "methods": r"METHOD|DESIGN|SETTING|PATIENTS|PARTICIPANTS|SUBJECTS|PROCEDURE|MATERIAL|MEASURE|INTERVENTION",
    "background": r"BACKGROUND|OBJECTIVE|AIM|INTRODUCTION|PURPOSE|CONTEXT|RATIONALE|IMPORTANCE|HYPOTHESIS",
}
NO_ROLE = re.compile(
    r"REGISTR|FUNDING|FINANC|KEY ?WORD|COPYRIGHT|CONFLICT|ETHICS|DISSEMINATION|TRIAL NUMBER|CASE (?:REPORT|PRES|DESC)"
)
HYPHENS = {0x2010: "-", 0x2011: "-"}


class Section(BaseModel):
    """One piece of an abstract; `label` is "" where the abstract is one unlabelled piece."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    label: str = ""
    category: str = ""  # NLM's NlmCategory: BACKGROUND, OBJECTIVE, METHODS, RESULTS, CONCLUSIONS, UNASSIGNED
    text: str

    @property
    def role(self) -> str:
        """background, methods, results or conclusions; "" for an unlabelled section, a registration, a case.

        NLM files trial registrations under BACKGROUND, so the label is looked at first.
        """
        label = self.label.upper()
        if NO_ROLE.search(label):
            return ""
        for role, pattern in ROLES.items():
            if re.search(pattern, label):
                return role
        return {"OBJECTIVE": "background", "UNASSIGNED": ""}.get(self.category, self.category.lower())


class Paper(BaseModel):
    """What the course keeps of a paper. `paper_id` is a PMID or an arXiv id without its version."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    paper_id: str
    source: Literal["PubMed", "arXiv"]
    title: str
    abstract: tuple[Section, ...] = ()
    year: int | None = None
    journal: str = ""
    language: str = "eng"
    mesh: tuple[str, ...] = ()
    publication_types: tuple[str, ...] = ()
    doi: str = ""
    licence: str = ""  # the copyright line of the record
    fetched: str = ""  # the day the record was taken from its source, ISO
    flags: tuple[str, ...] = ()  # retracted, notice, deleted, passed over, not found, instructions
    version: int = 1

    @property
    def key(self) -> tuple[str, str]:
        return self.source, self.paper_id

    @property
    def text(self) -> str:
        """The whole abstract, one line a section, labels in front."""
        return "\n".join(f"{part.label}: {part.text}" if part.label else part.text for part in self.abstract)


def clean_text(text: str) -> str:
    """`text` in NFC, without invisible characters; runs of white space are one space, and all hyphens are "-"."""
    text = " ".join(text.split())
    if not text.isprintable():
        letters = (letter for letter in text if not unicodedata.category(letter).startswith("C"))
        text = " ".join("".join(letters).split())
    return text if text.isascii() else unicodedata.normalize("NFC", text).translate(HYPHENS)


def normalise_text(text: str) -> str:
    """`text` as its letters and digits only, in lower case, for comparing."""
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def bare_doi(doi: str) -> str:
    """A DOI in lower case, without the address or the "doi:" it may be written with."""
    return re.sub(r"^(?:https?://(?:dx\.)?doi\.org/|doi:\s*)", "", doi.strip().lower())


def papers_from_json(rows: Iterable[dict]) -> list[Paper]:
    """What training rows say of each paper, as papers: for rows whose papers are not at hand."""
    said: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        said.setdefault((row["paper_id"], row["title"]), []).append(row)
    return [
        Paper(paper_id=id, source="PubMed", title=title, abstract=[Section(text=row["completion"]) for row in of_it])
        for (id, title), of_it in said.items()
    ]


def write_papers(path: Path, papers: Iterable[Paper]) -> None:
    """One paper a line, sorted by source and id, so that the order of arrival cannot show."""
    write_jsonl(path, (paper.model_dump(mode="json") for paper in sorted(papers, key=lambda paper: paper.key)))


def read_papers(path: Path) -> list[Paper]:
    """The papers in `path`.

    Raises CourseError naming the file and the field that does not fit.
    """
    try:
        return [Paper.model_validate(row) for row in read_jsonl(path)]
    except ValidationError as error:
        raise CourseError(
            f"{relative_path(path)} holds a record that is no paper: {error.errors()[0]['loc']}",
            "run stage 3 again: FORCE=3 make pipeline",
        ) from None
