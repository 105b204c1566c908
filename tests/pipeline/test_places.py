"""Where people work: Colab, made up and emulated; the address in the notebooks; other Pythons; a lost session.

Python 3.12 and 3.13 are only resolved and compiled for: nothing is run on them.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.sweeps import times
from support.tree import Tree

from helpers.core import STAGES
from helpers.core.errors import CourseError
from helpers.core.paths import NOTEBOOKS, ROOT
from helpers.pipeline import badges, colab, dependencies

ADDRESS = "https://github.com/somebody/a-course"
CONSTRAINTS = ROOT / "tests" / "pipeline" / "colab_constraints.txt"
PINS = {canonicalize_name(n): v for n, v in re.findall(r"^([\w.-]+)==(\S+)$", CONSTRAINTS.read_text(), re.MULTILINE)}
LACKING = {  # what Colab has not, of what this course needs
    *("arxiv", "biopython", "bitsandbytes", "bm25s", "gguf", "jupyterlab", "latex2mathml"),
}
TOOLS = ("nbval>=0.11", "pytest-httpserver>=1.1")  # of the tests, in the emulated Colab
UNIT_TESTS = (  # quick ones that touch every kind of package
    *("core", "dataset", "evaluation/test_answers.py", "evaluation/test_scores.py", "evaluation/test_statistics.py"),
    *("grading/test_questions.py", "grading/test_rubric.py", "models/test_load.py", "models/test_loglikelihood.py"),
    *("papers/test_http.py", "papers/test_paper.py", "pipeline/test_artefacts.py", "pipeline/test_provenance.py"),
    *("report/test_widgets.py", "serving/test_app.py", "serving/test_engine.py", "training/test_loop.py"),
)
MADE_UP = """
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


class SecretNotFoundError(Exception): pass
class NotebookAccessError(Exception): pass
class TimeoutException(Exception): pass


def get(name):
    if name == "HF_TOKEN":
        return "hf_from_the_store"
    raise {"NCBI_EMAIL": NotebookAccessError, "NCBI_API_KEY": TimeoutException}.get(name, SecretNotFoundError)(name)


google, session, userdata = ModuleType("google"), ModuleType("google.colab"), ModuleType("google.colab.userdata")
for thing in (SecretNotFoundError, NotebookAccessError, TimeoutException, get):
    setattr(userdata, thing.__name__, thing)
for module in (google, session, userdata):
    module.__spec__ = ModuleSpec(module.__name__, None)
google.colab, session.userdata = session, userdata
sys.modules |= {"google": google, "google.colab": session, "google.colab.userdata": userdata}
"""


def python(code: str, interpreter: Path | str = sys.executable, **environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment}
    line = [interpreter, "-c", code]
    return subprocess.run(line, env=environment, text=True, capture_output=True, cwd=ROOT)


def prepared(**environment: str) -> subprocess.CompletedProcess:
    """colab.prepare_colab() in a made-up Colab where nothing is lacking and importing is quick."""
    code = "from helpers.pipeline import colab\ncolab.MAIN = ('json',)\ncolab.prepare_colab()\n"
    return python(f"{MADE_UP}{code}import os; print(sorted(os.environ))", **environment)


def test_elsewhere_nothing_is_done():
    done = python("from helpers.pipeline import colab\ncolab.prepare_colab()")
    assert (done.returncode, done.stdout) == (0, "")


def test_a_session_says_what_is_there_and_how_to_keep_work():
    done = prepared(HF_TOKEN="")
    assert done.returncode == 0, done.stderr
    assert "PROFILE=auto takes" in done.stdout and "installing" not in done.stdout
    assert 'drive.mount("/content/drive")' in done.stdout
    assert "\n%env ARTEFACTS_DIR=/content/drive/MyDrive/course\n" in done.stdout
    assert "hf_from" not in done.stdout


def test_secrets_come_from_the_store_unless_the_environment_has_them():
    code = "from helpers.pipeline import colab\ncolab.read_secrets()\n"
    code += "import os\nprint([*map(os.environ.get, colab.SECRETS)])"
    clean = {name: value for name, value in os.environ.items() if name not in colab.SECRETS}
    line = [sys.executable, "-c", MADE_UP + code]
    for given, shown in (({}, "hf_from_the_store"), ({"HF_TOKEN": "mine"}, "mine")):
        environment = {**clean, "PYTHONPATH": str(ROOT), **given}
        done = subprocess.run(line, env=environment, text=True, capture_output=True)
        assert done.stdout == f"['{shown}', None, None, None]\n", done.stderr


def test_work_is_kept_where_the_folder_says_and_a_drive_that_is_away_is_named(tmp_path):
    assert f"finished stages are kept in {tmp_path}" in prepared(ARTEFACTS_DIR=str(tmp_path)).stdout
    refused = prepared(ARTEFACTS_DIR="/content/drive/MyDrive/course")
    assert refused.returncode == 1
    assert "is on a Drive that is not mounted\n→ run this in a new cell above" in refused.stderr


def test_a_package_that_cannot_be_imported_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "arxiv", None)
    with pytest.raises(CourseError, match=r"^arxiv 4\S* is installed and cannot be imported: "):
        colab.try_import("arxiv")


def test_colabs_own_packages_are_never_replaced_only_called_too_old():
    with pytest.raises(CourseError, match=r"too old: transformers>=5\.3 is needed\n→ .*latest runtime"):
        colab.install_missing(["arxiv>=4,<5", "transformers>=5.3"])


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Path:
    """A small environment that has all of this one's packages and pip, and can install from a folder only."""
    folder = tmp_path_factory.mktemp("session")
    venv.create(folder / "there", with_pip=True)
    (site,) = (folder / "there" / "lib").glob("python*/site-packages")
    (site / "ours.pth").write_text(sysconfig.get_path("purelib"))
    for name, version, needs in (
        ("kept", "1.0", ""),
        ("kept", "2.0", ""),
        ("lacking", "1.0", "kept"),
        ("greedy", "1.0", "kept>=2"),
    ):
        wheel(folder, f"colabtest_{name}", version, f"colabtest_{needs}" if needs else "")
    return folder


def wheel(folder: Path, name: str, version: str, needs: str) -> None:
    """The least that pip takes for a package."""
    info, requires = f"{name}-{version}.dist-info", f"Requires-Dist: {needs}\n" if needs else ""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.mark.slow
@pytest.mark.parametrize(("wanted", "works"), [("lacking", True), ("greedy", False)])
def test_pip_adds_what_is_lacking_and_replaces_nothing(session, wanted, works):
    interpreter, offline = session / "there" / "bin" / "python", {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(session)}
    subprocess.run(
        [interpreter, "-m", "pip", "install", "-qq", "colabtest_kept==1.0"], check=True, env={**os.environ, **offline}
    )
    done = python(
        "from importlib.metadata import version\nfrom helpers.pipeline import colab\n"
        f"colab.declared_requirements = lambda: ['colabtest_{wanted}>=1', 'jupyterlab>=99']\n"
        "try: colab.install_missing(colab.missing_requirements())\n"
        "finally: print(version('colabtest_kept'), colab.missing_requirements())",
        interpreter,
        **offline,
    )
    assert f"installing colabtest_{wanted}>=1\n" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == ("1.0 []" if works else "1.0 ['colabtest_greedy>=1']")
    assert ("these packages did not install: colabtest_greedy>=1\n→ run this cell again" in done.stderr) is not works


def test_pins_name_every_package_but_those_to_be_installed():
    found = dependencies.list_pins(without=["arxiv>=4,<5"])
    assert any(line.startswith("torch==") for line in found) and not any(line.startswith("arxiv==") for line in found)
    assert all(Requirement(line).specifier for line in found) and len(found) == len(set(found)) > 50


def test_what_colab_has_meets_our_bounds_and_what_it_lacks_is_known():
    declared = {canonicalize_name(r.name): r for r in map(Requirement, dependencies.declared_requirements())}
    for name, requirement in declared.items():
        if name in PINS:
            assert requirement.specifier.contains(PINS[name]), f"Colab has {name} {PINS[name]}, we want {requirement}"
    assert declared.keys() - PINS.keys() == LACKING | {"torch"}


# --- the whole course on what Colab has ---------------------------------------------------------------------------


@pytest.mark.skipif(
    times(0, 1) == 0, reason="it installs another environment and runs all notebooks; SWEEP=full does"
)
@pytest.mark.parametrize("part", ["prepare", "units", "notebooks"])
def test_the_course_works_on_what_colab_has(part, emulated):
    """Colab's versions, torch and Python excepted; `prepare_colab` itself adds what is lacking."""
    interpreter, copy = emulated
    if part == "prepare":
        listed = subprocess.run([interpreter, "-m", "pip", "freeze"], text=True, capture_output=True, check=True)
        there = dict(re.findall(r"^([\w.-]+)==(\S+)$", listed.stdout, re.MULTILINE))
        there = {canonicalize_name(name): version for name, version in there.items()}
        assert {name: there[name] for name in PINS} == PINS, "nothing was replaced"
        assert there.keys() >= LACKING - {"jupyterlab"} and "jupyterlab" not in there
        return
    environment = {**os.environ, "PYTHONPATH": "tests"}
    if part == "units":
        line = ["pytest", "-x", *(f"tests/{place}" for place in UNIT_TESTS)]
    else:
        flags = ["-p", "support.smoke", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600"]
        line = ["pytest", "-x", *flags, "notebooks"]
    done = subprocess.run([interpreter, "-m", *line], cwd=copy, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory) -> tuple[Path, Path]:
    """An interpreter with Colab's packages after prepare_colab(), and a copy of the course with its base model."""
    folder = tmp_path_factory.mktemp("colab")
    venv.create(folder / "v", with_pip=True)
    interpreter = folder / "v" / "bin" / "python"
    pip = [interpreter, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    torch = re.search(r"^torch==\S+$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)[0]
    subprocess.run([*pip, "-c", CONSTRAINTS, torch, *PINS], check=True)
    done = python(MADE_UP + "from helpers.pipeline import colab\ncolab.prepare_colab()", interpreter)
    assert done.returncode == 0 and "installing" in done.stdout, done.stderr[-3000:]
    subprocess.run([*pip, "-c", CONSTRAINTS, *TOOLS], check=True)
    left_out = shutil.ignore_patterns(".git", ".venv", "__pycache__", "smoke", "trial", "models", "reports")
    shutil.copytree(ROOT, folder / "course", ignore=left_out)
    (folder / "course" / "tests" / "__init__.py").touch()  # IPython 7 puts a package of that name on the path
    for kept in ("models/base", "reports/recorded"):
        if (ROOT / kept).exists():
            shutil.copytree(ROOT / kept, folder / "course" / kept)
    return interpreter, folder / "course"


# --- before a commit ----------------------------------------------------------------------------------------------


def test_what_runs_before_a_commit_is_the_lint_of_make_check():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = [hook["entry"].replace(".venv/bin/python", "$(PYTHON)") for hook in hooks]
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    lint = [line for line in map(str.strip, recipe.splitlines()) if " ruff " in line]
    assert entries[:-1] == lint and re.fullmatch(r"\$\(PYTHON\) -m pytest (tests/\S+)", entries[-1])
    assert (ROOT / entries[-1].split()[-1]).exists()
    assert all(hook["language"] == "system" for hook in hooks), "the packages of .venv, none of its own"


# --- the address in the notebooks ---------------------------------------------------------------------------------


def test_the_address_is_written_and_taken_out_again_to_the_byte(tmp_path):
    for path in NOTEBOOKS.glob("*.ipynb"):
        shutil.copy(path, tmp_path)
    badges.write_badges(tmp_path, "")
    bare = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(badges.write_badges(tmp_path, ADDRESS)) == 8 and badges.write_badges(tmp_path, ADDRESS) == []
    for name in bare:
        text = (tmp_path / name).read_text()
        assert text.count(f"/github/somebody/a-course/blob/main/notebooks/{name})") == 1
        assert text.count(f'REPOSITORY = \\"{ADDRESS}\\"  # address') == 1
    assert badges.write_badges(tmp_path, "https://github.com/another/one.git/") == sorted(bare)
    assert badges.write_badges(tmp_path, "") == sorted(bare)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == bare


def test_the_notebooks_have_the_address_of_pyproject():
    for path in NOTEBOOKS.glob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert badges.add_address(text, path.name, badges.read_address()) == text, "python -m helpers badges"


@pytest.mark.parametrize("elsewhere", ["https://gitlab.com/a/b", "github.com/a/b", "https://github.com/a", "a/b"])
def test_only_addresses_on_github_are_taken(tmp_path, elsewhere):
    shutil.copy(next(NOTEBOOKS.glob("1_*.ipynb")), tmp_path)
    with pytest.raises(CourseError, match="is not an address on GitHub"):
        badges.write_badges(tmp_path, elsewhere)


# --- a lost session -----------------------------------------------------------------------------------------------


def miniature(root: Path) -> Tree:
    """A checkout in miniature: the helpers, eight toy notebooks, nothing run."""
    shutil.copytree(ROOT / "helpers", root / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("notebooks", "data/benchmark", "data/topics"):
        (root / folder).mkdir(parents=True)
    shutil.copy(ROOT / "data/benchmark/questions.json", root / "data/benchmark")
    (root / "data/topics/autoimmune.json").write_text("{}")
    tree = Tree(root)
    for stage in STAGES:
        tree.write(stage.number)
    return tree


@pytest.mark.slow
def test_a_lost_session_is_brought_back_by_a_fresh_copy_with_the_same_folder(tmp_path):
    """What was kept is there again and counts; only the page, which is not kept, is made anew."""
    drive = {"ARTEFACTS_DIR": str(tmp_path / "drive")}
    before, after = miniature(tmp_path / "before"), miniature(tmp_path / "after")
    assert before.run("STAGES=1", **drive).ran == {1}
    shutil.rmtree(before.root)
    again = after.run("STAGES=1", **drive)
    assert again.status == 0, again.text
    assert "brought back: 1_download_and_test\n" in again.text
    assert re.findall(r"· running · (its page is missing)", again.text) == ["its page is missing"]


# --- other Pythons ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minor", [11, 12, 13])
def test_every_file_is_python_of_that_version(minor):
    """Parsed as that version's grammar, and compiled by that interpreter where it is installed."""
    files = [*(ROOT / "helpers").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    for path in files:
        ast.parse(path.read_text(encoding="utf-8"), path.name, feature_version=(3, minor))
    for interpreter in interpreters(minor):
        code = "import sys; [compile(open(p, encoding='utf-8').read(), p, 'exec') for p in sys.argv[1:]]"
        subprocess.run([interpreter, "-W", "error", "-c", code, *files], check=True)


def interpreters(minor: int) -> list[Path]:
    """Those of that version that are on the path, or that pyenv keeps; a shim of it that leads nowhere is none."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(f"python3.{minor}"), *kept.glob(f"3.{minor}.*/bin/python")]
    return [
        Path(path) for path in found if path and not subprocess.run([path, "-c", ""], capture_output=True).returncode
    ]


@pytest.mark.skipif(times(0, 1) == 0, reason="it asks the package index and downloads; SWEEP=full does")
@pytest.mark.parametrize("minor", ["3.12", "3.13"])
def test_the_lock_resolves_for_that_python(minor, tmp_path):
    """pip finds a wheel of every locked package, and they fit together; nothing is installed or run."""
    options = ["--dry-run", "-qq", "--ignore-installed", "--only-binary", ":all:", "--target", tmp_path]
    line = [sys.executable, "-m", "pip", "install", *options, "--python-version", minor, "-r", "requirements.lock"]
    done = subprocess.run(line, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]


# --- a read-only checkout -----------------------------------------------------------------------------------------

READS = """
from helpers.core import CourseError, compute_dtype, stage_of
from helpers.pipeline import begin
from helpers.pipeline.stages import parameters_of
stage = begin("1_download_and_test", parameters_of(stage_of(1)))
print(stage.settings.SEED, compute_dtype())
try: stage.finish()
except CourseError as error: print(error)
"""


def test_a_read_only_checkout_is_read_and_says_what_it_cannot_write(tmp_path):
    tree, shown = miniature(tmp_path / "tree"), tmp_path / "shown"
    for folder in ("reports", "data/raw", "models/base/smollm2-135m"):
        (tree.root / folder).mkdir(parents=True, exist_ok=True)
    shown.mkdir()
    with read_only(tree.root, shown):
        environment = {**os.environ, "PROFILE": "smoke", "ENV_FILE": ""}
        line = [sys.executable, "-c", READS]
        done = subprocess.run(line, cwd=shown, env=environment, text=True, capture_output=True)
        assert done.returncode == 0 and re.match(r"42 (bfloat16|float32)\n", done.stdout), done.stderr
        assert "reports/receipts cannot be written: Read-only file system\n→ copy the course" in done.stdout
        outcome = Tree(shown).run()
        assert outcome.status == 1 and "reports/.lock cannot be written" in outcome.text
        assert "Traceback" not in outcome.text


@contextmanager
def read_only(folder: Path, shown: Path) -> Iterator[None]:
    """`folder` at `shown`, where nobody can write; skips the test where that cannot be mounted."""
    for words in (["--bind", folder, shown], ["-o", "remount,ro,bind", shown]):
        if subprocess.run(["mount", *words], capture_output=True).returncode:
            pytest.skip("a read-only disk cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", shown], check=True)
