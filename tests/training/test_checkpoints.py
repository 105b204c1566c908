"""A checkpoint is whole or it is not used; a full disk spoils neither it nor the one before."""

import json
import random
import shutil
from types import SimpleNamespace

import pytest
import torch
from support import tiny
from support.sweeps import times

from helpers.core import io
from helpers.core.errors import CourseError
from helpers.training import checkpoints, loop, run_record

CASES = times(60, 500)
STATE = {"key": "k", "history": {"updates": [{"loss": 0.1 + 0.2}]}}


def tensors(value):
    return {"layer.weight": torch.full((16, 16), float(value)), "step|layer.weight": torch.tensor(float(value))}


@pytest.fixture
def work(tmp_path):
    for step in (1, 2):
        checkpoints.save_checkpoint(tmp_path / "work", step, tensors(step), STATE | {"step": step})
    return tmp_path / "work"


def found(work):
    """Which step the newest whole checkpoint is of, if there is one and it holds what was saved."""
    newest = checkpoints.newest_checkpoint(work)
    if newest is None:
        return None
    step = newest[1]["step"]
    assert newest[1] == STATE | {"step": step}
    assert all(torch.equal(tensor, tensors(step)[name]) for name, tensor in newest[0].items())
    return step


def test_what_is_saved_comes_back_to_the_bit(work):
    assert found(work) == 2


def test_the_newest_two_are_kept(work):
    for step in (30, 4_000, 4):
        checkpoints.save_checkpoint(work, step, tensors(step), STATE | {"step": step})
    assert [path.name for path in checkpoints.list_checkpoints(work)] == ["step-004000", "step-000030"]
    assert found(work) == 4_000


def test_there_may_be_none(tmp_path):
    assert checkpoints.newest_checkpoint(tmp_path / "nowhere") is None


def corrupt(path, how, draw):
    content = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
    elif how == "truncate":
        path.write_bytes(content[: draw.randrange(len(content))])
    else:
        place = draw.randrange(len(content))
        content[place] ^= 1 << draw.randrange(8)
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
def test_every_damage_is_seen_and_its_file_named(tmp_path, capsys, name, how):
    draw = random.Random(f"{name} {how}")
    for case in range(1 if how == "delete" else -(-CASES // 6)):
        work = tmp_path / str(case)
        for step in (1, 2):
            checkpoints.save_checkpoint(work, step, tensors(step), STATE | {"step": step})
        corrupt(work / "step-000002" / name, how, draw)
        assert found(work) == 1
        said = capsys.readouterr().out
        assert "step-000002" in said and said.endswith("; set aside as damaged-step-000002\n")
        named = [file for file in ("state.safetensors", "state.json", "manifest.json") if file in said]
        assert named == [name] or (name == "manifest.json" and named), "a wrong hash blames the file it is of"
        assert (work / "damaged-step-000002").exists() and found(work) == 1


def test_with_every_checkpoint_damaged_nothing_is_resumed(work):
    for path in checkpoints.list_checkpoints(work):
        (path / "state.json").write_text("{}")
    assert found(work) is None and not checkpoints.list_checkpoints(work)


@pytest.mark.parametrize("hashes", [{}, {"state.json": "0" * 64}, [], "words"])
def test_a_manifest_must_name_both_files(work, capsys, hashes):
    (work / "step-000002" / "manifest.json").write_text(json.dumps(hashes))
    assert found(work) == 1 and "manifest.json does not name its files" in capsys.readouterr().out


def test_half_a_checkpoint_is_none(work):
    shutil.copytree(work / "step-000002", work / f"{io.TEMPORARY}abc")
    shutil.copytree(work / "step-000002", work / "step-000003x")
    assert [path.name for path in checkpoints.list_checkpoints(work)] == ["step-000002", "step-000001"]


def test_a_checkpoint_that_would_not_fit_is_not_begun(work, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(CourseError, match=r"saving a checkpoint needs .* MiB are free\n→ free some space"):
        checkpoints.save_checkpoint(work, 3, tensors(3), STATE)
    assert found(work) == 2


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of one megabyte."""
    (tmp_path / "disk").mkdir()
    with tiny.small_disk(tmp_path / "disk", "1m"):
        yield tmp_path / "disk"


@pytest.mark.parametrize("warned", [True, False])
def test_a_full_disk_leaves_the_checkpoint_before(small_disk, monkeypatch, warned):
    if not warned:  # as when something else fills the disk after it was asked
        monkeypatch.setattr(checkpoints, "require_space", lambda *_: None)
    checkpoints.save_checkpoint(small_disk / "work", 2, tensors(2), STATE | {"step": 2})
    big = {"weight": torch.zeros(400, 1000)}
    with pytest.raises(CourseError, match=r"(the disk is full: .*step-000003|saving a checkpoint needs).*\n→ free"):
        checkpoints.save_checkpoint(small_disk / "work", 3, big, STATE)
    assert [path.name for path in (small_disk / "work").iterdir()] == ["step-000002"]
    assert found(small_disk / "work") == 2


def test_a_disk_that_is_full_when_the_result_is_saved_loses_no_training(small_disk, tmp_path, monkeypatch):
    base = tiny.write_model(tmp_path / "base")
    for module in (checkpoints, run_record):
        monkeypatch.setattr(module, "require_space", lambda *_: None)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    (small_disk / "other").write_bytes(bytes(900_000))
    with pytest.raises(CourseError, match=r"the disk is full: .*result could not be written"):
        tiny.fit("full", base, tmp_path, out=small_disk / "result")
    assert [path.name for path in small_disk.iterdir()] == ["other"]
    (small_disk / "other").unlink()
    monkeypatch.setattr(loop, "train_step", None)
    assert len(tiny.fit("full", base, tmp_path, out=small_disk / "result").updates) == 8, "none is trained again"
    assert (small_disk / "result" / run_record.RECORD).exists()
