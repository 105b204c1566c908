"""What a picture shows, in words, for those who do not see it: the first words of the function that drew it."""

import ast
import re
from functools import cache
from pathlib import Path

ROOM = Path(__file__).parent
METHODS = {"stage.map": "course_map"}  # what a notebook calls on its session: the function that does it
UNKNOWN = "A picture; the text after it says what it shows."
ABSENCE = re.compile(r"^(None|Raises|No picture)\b")


def alt_text(source: str) -> str:
    """The alt text for the pictures of a cell, from the docstring of what it calls last that draws."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a magic, or a shell command
        return UNKNOWN
    for line in reversed(tree.body):
        for call in (node for node in ast.walk(line) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            if found := drawing_functions().get(METHODS.get(name, name)):
                return found
    return UNKNOWN


@cache
def drawing_functions() -> dict[str, str]:
    """{name: what it shows} of the functions in this room that return a Figure.

    A class that calls one of these functions shows what that one does, again and again.
    """
    files = [ast.parse(file.read_text(encoding="utf-8")).body for file in sorted(ROOM.glob("*.py"))]
    found = {part.name: words_of(part) for file in files for part in file if draws_picture(part)}
    for owner in (part for file in files for part in file if isinstance(part, ast.ClassDef)):
        called = {node.func.id for node in ast.walk(owner) if isinstance(node, ast.Call) and hasattr(node.func, "id")}
        found |= {owner.name: " ".join(found[name] for name in sorted(called & set(found)))}
    return {name: text for name, text in found.items() if text}


def draws_picture(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and node.returns is not None and "Figure" in ast.unparse(node.returns)


def words_of(node: ast.FunctionDef) -> str:
    """The first paragraph of a docstring on one line, without what it says of there being nothing to draw."""
    said = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split()).replace("`", "")
    return " ".join(s for s in re.split(r"(?<=\.)\s+", said) if s and not ABSENCE.match(s))
