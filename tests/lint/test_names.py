"""Names that mean one thing, and settings that are read in one place.

What offends today is listed by name, and the lists only shrink: a name that no longer offends must be taken out.
"""

import ast
from collections import defaultdict

from support.source import trees

TWICE_AS_CLASS = {"Instrument", "Ledger", "Stopped"}
TWICE_AS_FUNCTION = {"train", "untrained"}
EVERY_COMMAND_HAS_ONE = {"main"}
READ_THE_ENVIRONMENT = {
    *("helpers/__main__.py", "helpers/core/hardware.py", "helpers/core/settings.py"),
    *("helpers/training/distributed.py", "helpers/training/throughput.py"),
}


def defined_in_several(kind: type[ast.stmt]) -> set[str]:
    """Names of top-level classes or functions that more than one file defines."""
    places = defaultdict(set)
    for where, tree in trees().items():
        for node in tree.body:
            if isinstance(node, kind):
                places[node.name].add(where)
    return {name for name, files in places.items() if len(files) > 1}


def test_no_two_classes_have_one_name():
    assert defined_in_several(ast.ClassDef) == TWICE_AS_CLASS


def test_no_function_of_one_word_means_two_things():
    found = {name for name in defined_in_several(ast.FunctionDef) if "_" not in name}
    assert found - EVERY_COMMAND_HAS_ONE == TWICE_AS_FUNCTION


def reads_environment(tree: ast.Module) -> bool:
    """Whether a module touches os.environ or os.getenv, by whatever import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
            return True
        if isinstance(node, ast.ImportFrom) and {alias.name for alias in node.names} & {"environ", "getenv"}:
            return True
    return False


def test_only_the_pipeline_reads_the_environment():
    found = {where for where, tree in trees().items() if reads_environment(tree)}
    elsewhere = {where for where in found if not where.startswith("helpers/pipeline/")} - {"helpers/__init__.py"}
    assert elsewhere == READ_THE_ENVIRONMENT
