"""What a file or a piece of code is, by its content: the hashes that decide whether work is already done."""

import ast
from functools import cache
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager

from helpers.core.io import hash_file, hash_json
from helpers.core.paths import relative_path

PACKAGE = Path(__file__).resolve().parents[1]


def fingerprint_files(path: Path) -> dict[str, str]:
    """{relative name: sha256} of `path`, or of every file below it; {} if it does not exist.

    A file is hashed again only if it was written to since this process last did.
    """
    path = Path(path)
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    hashes = {}
    for file in found:
        status = file.stat()
        hashes[relative_path(file)] = hash_once(file, status.st_size, status.st_mtime_ns, status.st_ino)
    return hashes


@cache
def hash_once(file: Path, *_status: int) -> str:
    return hash_file(file)


@cache
def hash_code(*places: str) -> str:
    """Hash of the code of rooms ("training") or of single files in them ("models/load").

    Comments, layout and docstrings do not count; word lists and templates that lie in a room do.
    """
    return hash_json({place: {file.name: content_of(file) for file in files_of(place)} for place in places})


def files_of(place: str) -> list[Path]:
    """The files of a room, or the one file of that name."""
    folder = PACKAGE / place
    if folder.is_dir():
        return sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc")
    return [folder.with_suffix(".py")]


def content_of(file: Path) -> str:
    if file.suffix == ".py":
        return strip_code(file.read_text(encoding="utf-8"))
    return hash_file(file)


def strip_code(source: str) -> str:
    """Python source without comments, layout and docstrings."""
    tree = parse_code(source)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def parse_code(source: str) -> ast.Module:
    """A syntax tree; in a cell, lines of IPython (%magic, !shell) become the calls that IPython makes of them."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.parse(TransformerManager().transform_cell(source))
