"""The README does what it says.

Every ```python block runs, in its own process, on what the notebooks left in profile smoke (paths are shifted
there). Every `make` line is checked with `make -n`, every other line of a ```bash block for its syntax. A block
after `<!-- not run: reason -->` is compiled only.
"""

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass

import pytest

from helpers.control import control as control_module
from helpers.core import STAGES
from helpers.core import settings as settings_module
from helpers.core.paths import ROOT, Folders
from helpers.core.run import read_receipts
from helpers.pipeline import order as order_module
from helpers.report import recorded
from helpers.serving import serve as serve_module
from helpers.sharing import export as export_module

BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]*?) -->\n+)?^```(?P<kind>python|bash|sh)\n(?P<text>.*?)^```", re.M | re.S
)
SHIFTED = re.compile(r"\b(data/(?!benchmark|topics|sample|raw)|models/(?!base)|reports/(?!recorded))(?=\w)")


@dataclass(frozen=True)
class Block:
    """A fenced block of the README; `reason` says why it is not run, "" if it is."""

    kind: str
    text: str
    reason: str


def readme() -> str:
    path = ROOT / "README.md"
    return path.read_text() if path.exists() else ""


def blocks(*kinds: str) -> list[Block]:
    found = [Block(m["kind"], m["text"], m["reason"] or "") for m in BLOCK.finditer(readme())]
    return [block for block in found if block.kind in kinds]


def first_line(block: object) -> str:
    return block.text.strip().splitlines()[0] if isinstance(block, Block) else str(block)


def make_lines() -> list[str]:
    """Every line of a shell block, and every piece of inline code, that calls make."""
    lines = [line for block in blocks("bash", "sh") for line in block.text.splitlines()]
    lines += re.findall(r"`(make [^`]+)`", readme())
    calls = [
        call for line in lines if (call := re.search(r"(?:^|&&\s*)((?:[A-Z_]+=\S+ )*make\b[^#&|]*)", line.strip()))
    ]
    return list(dict.fromkeys(call[1].strip().rstrip("… .") for call in calls))


def test_there_is_one_with_code_in_it():
    assert make_lines() and blocks("python"), "README.md has make lines and Python"


@pytest.mark.parametrize("block", blocks("python"), ids=first_line)
def test_python_compiles(block):
    compile(block.text, "README.md", "exec")


@pytest.mark.parametrize("block", [b for b in blocks("python", "bash", "sh") if b.reason], ids=first_line)
def test_what_is_not_run_says_why(block):
    assert len(block.reason.split()) >= 3


@pytest.mark.parametrize("block", blocks("bash", "sh"), ids=first_line)
def test_shell_is_shell(block):
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)


@pytest.mark.parametrize("line", make_lines())
def test_make_lines_are_understood(line):
    """By make, and by the check of names and values of what it calls."""

    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    call = re.sub(r"\bmake\b", "make -n", line, count=1)
    done = subprocess.run(call, shell=True, cwd=ROOT, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    words = [
        word for word in re.findall(r"[A-Z_]+=(?:'[^']*'|\"[^\"]*\"|\S*)", line) if not word.startswith("PYTHON=")
    ]
    if target := re.search(r" (control|serve|export)\b", line):
        {"control": control_module, "serve": serve_module, "export": export_module}[target[1]].read_command(words)
        return
    given = order_module.read_order([re.sub("['\"]", "", word) for word in words], {})
    settings_module.check_names(given.values, line)


def test_the_file_tree_names_every_room_from_the_ground_up():
    listed = re.findall(r"^  (\w+)/ +\S", readme(), re.M)
    assert sorted(listed) == sorted(path.parent.name for path in (ROOT / "helpers").glob("*/__init__.py"))
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    floors = [{room.removeprefix("helpers.") for room in layer.split(" | ")} for layer in reversed(layers)]
    heights = [next(n for n, rooms in enumerate(floors) if room in rooms) for room in listed]
    assert heights == sorted(heights), "a room comes after those it may import from"


@pytest.mark.parametrize("name", ["recorded run", "control", "timings"])
def test_the_tables_are_those_of_what_is_recorded(name):

    start, end = recorded.table_marks(name)
    made = {
        "recorded run": recorded.summarise_run,
        "control": recorded.control_text,
        "timings": recorded.timings_text,
    }[name]()
    assert f"{start}\n{made}\n{end}" in readme()


@pytest.fixture(scope="module")
def exported():
    """The folder that README's `make export WHICH=qlora MERGED=on` leaves, of the run in profile smoke."""
    line = [sys.executable, "-m", "helpers", "export", "WHICH=qlora", "MERGED=on", "PROFILE=smoke", "RUN=smoke"]
    subprocess.run(line, cwd=ROOT, check=True, timeout=600)


@pytest.mark.after_notebooks
@pytest.mark.usefixtures("exported")
@pytest.mark.parametrize("block", [b for b in blocks("python") if not b.reason], ids=first_line)
def test_python_runs_on_what_the_notebooks_left(block):
    text = SHIFTED.sub(r"\1smoke/", block.text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, env=environment, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.after_notebooks
def test_the_notebooks_left_receipts_and_a_report():

    folders = Folders("smoke")
    assert set(read_receipts(folders)) == {stage.name for stage in STAGES}
    assert folders.index.exists() and folders.scores.exists()
