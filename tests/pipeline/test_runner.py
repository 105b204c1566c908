"""The runner, as a person runs it: a copy of the helpers, eight toy notebooks, real kernels."""

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from support.tree import WORK, Outcome, Tree

from helpers.core import STAGES
from helpers.core.paths import ROOT
from helpers.pipeline.notebook import without_machine
from helpers.pipeline.order import parse_stage_numbers

pytestmark = pytest.mark.slow  # it runs notebooks in kernels of their own


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Tree:
    """A tree in which all eight stages have run once."""
    tree = Tree(tmp_path_factory.mktemp("finished") / "tree")
    shutil.copytree(ROOT / "helpers", tree.root / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("notebooks", "data/benchmark", "data/topics"):
        (tree.root / folder).mkdir(parents=True)
    shutil.copy(ROOT / "data/benchmark/questions.json", tree.root / "data/benchmark")
    (tree.root / "data/topics/autoimmune.json").write_text("{}")
    for stage in STAGES:
        tree.write(stage.number)
    outcome = tree.run()
    assert (outcome.status, outcome.ran) == (0, set(range(1, 9))), outcome.text
    return tree


@pytest.fixture
def tree(finished, tmp_path) -> Tree:
    """The finished tree at another place: that it has moved must not matter either."""
    shutil.copytree(finished.root, tmp_path / "tree", symlinks=True)
    return Tree(tmp_path / "tree")


def test_all_stages_leave_a_report_a_page_and_a_receipt(finished):
    for stage in STAGES:
        assert (finished.reports / f"{stage.name}.ipynb").exists()
        assert "<math" in (finished.reports / f"{stage.name}.html").read_text()
        assert finished.receipt(stage.number)["status"] == "done"
    assert not list(finished.root.rglob(".tmp-*"))


def test_a_second_run_does_nothing_and_imports_nothing_heavy(tree):
    outcome = tree.run(python=("-X", "importtime"))
    assert outcome.status == 0 and set(outcome.states.values()) == {"skipped"}
    imported = set(re.findall(r"\|\s+(\w+)$", outcome.text, re.MULTILINE))
    assert "helpers" in imported and not imported & {"torch", "transformers", "papermill", "nbconvert", "pandas"}


def test_touched_files_and_comments_rerun_nothing(tree):
    for path in tree.root.rglob("*"):
        os.utime(path)
    source = tree.notebook(4).read_text()
    tree.notebook(4).write_text(source.replace("for name in outputs_of", "# a comment\\nfor name in outputs_of"))
    assert source != tree.notebook(4).read_text()
    assert tree.run().ran == set()


def test_one_setting_reruns_what_it_reaches_and_a_damaged_output_its_stage(tree):
    (tree.reports / "results_full.json").write_text("bitten")
    outcome = tree.run("MAX_PAPERS=12", "SEED=42")  # 42 is the default: not a change
    assert outcome.ran == {3, 5, 7}, outcome.text  # the answers came back the same, so 8 has nothing to do
    assert "setting changed: MAX_PAPERS" in outcome.text and "results_full.json is damaged" in outcome.text
    assert tree.receipt(3)["key"]["settings"]["MAX_PAPERS"] == 12
    assert tree.run("MAX_PAPERS=12").ran == set()


def test_missing_page_and_force(tree):
    (tree.reports / f"{STAGES[0].name}.html").unlink()
    tree.write(8, WORK + "\nprint('forced', stage.run.force)")
    outcome = tree.run("FORCE=8")
    assert outcome.ran == {1, 8} and "its page is missing" in outcome.text
    assert report_text(tree, 8) == "forced True\n"


def report_text(tree: Tree, number: int, ending: str = ".ipynb") -> str:
    """Everything the cells of a report printed."""
    cells = nbformat.read(tree.reports / f"{STAGES[number - 1].name}{ending}", 4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def test_a_report_holds_no_secret_and_no_path_of_this_machine(tree):
    tree.write(8, WORK + "\nimport os\nprint(os.environ['HF_TOKEN'], Path.cwd(), Path.home() / 'x')")
    assert tree.run("STAGES=8", HF_TOKEN="hf_verysecret").ran == {8}
    assert report_text(tree, 8) == "(hidden) ./notebooks ~/x\n"
    for left in (path for path in tree.reports.rglob("*") if path.is_file()):
        assert "verysecret" not in left.read_text(), left
        assert str(tree.root) not in left.read_text(), left


@pytest.mark.parametrize(
    ("work", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        (
            "from helpers.core import CourseError\nraise CourseError('x=1 is bad', 'take 2')",
            "\nx=1 is bad\n→ take 2\n",
        ),
        ("import sys\nsys.exit(0)", "sys.exit()"),
        ("exit()", "ended here by exit()"),
        ("!false\n!true", "a shell command of this notebook failed: false"),
        ("import os\nos.kill(os.getpid(), 9)", "process died"),
    ],
    ids=["error", "course error", "sys.exit(0)", "exit()", "!false", "killed kernel"],
)
def test_a_stage_that_ends_badly(tree, work, said):
    tree.write(8, WORK + "\n" + work)
    outcome = tree.run()
    assert outcome.status == 1 and outcome.states[8] == "failed"
    assert said in outcome.text and "Traceback" not in outcome.text, outcome.text
    assert ("stage.finish()" if "!" in work else work.splitlines()[-1]) in outcome.text, "the cell is shown"
    name = STAGES[7].name
    assert (tree.reports / f"{name}.failed.ipynb").exists() and (tree.reports / f"{name}.failed.html").exists()
    assert tree.run("STAGES=1-7").ran == set(), "what was finished is kept"


def test_a_success_clears_the_failure_away(tree):
    (tree.reports / f"{STAGES[7].name}.failed.html").write_text("old")
    tree.write(8, WORK + "\n1 + 1")
    assert tree.run().ran == {8}
    assert not list(tree.reports.glob("*.failed.*"))


def test_a_notebook_without_a_receipt(tree):
    notebook = nbformat.read(tree.notebook(8), 4)
    notebook.cells = notebook.cells[:-1]
    nbformat.write(notebook, tree.notebook(8))
    outcome = tree.run("FORCE=8")
    assert outcome.status == 1 and "without a receipt" in outcome.text


SLOW = f"""{WORK}
import os
import time
from helpers.core import report_progress
print('begun', os.environ.get('HF_TOKEN'))
report_progress('begun')
time.sleep(60)"""


def test_two_at_once_and_sigterm(tree):
    tree.write(8, SLOW)
    first = tree.start()
    tree.wait_for("begun")
    second = tree.run()
    assert second.status == 1 and f"another command is at work in reports (process {first.pid})" in second.text
    first.send_signal(signal.SIGTERM)
    text, _ = first.communicate(timeout=30)
    assert first.returncode == 128 + signal.SIGTERM
    assert "stopped (SIGTERM)" in text and "Traceback" not in text, text
    assert Outcome(first.returncode, text).states[8] == "stopped"
    assert report_text(tree, 8, ".failed.ipynb") == "begun None\n", "the partial report is kept"


@pytest.mark.parametrize("command", ["pipeline", "control", "bench", "export"])
def test_every_command_that_writes_holds_the_runs_lock(tree, command):
    with (tree.reports / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        line = [sys.executable, "-m", "helpers", command]
        done = subprocess.run(
            line, cwd=tree.root, env=os.environ | {"PROFILE": "smoke"}, text=True, capture_output=True
        )
    assert done.returncode == 1 and "another command is at work in reports (process 4711)" in done.stderr, done.stderr


def test_kill_9_loses_nothing_that_was_finished(tree):
    tree.write(7, WORK + "\n2 + 2")
    tree.write(8, SLOW)
    runner = tree.start(HF_TOKEN="hf_verysecret")
    tree.wait_for("begun")
    runner.kill()
    runner.communicate(timeout=30)
    for left in (path for path in tree.root.rglob("*") if path.is_file()):
        assert b"verysecret" not in left.read_bytes(), f"{left} was left with a secret in it"
    tree.write(8, WORK + "\n3 + 3")
    outcome = tree.run()
    assert outcome.ran == {8} and outcome.states[7] == "skipped", outcome.text
    assert not list(tree.root.rglob(".tmp-*")), "what the killed one left half-written is swept up"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["LORA_RR=8"], "did you mean LORA_R?"),
        (["STAGE=4"], "did you mean STAGES?"),
        (["FOO=1"], "FOO (in the command line) is not a setting"),
        (["HF_TOKEN=hf_x"], "HF_TOKEN is given on the command line, where every user of this machine can read it"),
        (["WHICH=full"], "STAGES=5"),
        (["nonsense"], "'nonsense' is not NAME=value"),
        (["MAX_PAPERS=many"], "MAX_PAPERS='many' (command line): "),
        (["MAX_PAPERS=3"], "at least 10"),
        (["QLORA_LR=7"], "QLORA_LR='7' (command line): "),
        (["PROFILE=huge"], "PROFILE='huge' (command line): there is no such profile"),
        (["RUN=../x"], "RUN='../x'"),
        (["STAGES=9"], "stages are 1 to 8"),
        (["STAGES=five"], "STAGES='five' has no stage numbers"),
        (["STAGES=3", "FORCE=4"], "STAGES=3 leaves out"),
        (["RUN=fresh", "STAGES=4-5"], "make pipeline STAGES=1,3,4,5 PROFILE=smoke RUN=fresh"),
        (
            ["RUN=fresh", "STAGES=2", "PAPERS_QUERY=it's a $x", "PROFILE=cpu"],
            """make pipeline STAGES=1,2 PROFILE=cpu RUN=fresh 'PAPERS_QUERY=it'"'"'s a $x'""",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused_before_anything_runs(finished, words, said):
    outcome = finished.run(*words)
    assert outcome.status == 1 and said in outcome.text, outcome.text
    assert "Traceback" not in outcome.text and "running" not in outcome.states.values()


def test_a_wrong_literal_in_a_notebook_that_is_not_selected_is_refused_too(tree):
    tree.write(6, parameters='SEED = "many"')
    outcome = tree.run("STAGES=1")
    assert outcome.status == 1 and "SEED='many' (parameter)" in outcome.text


def test_a_screen_gets_a_table(finished):
    shown, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers", "pipeline"],
        cwd=finished.root,
        env={**os.environ, "PROFILE": "smoke", "TERM": "xterm", "COLUMNS": "100"},
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    text = b""
    while chunk := read_terminal(shown):
        text += chunk
    assert process.wait(timeout=30) == 0
    assert text.decode().count("skipped") >= 8 and "QLoRA: train an adapter" in text.decode()


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux's way to say that the other end was closed
        return b""


def test_a_foreign_kernel_specification_is_not_asked(tree, tmp_path):
    """A python3 of another interpreter, or of one that is gone, stands before ours on JUPYTER_PATH."""
    place = tmp_path / "jupyter" / "kernels" / "python3"
    place.mkdir(parents=True)
    gone = {"argv": ["/no/such/python", "-m", "x"], "display_name": "Python 3", "language": "python"}
    (place / "kernel.json").write_text(json.dumps(gone))
    tree.write(8, WORK + "\nimport sys\nprint(sys.executable)")
    outcome = tree.run("FORCE=8", "STAGES=8", JUPYTER_PATH=str(tmp_path / "jupyter"))
    assert outcome.ran == {8}, outcome.text
    assert Path(report_text(tree, 8).strip()).name == Path(sys.executable).name


def test_a_dangling_link_is_named(tree):
    shutil.rmtree(tree.root / "reports")
    (tree.root / "reports").symlink_to(tree.root / "gone")
    outcome = tree.run()
    assert outcome.status == 1 and "reports is a link to" in outcome.text and "Traceback" not in outcome.text


def test_every_stage_says_how_long_it_will_take_and_learns_from_what_it_took(tree):
    outcome = tree.run("FORCE=4,8", "TOKEN_BUDGET=2400")
    assert re.search(
        r"stage 4 .* running · forced · about \d+ s, (as it took here last time|scaled from)", outcome.text
    )
    assert re.search(r"stage 8 .* done · \d+:\d\d · \d+ s were expected", outcome.text), outcome.text
    assert outcome.ran == {4, 8}


def test_a_stage_that_will_not_fit_is_not_begun(tree):
    receipt = tree.reports / "receipts" / f"{STAGES[3].name}.json"
    receipt.write_text(receipt.read_text().replace('"seconds": ', '"seconds": 600'))
    outcome = tree.run("FORCE=4", "TIME_LIMIT=1")
    assert outcome.status == 1 and "running" not in outcome.states.values()
    assert "stage 4 (QLoRA: train an adapter) takes about" in outcome.text
    assert "of TIME_LIMIT=1 minutes are left" in outcome.text and "make pipeline TIME_LIMIT=" in outcome.text


def test_stage_numbers():
    assert parse_stage_numbers("STAGES", "3-5") == (3, 4, 5)
    assert parse_stage_numbers("STAGES", "4,1, 7-8") == (1, 4, 7, 8)
    assert parse_stage_numbers("STAGES", "") == ()


def test_only_whole_paths_are_shortened():
    assert without_machine(f"{ROOT}/data and {ROOT}", []) == "./data and ."
    assert without_machine(f"{ROOT}-2/data", []).endswith(f"{ROOT.name}-2/data")
