import json
import re

import pytest

from helpers.core.errors import CourseError
from helpers.grading import questions

OURS = questions.load_questions()
MINE = {"id": "Q011", "category": "Mine", "difficulty": "easy", "question": "What is vitiligo?"}
CRITERION = {"id": "Q011.1", "points": 2, "text": "Names melanocytes.", "any_of": [["melanocyte*"]]}


def write(tmp_path, rows):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_ten_questions_of_mixed_difficulty():
    assert [q["id"] for q in OURS] == [f"Q{n:03}" for n in range(1, 11)]
    assert {q["difficulty"] for q in OURS} == {"easy", "medium", "hard"}
    assert len({q["category"] for q in OURS}) == 10


@pytest.mark.parametrize("question", OURS, ids=lambda q: q["id"])
def test_every_question_has_a_reference_a_source_and_a_rubric(question):
    points = [criterion["points"] for criterion in question["criteria"]]
    assert 2 <= len(re.findall(r"\.(\s|$)", question["reference"])) <= 5
    assert question["source"] and all(
        re.search(r"20\d\d|PMC|doi|Foundation|Institute|Guidelines", s) for s in question["source"]
    )
    assert sum(p < 0 for p in points) >= 2 and 6 <= len(points) <= 8
    for criterion in question["criteria"]:
        assert criterion["id"].startswith(question["id"]) and criterion["source"] in question["source"]


def test_the_seeds_append_is_asked_too(monkeypatch):
    monkeypatch.setattr(questions, "AUTOIMMUNE_QUESTIONS", [*questions.AUTOIMMUNE_QUESTIONS, MINE])
    assert questions.load_questions()[-1] == MINE


def test_loading_gives_copies():
    questions.load_questions()[0]["question"] = "changed"
    assert questions.load_questions()[0]["question"] != "changed"


def test_json_with_and_without_the_optional_keys(tmp_path):
    rich = {**MINE, "id": "Q012", "reference": "Loss of melanocytes.", "criteria": [CRITERION], "options": ["a", "b"]}
    assert questions.load_questions(write(tmp_path, [MINE, rich])) == [MINE, rich]


def test_csv_as_excel_writes_it(tmp_path):
    path = tmp_path / "mine.csv"
    header = "id,category,difficulty,question,reference,options\n"
    path.write_bytes(("\ufeff" + header + 'V1,Skin,hard,"Why, then?",,"[""a"", ""b""]"\n').encode())
    assert questions.load_questions(path) == [
        {"id": "V1", "category": "Skin", "difficulty": "hard", "question": "Why, then?", "options": ["a", "b"]}
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"question": None}, "'question'"),
        ({"question": "  "}, "'question'"),
        ({"difficulty": "insane"}, "'difficulty' is 'insane'"),
        ({"critera": []}, "'critera' is not one we know"),
        ({"id": "../etc"}, "'id'"),
        ({"criteria": [{**CRITERION, "points": None}]}, "criteria.0.points"),
        ({"criteria": [{k: v for k, v in CRITERION.items() if k != "any_of"}]}, "criteria.0.any_of' is missing"),
        ({"criteria": [{**CRITERION, "any_of": []}]}, "criteria.0.any_of"),
        ({"criteria": [{**CRITERION, "any_of": [[]]}]}, "criteria.0.any_of.0"),
        ({"criteria": [{**CRITERION, "any_of": [[" "]]}]}, "criteria.0.any_of.0.0"),
        ({"criteria": [{**CRITERION, "points": 0}]}, "0 points"),
        ({"criteria": [{**CRITERION, "points": -1}]}, "none has positive points"),
        ({"criteria": [CRITERION, CRITERION]}, "used twice"),
    ],
)
def test_a_malformed_question_is_refused_by_id_and_key(tmp_path, change, says):
    row = {**MINE, **change}
    with pytest.raises(CourseError) as refused:
        questions.load_questions(write(tmp_path, [{**MINE, "id": "first"}, row]))
    assert says in refused.value.problem and row["id"] in refused.value.problem


def test_a_missing_key_and_a_repeated_id(tmp_path):
    with pytest.raises(CourseError, match="question Q011, key 'category' is missing"):
        questions.load_questions(write(tmp_path, [{k: v for k, v in MINE.items() if k != "category"}]))
    with pytest.raises(CourseError, match="question Q011, key 'id' is used twice"):
        questions.load_questions(write(tmp_path, [MINE, MINE]))
    with pytest.raises(CourseError, match="question number 2"):
        questions.load_questions(write(tmp_path, [MINE, "no object"]))


@pytest.mark.parametrize("text", ["[]", "{}", "not JSON", ""])
def test_a_file_without_questions_is_refused(tmp_path, text):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(CourseError):
        questions.load_questions(path)


def test_broken_csv_is_refused_by_line(tmp_path):
    path = tmp_path / "mine.csv"
    with pytest.raises(CourseError, match="does not exist"):
        questions.load_questions(path)
    path.write_text("id,category,difficulty,question,options\nV1,Skin,hard,Why?,[a\n")
    with pytest.raises(CourseError, match="line 1, key 'options'"):
        questions.load_questions(path)
    path.write_text("id,category,difficulty,question\nV1,Skin,hard,Why, then?\n")
    with pytest.raises(CourseError, match="line 1 has more cells"):
        questions.load_questions(path)
