"""The questions every model is asked: ours, or yours from a JSON or CSV file."""

import csv
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from helpers.core import BENCHMARK, CourseError, read_json, relative_path

NEEDED = ("id", "category", "difficulty", "question")
OPTIONAL = ("reference", "source", "criteria", "options")

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=40)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Aliases = Annotated[list[Text], Field(min_length=1)]


class Criterion(BaseModel):
    """One thing an answer may say. `any_of` is a list of alias groups: every group needs one alias in a sentence.

    A final `*`, `...` and a leading `-` in an alias mean what helpers/scoring.py says.
    """

    model_config = ConfigDict(extra="forbid")

    id: Id
    points: Annotated[int, Field(ge=-10, le=10)]
    text: Text
    any_of: Annotated[list[Aliases], Field(min_length=1)]
    source: str | list[Text] | None = None


class Question(BaseModel):
    """The seed's four keys suffice; without `criteria` a question is asked and shown as "not graded"."""

    model_config = ConfigDict(extra="forbid")

    id: Id
    category: Text
    difficulty: Literal["easy", "medium", "hard"]
    question: Text
    reference: Text | None = None
    source: str | list[Text] | None = None
    criteria: list[Criterion] | None = None
    options: list[Text] | None = None


def load_questions(path: Path | str | None = None) -> list[dict]:
    """The questions as plain dicts holding the keys that were given; any number of them.

    `path` is a JSON list of objects or a CSV file with one column a key (a cell that starts with "[" is read
    as a JSON list); None means AUTOIMMUNE_QUESTIONS.

    Raises CourseError naming the question and the key that is wrong.
    """
    if path is None:
        return check_questions(AUTOIMMUNE_QUESTIONS, "AUTOIMMUNE_QUESTIONS")
    path = Path(path)
    rows = read_csv(path) if path.suffix.lower() == ".csv" else read_json(path)
    return check_questions(rows, relative_path(path))


def check_questions(rows: object, where: str) -> list[dict]:
    """`rows` as questions, in their order.

    Raises CourseError for the first one that is malformed, by id and key.
    """
    if not isinstance(rows, list) or not rows:
        raise CourseError(
            f"{where} holds no questions",
            f"give a list of objects with the keys {', '.join(NEEDED)}",
            "your-own-questions-are-refused",
        )
    questions, seen = [], set()
    for number, row in enumerate(rows, start=1):
        name = f"question {row['id']}" if isinstance(row, dict) and row.get("id") else f"question number {number}"
        try:
            question = Question.model_validate(row).model_dump(exclude_none=True)
        except ValidationError as error:
            raise CourseError(
                f"{where}: {name}, {first_fault(error)}", explain_question(error), "your-own-questions-are-refused"
            ) from None
        if question["id"] in seen:
            raise CourseError(
                f"{where}: {name}, key 'id' is used twice",
                "give every question an id of its own",
                "your-own-questions-are-refused",
            )
        seen.add(question["id"])
        if "criteria" in question:
            check_criteria(question["criteria"], f"{where}: {name}")
        questions.append(question)
    return questions


def check_criteria(criteria: list[dict], name: str) -> None:
    """Refuse a rubric that could not be scored: an id used twice, a criterion worth 0, nothing to gain."""
    ids = [criterion["id"] for criterion in criteria]
    if twice := sorted({id for id in ids if ids.count(id) > 1}):
        raise CourseError(
            f"{name}, key 'criteria': {twice[0]} is used twice",
            "give every criterion an id of its own",
            "your-own-questions-are-refused",
        )
    if worthless := [criterion["id"] for criterion in criteria if criterion["points"] == 0]:
        raise CourseError(
            f"{name}, key 'criteria': {worthless[0]} is worth 0 points",
            "points are positive, or negative for a wrong claim",
            "your-own-questions-are-refused",
        )
    if not any(criterion["points"] > 0 for criterion in criteria):
        raise CourseError(
            f"{name}, key 'criteria': none has positive points",
            "add what a good answer says, or leave 'criteria' out: the question is then not graded",
            "your-own-questions-are-refused",
        )


def first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"]) or "(all of it)"
    if fault["type"] == "missing":
        return f"key '{key}' is missing"
    if fault["type"] == "extra_forbidden":
        return f"key '{key}' is not one we know"
    return f"key '{key}' is {shorten_value(fault['input'])}: {fault['msg']}"


def explain_question(error: ValidationError) -> str:
    if len(error.errors()[0]["loc"]) < 2:
        return f"a question needs {', '.join(NEEDED)} and may have {', '.join(OPTIONAL)}"
    return (
        "a criterion needs id, points, text and any_of (lists of aliases: one of each list must appear in a sentence)"
    )


def shorten_value(value: object, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def read_csv(path: Path) -> list[dict]:
    """One dict a line, without empty cells.

    Raises CourseError if the file is absent, is not UTF-8, or a cell that starts with "[" is no JSON list.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
    except FileNotFoundError:
        raise CourseError(f"{relative_path(path)} does not exist", "check QUESTIONS_FILE") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise CourseError(
            f"{relative_path(path)} is not a CSV file in UTF-8: {error}",
            "save it as CSV UTF-8",
            "your-own-questions-are-refused",
        ) from error
    return [read_line(line, number, relative_path(path)) for number, line in enumerate(lines, start=1)]


def read_line(line: dict, number: int, where: str) -> dict:
    row = {}
    for key, cell in line.items():
        if key is None or isinstance(cell, list):
            raise CourseError(
                f"{where}: line {number} has more cells than the header",
                "put quotes around commas",
                "your-own-questions-are-refused",
            )
        cell = (cell or "").strip()
        try:
            value = json.loads(cell) if cell.startswith("[") and key in OPTIONAL else cell
        except ValueError as error:
            raise CourseError(
                f"{where}: line {number}, key '{key}' is not JSON: {error}",
                "write a JSON list, or leave the cell empty",
                "your-own-questions-are-refused",
            ) from None
        if cell:
            row[key.strip()] = value
    return row


AUTOIMMUNE_QUESTIONS: list[dict] = check_questions(
    read_json(BENCHMARK / "questions.json"), "data/benchmark/questions.json"
)

# Add your own here, and the notebooks ask them too (give `criteria` as in questions.json to have them graded):
# AUTOIMMUNE_QUESTIONS.append({
#     "id": "Q011",
#     "category": "Your Category",
#     "difficulty": "medium",
#     "question": "Your question here...",
# })
