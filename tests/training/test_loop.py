"""Training: the loss is the answer's, the schedule the recipe's, and no stop or kill changes a bit of the result."""

import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support import tiny
from support.sweeps import times

from helpers.core.errors import CourseError
from helpers.core.paths import ROOT
from helpers.models import chat_template, load
from helpers.report import weight_changes
from helpers.training import attention, batches, checkpoints, config, distributed, loop
from helpers.training import step as updates_module

KILLS = times(3, 100)
METHODS = ("qlora", "full")
LONG = {"epochs": 4}  # 16 updates, each of two micro-batches but the last of an epoch


class Crash(BaseException):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load.load_tokenizer(folder)


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
    """{method: (its history, the bytes of its result)} of a run that nothing disturbs."""
    done = {}
    for method in METHODS:
        place = tmp_path_factory.mktemp(method)
        done[method] = tiny.fit(method, folder, place, **LONG), tiny.contents(place / "out")
    return done


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after every update."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)


def at_look(number, action):
    """A `show` that acts at the look of this number, from 1."""
    acted = []

    def show(history, total):
        if len(history.held_out) == number and not acted:
            acted.append(True)
            action()

    return show


def crash():
    raise Crash


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


# the loss


def batch_of(rows, tokenizer):
    encoded = batches.encode_rows(rows, tokenizer, 256)
    return batches.collate_packed(encoded, list(range(len(encoded))), "cpu")


@pytest.mark.parametrize("kind", [attention.ROW_BY_ROW, "sdpa"])
def test_the_loss_is_the_plain_one_on_the_same_rows(folder, tokenizer, kind):
    plain = load.load_model(folder, "float32")
    loss, graded = updates_module.answer_loss(
        load.load_model(folder, "float32", kind), batch_of(tiny.ROWS, tokenizer)
    )
    summed = 0.0
    for row in tiny.ROWS:
        prompt = chat_template.prompt_ids(tokenizer, row["prompt"]) if row["prompt"] else []
        answer = [*tokenizer(row["completion"], add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        labels = torch.tensor([[-100] * len(prompt) + answer])
        own = plain(input_ids=torch.tensor([prompt + answer]), labels=labels).loss.item()
        n = len(answer) - (not prompt)  # nothing comes before the first token of running text
        summed, graded = summed + own * n, graded - n
    assert loss.item() == pytest.approx(summed, rel=1e-5) and graded == 0


def test_only_the_answer_has_labels(tokenizer):
    row = {"prompt": "What is lupus?", "completion": "A disease."}
    batch = batch_of([row, {"prompt": "", "completion": "Running text."}], tokenizer)
    labels, ids = batch["labels"][0], batch["input_ids"][0]
    graded = labels != batches.IGNORED
    assert tokenizer.decode(labels[graded]) == "A disease.<|im_end|>unning text.<|im_end|>"
    assert (labels[graded] == ids[graded]).all()


def test_rows_are_packed_without_padding_and_each_begins_anew(tokenizer):
    batch = batch_of(tiny.ROWS, tokenizer)
    lengths = batch["cu_seq_lens_q"].diff().tolist()
    assert batch["input_ids"].shape == (1, sum(lengths)) and batch["max_length_q"] == max(lengths)
    assert batch["position_ids"][0].tolist() == [place for length in lengths for place in range(length)]
    assert (batch["labels"][0, batch["cu_seq_lens_q"][:-1].long()] == batches.IGNORED).all(), (
        "no row predicts the next"
    )


@pytest.mark.parametrize("kind", [attention.ROW_BY_ROW, "sdpa", "eager"])
def test_no_row_sees_another(folder, tokenizer, kind):
    model = load.load_model(folder, "float32", kind)

    def loss_by_token(rows, place):
        batch = batch_of(rows, tokenizer)
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        start, end = batch["cu_seq_lens_q"].tolist()[place : place + 2]
        return model(**inputs, use_cache=False).logits[0, start:end].detach()

    alone = loss_by_token(tiny.ROWS[1:2], 0)
    assert torch.allclose(loss_by_token(tiny.ROWS[:3], 1), alone, atol=1e-5)
    other = [{**tiny.ROWS[0], "completion": "something else altogether"}, *tiny.ROWS[1:3]]
    assert torch.allclose(loss_by_token(other, 1), alone, atol=1e-5)


def test_long_rows_are_attended_to_as_short_ones_are(folder, tokenizer):
    """From a certain length on a CPU takes torch's fused kernel."""
    rows = [{"prompt": "", "completion": "long " * 70}, tiny.ROWS[1], {"prompt": "", "completion": "longer " * 60}]
    encoded = batches.encode_rows(rows, tokenizer, 512)
    assert max(batches.row_lengths(encoded)) > attention.LONG
    batch = batches.collate_packed(encoded, [0, 1, 2], "cpu")
    kinds = (attention.ROW_BY_ROW, "sdpa", "eager")
    own, *others = (
        updates_module.answer_loss(load.load_model(folder, "float32", kind), batch)[0].item() for kind in kinds
    )
    assert others == pytest.approx([own, own], rel=1e-5)


@pytest.mark.parametrize("window", [None, 3])
def test_a_token_looks_back_only_and_no_further_than_the_window(window):
    seen = attention.causal_mask(6, window)[0, 0] == 0
    for token, row in enumerate(seen.tolist()):
        first = 0 if window is None else max(0, token - window + 1)
        assert row == [first <= place <= token for place in range(6)]


def test_only_what_predicts_the_answer_gets_a_gradient(tokenizer):
    batch = batch_of([tiny.ROWS[1]], tokenizer)
    start, end = (batch["labels"][0] != batches.IGNORED).nonzero()[[0, -1], 0].tolist()
    logits = torch.randn(1, end + 1, len(tokenizer), requires_grad=True)

    class Given(torch.nn.Module):
        def forward(self, logits_to_keep, **_):
            return SimpleNamespace(logits=logits[:, logits_to_keep])

    updates_module.answer_loss(Given(), batch)[0].backward()
    touched = logits.grad[0].abs().sum(-1).nonzero().squeeze(1)
    assert touched.tolist() == list(range(start - 1, end))


def test_long_rows_lose_their_end_and_rows_without_an_answer_drop_out(tokenizer):
    prompt = chat_template.prompt_ids(tokenizer, "Why?")
    rows = [{"prompt": "Why?", "completion": "x" * 500}, {"prompt": "y" * 500, "completion": "Because."}]
    kept = batches.encode_rows(rows, tokenizer, len(prompt) + 3)
    assert len(kept) == 1 and kept[0]["input_ids"][len(prompt) :] == chat_template.plain_ids(tokenizer, "xxx")
    with pytest.raises(CourseError, match=f"no training row has .* within MAX_SEQ_LENGTH={len(prompt)} tokens"):
        batches.encode_rows(rows, tokenizer, len(prompt))


# the schedule


SIZES = [10 + 7 * n % 30 for n in range(23)]


def planned(**changes):
    return batches.schedule_updates(
        SIZES, **{"rows_per_update": 4, "epochs": 3, "token_budget": 10**9, "seed": 1} | changes
    )


def test_every_row_is_read_once_an_epoch_in_an_order_of_its_own():
    updates = planned()
    rows = [row for update in updates for row in update]
    epochs = [rows[start : start + len(SIZES)] for start in range(0, len(rows), len(SIZES))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(len(SIZES)))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert all(0 < len(update) <= 4 for update in updates)


def test_the_order_is_the_seeds():
    assert planned() == planned() and planned(seed=2) != planned()
    assert planned(epochs=1) == planned()[: len(planned(epochs=1))], "more epochs change nothing in the first"


@pytest.mark.parametrize("budget", [1, 100, 333, 700])
def test_the_token_budget_ends_training(budget):
    updates, tokens = planned(token_budget=budget), lambda part: sum(SIZES[row] for u in part for row in u)
    assert tokens(updates[:-1]) < budget <= tokens(updates)
    assert updates == planned()[: len(updates)]


@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_general_text_gets_its_share_of_the_tokens_at_every_point(ratio):
    updates = planned(replay=5, replay_ratio=ratio, epochs=6)
    rows, papers = [row for update in updates for row in update], len(SIZES) - 5
    assert [rows.count(row) for row in range(papers)] == [6] * papers, "general text counts for no epoch"
    for end in range(20, len(rows) + 1):
        general = sum(SIZES[row] for row in rows[:end] if row >= papers)
        assert abs(general - ratio * sum(SIZES[row] for row in rows[:end])) <= max(SIZES)
    general = [row for row in rows if row >= papers]
    assert len({tuple(general[start : start + 5]) for start in (0, 5, 10)}) == 3 and set(general[:5]) == set(general)
    assert all(row < papers for update in planned(replay=5) for row in update)


@pytest.mark.parametrize(("batch_size", "tokens"), [(2, 10**6), (4, 60), (3, 35), (1, 10**6), (5, 5)])
def test_micro_batches_hold_every_row_once_and_keep_within_both_limits(batch_size, tokens):
    rows = [5, 3, 20, 11, 8]
    groups = batches.split_micro_batches(rows, SIZES, batch_size, tokens)
    assert sorted(row for group in groups for row in group) == sorted(rows) and all(groups)
    assert max(map(len, groups)) <= batch_size
    assert all(len(group) == 1 or sum(SIZES[row] for row in group) <= tokens for group in groups)


def test_micro_batches_are_even():
    groups = batches.split_micro_batches(list(range(16)), SIZES, 8, 10**6)
    sums = [sum(SIZES[row] for row in group) for group in groups]
    assert len(groups) == 2 and max(sums) - min(sums) <= min(SIZES)


def test_the_rate_warms_up_and_falls_to_nothing():
    recipe = replace(tiny.RECIPE, warmup_share=0.2)
    rates = [config.learning_rate_at(recipe, step, 20) for step in range(20)]
    assert rates[:4] == pytest.approx([1e-3 / 4, 2e-3 / 4, 3e-3 / 4, 1e-3])
    assert rates[4] == max(rates) and rates[4:] == sorted(rates[4:], reverse=True) and 0 < rates[-1] < 2e-5


def test_how_rows_are_grouped_does_not_change_what_is_learnt(folder, tmp_path):
    histories = [
        tiny.fit("full", folder, tmp_path / str(batch_size), batch_size=batch_size, accumulation=4 // batch_size)
        for batch_size in (1, 2, 4)
    ]
    losses = [[update["loss"] for update in history.updates] for history in histories]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0] == pytest.approx(losses[2], rel=1e-4)
    assert losses[0][-1] < losses[0][0] / 1.2, "it learns"


@pytest.mark.slow
def test_gradient_checkpointing_changes_memory_only(folder, tmp_path, undisturbed):
    for method in METHODS:
        history = tiny.fit(method, folder, tmp_path / method, checkpointing=True, **LONG)
        assert history.held_out[-1]["loss"] == pytest.approx(undisturbed[method][0].held_out[-1]["loss"], rel=1e-5)


def test_checkpointing_goes_with_an_adapters_dropout_in_sixteen_bits(folder, tmp_path):
    """What is computed again on the way back is computed as it was on the way there."""
    history = tiny.fit("qlora", folder, tmp_path, checkpointing=True, dtype="bfloat16")
    assert history.updates[-1]["loss"] < history.updates[0]["loss"]


def test_settings_become_a_recipe():
    settings = tiny.resolve(QLORA_LR=3e-4, FULL_LR=2e-5, FULL_EPOCHS=7, GRADIENT_CHECKPOINTING="on", DTYPE="float32")
    qlora, full = (config.train_config(settings, method) for method in METHODS)
    assert (qlora.learning_rate, full.learning_rate, full.epochs) == (3e-4, 2e-5, 7)
    assert qlora.checkpointing and qlora.dtype == "float32" and qlora.method == "qlora"


# the same result, whatever happens


@pytest.mark.parametrize("method", METHODS)
def test_the_same_run_twice_gives_the_same_bytes(folder, tmp_path, undisturbed, method):
    history = tiny.fit(method, folder, tmp_path, **LONG)
    assert history.lasting() == undisturbed[method][0].lasting() and len(history.updates) == 16
    assert tiny.contents(tmp_path / "out") == undisturbed[method][1]
    assert tiny.fit(method, folder, tmp_path / "other", seed=2, **LONG).lasting() != history.lasting()


def test_a_result_has_no_pickle_and_no_path_of_this_machine(folder, undisturbed):
    for method, weights in (("qlora", "adapter_model.safetensors"), ("full", "model.safetensors")):
        found = undisturbed[method][1]
        assert weights in found and {Path(name).suffix for name in found} <= {".json", ".safetensors", ".jinja"}
        small = b"".join(content for name, content in found.items() if not name.endswith(".safetensors"))
        assert str(folder).encode() not in small and str(ROOT).encode() not in small
    targets = json.loads(undisturbed["qlora"][1]["adapter_config.json"])["target_modules"]
    assert len(targets) == 14 and targets == sorted(targets), "every process would write a set in another order"


@pytest.mark.parametrize("method", METHODS)
def test_a_result_loads_and_speaks_as_it_was_trained(folder, tokenizer, tmp_path, method):
    history = tiny.fit(method, folder, tmp_path, dtype="float32")
    if method == "qlora":
        base = load.load_model(folder, "nf4", dtype="float32")
        model = load.load_adapter(base, tmp_path / "out")
        assert isinstance(model, PeftModel)
    else:
        model = load.load_model(tmp_path / "out", "float32")
    rows = batches.encode_rows(tiny.ROWS, tokenizer, 256).select(range(3))
    assert updates_module.evaluate_loss(model, rows, tiny.RECIPE) == pytest.approx(history.held_out[-1]["loss"])


def start(method, folder, place):
    """A training in a process of its own, once it has begun."""
    process = tiny.processes().Process(target=tiny.fit_with_checkpoints, args=(method, folder, place), kwargs=LONG)
    process.start()
    while process.is_alive() and not (place / "work").exists():
        time.sleep(0.005)
    return process


def two_checkpoints(process, place):
    while process.is_alive() and len(checkpoints.list_checkpoints(place / "work")) < 2:
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_any_moment_it_ends_in_the_same_bytes(folder, tmp_path, undisturbed, method):
    expected, draw = undisturbed[method][1], random.Random(7)
    process = start(method, folder, tmp_path / "0")
    began = time.monotonic()
    process.join()
    whole = time.monotonic() - began
    assert process.exitcode == 0 and tiny.contents(tmp_path / "0" / "out") == expected

    place, landed = tmp_path / "killed", 0
    while landed < KILLS:
        process = start(method, folder, place)
        if landed == 0:
            two_checkpoints(process, place)
        else:
            time.sleep(draw.uniform(0, 0.7 * whole))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            landed += 1
            assert not (place / "out").exists() or tiny.contents(place / "out") == expected
        if (place / "out").exists():
            assert tiny.contents(place / "out") == expected
            shutil.rmtree(place)
    process = start(method, folder, place)
    process.join()
    assert process.exitcode == 0 and tiny.contents(place / "out") == expected


@pytest.mark.parametrize("method", METHODS)
def test_a_crash_mid_epoch_goes_on_from_the_last_checkpoint(folder, tmp_path, undisturbed, often, method, capsys):
    with pytest.raises(Crash):
        tiny.fit(method, folder, tmp_path, show=at_look(4, crash), **LONG)
    assert checkpoints.list_checkpoints(tmp_path / "work")[0].name == "step-000008"
    seen = []
    tiny.fit(method, folder, tmp_path, show=lambda history, total: seen.append(len(history.updates)), **LONG)
    assert "going on after update 8, from a checkpoint in" in capsys.readouterr().out
    assert seen == [8, 9, 10, 11, 11, 12, 13, 13, 14, 15, 16, 16, 16], "after each update, each look and the end"
    assert tiny.contents(tmp_path / "out") == undisturbed[method][1]
    assert not (tmp_path / "work").exists(), "checkpoints of a finished training are removed"


def test_a_request_to_stop_saves_and_says_so(folder, tmp_path, undisturbed):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="stopped after update 4; run again to go on from there"):
        tiny.fit("full", folder, tmp_path, show=at_look(2, terminate), **LONG)
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path / "work")] == ["step-000004"]
    assert signal.getsignal(signal.SIGTERM) is before
    tiny.fit("full", folder, tmp_path, **LONG)
    assert tiny.contents(tmp_path / "out") == undisturbed["full"][1]


def test_a_request_to_stop_at_the_very_end_is_heard_and_loses_nothing(folder, tmp_path, undisturbed):
    with pytest.raises(KeyboardInterrupt, match="the result is saved"):
        tiny.fit("full", folder, tmp_path, show=at_look(7, terminate), **LONG)
    assert tiny.contents(tmp_path / "out") == undisturbed["full"][1]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(folder, tmp_path, undisturbed, often, capsys):
    with pytest.raises(Crash):
        tiny.fit("qlora", folder, tmp_path, show=at_look(4, crash), **LONG)
    newest = checkpoints.list_checkpoints(tmp_path / "work")[0] / "state.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    tiny.fit("qlora", folder, tmp_path, **LONG)
    out = capsys.readouterr().out
    assert "step-000008: state.safetensors is damaged; set aside as damaged-step-000008" in out
    assert "going on after update 7" in out and tiny.contents(tmp_path / "out") == undisturbed["qlora"][1]


@pytest.mark.parametrize("change", [{"identity": "other rows"}, {"learning_rate": 2e-3}])
def test_another_trainings_checkpoint_is_not_used(folder, tmp_path, often, capsys, change):
    with pytest.raises(Crash):
        tiny.fit("full", folder, tmp_path, show=at_look(4, crash), **LONG)
    history = tiny.fit("full", folder, tmp_path, **LONG | change)
    assert "going on" not in capsys.readouterr().out and len(history.updates) == 16


@pytest.fixture
def taken(monkeypatch):
    """The steps that were really trained."""
    steps, train_step = [], loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *args: steps.append(args[6]) or train_step(*args))
    return steps


def test_a_finished_result_is_used_again_and_force_trains_it_anew(folder, tmp_path, taken, monkeypatch):
    first, shown = tiny.fit("full", folder, tmp_path), []
    trained = list(taken)
    again = tiny.fit("full", folder, tmp_path, show=lambda history, total: shown.append(total))
    assert again == first and taken == trained and shown == [len(trained)], "its curves are shown all the same"
    before = tiny.contents(tmp_path / "out")
    tiny.fit("full", folder, tmp_path, force=True)
    assert taken == trained * 2 and tiny.contents(tmp_path / "out") == before


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_result_is_trained_anew(folder, tmp_path, taken, undisturbed, damage):
    tiny.fit("full", folder, tmp_path, **LONG)
    weights = tmp_path / "out" / "model.safetensors"
    if damage == "changed":
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    else:
        weights.unlink()
    tiny.fit("full", folder, tmp_path, **LONG)
    assert len(taken) == 32 and tiny.contents(tmp_path / "out") == undisturbed["full"][1]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"key": 1, "files": {}}'])
def test_a_damaged_record_is_trained_anew(folder, tmp_path, taken, text):
    tiny.fit("full", folder, tmp_path)
    once = list(taken)
    (tmp_path / "out" / "training.json").write_text(text)
    tiny.fit("full", folder, tmp_path)
    assert taken == once * 2


def test_a_loss_that_is_no_number_names_the_setting(folder, tmp_path):
    def poison(model):
        with torch.no_grad():
            model.model.norm.weight[0] = float("nan")
        return model

    made = tiny.model_for
    with pytest.MonkeyPatch.context() as patch, pytest.raises(CourseError) as error:
        patch.setattr(tiny, "model_for", lambda *args, **options: poison(made(*args, **options)))
        tiny.fit("full", folder, tmp_path)
    assert error.value.problem == "full: the loss is nan at update 1"
    assert error.value.way_out == "lower FULL_LR (now 0.001) or set DTYPE=float32"
    assert not (tmp_path / "out").exists()


# early stopping


RISING = {0: 3.0, 3: 2.0, 5: 1.0, 8: 1.5, 11: 1.6, 13: 0.5, 16: 0.5}  # the loss at each look: best after update 5


@pytest.fixture
def looks(monkeypatch):
    """Lets looks see RISING; {step: the weights then}."""
    seen, real = {}, loop.TrainingRun.look

    def look(run, step):
        seen[step] = {name: weight.detach().clone() for name, weight in run.weights.items()}
        monkeypatch.setattr(loop, "evaluate_loss", lambda *_: RISING[step])
        real(run, step)

    monkeypatch.setattr(loop.TrainingRun, "look", look)
    return seen


@pytest.mark.parametrize("by", ["held_out", "guard"])
@pytest.mark.parametrize("method", METHODS)
def test_early_stopping_ends_after_two_worse_looks_and_keeps_the_best_weights(folder, tmp_path, looks, method, by):
    history = tiny.fit(method, folder, tmp_path, early_stopping=by, **LONG)
    assert [look["step"] for look in history.held_out] == [0, 3, 5, 8, 11] and len(history.updates) == 11
    assert history.chosen == 5
    looked_at = {"held_out": ["paper 0", "paper 1", "paper 2"], "guard": ["paper 3", "paper 4"]}
    assert history.chosen_by == looked_at[by], "they can no longer test it"
    saved = load_file(next((tmp_path / "out").glob("*model.safetensors")))
    kept = {name.replace(".default", ""): weight for name, weight in looks[5].items()}
    assert saved.keys() == kept.keys() and all(torch.equal(saved[name], kept[name]) for name in saved)


def test_without_early_stopping_the_last_weights_are_the_result(folder, tmp_path, looks):
    history = tiny.fit("full", folder, tmp_path, **LONG)
    assert len(history.updates) == history.chosen == 16 and history.chosen_by == []


@pytest.mark.parametrize("damaged", [False, True])
def test_early_stopping_survives_a_crash_and_a_damaged_best(folder, tmp_path, looks, often, damaged, capsys):
    tiny.fit("full", folder, tmp_path / "one", early_stopping="held_out", **LONG)
    with pytest.raises(Crash):
        tiny.fit("full", folder, tmp_path / "two", early_stopping="held_out", show=at_look(4, crash), **LONG)
    if damaged:
        best = tmp_path / "two" / "work" / "best" / "step-000005" / "state.safetensors"
        best.write_bytes(best.read_bytes()[:-1] + b"x")
    history = tiny.fit("full", folder, tmp_path / "two", early_stopping="held_out", **LONG)
    said = capsys.readouterr().out
    assert ("step-000005: state.safetensors is damaged" in said) == damaged
    assert ("going on after update 8" in said) != damaged and history.chosen == 5
    assert ("training begins anew" in said) == damaged
    assert tiny.contents(tmp_path / "two" / "out") == tiny.contents(tmp_path / "one" / "out")


# small steps


def steps_of(weights, arithmetic, count=2):
    """(mean size of a weight's change, share of weights that stayed) after a few updates of the embedded model."""
    tokenizer = tiny.embedded_tokenizer()
    rows = batches.encode_rows(tiny.ROWS, tokenizer, 256)
    recipe = replace(tiny.RECIPE, learning_rate=1e-5, dtype=arithmetic)
    model = load.load_model(tiny.embedded(), weights).requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0, fused=True)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for step in range(count):
        updates_module.train_step(
            model, rows, [[step, step + 5]], recipe, optimizer, scaler, step, count, distributed.Ranks()
        )
    moved = stayed = total = 0
    with weight_changes.Weights(tiny.embedded()) as before, torch.no_grad():
        for name, weight in model.named_parameters():
            change = weight.float() - before.get(name).to(weight.dtype).float()
            total += change.numel()
            moved += change.abs().sum().item()
            stayed += change.numel() - change.count_nonzero().item()
    return moved / total, stayed / total


@pytest.mark.slow
def test_at_small_rates_fast_arithmetic_moves_weights_as_far_as_exact_arithmetic_does():
    exact, _ = steps_of("float32", "float32")
    fast, stayed = steps_of("float32", "bfloat16")
    lost, stuck = steps_of("bfloat16", "float32")
    assert fast == pytest.approx(exact, rel=0.05) and stayed < 0.01
    assert stuck > 0.9 and lost < exact / 2, "with bfloat16 weights most updates round away"
