"""What an adapter adds to a matrix, what a rank costs, and what 16 bits would lose."""

from pathlib import Path
from types import SimpleNamespace

import ipywidgets
import pytest
import torch
from peft import PeftModel
from support import tiny

from helpers.models import configs, load
from helpers.report import training_curves, weight_changes, weight_plots
from helpers.training import config as recipes
from helpers.training import planner
from helpers.training.run_record import History


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A training of the tiny model with an adapter, as notebook 4 leaves it."""
    place = tmp_path_factory.mktemp("adapter")
    base = tiny.write_model(place / "base")
    tiny.fit("qlora", base, place)
    knobs = tiny.resolve(LORA_R=tiny.LORA["r"], LORA_ALPHA=tiny.LORA["lora_alpha"])
    return SimpleNamespace(base=base, out=place / "out", recipe=tiny.RECIPE, run=SimpleNamespace(settings=knobs))


def test_the_addition_is_what_peft_adds(job):
    """Merged by peft into the 4-bit base, the matrix is W plus the update."""
    shown = weight_plots.adapter_addition(job)
    assert shown.name.endswith("layers.0.self_attn.q_proj") and shown.rank == tiny.LORA["r"]
    frozen = load.dequantise(load.load_model(job.base, "nf4", dtype="float32"))
    merged = PeftModel.from_pretrained(frozen, job.out).merge_and_unload().get_submodule(shown.name).weight
    assert torch.allclose(merged.detach().float(), shown.weight + shown.update, atol=1e-4)
    assert int(torch.linalg.matrix_rank(shown.update)) <= shown.rank < min(shown.weight.shape)
    assert 0 < shown.size < 1 and 0.02 < shown.rounding < 0.2


def test_its_relative_size_is_the_one_of_the_first_layer(job):
    """The same figure as in the picture over the layers, but for the base's four bits."""
    shown = weight_plots.adapter_addition(job)
    assert shown.size == pytest.approx(weight_changes.adapter_change(job)["q_proj"][0], rel=0.1)


def test_an_adapter_without_query_matrices_is_drawn_too(job):
    assert weight_plots.adapter_addition(job, "no such matrix").name.startswith("model.layers.0.")


def test_the_drawing_has_one_scale_for_the_three_parts(job):
    shown = weight_plots.adapter_addition(job)
    picture = weight_plots.plot_addition(shown, corner=8)
    picture.draw_without_rendering()
    images = [image for axis in picture.axes for image in axis.images]
    assert [image.get_array().shape for image in images] == [(8, 8)] * 4
    assert len({image.get_clim() for image in images[:3]}) == 1
    assert images[3].get_clim() != images[0].get_clim()
    total = images[0].get_array() + images[1].get_array()
    assert abs(total - images[2].get_array()).max() < 1e-6
    assert f"rank of {shown.rank}" in weight_plots.describe_addition(shown)


def test_nothing_trained_is_said_and_not_drawn():
    assert weight_plots.plot_addition(None) is None and "No adapter" in weight_plots.describe_addition(None)


@pytest.mark.parametrize("rank", [1, 16, 0])
def test_a_rank_costs_what_the_planner_counts(rank):
    knobs = tiny.resolve()
    config = configs.known_config(knobs.MODEL_NAME)
    counted, held = (
        weight_plots.adapter_cost(knobs, rank, "all-linear"),
        planner.count_trainable(config, rank, "all-linear")[0],
    )
    assert counted["trained"] == held
    assert counted["adapter"] == counted["gradients"] == 4 * held
    assert counted["optimizer"] == planner.MOMENTS * held
    assert (counted["share"] == 1) == (rank == 0)


def test_the_share_is_the_one_that_notebook_four_prints(job):
    """The adapter's weights among all there are, its own included."""
    trained, total = load.count_parameters(tiny.model_for("qlora", job.base))
    inner = configs.count_weights(configs.read_config(job.base))
    assert trained == inner.adapter(tiny.LORA["r"]) and total == inner.total + trained


def test_the_slider_shows_what_is_chosen():
    knobs = tiny.resolve(LORA_R=5)
    made = weight_plots.rank_slider(knobs)
    (rank, targets), shown = made.children[0].children, made.children[1]
    assert (rank.value, targets.value) == (5, "all-linear")
    rank.value, targets.value = 64, weight_plots.FIRST_TRIED
    assert f"{weight_plots.adapter_cost(knobs, 64, weight_plots.FIRST_TRIED)['trained']:,}" in shown.value
    assert "every weight" in shown.value


def test_own_target_modules_stay_a_choice():
    own = "q_proj, o_proj"
    assert weight_plots.rank_slider(tiny.resolve(LORA_TARGET_MODULES=own)).children[0].children[1].value == own


def test_a_rendered_page_gets_a_table_instead(monkeypatch):
    monkeypatch.setattr("helpers.core.progress._listener", Path("a run"))
    made = weight_plots.rank_slider(tiny.resolve())
    assert not isinstance(made, ipywidgets.Widget)
    assert all(
        f"{weight_plots.adapter_cost(tiny.resolve(), rank, 'all-linear')['trained']:,}" in made.data
        for rank in weight_plots.RANKS
    )


def test_small_steps_are_lost_in_sixteen_bits():
    """Half the distance between neighbours decides: from 1 up it is 2^-8 in bfloat16, 2^-11 in float16."""
    ones = torch.ones(3)
    for dtype, half in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        assert weight_changes.share_unmoved(ones, half * 0.9, dtype) == 1
        assert weight_changes.share_unmoved(ones, half * 1.1, dtype) == 0
    assert weight_changes.share_unmoved(torch.tensor([1.0, 1e-4]), 1e-5, torch.bfloat16) == 0.5


def test_what_is_rounded_away_is_drawn(job):
    job.recipe = recipes.train_config(tiny.resolve(), "full")
    picture = weight_changes.rounded_away(job)
    coarse, fine, exact, _ = picture.axes[0].lines
    for line in (coarse, fine, exact):
        shares = list(line.get_ydata())
        assert shares == sorted(shares, reverse=True) and shares[-1] == 0
    assert all(b >= h >= e for b, h, e in zip(*(x.get_ydata() for x in (coarse, fine, exact)), strict=True))


def trained(first, last, guard=(3.0, 3.0), pace=True):
    looks = [{"step": 0, "loss": first, "guard": guard[0]}, {"step": 1, "loss": last, "guard": guard[1]}]
    update = {"step": 1, "tokens": 1000, "loss": 3.0, "learning_rate": 1e-4}
    measured = [{"step": 1, "seconds": 120.0, "memory": 3 * 2**30}] if pace else []
    return History([update], looks, chosen=1, pace=measured)


@pytest.mark.parametrize(
    ("history", "said"),
    [
        (trained(3.0, 2.7), "held-out loss fell by 0.300 nats a token, 3.000 → 2.700"),
        (trained(3.0, 3.2), "held-out loss rose by 0.200"),
        (trained(3.0, 2.995), "held-out loss did not change"),
        (trained(3.0, 2.7, (3.0, 3.4)), "general English rose by 0.400"),
        (trained(3.0, 2.7), "1 updates on 1,000 tokens, 2.0 minutes and 3.0 GiB"),
        (trained(3.0, 2.7, pace=False), "time and memory were not kept"),
    ],
)
def test_the_answer_says_what_happened(history, said):
    assert said in training_curves.answer_question(history, 0.035)


def test_the_answer_says_how_much_was_free_to_move():
    assert "With 3.5% of its weights" in training_curves.answer_question(trained(3.0, 2.7), 0.035)
    assert "With all its weights" in training_curves.answer_question(trained(3.0, 2.7), 1.0)


def test_an_earlier_training_is_read_from_its_folder(job, tmp_path):
    assert (
        training_curves.recorded_history(job.out).updates and not training_curves.recorded_history(tmp_path).updates
    )


def test_the_answer_of_a_skipped_training_is_its_reason():
    assert "FULL_FINETUNE=off" in training_curves.answer_question(History(), 0, "FULL_FINETUNE=off")


def test_costs_stand_beside_those_of_notebook_four():
    receipt = {"tokens": 2000, "train_seconds": 60.0, "train_peak_memory": 2 * 2**30}
    assert "4.0 times as much time here" in training_curves.compare_cost(trained(3.0, 2.7), receipt)
    assert "1.5 times as high" in training_curves.compare_cost(trained(3.0, 2.7), receipt)
    assert "1.0 minutes and 2.0 GiB for 2,000 tokens." in training_curves.compare_cost(History(), receipt)
    for nothing in (None, {}, {"status": "skipped"}):
        assert "nothing to put beside" in training_curves.compare_cost(trained(3.0, 2.7), nothing)
