"""Several processes learn what one learns, and their checkpoints are one process's too."""

import json
import os
import subprocess
import sys

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from support import tiny

from helpers.core.paths import ROOT
from helpers.training import distributed

pytestmark = pytest.mark.alone  # it starts trainings in several processes

ENGINES = {"ddp": ("qlora", "false"), "ddp, all weights": ("full", "false"), "fsdp": ("full", "true")}


def start(engine, folder, place, end_after=0, count=2):
    """Train in `count` processes joined by gloo, the way `accelerate launch` joins them; the finished command."""
    method, sharded = ENGINES[engine]
    place.mkdir(exist_ok=True)
    own = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return subprocess.run(
        [*command, str(ROOT / "tests" / "support" / "several.py"), method, str(folder), str(place), str(end_after)],
        env=os.environ | own | {"ACCELERATE_USE_FSDP": sharded},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module", autouse=True)
def no_dropout():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.LORA, "lora_dropout", 0.0)
        yield


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """{method: (history, folder) of one process}"""
    places = {method: tmp_path_factory.mktemp(method) for method in ("qlora", "full")}
    return {method: (tiny.fit(method, folder, place, epochs=4), place) for method, place in places.items()}


def losses(history):
    return [update["loss"] for update in history["updates"]] + [look["loss"] for look in history["held_out"]]


def weights(place):
    return load_file(next((place / "out").glob("*model.safetensors")))


def alike(place, other):
    mine, others = weights(place), weights(other)
    return mine.keys() == others.keys() and all(torch.allclose(mine[n], others[n], atol=1e-4) for n in mine)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_lose_what_one_loses(engine, folder, tmp_path, alone):
    done = start(engine, folder, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    history, place = alone[ENGINES[engine][0]]
    assert losses(json.loads((tmp_path / "history.json").read_text())) == pytest.approx(
        losses(history.lasting()), rel=1e-4
    )
    assert alike(tmp_path, place)
    config = json.loads(next((tmp_path / "out").glob("*config.json")).read_text())
    assert "FSDP" not in json.dumps(config)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_checkpoint_of_two_is_gone_on_from_by_one(engine, folder, tmp_path, alone, capsys):
    assert start(engine, folder, tmp_path, end_after=6).returncode != 0
    method = ENGINES[engine][0]
    history = tiny.fit(method, folder, tmp_path, epochs=4)
    assert "going on after update 5, from a checkpoint" in capsys.readouterr().out
    assert losses(history.lasting()) == pytest.approx(losses(alone[method][0].lasting()), rel=1e-4)
    assert alike(tmp_path, alone[method][1])


def test_fsdp_goes_on_from_its_own_checkpoint(folder, tmp_path, alone):
    assert start("fsdp", folder, tmp_path, end_after=6).returncode != 0
    done = start("fsdp", folder, tmp_path)
    assert done.returncode == 0 and "going on after update 5" in done.stdout, done.stderr[-3000:]
    assert alike(tmp_path, alone["full"][1])


@pytest.mark.parametrize(("groups", "count"), [(1, 2), (4, 2), (5, 3), (2, 4)])
def test_micro_batches_are_dealt_evenly_and_each_counts_once(groups, count):
    shares = []
    for number in range(count):
        process = distributed.Ranks()
        process.count, process.number = count, number
        shares.append(process.deal([[n] for n in range(groups)]))
    assert len({len(share) for share in shares}) == 1, "all compute in step"
    assert sorted(group[0] for share in shares for group, weight in share if weight) == list(range(groups))


def test_the_configurations_are_what_accelerate_reads():
    ddp, fsdp = (
        load_config_from_file(str(ROOT / "helpers" / "pipeline" / f"launch_{name}.yaml")) for name in ("ddp", "fsdp")
    )
    assert ddp.distributed_type == "MULTI_GPU" and fsdp.distributed_type == "FSDP"
    assert fsdp.fsdp_config == {"fsdp_version": 2} and ddp.num_processes == fsdp.num_processes == 4
    assert ddp.mixed_precision == fsdp.mixed_precision == "no"


def test_one_training_at_a_time_is_said():
    command = [sys.executable, "-m", "helpers", "train", "STAGES=4-6"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("→ say STAGES=4 for the adapter or")


@pytest.mark.after_notebooks
@pytest.mark.parametrize("stage", [4, 6])
def test_two_processes_find_done_what_the_notebook_trained(stage):
    """Same key from the command line as from the notebook: neither trains again what the other has."""
    out = ROOT / "models" / "smoke" / {4: "qlora_model", 6: "full_finetuned_model"}[stage]
    before = tiny.contents(out)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [f"STAGES={stage}", "PROFILE=smoke", "RUN=smoke"]
    done = subprocess.run(
        [*command, "-m", "helpers", "train", *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "updates" not in done.stdout and tiny.contents(out) == before
