"""Which change of the code makes which stages run again: those that declare the room it lies in, and no others."""

import shutil
from functools import cache

import pytest
from support.sweeps import times

from helpers.core import STAGES, Folders, fingerprint, hash_json, load_settings
from helpers.core.paths import ROOT
from helpers.pipeline.provenance import stage_key

EXAMS = {2, 5, 7}
STAGES_OF = {  # room: the stages whose results depend on its code
    "core": set(),
    "papers": {3},
    "text": {3},
    "dataset": {3},
    "models": {1, 4, 6, *EXAMS},
    "training": {4, 6},
    "evaluation": {8, *EXAMS},
    "grading": {8},
    "report": {8},
    "pipeline": set(),
    "serving": set(),
    "sharing": set(),
    "bench": set(),
    "control": set(),
}
STAGES_OF_FILE = {  # "room/file.py": where a file is declared on its own
    "core/experiment.py": {8, *EXAMS},
    "dataset/general_text.py": {3, 4, 6},
    "dataset/seen_rows.py": {3, *EXAMS},
    "grading/questions.py": {8, *EXAMS},
}


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of helpers that keys are made from; what was parsed once is not parsed again."""
    shutil.copytree(ROOT / "helpers", tmp_path / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "PACKAGE", tmp_path / "helpers")
    monkeypatch.setattr(fingerprint, "strip_code", cache(fingerprint.strip_code))
    yield tmp_path / "helpers"
    fingerprint.hash_code.cache_clear()


def keys():
    """{stage number: its key} of the code as it is now."""
    fingerprint.hash_code.cache_clear()
    resolved = load_settings(environment={"PROFILE": "smoke", "ENV_FILE": ""})[0]
    return {stage.number: hash_json(stage_key(stage, resolved, Folders("nothing"))) for stage in STAGES}


def changed(path, before, edit):
    """The stages whose keys differ while the file at `path` is `edit` of what it was."""
    whole = path.read_bytes()
    path.write_bytes(edit(whole))
    now = keys()
    path.write_bytes(whole)
    return {number for number in before if now[number] != before[number]}


def a_line_more(source):
    return source + b"\nANOTHER = 1\n"


def another_comment(source):
    return b"# said anew\n" + source + b"\n\n# and at the end\n"


def files(copied):
    """Some of every room, with those that are declared on their own; all of them where SWEEP=full."""
    rooms = (sorted(copied.glob(f"{room}/*.py")) for room in STAGES_OF)
    named = ("text/sentences.py", "papers/arxiv_api.py", *STAGES_OF_FILE)
    return sorted({file for room in rooms for file in room[-times(1, 99) :]} | {copied / name for name in named})


def test_every_room_is_in_the_table():
    assert sorted(STAGES_OF) == sorted(path.parent.name for path in (ROOT / "helpers").glob("*/__init__.py"))


def test_a_line_of_code_reruns_the_stages_that_declare_its_room(copied):
    before, found, expected = keys(), {}, {}
    for path in files(copied):
        name = path.relative_to(copied).as_posix()
        found[name] = changed(path, before, a_line_more)
        expected[name] = STAGES_OF_FILE.get(name, STAGES_OF[path.parent.name])
    assert found == expected


def test_comments_and_docstrings_rerun_nothing(copied):
    before = keys()
    for path in files(copied):
        assert not changed(path, before, another_comment), path
    for name in ("text/sentences.py", "papers/arxiv_api.py", "models/load.py", "evaluation/run.py"):
        path = copied / name
        docstring = path.read_bytes().split(b'"""')[1]
        assert docstring and not changed(path, before, lambda source, d=docstring: source.replace(d, b"Other.", 1))


def test_a_template_counts_as_code(copied):
    assert changed(copied / "report" / "page.html", keys(), lambda source: source + b"<hr>") == {8}


def test_a_file_more_and_a_file_less_count(copied):
    before = keys()
    (copied / "text" / "another.py").write_text("x = 1\n")
    assert {number for number in before if keys()[number] != before[number]} == {3}
    (copied / "text" / "another.py").unlink()
    assert keys() == before
    (copied / "training" / "gpus.py").unlink()
    assert {number for number in before if keys()[number] != before[number]} == {4, 6}
