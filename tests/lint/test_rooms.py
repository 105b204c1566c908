"""The rooms of helpers: imports go down and through doors, and no room or file outgrows what one can keep in mind.

What offends today is listed by name, and the lists only shrink: a name that no longer offends must be taken out.
"""

import ast
import tomllib

import pytest
from importlinter.cli import lint_imports
from support.source import (
    HELPERS,
    definitions,
    doors,
    imports_of_helpers,
    imports_of_notebooks,
    offered,
    rooms,
    trees,
)

from helpers.core.paths import ROOT

MOST_FILES, MOST_LINES = 14, 350
LARGE_ROOMS = {"dataset", "evaluation", "papers", "report", "training"}
LONG_FILES: set[str] = set()
NAMED_LIKE_THEIR_FILE = {"report.course_map", "training.device_report"}


def test_imports_go_down(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0, capsys.readouterr().out


def test_every_room_has_its_place_in_the_contract():
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    placed = [name for layer in layers for name in layer.split(" | ")]
    assert sorted(placed) == sorted(f"helpers.{room}" for room in rooms())


def test_code_lies_in_rooms():
    assert {path.name for path in HELPERS.glob("*.py")} == {"__init__.py", "__main__.py"}


def room_of(where: str) -> str:
    """The room of a file of helpers; "" for a notebook and for the package's own two files."""
    parts = where.split("/")
    return parts[1] if len(parts) == 3 else ""


def test_other_rooms_are_entered_by_their_doors_and_ones_own_by_the_file():
    """Across rooms and in notebooks `from helpers.ROOM import`, within a room `from helpers.ROOM.FILE import`."""
    strange = []
    for found in (*imports_of_helpers(), *imports_of_notebooks()):
        parts = found.module.split(".")
        inside = len(parts) > 1 and parts[1] == room_of(found.where)
        if inside and len(parts) == 3:
            continue
        if inside or len(parts) != 2 or found.name not in offered(parts[1]):
            strange.append(found)
    assert not strange


def test_who_looks_into_rooms_is_seen():
    """The search above finds something: hundreds of imports, of every room but the commands' own."""
    entered = {found.module for found in (*imports_of_helpers(), *imports_of_notebooks())}
    assert {f"helpers.{room}" for room, door in doors().items() if door} <= entered
    assert len(imports_of_helpers()) > 300 and len(imports_of_notebooks()) > 100


@pytest.mark.parametrize("room", rooms())
def test_a_door_opens_on_what_is_there_and_described(room):
    for file, names in doors()[room].items():
        found = definitions(trees()[f"helpers/{room}/{file}.py"])
        assert set(names) <= set(found), f"helpers/{room}/{file}.py has no {set(names) - set(found)}"
        for name in names:
            if isinstance(found[name], ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                assert ast.get_docstring(found[name]), f"{name} of helpers/{room}/{file}.py has no docstring"


def test_what_is_not_for_others_stays_out_of_the_doors():
    used = {(found.module, found.name) for found in (*imports_of_helpers(), *imports_of_notebooks())}
    given = {(f"helpers.{room}", name) for room in rooms() for name in offered(room)}
    assert not given - used


def test_no_door_gives_a_name_that_a_file_has():
    """`from helpers.ROOM import NAME` gives the file or what is in it, whichever came first."""
    found = {f"{room}.{name}" for room, files in rooms().items() for name in offered(room) & {f.stem for f in files}}
    assert found == NAMED_LIKE_THEIR_FILE


def test_no_room_is_crowded():
    assert {room for room, files in rooms().items() if len(files) > MOST_FILES} == LARGE_ROOMS


def test_no_file_is_long():
    lengths = {where: len((ROOT / where).read_text(encoding="utf-8").splitlines()) for where in trees()}
    assert {where for where, lines in lengths.items() if lines > MOST_LINES} == LONG_FILES
