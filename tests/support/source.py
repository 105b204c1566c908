"""The source of helpers and notebooks as syntax trees: rooms, their doors, and who imports what."""

import ast
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from helpers.core.paths import NOTEBOOKS, ROOT

HELPERS = ROOT / "helpers"


class Import(NamedTuple):
    """One imported name: where it stands, the module behind `from` ("" for a plain import), and the name."""

    where: str
    module: str
    name: str


@cache
def rooms() -> dict[str, list[Path]]:
    """{room: its Python files}."""
    return {path.parent.name: sorted(path.parent.glob("*.py")) for path in sorted(HELPERS.glob("*/__init__.py"))}


@cache
def trees() -> dict[str, ast.Module]:
    """{path from the repository: syntax tree} of every Python file of helpers."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(HELPERS.rglob("*.py"))
    }


@cache
def doors() -> dict[str, dict[str, list[str]]]:
    """{room: {file: names that other rooms may import}}, as its __init__.py lists them."""
    return {room: read_door(trees()[f"helpers/{room}/__init__.py"]) for room in rooms()}


def read_door(tree: ast.Module) -> dict[str, list[str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "submod_attrs":
            return ast.literal_eval(node.value)
    return {}


def offered(room: str) -> set[str]:
    """The names in a room's door."""
    return {name for names in doors().get(room, {}).values() for name in names}


def definitions(tree: ast.Module) -> dict[str, ast.stmt]:
    """{name: statement} of what a module defines at its top level; what it imports is not among it."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = (part for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))
            found |= dict.fromkeys((name.id for name in names), node)
    return found


def imports(tree: ast.Module, where: str) -> Iterator[Import]:
    """Every import of helpers, at the top of a file or within a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if node.level or module.split(".")[0] == "helpers":
                yield from (Import(where, module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            ours = (alias.name for alias in node.names if alias.name.split(".")[0] == "helpers")
            yield from (Import(where, "", name) for name in ours)


@cache
def imports_of_helpers() -> list[Import]:
    return [found for where, tree in trees().items() for found in imports(tree, where)]


@cache
def imports_of_notebooks() -> list[Import]:
    found = []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell in (cell for cell in cells if cell["cell_type"] == "code"):
            found += imports(ast.parse("".join(cell["source"])), path.name)
    return found
