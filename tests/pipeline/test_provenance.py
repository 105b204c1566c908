"""Receipts: a stage is done while what it was made from and what it left are the same, whatever the dates say."""

import json
import os

import pytest

from helpers.core import STAGES, Stage, paths, settings, strip_code
from helpers.core.paths import Folders
from helpers.pipeline import artefacts, provenance, stages

STAGE = STAGES[3]
CELLS = [
    (["setup"], "import sys"),
    (["parameters"], "SEED = None  # draws\nMAX_SEQ_LENGTH = None\nPROFILE = None"),
    ([], "from helpers.models import plain_ids\n\ntrained = 1  # a comment"),
]


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Stage 4 in a repository of its own, its inputs and outputs written; the helpers are the real ones."""
    for module in (paths, provenance, artefacts):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    stage = Toy(**vars(STAGE))
    write_notebook(stage, CELLS)
    for path in (Folders().training_data, Folders().held_out, Folders().model("qlora") / "adapter.safetensors"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    return stage


class Toy(Stage):
    """A stage whose notebook lies in the test's own repository."""

    @property
    def notebook(self):
        return paths.ROOT / "notebooks" / f"{self.name}.ipynb"


def write_notebook(stage, cells):
    stages.notebook_json.cache_clear()
    stage.notebook.parent.mkdir(exist_ok=True)
    cells = [{"cell_type": "code", "metadata": {"tags": tags}, "source": source} for tags, source in cells]
    stage.notebook.write_text(json.dumps({"cells": cells}))


def resolve(**parameters):
    return settings.load_settings(parameters, environment={"PROFILE": "smoke", "ENV_FILE": ""})[0]


def finish(stage, resolved=None, **facts):
    resolved = resolved or resolve()
    key = provenance.stage_key(stage, resolved, Folders())
    return provenance.write_receipt(stage, resolved, Folders(), key=key, seconds=1.25, **facts)


def test_a_stage_depends_on_how_the_ones_before_it_ended(stage):
    before = provenance.stage_outcome(stage, Folders())
    finish(stage, status="skipped", reason="it does not fit")
    assert (before, provenance.stage_outcome(stage, Folders())) == ("", "skipped it does not fit")
    finish(stage)
    assert provenance.stage_outcome(stage, Folders()) == "done"


def why(stage, **parameters):
    return provenance.stage_state(stage, resolve(**parameters), Folders()).why


def test_done_until_something_it_depends_on_differs(stage):
    assert why(stage) == "not run yet"
    finish(stage)
    assert provenance.stage_state(stage, resolve(), Folders()) == provenance.State(True)
    assert why(stage, SEED=7) == "setting changed: SEED"
    assert why(stage, MAX_PAPERS=50) == "", "it does not read that setting"
    assert why(stage, PROFILE="cpu", MAX_SEQ_LENGTH=256) == "", "only values count, not the profile's name"
    Folders().training_data.write_text("other rows")
    assert why(stage) == "input changed: data/training_data.json"


def test_damaged_and_missing_outputs_are_found(stage):
    finish(stage)
    output = Folders().model("qlora") / "adapter.safetensors"
    os.utime(output, (1, 1))
    assert why(stage) == ""
    output.write_text("Adapter.safetensors")
    assert why(stage) == "models/qlora_model/adapter.safetensors is damaged"
    output.unlink()
    assert why(stage) == "models/qlora_model/adapter.safetensors is missing"


@pytest.mark.parametrize(
    ("source", "same"),
    [
        ("from helpers.models import plain_ids\ntrained=1", True),
        ('from helpers.models import plain_ids\n"words"\ntrained = 1', False),
        ("from helpers.models import plain_ids\n\ntrained = 2", False),
        ("from helpers.models import plain_ids, prompt_text\n\ntrained = 1", False),
    ],
    ids=["layout", "a statement", "a value", "another import"],
)
def test_code_counts_and_its_looks_do_not(stage, source, same):
    finish(stage)
    write_notebook(stage, [*CELLS[:2], ([], source)])
    assert (why(stage) == "") == same


def test_setup_cells_and_parameter_comments_do_not_count(stage):
    finish(stage)
    write_notebook(stage, [(["setup"], "import os"), (["parameters"], CELLS[1][1] + "  # said anew"), CELLS[2]])
    assert why(stage) == ""


def test_a_receipt_holds_no_secret_and_no_path_of_this_machine(stage, monkeypatch):
    resolved = settings.load_settings(environment={"PROFILE": "smoke", "ENV_FILE": "", "HF_TOKEN": "hf_secret"})[0]
    receipt = finish(stage, resolved, counts={"rows": 3})
    text = stage.receipt(Folders()).read_text()
    assert "hf_secret" not in text and str(paths.ROOT) not in text
    assert receipt["counts"] == {"rows": 3} and json.loads(text) == receipt


def test_docstrings_comments_and_layout_are_left_out_of_the_code():
    plain = strip_code
    assert plain('def f():\n    "says"\n    return 1  # one') == plain("def f():\n\n    return (1)")
    assert plain("x = 'a'") != plain("x = 'b'")
    assert plain('class A:\n    """only words"""') == plain("class A:\n    pass")


def test_magics_are_code():
    assert strip_code("%matplotlib inline\nx = 1") != strip_code("x = 1")
    assert strip_code("if x:\n    !ls") != strip_code("if x:\n    !pwd")
    assert strip_code("x = (\n    7\n    % 5\n)") == strip_code("x = 7 % 5")


def test_finished_stages_are_kept_elsewhere_and_come_back(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(artefacts, "STAGES", (stage,))
    resolved = resolve(ARTEFACTS_DIR=str(tmp_path / "drive"))
    finish(stage, resolved)
    artefacts.keep_stage(stage, resolved, Folders())
    output = Folders().model("qlora") / "adapter.safetensors"
    for lost in (output, stage.receipt(Folders())):
        lost.unlink()
    assert artefacts.restore_stages(resolved, Folders()) == [stage.name]
    assert provenance.stage_state(stage, resolved, Folders()).done
    assert artefacts.restore_stages(resolved, Folders()) == [], "nothing is brought back twice"
    stage.receipt(Folders()).unlink()
    (tmp_path / "drive" / "models/qlora_model/adapter.safetensors").write_text("damaged")
    assert artefacts.restore_stages(resolved, Folders()) == [], "a damaged copy stays where it is"


def test_stages_need_only_earlier_ones_and_read_what_those_leave():
    made = {}
    for stage in STAGES:
        assert all(number < stage.number for number in stage.needs)
        for name in stages.inputs_of(stage, resolve()):
            if name in made:
                assert made[name] in stage.needs, f"{stage.name} reads {name} but does not need stage {made[name]}"
        made |= {name: stage.number for name in stages.outputs_of(stage, resolve()) if name not in made}
