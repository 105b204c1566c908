"""The house rules of the eight notebooks."""

import ast
import json
import re
from itertools import pairwise

import pytest

from helpers.paths import NOTEBOOKS, ROOT
from helpers.settings import NAMES
from helpers.stages import AMBIENT, STAGES, artefact, code_cells, read_parameters, stage_of

MACHINE = re.compile(r"/(?:home|Users|root|work|tmp|mnt)/|[A-Z]:\\\\")
LONGEST_CELL = 15

per_notebook = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def cells_of(stage) -> list[dict]:
    return json.loads(stage.notebook.read_text())["cells"]


def source_of(cell) -> str:
    return "".join(cell["source"])


def prose_of(stage) -> str:
    return "\n\n".join(source_of(cell) for cell in cells_of(stage) if cell["cell_type"] == "markdown")


def tagged(stage, tag) -> list[str]:
    return [source for tags, source in code_cells(stage.notebook) if tag in tags]


def test_there_are_eight_and_no_more():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(stage.name for stage in STAGES)


@per_notebook
def test_title_objectives_limits_and_navigation(stage):
    text = prose_of(stage)
    assert text.startswith(f"# {stage.number} · ")
    for part in ("**You will**", "**Needs**", "**Makes**", "**Takes**", "## Check", "## You have", "**Limits.**"):
        assert part in text, part
    for number in stage.needs:
        assert f"[{number}]({STAGES[number - 1].name}.ipynb)" in text, f"stage {number} is needed, and linked"


@per_notebook
def test_links_lead_somewhere(stage):
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", prose_of(stage)):
        assert (NOTEBOOKS / link).exists(), link


@per_notebook
def test_setup_and_parameters_come_first(stage):
    first, second, *_ = code_cells(stage.notebook)
    assert first[0] == ["setup"] and second[0] == ["parameters"]
    assert first[1] == tagged(STAGES[0], "setup")[0], "byte for byte the same in all eight"


@per_notebook
def test_parameters_are_literals_of_settings_each_with_a_comment(stage):
    (source,) = tagged(stage, "parameters")
    assert all(re.fullmatch(r"[A-Z_]+ = \S.*  # \S.*", line) for line in source.splitlines())
    names = read_parameters(stage.notebook)
    assert {"PROFILE", "RUN"} <= set(names) <= set(NAMES) - set(AMBIENT)
    fixed = {name: value for name, value in names.items() if value is not None}
    assert set(fixed) <= {"WHICH"}, "None inherits; only WHICH is a notebook's own"


@per_notebook
def test_nothing_of_a_run_is_committed(stage):
    notebook = json.loads(stage.notebook.read_text())
    assert not {"widgets", "papermill"} & set(notebook["metadata"])
    assert not MACHINE.search(stage.notebook.read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            assert "papermill" not in cell["metadata"] and "execution" not in cell["metadata"]


@per_notebook
def test_code_cells_are_short_and_plain(stage):
    for tags, source in code_cells(stage.notebook):
        if "parameters" not in tags:
            assert len(source.splitlines()) <= LONGEST_CELL, source
        assert not re.search(r"^\s*!|raises-exception", source, re.MULTILINE)
        assert {"raises-exception", "nbval-skip"}.isdisjoint(tags)
        if "setup" not in tags:
            tree = ast.parse(source)
            assert not any(isinstance(node, ast.ClassDef | ast.Try) for node in ast.walk(tree)), source


@per_notebook
def test_it_begins_checks_itself_and_ends_with_its_receipt(stage):
    sources = [source for _, source in code_cells(stage.notebook)]
    assert f'session.begin("{stage.name}", globals())' in sources[2]
    (check,) = tagged(stage, "check")
    assert check.count("assert ") >= 2
    *_, (tags, last) = code_cells(stage.notebook)
    assert tags == ["receipt"] and "stage.finish(" in last


@per_notebook
def test_only_its_own_settings_are_read(stage):
    """A setting that is read but not in the parameters cell would not be part of the stage's key."""
    readable = {*read_parameters(stage.notebook), *AMBIENT}
    for _, source in code_cells(stage.notebook):
        assert set(re.findall(r"settings\.([A-Z_]+)", source)) <= readable


def test_2_5_and_7_are_one_experiment():
    """The same code, but for the parameters cell and the notebook's own name."""
    codes = []
    for stage in (STAGES[1], STAGES[4], STAGES[6]):
        cells = [source for tags, source in code_cells(stage.notebook) if "parameters" not in tags]
        codes.append([source.replace(stage.name, "NAME") for source in cells])
        assert [n for n, v in read_parameters(stage.notebook).items() if v is not None] == ["WHICH"]
    assert codes[0] == codes[1] == codes[2]
    parameters = [read_parameters(STAGES[n].notebook) for n in (1, 4, 6)]
    assert [p["WHICH"] for p in parameters] == ["base", "qlora", "full"]
    assert all(p | {"WHICH": None} == parameters[0] | {"WHICH": None} for p in parameters)


def test_neighbours_link_to_each_other():
    for stage, following in pairwise(STAGES):
        assert f"]({following.name}.ipynb)" in prose_of(stage), f"{stage.name} leads on"
        assert f"]({stage.name}.ipynb)" in prose_of(following), f"{following.name} leads back"


def test_every_artefact_has_a_place():
    from helpers.paths import Folders
    from helpers.settings import load

    resolved, _ = load(environment={"PROFILE": "smoke", "ENV_FILE": ""})
    for stage in STAGES:
        assert stage_of(stage.number) is stage_of(stage.name) is stage
        for name in (*stage.inputs, *stage.outputs):
            path = artefact(name, resolved, Folders("x"))
            assert path is None or path.is_relative_to(ROOT)
