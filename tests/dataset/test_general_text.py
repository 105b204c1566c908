"""The general text: plain, of the right size, and what is measured on it is not in what is trained on."""

import json
import re
import unicodedata
from collections import Counter

import pytest

from helpers.core.errors import CourseError
from helpers.core.paths import BENCHMARK
from helpers.dataset import general_text
from helpers.dataset.build import read_row
from helpers.papers.topic import load_topic

SIZES = {general_text.REPLAY: (60_000, 90_000), general_text.GUARD: (25_000, 40_000)}  # bytes
FILES = pytest.mark.parametrize("path", SIZES, ids=lambda path: path.stem)


def runs(texts, length=8):
    """Every run of `length` words in any of the texts, case and punctuation aside."""
    found = set()
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        found.update(tuple(words[n : n + length]) for n in range(len(words) - length + 1))
    return found


def sentences(text):
    return [" ".join(re.findall(r"\w+", part.lower())) for part in re.split(r"[.!?]\W*\s|\n", text) if part.strip()]


def strings(value):
    """Every string in a JSON value."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for part in parts for text in strings(part)]


@FILES
def test_size_of_the_file_and_of_its_pieces(path):
    smallest, largest = SIZES[path]
    assert smallest <= path.stat().st_size <= largest
    lengths = [len(piece.split()) for piece in general_text.read_pieces(path)]
    assert all(80 <= length <= 220 for length in lengths)


@FILES
def test_running_text_in_plain_characters(path):
    text = path.read_bytes().decode("utf-8")
    odd = {c for c in text if not (" " <= c <= "~" or c == "\n" or (c.isalpha() and c < "ɐ"))}
    assert not odd and unicodedata.is_normalized("NFC", text) and text.endswith("\n")
    assert not re.search(r"[ \t]$|\t|  |\n{3,}", text, re.MULTILINE)
    for piece in general_text.read_pieces(path):
        assert not re.search(r"^(#|[-*•] |\d+[.)] )|https?:|www\.", piece, re.MULTILINE)
        assert piece.rstrip('"')[-1] in ".!?" or piece.split("\n")[-1].istitle()  # a letter ends with a name


def test_replay_and_guard_share_no_run_of_eight_words():
    replay, guard = (runs(general_text.read_pieces(path)) for path in SIZES)
    assert len(replay) > 10_000 and len(guard) > 4_000
    assert not replay & guard


def test_neither_shares_one_with_the_questions_their_references_or_rubrics():
    tested = runs(strings(json.loads((BENCHMARK / "questions.json").read_text(encoding="utf-8"))))
    assert tested and not tested & runs(
        [*general_text.read_pieces(general_text.REPLAY), *general_text.read_pieces(general_text.GUARD)]
    )


@FILES
def test_no_word_of_the_topic(path):
    topic = load_topic("autoimmune")
    assert topic.mentions(path.read_text(encoding="utf-8") + " lupus") == ["lupus"]


def test_no_sentence_stands_twice():
    every = [
        s
        for path in SIZES
        for piece in general_text.read_pieces(path)
        for s in sentences(piece)
        if len(s.split()) >= 4
    ]
    assert len(every) > 1_000
    assert [sentence for sentence, count in Counter(every).items() if count > 1] == []


def test_rows_are_running_text_for_training():
    rows = general_text.replay_rows()
    assert [row["completion"] for row in rows] == general_text.read_pieces(general_text.REPLAY)
    assert [row["paper_id"] for row in rows[:2]] == ["general-001", "general-002"]
    assert len({row["paper_id"] for row in rows}) == len(rows)
    assert all(read_row(row) == row for row in rows)
    assert {(row["source"], row["view"], row["prompt"]) for row in rows} == {("general", "replay", "")}


def test_pieces_are_split_at_lines_holding_only_the_mark(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("One ### two.\n\nThree.\r\n###\r\n\n###\nÉtude #4.\n###\n".encode())
    assert general_text.read_pieces(path) == ["One ### two.\n\nThree.", "Étude #4."]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "does not exist"),
        (b"", "holds no text"),
        (b"\n###\n \n", "holds no text"),
        (b"caf\xe9", "is not UTF-8"),
    ],
)
def test_a_file_that_gives_no_text_is_named(tmp_path, content, problem):
    path = tmp_path / "replay.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CourseError, match=rf"replay\.txt {problem}"):
        general_text.read_pieces(path)
