"""Finished stages kept elsewhere (on Drive, say) come back whole, or stay away and are named."""

import os
import shutil
from types import SimpleNamespace

import pytest
from support import tiny

from helpers.core import STAGES as ALL_STAGES
from helpers.core import io, paths, stage_of
from helpers.core.errors import CourseError
from helpers.core.paths import Folders
from helpers.pipeline import artefacts

STAGES = {
    3: {
        f"data/{name}": b"{}\n"
        for name in (
            *("papers.jsonl", "dropped.jsonl", "training_data.json", "placebo_data.json"),
            *("heldout.json", "probes.json"),
        )
    },
    4: {"models/qlora_model/adapter_model.safetensors": bytes(5000), "models/qlora_model/training.json": b"{}"},
}
RESOLVED = {stage.number: tiny.resolve(CONTROLS="off") for stage in ALL_STAGES}
ALIEN = "0" * 64


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty repository."""
    for module in (paths, artefacts):
        monkeypatch.setattr(module, "ROOT", tmp_path / "course")
    return tmp_path / "course"


@pytest.fixture
def drive(tmp_path):
    return tmp_path / "drive"


def finish(root):
    """Stages 3 and 4 as they leave their outputs and receipts."""
    for number, outputs in STAGES.items():
        for name, content in outputs.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        hashes = {name: io.hash_file(root / name) for name in outputs}
        io.write_json(stage_of(number).receipt(Folders()), {"status": "done", "outputs": hashes})


def keep(drive):
    for number in STAGES:
        artefacts.keep_stage(stage_of(number), Folders(), drive)


def restore(drive, run=""):
    return artefacts.restore_stages(RESOLVED, Folders(run), drive)


def names():
    return [stage_of(number).name for number in STAGES]


def test_kept_stages_come_back_to_the_bit(root, drive):
    finish(root)
    before = tiny.contents(root)
    keep(drive)
    assert tiny.contents(drive) == before
    shutil.rmtree(root)
    assert restore(drive).stages == names()
    assert tiny.contents(root) == before
    assert restore(drive).stages == [], "nothing is brought back twice"


def test_without_a_folder_nothing_is_kept_or_brought_back(root, drive):
    finish(root)
    keep(None)
    assert not drive.exists() and str(restore(None)) == ""


@pytest.mark.parametrize("damage", ["changed", "cut", "missing", "receipt cut", "a link", "a folder"])
def test_a_stage_with_a_damaged_file_stays_away_and_is_named_and_the_others_come(root, drive, damage):
    finish(root)
    keep(drive)
    shutil.rmtree(root)
    kept = drive / "models/qlora_model/adapter_model.safetensors"
    if damage == "changed":
        kept.write_bytes(b"1" + kept.read_bytes()[1:])
    elif damage == "cut":
        kept.write_bytes(kept.read_bytes()[:-1])
    elif damage == "receipt cut":
        receipt = drive / "reports/receipts" / f"{names()[1]}.json"
        receipt.write_text(receipt.read_text()[:40])
    else:
        kept.rename(drive / "moved")
        if damage == "a link":
            kept.symlink_to(drive / "moved")
        elif damage == "a folder":
            kept.mkdir()
    restored = restore(drive)
    assert restored.stages == names()[:1]
    assert str(restored).count(f"not brought back: {names()[1]}: ") == 1
    assert set(tiny.contents(root)) == {*STAGES[3], f"reports/receipts/{names()[0]}.json"}


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "helpers/core/paths.py",
        ".env",
        ".git/hooks/post-commit",
        "notebooks/4_qlora_finetune.ipynb",
        "data/benchmark/questions.json",
        "data/papers.jsonl",  # another stage's
        "data/papers.jsonl/x",
        "models/b/qlora_model/adapter_model.safetensors",  # another run's
        "models/base/smollm2-135m/model.safetensors",
        "reports/recorded/scores.json",
        "reports/receipts/8_score_results.json",
        "models/qlora_model",
        "models/qlora_model/",
        "models/qlora_model/../../README.md",
        "models/qlora_model/./training.json",
        "models//qlora_model/training.json",
        "models\\qlora_model\\training.json",
        "models/qlora_model/a\nb",
        "models/qlora_model/a\0b",
        "MODELS/qlora_model/training.json",
        "../outside",
        "/tmp/outside",
        "",
        ".",
    ],
)
def test_a_receipt_cannot_have_anything_written_but_what_its_stage_leaves(root, drive, name):
    """Whatever lies there with whatever hash, the stage stays away, and not a byte is written."""
    receipt = stage_of(4).receipt(Folders())
    io.write_json(drive / paths.relative_path(receipt), {"status": "done", "outputs": {name: ALIEN}})
    if name and "\0" not in name and not name.startswith(("/", "..")):
        planted = drive / name
        planted.parent.mkdir(parents=True, exist_ok=True)
        if not planted.exists():
            planted.write_text("planted")
        if planted.is_file():
            outputs = {name: io.hash_file(planted)}
            io.write_json(drive / paths.relative_path(receipt), {"status": "done", "outputs": outputs})
    restored = restore(drive)
    assert restored.stages == [] and stage_of(4).name in restored.skipped
    assert tiny.contents(root) == {}


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"status": "done", "outputs": []}', b'{"status": 1}', b"\xff", b'"done"', b""]
)
def test_a_malformed_receipt_is_left_where_it_is_and_named(root, drive, content):
    kept = drive / "reports" / "receipts" / "4_qlora_finetune.json"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(content)
    assert str(restore(drive)).startswith(f"not brought back: 4_qlora_finetune: {kept}")
    assert tiny.contents(root) == {}


def test_a_damaged_receipt_here_does_not_keep_the_whole_one_away(root, drive):
    finish(root)
    keep(drive)
    stage_of(4).receipt(Folders()).write_text("{")
    assert restore(drive).stages == names()[1:]


def test_one_runs_stages_come_back_into_that_run_only(root, drive):
    finish(root)
    keep(drive)
    shutil.rmtree(root)
    assert restore(drive, "b").stages == []
    shutil.copytree(drive / "reports", drive / "reports" / "b")
    assert set(restore(drive, "b").skipped) == set(names()), "its receipts name the plain run's files"
    assert tiny.contents(root) == {}


def test_work_done_here_is_not_replaced(root, drive):
    finish(root)
    keep(drive)
    (root / "data/papers.jsonl").write_text("newer")
    assert restore(drive).stages == []
    assert (root / "data/papers.jsonl").read_text() == "newer"


def test_a_newer_result_replaces_the_kept_one_and_what_is_the_same_is_not_copied(root, drive):
    finish(root)
    keep(drive)
    unchanged = (drive / "data/training_data.json").stat().st_mtime_ns
    (root / "data/papers.jsonl").write_text("newer")
    keep(drive)
    assert (drive / "data/papers.jsonl").read_text() == "newer"
    assert (drive / "data/training_data.json").stat().st_mtime_ns == unchanged


def test_a_drive_that_is_full_is_named_and_keeps_no_half_file(root, drive, monkeypatch):
    finish(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(CourseError, match=r"copying adapter_model.safetensors needs .*drive"):
        keep(drive)
    assert set(tiny.contents(drive)) == {*STAGES[3], f"reports/receipts/{names()[0]}.json"}


def test_a_copy_that_breaks_off_leaves_no_receipt(root, drive, monkeypatch):
    def breaks_off(source, target):
        target.write_bytes(b"half")
        raise OSError(5, os.strerror(5))

    finish(root)
    monkeypatch.setattr(shutil, "copyfile", breaks_off)
    with pytest.raises(OSError, match=os.strerror(5)):
        keep(drive)
    assert tiny.contents(drive) == {} and not list((drive / "reports").rglob("*"))
