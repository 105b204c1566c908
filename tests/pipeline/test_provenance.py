"""Receipts: a stage is done while what it was made from and what it left are the same, whatever the dates say."""

import json
import os

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st
from support import tiny

from helpers.core import STAGES, Stage, fingerprint, io, paths, run
from helpers.core.fingerprint import strip_code
from helpers.core.paths import Folders
from helpers.pipeline import artefacts, provenance, stages

CELLS = [
    (["setup"], "import sys"),
    (["parameters"], "SEED = None  # draws\nMAX_SEQ_LENGTH = None\nPROFILE = None"),
    ([], "from helpers import chat\n\ntrained = 1  # a comment"),
]


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Stage 4 in a repository of its own, its inputs and outputs written; the code of the rooms is the real one."""
    for module in (paths, provenance, artefacts):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    stage = Toy(**vars(STAGES[3]))
    write_notebook(stage, CELLS)
    for path in (Folders().training_data, Folders().held_out, output(), placebo()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    return stage


class Toy(Stage):
    """A stage whose notebook lies in the test's own repository."""

    @property
    def notebook(self):
        return paths.ROOT / "notebooks" / f"{self.name}.ipynb"


def output():
    return Folders().model("qlora") / "adapter.safetensors"


def placebo():
    return Folders().model("placebo_qlora") / "adapter.safetensors"


def write_notebook(stage, cells):
    stages.notebook_json.cache_clear()
    stage.notebook.parent.mkdir(exist_ok=True)
    cells = [{"cell_type": "code", "metadata": {"tags": tags}, "source": source} for tags, source in cells]
    stage.notebook.write_text(json.dumps({"cells": cells}))


def finish(stage, resolved=None, **facts):
    resolved = resolved or tiny.resolve()
    key = provenance.stage_key(stage, resolved, Folders())
    return provenance.write_receipt(stage, resolved, Folders(), key=key, seconds=1.25, **facts)


def why(stage, **parameters):
    return provenance.stage_state(stage, tiny.resolve(**parameters), Folders()).why


def test_a_stage_depends_on_how_the_ones_before_it_ended(stage):
    before = provenance.stage_outcome(stage, Folders())
    finish(stage, status="skipped", reason="it does not fit")
    assert (before, provenance.stage_outcome(stage, Folders())) == ("", "skipped it does not fit")
    finish(stage)
    assert provenance.stage_outcome(stage, Folders()) == "done"


def test_done_until_something_it_depends_on_differs(stage):
    assert why(stage) == "not run yet"
    finish(stage)
    assert provenance.stage_state(stage, tiny.resolve(), Folders()) == provenance.State(True)
    assert why(stage, SEED=7) == "setting changed: SEED"
    assert why(stage, MAX_PAPERS=50) == "", "it does not read that setting"
    assert why(stage, PROFILE="cpu", MAX_SEQ_LENGTH=256) == "", "only values count, not the profile's name"
    Folders().training_data.write_text("other rows")
    assert why(stage) == "input changed: data/training_data.json"


def test_damaged_and_missing_outputs_are_found(stage):
    finish(stage)
    os.utime(output(), (1, 1))
    assert why(stage) == ""
    output().write_text("Adapter.safetensors")
    assert why(stage) == "models/qlora_model/adapter.safetensors is damaged"
    output().unlink()
    assert why(stage) == "models/qlora_model/adapter.safetensors is missing"


def test_a_receipt_that_does_not_speak_of_all_that_is_left_does_not_count(stage):
    receipt = finish(stage)
    io.write_json(stage.receipt(Folders()), receipt | {"outputs": {}})
    assert why(stage) == "models/qlora_model is not in its receipt"
    foreign = {"data/papers.jsonl": "0" * 64}
    Folders().papers.write_text("")
    io.write_json(stage.receipt(Folders()), receipt | {"outputs": receipt["outputs"] | foreign})
    assert why(stage) == "data/papers.jsonl is damaged"
    foreign["data/papers.jsonl"] = io.hash_file(Folders().papers)
    io.write_json(stage.receipt(Folders()), receipt | {"outputs": receipt["outputs"] | foreign})
    assert why(stage) == "its receipt names data/papers.jsonl, which it does not leave"


@pytest.mark.parametrize(
    ("source", "same"),
    [
        ("from helpers import chat\ntrained=1", True),
        ('from helpers import chat\n"words"\ntrained = 1', False),
        ("from helpers import chat\n\ntrained = 2", False),
        ("from helpers import chat, progress\n\ntrained = 1", False),
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


def test_a_receipt_holds_no_secret_and_no_path_or_name_of_this_machine(stage, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    receipt = finish(stage, tiny.resolve(), counts={"rows": 3})
    text = stage.receipt(Folders()).read_text()
    assert "hf_secret" not in text and str(paths.ROOT) not in text and os.uname().nodename not in text
    assert receipt["counts"] == {"rows": 3} and json.loads(text) == receipt
    assert run.read_receipt(stage, Folders()) == receipt


# --- receipts that others wrote ------------------------------------------------------------------------------------

MALFORMED = {
    "nested": b"[" * 100_000,
    "cut": b'{"status": "done", "outp',
    "empty": b"",
    "a list": b"[]",
    "no status": b"{}",
    "another status": b'{"status": "great"}',
    "outputs are a list": b'{"status": "done", "outputs": ["a"]}',
    "a hash is a number": b'{"status": "done", "outputs": {"a": 1}}',
    "seconds are text": b'{"status": "done", "seconds": "9"}',
    "key of before the rooms": b'{"status": "done", "key": {"code": "b8873b59"}}',
    "half a character": b'{"status": "done", "reason": "\\ud800"}',
    "not UTF-8": b'{"status": "done", "reason": "\xff"}',
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_receipt_is_named_and_its_stage_runs_again(stage, content):
    finish(stage)
    stage.receipt(Folders()).write_bytes(content)
    assert why(stage).startswith(f"reports/receipts/{stage.name}.json ")
    assert run.read_receipt(stage, Folders()) is None and stage.name not in run.read_receipts(Folders())
    finish(stage)
    assert why(stage) == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts, max_size=3),
    max_leaves=8,
)
RECEIPT = st.fixed_dictionaries(
    {"status": st.sampled_from(["done", "skipped"]) | JSON},
    optional={name: JSON for name in run.Receipt.model_fields if name != "status"},
)


@how(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(RECEIPT | JSON)
def test_no_receipt_makes_anything_but_a_stage_that_runs_again(stage, value):
    stage.receipt(Folders()).parent.mkdir(parents=True, exist_ok=True)
    stage.receipt(Folders()).write_text(json.dumps(value))
    assert why(stage) and provenance.stage_outcome(stage, Folders()) is not None


def test_a_run_of_before_the_rooms_is_not_mixed_with_a_new_one(stage):
    """Its receipt has hashes of single modules."""
    receipt = finish(stage)
    old = {"code": {"notebook": receipt["key"]["code"]["notebook"], "training": "0" * 64, "chat": "1" * 64}}
    io.write_json(stage.receipt(Folders()), receipt | {"key": receipt["key"] | old})
    assert why(stage).startswith("code changed: models, training")


def test_finished_stages_are_kept_elsewhere_and_come_back(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(artefacts, "STAGES", (stage,))
    drive, resolved = tmp_path / "drive", tiny.resolve()
    finish(stage, resolved)
    artefacts.keep_stage(stage, Folders(), drive)
    for lost in (output(), stage.receipt(Folders())):
        lost.unlink()
    assert artefacts.restore_stages({4: resolved}, Folders(), drive).stages == [stage.name]
    assert provenance.stage_state(stage, resolved, Folders()).done
    assert artefacts.restore_stages({4: resolved}, Folders(), drive).stages == [], "nothing is brought back twice"
    stage.receipt(Folders()).unlink()
    (drive / "models/qlora_model/adapter.safetensors").write_text("damaged")
    assert artefacts.restore_stages({4: resolved}, Folders(), drive).stages == [], "a damaged copy stays"


# --- the code that a stage depends on ------------------------------------------------------------------------------


def test_docstrings_comments_and_layout_are_left_out_of_the_code():
    assert strip_code('def f():\n    "says"\n    return 1  # one') == strip_code("def f():\n\n    return (1)")
    assert strip_code("x = 'a'") != strip_code("x = 'b'")
    assert strip_code('class A:\n    """only words"""') == strip_code("class A:\n    pass")


def test_magics_are_code():
    assert strip_code("%matplotlib inline\nx = 1") != strip_code("x = 1")
    assert strip_code("if x:\n    !ls") != strip_code("if x:\n    !pwd")
    assert strip_code("x = (\n    7\n    % 5\n)") == strip_code("x = 7 % 5")


def test_every_place_of_the_key_is_there():
    for place in {place for places in stages.ROOMS.values() for place in places}:
        assert all(file.is_file() for file in fingerprint.files_of(place)), place


def test_stages_need_only_earlier_ones_and_read_what_those_leave():
    made, resolved = {}, tiny.resolve(CONTROLS="full", SEEDS=2)
    for stage in STAGES:
        assert all(number < stage.number for number in stage.needs)
        for name in stages.inputs_of(stage, resolved):
            if name in made:
                assert made[name] in stage.needs, f"{stage.name} reads {name} but does not need stage {made[name]}"
        made |= {name: stage.number for name in stages.outputs_of(stage, resolved) if name not in made}
