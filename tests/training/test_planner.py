"""Will it fit? What is foretold is compared with what a training takes, and every way out is planned again."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from statistics import median

import pytest
from support import tiny
from support.sweeps import times

from helpers.core import paths, settings
from helpers.core.errors import CourseError
from helpers.core.paths import ROOT
from helpers.models import configs
from helpers.report import memory_plots, tables
from helpers.training import config as recipes
from helpers.training import gpus, outlook, planner, rehearsal, throughput

pytestmark = pytest.mark.alone  # it weighs trainings

GIB = 2**30
RECIPE = recipes.TrainConfig("qlora", 1, 4, 1, 1e-4, 60_000, 512, 1, "bfloat16", False)
MODEL_CARDS = {  # weights as the model cards say, in billions
    "smollm2-135m": 0.135,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 0.362,
    "Qwen/Qwen2.5-1.5B-Instruct": 1.54,
    "Qwen/Qwen2.5-7B-Instruct": 7.61,
    "meta-llama/Llama-3.1-8B-Instruct": 8.03,
    "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B": 8.19,
    "Qwen/Qwen3-14B": 14.8,
}
# One process's peak says how full its heap happened to get: the same run was seen 17 % apart on one machine. So the
# median of three runs is held to the aim, a single run to a quarter. The last two cases were 17 % off when this was
# written: one long row leaves fewer holes in the heap than the plan allows for, float32 more.
MEASURED = [
    {"method": "qlora", "lengths": [128, 128], "batch_size": 2},
    {"method": "full", "lengths": [200, 200], "batch_size": 2},
    {"method": "qlora", "lengths": [256, 256], "batch_size": 2, "checkpointing": True},
    {"method": "full", "lengths": [384, 384], "batch_size": 2, "checkpointing": True},
    {"method": "full", "lengths": [512, 512, 512, 512], "batch_size": 2, "accumulation": 2},
    {"method": "qlora", "lengths": [512, 512], "batch_size": 2},
    {"method": "full", "lengths": [512], "batch_size": 1},
    {"method": "qlora", "lengths": [256, 256], "batch_size": 2, "dtype": "float32"},
]
RUNS = times(1, 3)
WITHIN = [0.15] * 6 + [0.2] * 2 if RUNS > 1 else [0.25] * 8


def eight_billion():
    return configs.known_config("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B")


def profile(name, **values):
    return settings.load_settings(values, environment={"PROFILE": name, "ENV_FILE": "", "DTYPE": "bfloat16"})[0]


@pytest.fixture
def free(monkeypatch):
    """Sets how much memory there is besides this process's own."""
    return lambda gibibytes: monkeypatch.setattr(planner, "available_memory", lambda: gibibytes * GIB)


@pytest.mark.parametrize(("case", "within"), list(zip(MEASURED, WITHIN, strict=True))[: times(2, 8)], ids=json.dumps)
def test_peak_memory_is_foretold(case, within):
    tiny.embedded()
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, str(ROOT / "tests" / "support" / "measured.py"), json.dumps(case)]
    environment, results = os.environ | {"PYTHONPATH": path}, []
    for _ in range(RUNS):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        results.append(json.loads(done.stdout.splitlines()[-1]))
    measured = median(result["measured"] for result in results)
    assert results[0]["planned"] == pytest.approx(measured, rel=within), results


@pytest.mark.parametrize("name", configs.SHAPES)
def test_shapes_have_the_weights_of_their_model_cards(name):
    counted = configs.count_weights(configs.known_config(name))
    assert counted.total / 1e9 == pytest.approx(MODEL_CARDS[name], rel=0.005)


def test_the_adapter_is_counted_as_peft_makes_it():
    config = configs.known_config("smollm2-135m")
    for targets in ("all-linear", "q_proj, down_proj"):
        made = rehearsal.on_paper(config, "bfloat16", 8, targets)
        weights = sum(w.numel() for w in made.parameters() if w.requires_grad)
        assert configs.count_weights(config).adapter(8, targets) == weights


@pytest.mark.parametrize("rank", [0, 16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_two_layers_stand_for_all_of_them(rank, checkpointing):
    config = configs.known_config("smollm2-135m")
    config.num_hidden_layers = 5
    how = {"rank": rank, "checkpointing": checkpointing}
    foretold = rehearsal.rehearse_step(config, (96, 32), 100, "bfloat16", **how)
    knobs = (rank, "all-linear", checkpointing, False, "rehearsed_row_by_row")
    counted = rehearsal.run_on_paper(5, configs.text_config(config), (96, 32), 100, "bfloat16", *knobs)
    assert foretold.after_forward == counted["after_forward"]
    assert foretold.at_the_loss == counted["loss"]
    assert foretold.at_the_embedding == counted["embedding"]
    assert foretold.in_the_layers == pytest.approx(counted["way_back"], rel=0.1)


def test_checkpointing_saves_activations_and_long_rows_cost_more_than_short_ones():
    config = configs.known_config("smollm2-135m")
    long, short = (rehearsal.rehearse_step(config, rows, 64, "bfloat16", rank=16) for rows in ((256,), (64,) * 4))
    lean = rehearsal.rehearse_step(config, (256,), 64, "bfloat16", rank=16, checkpointing=True)
    assert lean.after_forward < 0.2 * long.after_forward
    assert short.after_forward < long.after_forward, "attention scores grow with the square of a row"


@pytest.mark.parametrize(("name", "card"), [("gpu24", gpus.L4), ("gpu80", gpus.A100)])
def test_eight_billion_weights_fit_the_profiles_card_as_qlora_only(name, card):
    made = {
        method: planner.plan_training(
            eight_billion(), outlook.on_card(recipes.train_config(profile(name), method), card), rank, card=card
        )
        for method, rank in (("qlora", 16), ("full", 0))
    }
    assert made["qlora"].total < card.memory
    assert made["qlora"].parts["4-bit weights"] == pytest.approx(6.95e9 / 2, rel=0.05), "half a byte a weight"
    assert made["full"].total > card.memory and "does not fit" in made["full"].sentence


@pytest.mark.parametrize(
    "more",
    [{"batch_size": 8}, {"max_length": 2048}, {"dtype": "float32"}, {"checkpointing": False}, {"method": "full"}],
)
def test_a_plan_grows_with_what_takes_memory(more):
    recipe = replace(RECIPE, checkpointing=True, micro_batch_tokens=10**9)
    config = configs.known_config("smollm2-135m")
    rank = 0 if "method" in more else 16
    before = planner.plan_training(config, recipe, rank=16, card=gpus.L4).total
    assert planner.plan_training(config, replace(recipe, **more), rank=rank, card=gpus.L4).total > before
    assert planner.plan_training(config, recipe, rank=64, card=gpus.L4).total > before


def test_every_way_out_fits_when_it_is_planned(free):
    free(3)
    config = configs.known_config("smollm2-135m")
    recipe = replace(RECIPE, method="full", max_length=512)
    made = planner.plan_training(config, recipe)
    assert not made.fits and 0 < len(made.ways) <= 3
    again = {said: changed for said, *changed in planner.smaller_settings(config, recipe, 0)}
    for way in made.ways:
        other, changed, rank = again[way]
        assert planner.plan_training(other, changed, rank).total <= made.available * 1.02, way
    with pytest.raises(CourseError, match="does not fit: about"):
        planner.require_plan(made, "training all weights")


def test_where_nothing_helps_the_plan_says_so(free):
    free(0)
    made = planner.plan_training(configs.known_config("smollm2-135m"), replace(RECIPE, method="full"))
    assert made.ways == () and made.way_out == "no setting here would make it fit"


def test_a_plan_needs_nothing_but_config_json(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(eight_billion().to_dict(), default=str))
    made = planner.plan_training(tmp_path, RECIPE, 16, card=gpus.L4, seek=False)
    assert made.disk["base model"] == pytest.approx(2 * 8.19e9, rel=0.01)
    assert made.disk["result"] == pytest.approx(4 * 43.6e6, rel=0.05), "the adapter of rank 16, in float32"


def test_disk_holds_two_checkpoints_and_room_for_the_next():
    made = planner.plan_training(tiny.embedded(), replace(RECIPE, method="full"))
    assert made.disk["base model"] == 0 and made.disk["checkpoints"] == 3 * 12 * 134_515_008


def test_more_disk_than_there_is_does_not_fit(monkeypatch):
    monkeypatch.setattr(planner.shutil, "disk_usage", lambda path: type("Usage", (), {"free": GIB}))
    made = planner.plan_training(tiny.embedded(), replace(RECIPE, method="full"))
    assert not made.fits and "GiB of disk, 1.0 GiB free: it does not fit" in made.sentence


def test_speed_is_that_of_the_last_such_training(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "MEASURED", tmp_path / "speed.json")
    config = configs.known_config("smollm2-135m")
    guess = planner.plan_training(config, RECIPE, 16, name="m").pace
    assert guess.tokens_per_second > 0 and "here" in guess.source
    throughput.remember_speed("m", RECIPE, tokens=500, seconds=2)
    throughput.remember_speed("m", RECIPE, tokens=600, seconds=2)
    made = planner.plan_training(config, RECIPE, 16, name="m")
    assert made.pace.tokens_per_second == 300 and made.seconds == 200
    assert planner.plan_training(config, replace(RECIPE, method="full"), name="m").pace.source == guess.source
    assert len(throughput.read_speeds()) == 1


def test_training_all_weights_takes_half_again_as_many_operations():
    config, rows = configs.known_config("Qwen/Qwen2.5-7B-Instruct"), ((512,), 512)
    full = throughput.operations_per_token(config, replace(RECIPE, method="full"), 0, *rows)
    assert full == pytest.approx(6 * 7.07e9, rel=0.05), "six to a weight that is multiplied"
    assert throughput.operations_per_token(config, RECIPE, 16, *rows) == pytest.approx(full * 2 / 3, rel=0.05)


def test_profile_t4_is_through_in_forty_five_minutes():
    """By the data sheet's peak and stated shares: nothing of it was measured on a T4."""
    minutes = {stage: s / 60 for stage, s in outlook.course_seconds(profile("t4"), gpus.T4).items()}
    assert list(minutes) == list("12345678") and 10 < sum(minutes.values()) < 45, minutes


def test_public_models_on_cards():
    shown = {m: {row["model"]: row for row in outlook.on_cards(profile("gpu24"), m)} for m in ("qlora", "full")}
    assert all(list(lines) == list(outlook.COMPARED) for lines in shown.values())

    def fitting(method, name):
        return ["not fit" not in shown[method][name][card.name] for card in gpus.GPUS]

    assert fitting("qlora", "Qwen/Qwen2.5-1.5B-Instruct") == [True, True, True]
    assert fitting("qlora", "Qwen/Qwen3-14B")[1:] == [True, True]
    assert fitting("full", "Qwen/Qwen3-14B") == [False, False, False]
    assert "Qwen3-14B" in tables.html_table(shown["full"].values()).data


def test_before_a_download_both_trainings_are_planned(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "BASE_MODELS", tmp_path)
    plans = outlook.plan_both(profile("cpu"))
    assert plans["qlora"].disk["base model"] > 0 and plans["full"].total > plans["qlora"].total
    assert [row["training"] for row in outlook.plan_rows(plans)] == ["qlora", "full"]
    assert memory_plots.plot_fits(plans).axes[0].get_xlabel() and memory_plots.plot_memory(plans["full"]).axes
