"""Receipts: what a finished stage was made from and what it left, by content and never by date."""

import ast
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager

from helpers import files
from helpers.paths import ROOT, Folders, relative
from helpers.settings import Settings, jsonable
from helpers.stages import STAGES, UNKEYED, Stage, artefact, code_cells

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "papermill", "biopython", "arxiv")


@dataclass(frozen=True)
class State:
    """Whether a stage is done; if not, `why` says what differs."""

    done: bool
    why: str = ""


def key(stage: Stage, settings: Settings, folders: Folders) -> dict[str, object]:
    """What a stage's result depends on: its resolved settings, the bytes it reads and the code it runs."""
    names = [name for name in stage.knobs() if name not in UNKEYED]
    paths = [artefact(name, settings, folders) for name in stage.reads(settings)]
    return {
        "settings": jsonable(settings, names),
        "inputs": merge(fingerprints(path) for path in paths if path is not None),
        "needs": {needed.name: outcome(needed, folders) for needed in STAGES if needed.number in stage.needs},
        "code": notebook_code(stage.notebook),
    }


def outcome(stage: Stage, folders: Folders) -> str:
    """ "done", "skipped" with its reason, or "" for a stage that has not finished: another stage may depend on it."""
    receipt = read(stage, folders) or {"status": "", "reason": ""}
    return f"{receipt['status']} {receipt['reason']}".strip()


def write(
    stage: Stage,
    settings: Settings,
    folders: Folders,
    *,
    key: dict[str, object],
    seconds: float,
    status: str = "done",
    reason: str = "",
    **facts: object,
) -> dict:
    """Write the receipt of a stage that has just finished and return it.

    `key` is the one the stage began with: what was changed while it ran, it has not seen.
    `facts` are what the stage wants remembered (counts, metrics, route …), as JSON values.
    """
    left = stage.leaves(settings) if status == "done" else ()
    outputs = merge(fingerprints(artefact(name, settings, folders)) for name in left)
    receipt = {
        "stage": stage.name,
        "status": status,
        "reason": reason,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "execution": os.environ.get("COURSE_EXECUTION", "by hand"),
        "key": key,
        "outputs": outputs,
        "megabytes_left": round(sum((ROOT / name).stat().st_size for name in outputs) / 1e6, 1),
        **facts,
        "profile": settings.PROFILE,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }
    files.write_json(stage.receipt(folders), receipt)
    return receipt


def read(stage: Stage, folders: Folders) -> dict | None:
    """The receipt, or None if the stage has not finished."""
    path = stage.receipt(folders)
    return files.read_json(path) if path.exists() else None


def all_of(folders: Folders) -> dict[str, dict]:
    """{stage name: receipt} of every finished stage of a run."""
    found = {stage.name: read(stage, folders) for stage in STAGES}
    return {name: receipt for name, receipt in found.items() if receipt}


def state(stage: Stage, settings: Settings, folders: Folders) -> State:
    """Whether the stage's receipt still describes what it would do now, and its outputs are intact."""
    receipt = read(stage, folders)
    if receipt is None:
        return State(False, "not run yet")
    now = key(stage, settings, folders)
    for part, word in (("settings", "setting"), ("inputs", "input"), ("needs", "outcome")):
        if changed := differences(receipt["key"].get(part, {}), now[part]):
            return State(False, f"{word} changed: {', '.join(changed[:3])}")
    if receipt["key"]["code"] != now["code"]:
        return State(False, "code changed")
    return outputs_intact(receipt)


def outputs_intact(receipt: dict) -> State:
    """Whether every output still has the bytes that the receipt records."""
    for name, expected in receipt["outputs"].items():
        found = fingerprints(ROOT / name).get(name)
        if found != expected:
            return State(False, f"{name} is {'damaged' if found else 'missing'}")
    return State(True)


def differences(before: dict, now: dict) -> list[str]:
    return [name for name in {**before, **now} if before.get(name) != now.get(name)]


def merge(parts: Iterable[dict]) -> dict:
    return {name: value for part in parts for name, value in part.items()}


def fingerprints(path: Path) -> dict[str, str]:
    """{relative name: sha256} of `path`, or of every file below it; {} if it does not exist.

    A file is hashed again only if it was written to since this process last did.
    """
    path = Path(path)
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    hashes = {}
    for file in found:
        status = file.stat()
        hashes[relative(file)] = hash_once(file, status.st_size, status.st_mtime_ns, status.st_ino)
    return hashes


@cache
def hash_once(file: Path, *_status: int) -> str:
    return files.sha256(file)


def notebook_code(notebook: Path) -> str:
    """Hash of a notebook's code cells and of every helper they reach, comments and docstrings left out.

    The parameters cell counts through the settings, the setup cell only finds the repository.
    """
    sources = [source for tags, source in code_cells(notebook) if not {"parameters", "setup"} & set(tags)]
    trees = [plain(source) for source in sources]
    modules = closure(module for source in sources for module in imported_helpers(source))
    return files.sha256_of([trees, {name: module_code(name) for name in modules}])


def code_of(*modules: str) -> str:
    """Hash of the named helper modules and of all that they import."""
    return files.sha256_of({name: module_code(name) for name in closure(modules)})


def closure(modules: Iterable[str]) -> list[str]:
    """The named helper modules and all helper modules they import, sorted."""
    reached, waiting = set(), list(modules)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(imported_helpers(module_path(name).read_text(encoding="utf-8")))
    return sorted(reached)


def module_path(name: str) -> Path:
    return ROOT / "helpers" / f"{name}.py"


def module_code(name: str) -> str:
    return plain(module_path(name).read_text(encoding="utf-8"))


def imported_helpers(source: str) -> set[str]:
    """Names of the modules of `helpers` that a piece of Python imports anywhere."""
    found = set()
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("helpers.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "helpers":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers."):
            found.add(node.module.split(".")[1])
    return {name for name in found if module_path(name).exists()}


def plain(source: str) -> str:
    """Python source without comments, layout and docstrings."""
    tree = parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def parse(source: str) -> ast.Module:
    """A syntax tree; in a cell, lines of IPython (%magic, !shell) become the calls that IPython makes of them."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.parse(TransformerManager().transform_cell(source))
