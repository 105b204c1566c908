"""The solutions of the exercises, run in their notebooks as these stand at their ends."""

import os

import nbformat
import pytest
from nbclient import NotebookClient
from support.notebooks import solutions

from helpers.core import STAGES
from helpers.core.paths import NOTEBOOKS


@pytest.mark.after_notebooks
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_the_solutions_run(stage, monkeypatch):
    for name, value in {"PROFILE": "smoke", "RUN": "smoke", "ENV_FILE": ""}.items():
        monkeypatch.setitem(os.environ, name, value)
    notebook = nbformat.read(stage.notebook, as_version=4)
    # the check and the receipt are the notebook's own last words: nothing is finished a second time
    kept = [c for c in notebook.cells if not {"check", "receipt"} & set(c.metadata.get("tags", []))]
    notebook.cells = kept + [nbformat.v4.new_code_cell(code) for code in solutions(stage)]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": NOTEBOOKS}}).execute()
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-len(solutions(stage)) :]
    assert all(cell.outputs for cell in last), "a solution shows something"
