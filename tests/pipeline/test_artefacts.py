"""Finished stages kept elsewhere (on Drive, say) come back whole, or stay away."""

import shutil
from types import SimpleNamespace

import pytest
from support import tiny

from helpers.core import io, paths, stage_of
from helpers.core.errors import CourseError
from helpers.core.paths import Folders
from helpers.pipeline import artefacts

STAGES = {
    3: {"data/papers.jsonl": b"{}\n", "data/training_data.json": b"[]"},
    4: {"models/qlora_model/adapter_model.safetensors": bytes(5000), "models/qlora_model/training.json": b"{}"},
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty repository."""
    for module in (paths, artefacts):
        monkeypatch.setattr(module, "ROOT", tmp_path / "course")
    return tmp_path / "course"


@pytest.fixture
def drive(tmp_path):
    return tmp_path / "drive"


@pytest.fixture
def settings(drive):
    return tiny.resolve(ARTEFACTS_DIR=str(drive))


def finish(root):
    """Stages 3 and 4 as they leave their outputs and receipts."""
    for number, outputs in STAGES.items():
        for name, content in outputs.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        hashes = {name: io.hash_file(root / name) for name in outputs}
        io.write_json(stage_of(number).receipt(Folders()), {"status": "done", "outputs": hashes})


def keep(settings):
    for number in STAGES:
        artefacts.keep_stage(stage_of(number), settings, Folders())


def names():
    return [stage_of(number).name for number in STAGES]


def test_kept_stages_come_back_to_the_bit(root, drive, settings):
    finish(root)
    before = tiny.contents(root)
    keep(settings)
    assert tiny.contents(drive) == before
    shutil.rmtree(root)
    assert artefacts.restore_stages(settings, Folders()) == names()
    assert tiny.contents(root) == before
    assert artefacts.restore_stages(settings, Folders()) == [], "nothing is brought back twice"


def test_without_a_folder_nothing_is_kept_or_brought_back(root, drive):
    finish(root)
    keep(tiny.resolve())
    assert not drive.exists() and artefacts.restore_stages(tiny.resolve(), Folders()) == []


@pytest.mark.parametrize("damage", ["changed", "cut", "missing", "receipt cut"])
def test_a_stage_with_a_damaged_file_stays_away_and_the_others_come(root, drive, settings, damage):
    finish(root)
    keep(settings)
    shutil.rmtree(root)
    kept = drive / "models/qlora_model/adapter_model.safetensors"
    if damage == "changed":
        kept.write_bytes(b"1" + kept.read_bytes()[1:])
    elif damage == "cut":
        kept.write_bytes(kept.read_bytes()[:-1])
    elif damage == "missing":
        kept.unlink()
    else:
        receipt = drive / "reports/receipts" / f"{names()[1]}.json"
        receipt.write_text(receipt.read_text()[:40])
    assert artefacts.restore_stages(settings, Folders()) == names()[:1]
    assert set(tiny.contents(root)) == {*STAGES[3], f"reports/receipts/{names()[0]}.json"}


def test_work_done_here_is_not_replaced(root, settings):
    finish(root)
    keep(settings)
    (root / "data/papers.jsonl").write_text("newer")
    assert artefacts.restore_stages(settings, Folders()) == []
    assert (root / "data/papers.jsonl").read_text() == "newer"


def test_a_newer_result_replaces_the_kept_one_and_what_is_the_same_is_not_copied(root, drive, settings):
    finish(root)
    keep(settings)
    unchanged = (drive / "data/training_data.json").stat().st_mtime_ns
    (root / "data/papers.jsonl").write_text("newer")
    keep(settings)
    assert (drive / "data/papers.jsonl").read_text() == "newer"
    assert (drive / "data/training_data.json").stat().st_mtime_ns == unchanged


def test_a_drive_that_is_full_is_named_and_keeps_no_half_file(root, drive, settings, monkeypatch):
    finish(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(CourseError, match=r"copying adapter_model.safetensors needs .*drive"):
        keep(settings)
    assert set(tiny.contents(drive)) == {*STAGES[3], f"reports/receipts/{names()[0]}.json"}


def test_a_copy_that_breaks_off_leaves_no_receipt(root, drive, settings, monkeypatch):
    def breaks_off(source, target):
        target.write_bytes(b"half")
        raise OSError(5, "the drive went away")

    finish(root)
    monkeypatch.setattr(shutil, "copyfile", breaks_off)
    with pytest.raises(OSError, match="the drive went away"):
        keep(settings)
    assert tiny.contents(drive) == {} and not list((drive / "reports").rglob("*"))
