"""One list of dependencies, and everything that is derived from it agrees."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from support.sweeps import times

from helpers.core.fingerprint import parse_code as parse
from helpers.core.paths import NOTEBOOKS, ROOT
from helpers.core.settings import SECRETS
from helpers.pipeline import dependencies
from helpers.pipeline.stages import code_cells

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = {canonicalize_name(r.name): r for r in map(Requirement, dependencies.declared_requirements(dev=True))}
LOCK = (ROOT / "requirements.lock").read_text()
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", LOCK, re.MULTILINE))
PINS = {canonicalize_name(name): version for name, version in PINS.items()}
IMPORTED_AS = {
    "Bio": "biopython",
    "dotenv": "python-dotenv",
    "IPython": "ipython",
    "importlinter": "import-linter",
    "yaml": "pyyaml",
}
ELSEWHERE = {"google", "llama_cpp", "lm_eval"}  # Colab's own; two that are used where somebody has installed them


def test_the_lock_pins_what_pyproject_allows():
    for name, requirement in DECLARED.items():
        assert name in PINS, f"{name} is not in requirements.lock: make lock"
        assert requirement.specifier.contains(PINS[name]), f"{name} {PINS[name]} is not {requirement}: make lock"


def test_the_lock_is_only_pins_for_every_platform():
    lines = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert PINS["torch"] == "2.13.0"
    assert not [name for name in PINS if name.startswith(("nvidia", "cuda", "triton"))]


@pytest.mark.parametrize(
    ("name", "floor"),
    [
        ("torch", "2.10"),
        ("transformers", "5.3"),
        ("jinja2", "3.1.6"),
        ("pandas", "2.2"),
        ("datasets", "4"),
        ("ipywidgets", "7.7"),
    ],
)
def test_floors_admit_what_colab_has_and_nothing_known_to_be_unsafe(name, floor):
    assert DECLARED[name].specifier == SpecifierSet(f">={floor}")
    assert Version(PINS[name]) >= Version(floor), "the lock"
    assert Version(metadata.version(name)) >= Version(floor), "this environment"


def test_nothing_locked_fetches_code_to_run():
    """transformers and bitsandbytes load programs from the Hub by themselves where `kernels` is installed."""
    assert "kernels" not in PINS and "kernels" not in DECLARED


@pytest.mark.skipif(times(0, 1) == 0, reason="new advisories come on any day; SWEEP=full asks for them")
def test_no_locked_package_has_a_known_hole(tmp_path):
    """pip-audit, where the advisory database can be reached."""
    python = tmp_path / "audit" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "audit"], check=True)
    installed = subprocess.run([python, "-m", "pip", "install", "-qq", "pip-audit"], text=True, capture_output=True)
    if installed.returncode:
        pytest.skip(f"pip-audit cannot be installed here: {installed.stderr.strip()[-200:]}")
    asked = ["--vulnerability-service=osv", "--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]
    line = [python, "-m", "pip_audit", *asked, "--requirement", ROOT / "requirements.lock"]
    done = subprocess.run(line, text=True, capture_output=True)
    if not done.stdout.startswith("{"):
        pytest.skip(f"the advisory database cannot be reached: {done.stderr.strip().splitlines()[-1][:200]}")
    audited = [package for package in json.loads(done.stdout)["dependencies"] if "vulns" in package]
    assert len(audited) == len(PINS)
    found = {package["name"]: [hole["id"] for hole in package["vulns"]] for package in audited if package["vulns"]}
    assert not found, "make lock, or raise a floor in pyproject.toml"


def test_every_dependency_says_why_it_is_there():
    text = (ROOT / "pyproject.toml").read_text()
    for line in re.findall(r'^    "[\w-]+[<>=].*$', text, re.MULTILINE):
        assert re.search(r'",\s+# \w', line), line


def imported() -> dict[str, str]:
    """{top-level module: where} of everything that helpers, notebooks and tests import."""
    sources = {
        path.name: path.read_text() for folder in ("helpers", "tests") for path in (ROOT / folder).rglob("*.py")
    }
    for path in NOTEBOOKS.glob("*.ipynb"):
        sources[path.name] = "\n".join(ast.unparse(parse(source)) for _, source in code_cells(path))
    found = {}
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0]: name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found[node.module.split(".")[0]] = name
    return found


def test_every_import_is_declared():
    ours = {"helpers", "support"}
    for module, where in imported().items():
        if module not in sys.stdlib_module_names and module not in ours | ELSEWHERE:
            name = canonicalize_name(IMPORTED_AS.get(module, module))
            assert name in DECLARED, f"{where} imports {module}, which pyproject.toml does not list"


def test_conda_takes_the_same_list():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, with_pip = environment["dependencies"]
    assert with_pip == {"pip": ["-r requirements.lock"]}, (
        "the lock, which the tests above hold against pyproject.toml"
    )
    python = next(line for line in conda if line.startswith("python"))
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    assert set(conda) - {python} == {"make", "pip"}, "no package twice"


def test_this_interpreter_has_what_is_needed():
    assert dependencies.find_missing(dependencies.declared_requirements(dev=True)) == []
    assert dependencies.find_missing(["no-such-package>=1", "pytest>=1"]) == ["no-such-package>=1"]


OUTSIDE = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # no make around this


def test_make_alone_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()) - {"always", "installed"}
    shown = subprocess.run(["make"], cwd=ROOT, env=OUTSIDE, text=True, check=True, capture_output=True).stdout
    listed = set(re.findall(r"^  ([\w-]+) ", shown, re.MULTILINE))
    assert listed == phony and {"pipeline", "check", "test", "lab", "help"} <= listed


HEARS = """#!{python}
import json, sys
sys.path.insert(0, {root!r})
from helpers.__main__ import take_values
if "helpers" in sys.argv:
    json.dump(take_values(sys.argv[3:]), open({place!r}, "w"))
"""
TYPED = (
    'it\'s "lupus"[MeSH] AND (a  b) $HOME `touch {trap}` #x; y \\ $$ %s & ',
    "$(shell touch {trap}) ${{shell touch {trap}}} $(error stop) $(HOME) $(eval X := $(shell touch {trap}))",
    "first\n\ttouch {trap}\n@touch {trap}\n",
    "ends with \\",
    "",
    "-x",
    "Sjögren \u2028 $",
)


@pytest.mark.parametrize("program", sorted({"make", os.environ.get("OTHER_MAKE", "make")}))
@pytest.mark.parametrize("target", ["pipeline", "control", "serve", "export", "bench", "help"])
def test_values_reach_python_as_they_were_typed_and_nothing_runs_them(tmp_path, target, program):
    """Make itself, a real recipe, and in place of the interpreter one that writes down what it is given."""
    trap, place, hears = tmp_path / "trap", tmp_path / "heard.json", tmp_path / "hears"
    hears.write_text(HEARS.format(python=sys.executable, root=str(ROOT), place=str(place)))
    hears.chmod(0o755)
    values = {f"NAME_{number}": text.format(trap=trap) for number, text in enumerate(TYPED)}
    words = [f"{name}={value}" for name, value in values.items()]
    subprocess.run(
        [program, target, f"PYTHON={hears}", *words], cwd=ROOT, env=OUTSIDE, check=True, capture_output=True
    )
    assert not trap.exists()
    assert target == "help" or sorted(json.loads(place.read_text())) == sorted([target, *words])


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_on_makes_line_is_refused_with_the_way_out(name):
    line = ["make", "pipeline", f"PYTHON={sys.executable}", f"{name}=hunter2"]
    done = subprocess.run(line, cwd=ROOT, env=OUTSIDE, text=True, capture_output=True)
    assert done.returncode and f"{name} is given on the command line, where every user" in done.stderr
    assert "write it into .env" in done.stderr and "hunter2" not in done.stdout + done.stderr


def test_make_finds_the_helpers_where_python_is_told_to_look_nowhere():
    line = ["make", "pipeline", f"PYTHON={sys.executable}", "NONSENSE=1"]
    done = subprocess.run(line, cwd=ROOT, env=OUTSIDE | {"PYTHONSAFEPATH": "1"}, text=True, capture_output=True)
    assert "NONSENSE (in the command line) is not a setting" in done.stderr


def test_an_ascii_terminal_gets_the_error_and_no_traceback():
    line = [sys.executable, "-m", "helpers", "pipeline", "NONSENSE=Sjögren→"]
    done = subprocess.run(line, cwd=ROOT, env=OUTSIDE | {"PYTHONIOENCODING": "ascii"}, text=True, capture_output=True)
    assert done.returncode == 1 and "is not a setting\n\\u2192 " in done.stderr and "Traceback" not in done.stderr


def test_dependencies_are_checked_before_anything_is_installed(tmp_path):
    """The file runs alone, without site-packages: it must import nothing of them and nothing of helpers."""
    script = ROOT / "helpers" / "pipeline" / "dependencies.py"
    done = subprocess.run([sys.executable, "-I", "-S", script, "check"], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 1 and "lacks" in done.stderr and "Traceback" not in done.stderr


def test_few_hidden_channels_are_left():
    """What the runner tells the notebook's process travels in one variable; settings and options bear their names."""
    files = [*(ROOT / "helpers").rglob("*.py"), ROOT / "Makefile", *NOTEBOOKS.glob("*.ipynb")]
    found = {name for path in files for name in re.findall(r"\bCOURSE_[A-Z_]+", path.read_text())}
    assert found == {"COURSE_EXECUTION"}


def test_nothing_swallows_a_failure():
    for name in ("Makefile", ".ci/run"):
        text = (ROOT / name).read_text()
        assert (
            "|| true" not in text and "continue-on-error" not in text and not re.search(r"^\t-", text, re.MULTILINE)
        )
    assert "set -euo pipefail" in (ROOT / ".ci/run").read_text() and "make test" in (ROOT / ".ci/run").read_text()
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_pins_are_versions():
    for version in PINS.values():
        Version(version)
