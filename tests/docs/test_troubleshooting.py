"""TROUBLESHOOTING.md says what is so: links, quotes, names and commands are those of the code."""

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache

import pytest

from helpers.control import control
from helpers.core import STAGES, settings
from helpers.core.errors import GUIDE, CourseError
from helpers.core.paths import ROOT
from helpers.pipeline import order
from helpers.pipeline.stages import code_cells

PARTS = ("Symptom", "Check", "Fix")
ENTRY = re.compile(r"^### (?P<title>.+)\n\n" + "".join(rf"- \*\*{p}:\*\* (?P<{p}>.+)\n" for p in PARTS), re.M)
CODE = re.compile(r"`([^`]+)`")
QUOTE = re.compile(r'"([^"]+)"')
NAME = re.compile(r"(?<![\w./$-])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*(?![\w./-])")
NOT_OURS = {  # of make, pip, the network's libraries, CUDA, PubMed's queries, and of our Python
    *("PYTHON", "STAGES", "FORCE", "METHOD", "NAME", "PYTHONPATH"),
    *("HTTPS_PROXY", "NO_PROXY", "PIP_INDEX_URL", "PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"),
    *("CUDA", "CUDA_VISIBLE_DEVICES", "AND", "OR", "NOT", "HTML", "NAMES"),
}
RUN_HERE = (".venv/bin/python -c ", "df ", "command -v ")  # they need nothing but this repository and its packages


@cache
def guide() -> str:
    return (ROOT / GUIDE).read_text(encoding="utf-8")


def entries() -> list[dict[str, str]]:
    return [found.groupdict() for found in ENTRY.finditer(guide())]


def title(entry: dict[str, str]) -> str:
    return entry["title"]


def anchor(heading: str) -> str:
    """A heading's anchor by GitHub's rule: lower case, no punctuation but - and _, each space a hyphen."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors() -> list[str]:
    """All anchors of the file; the second heading of the same name gets -1."""
    seen, found = Counter(), []
    for heading in re.findall(r"^#+ (.+)$", guide(), re.M):
        slug = anchor(heading)
        found.append(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def text_of(node: ast.expr) -> str | None:
    """A literal text, with … for what an f-string fills in; None for anything else."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


@cache
def trees() -> dict[str, list[ast.Module]]:
    """{where: syntax trees} of the helpers and of the notebooks' cells."""
    found = {path.name: [ast.parse(path.read_text(encoding="utf-8"))] for path in (ROOT / "helpers").rglob("*.py")}
    return found | {stage.name: [ast.parse(source) for _, source in code_cells(stage.notebook)] for stage in STAGES}


@cache
def raised() -> list[tuple[str, str, str]]:
    """(place, problem, slug) of every CourseError; the slug is "" where it names no entry."""
    return list(raises())


def raises() -> Iterator[tuple[str, str, str]]:
    for where, parsed in trees().items():
        for call in (node for tree in parsed for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id == "CourseError":
                slug = next((k.value for k in call.keywords if k.arg == "entry"), None)
                slug = call.args[2] if len(call.args) > 2 else slug
                yield f"{where}:{call.lineno}", text_of(call.args[0]) or "", text_of(slug) or "" if slug else ""


@cache
def said() -> list[str]:
    """Every text that the code holds."""
    nodes = (node for parsed in trees().values() for tree in parsed for node in ast.walk(tree))
    texts = [text for node in nodes if isinstance(node, ast.expr) and (text := text_of(node))]
    return [*texts, (ROOT / "Makefile").read_text(encoding="utf-8")]


def checks() -> list[str]:
    """The checks that are commands: those that begin with code."""
    return [found[1] for entry in entries() if (found := re.match(CODE, entry["Check"]))]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_every_entry_has_its_three_parts_and_there_are_thirty():
    headings = re.findall(r"^### (.+)$", guide(), re.M)
    assert [title(entry) for entry in entries()] == headings, "each: Symptom, Check, Fix, one line each"
    assert len(headings) >= 30
    assert len(set(anchors())) == len(anchors()), "two headings of one name: which is meant?"


def test_the_contents_name_every_group_and_all_links_lead_somewhere():
    groups = re.findall(r"^## (.+)$", guide(), re.M)
    assert re.findall(r"^- \[(.+)\]\(#", guide(), re.M) == groups
    linked = re.findall(r"\]\(#([^)]+)\)", guide())
    assert set(linked) <= set(anchors()), set(linked) - set(anchors())


def test_anchors_follow_githubs_rule():
    assert anchor("bitsandbytes, 4-bit: `No_GPU`!") == "bitsandbytes-4-bit-no_gpu"
    assert anchor("α & β") == "α--β"


def test_every_error_that_names_an_entry_names_one_that_exists():
    linked = [(place, slug) for place, _, slug in raised() if slug]
    assert len(linked) >= 25
    assert not [pair for pair in linked if pair[1] not in map(anchor, map(title, entries()))]


@pytest.mark.parametrize("entry", entries(), ids=title)
def test_what_is_quoted_is_said_by_the_code(entry):
    lost = [quote for part in PARTS[::2] for quote in QUOTE.findall(CODE.sub("", entry[part]))]
    lost = [quote for quote in lost if not any(quote in text for text in said())]
    assert not lost, "the code says it no more"


@pytest.mark.parametrize("entry", entries(), ids=title)
def test_an_error_that_is_quoted_leads_here(entry):
    for quote in QUOTE.findall(CODE.sub("", entry["Symptom"])):
        slugs = {slug for _, problem, slug in raised() if quote in problem}
        assert not slugs or anchor(title(entry)) in slugs, quote


@pytest.mark.parametrize("entry", entries(), ids=title)
def test_names_in_capitals_are_settings(entry):
    pieces = [piece for part in PARTS for piece in CODE.findall(entry[part])]
    names = {name for piece in pieces for name in NAME.findall(piece) if len(name) > 1}
    assert names <= {*settings.NAMES, *NOT_OURS}, names - {*settings.NAMES, *NOT_OURS}


@pytest.mark.parametrize("line", sorted({code for code in CODE.findall(guide()) if re.match(r"make \w+", code)}))
def test_make_lines_are_understood(line):
    _, target, *words = line.split()
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    words = [word for word in words if not word.startswith("PYTHON=")]
    if target == "control":
        control.read_command(words)
    elif target in ("serve", "export"):
        settings.load_settings(dict(word.split("=") for word in words), environment={"ENV_FILE": ""})
    else:
        settings.load_settings(order.read_order(words, {}).values, environment={"ENV_FILE": ""})


@pytest.mark.parametrize("command", checks())
def test_checks_are_shell_and_change_nothing(command):
    subprocess.run(["bash", "-n"], input=command, text=True, check=True)
    assert not re.search(r"\b(rm|mv|kill|sudo|dd)\b|[^&\d]>(?!=)", re.sub(r"'[^']*'", "", command))


@pytest.mark.parametrize("command", sorted({c for c in checks() if c.startswith(RUN_HERE)}))
def test_checks_that_need_nothing_else_run(command):
    command = command.replace(".venv/bin/python", f"'{sys.executable}'", 1)
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment(), text=True, capture_output=True)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_an_error_shows_its_entry_on_a_line_of_its_own():
    error = CourseError("x=1 is bad", "take 2", "disk-full")
    assert str(error) == f"x=1 is bad\n→ take 2\n  see {GUIDE}#disk-full"
    assert error._render_traceback_() == ["CourseError: x=1 is bad", "→ take 2", f"  see {GUIDE}#disk-full"]
    assert str(CourseError("x=1 is bad", "take 2")) == "x=1 is bad\n→ take 2"
