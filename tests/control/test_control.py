"""The positive control: it passes as it is, and not with a trainer, template, mask or scorer that is broken."""

import os
import random
import shutil
import signal

import pytest
from support import tiny

from helpers.control import control, fictional
from helpers.core import CONTROL_GROUPS, io, paths
from helpers.core.errors import CourseError
from helpers.core.paths import Folders, base_model_folder
from helpers.models import chat_template
from helpers.pipeline.runner import NOT_PASSED
from helpers.report import control_plots
from helpers.training import batches, config, loop

pytestmark = pytest.mark.slow  # it trains

WORDS = ["MODEL_NAME=tiny", "DTYPE=float32", "PROFILE=cpu", "ENV_FILE="]
NAMES = ("Al", "Bo", "Cu", "Do", "Ek", "Fi", "Go", "Hu")
PASSES = 20


def arrange(patch, folder):
    """A small world in `folder`, and a model of a few thousand weights that can learn it.

    That model learns no sentences: a profile of it says one fact, as an answer, and the test asks in the words of
    training.
    """
    patch.setattr(paths, "BASE_MODELS", folder / "base")
    patch.setattr(Folders, "models", folder / "models")
    patch.setattr(Folders, "reports", folder / "reports")
    patch.setattr("helpers.control.control.fetch_model", lambda settings: None)
    tiny.write_model(base_model_folder("tiny"))
    facts = fictional.build_world(names=NAMES)
    patch.setattr(control, "build_world", lambda: facts)
    patch.setattr(fictional, "OPENINGS", ["user\n{name} {0}"])
    patch.setattr(fictional, "PHRASES", {a: [f"{a}\nassistant\n{{value}}"] for a in fictional.OPTIONS})
    patch.setattr(fictional, "ORDERS", [(place,) for place in range(4)])
    patch.setattr(fictional, "QUESTIONS", {a: [f"{{name}} {a}"] * 2 for a in fictional.OPTIONS})
    patch.setattr(fictional, "ASKED", fictional.QUESTIONS)
    patch.setattr(control, "WORDINGS", 4)
    patch.setattr(control, "RUNS", {"base": (0, 0), "many_wordings": (4, 1)})
    patch.setattr(control, "PASSES", PASSES)
    patch.setattr(control, "RATES", {"full": 5e-3, "qlora": 5e-3})
    patch.setattr(control, "LOOKS", 1)


@pytest.fixture
def place(tmp_path, monkeypatch):
    arrange(monkeypatch, tmp_path)
    return tmp_path


def run(*words):
    return control.run_control([*WORDS, *words])


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """(report, folder of the trained weights) of a control where nothing is broken."""
    folder, load = tmp_path_factory.mktemp("sound"), control.trained_model

    def keep(trial):
        if trial.wordings:
            shutil.copytree(trial.folder, folder / "kept" / trial.folder.name)
        return load(trial)

    with pytest.MonkeyPatch.context() as patch:
        arrange(patch, folder)
        patch.setattr(control, "trained_model", keep)
        report = run()
        assert io.read_json(Folders().control) == report
        assert not list((folder / "models" / "work").iterdir()), "what was trained is gone"
    return report, folder / "kept"


@pytest.fixture
def trained(place, sound, monkeypatch):
    """The small world with the weights that learned it; whoever trains again fails."""
    shutil.copytree(sound[1], place / "models" / "work")
    monkeypatch.setattr(loop, "train_step", None)


def test_it_passes_where_nothing_is_broken(sound):
    passed, sentence = control.control_verdict(sound[0])
    assert passed, sentence
    runs = sound[0]["methods"]["full"]
    assert runs["many_wordings"]["taught"]["accuracy"] >= 0.95 > runs["base"]["taught"]["high"]


def test_what_is_trained_is_not_trained_again(trained, sound):
    again, before = run()["methods"]["full"]["many_wordings"], sound[0]["methods"]["full"]["many_wordings"]
    assert {**again, "curve": []} == {**before, "curve": []}


def shift(batch):
    """Every place is asked for the token that it reads, not for the next."""
    return {**batch, "labels": batch["labels"].roll(1, dims=1)}


def only_prompts(batch):
    """The mask the wrong way round: the loss is on what is not an answer."""
    ids, labels = batch["input_ids"], batch["labels"]
    wrong = ids.where(labels == batches.IGNORED, batches.IGNORED)
    return {**batch, "labels": wrong}


@pytest.mark.parametrize("fault", [shift, only_prompts])
def test_a_broken_mask_does_not_pass(fault, place, monkeypatch):
    collate = batches.collate_packed
    monkeypatch.setattr("helpers.training.step.collate_packed", lambda *given: fault(collate(*given)))
    failing(run())


def test_a_trainer_that_does_not_train_does_not_pass(place, monkeypatch):
    monkeypatch.setattr("helpers.training.step.learning_rate_at", lambda *_: 0.0)
    failing(run())


def test_weights_that_are_not_the_trained_ones_do_not_pass(trained, monkeypatch):
    load = control.load_model
    monkeypatch.setattr(control, "load_model", lambda folder, *wanted: load(base_model_folder("tiny"), *wanted))
    failing(run())


def test_a_scorer_that_guesses_does_not_pass(trained, monkeypatch):
    guess = random.Random(0)
    monkeypatch.setattr(
        fictional,
        "loglikelihood_batches",
        lambda model, pairs, *_: [{n: -guess.random() for n in range(len(pairs))}],
    )
    assert not control.control_verdict(run())[0]


def test_asking_without_the_chat_template_does_not_pass(trained, monkeypatch):
    monkeypatch.setattr(fictional, "prompt_ids", chat_template.plain_ids)
    failing(run())


def test_training_without_the_chat_template_is_refused(place, monkeypatch):
    def bare(tokenizer, question, answer):
        return chat_template.plain_ids(tokenizer, f"{question} "), chat_template.answer_ids(tokenizer, answer)

    monkeypatch.setattr(batches, "row_ids", bare)
    with pytest.raises(CourseError, match="not those the model will be asked with"):
        run()


def failing(report):
    passed, sentence = control.control_verdict(report)
    assert not passed
    assert sentence.startswith("The control fails (full): of the taught facts"), sentence


def test_a_control_that_is_stopped_goes_on_and_ends_the_same(place, monkeypatch, capsys):
    monkeypatch.setattr(control, "PASSES", 1)
    monkeypatch.setattr(control, "LOOKS", 4)
    whole = run()["methods"]["full"]["many_wordings"]
    (place / "reports" / ".notes" / "control.jsonl").unlink()
    score, calls = control.score_items, []

    def stopping(*given):
        calls.append(given)
        if len(calls) == 3:  # the base, the model before training, and then
            os.kill(os.getpid(), signal.SIGTERM)
        return score(*given)

    monkeypatch.setattr(control, "score_items", stopping)
    assert control.main(WORDS) > 128
    assert "the same command goes on from here" in capsys.readouterr().err
    again = run()["methods"]["full"]["many_wordings"]
    assert {**again, "seconds": 0} == {**whole, "seconds": 0}
    assert len(again["curve"]) == 1 + control.LOOKS
    monkeypatch.setattr(control, "train_model", None)
    assert run()["methods"]["full"]["many_wordings"] == again, "finished runs are not repeated"


def test_another_method_joins_the_file_and_force_measures_anew(place, monkeypatch):
    monkeypatch.setattr(control, "PASSES", 1)
    full = run()
    both = run("METHOD=qlora")
    assert both["methods"] == {**full["methods"], "qlora": both["methods"]["qlora"]}
    assert both["methods"]["qlora"]["many_wordings"]["tokens"] == full["methods"]["full"]["many_wordings"]["tokens"]
    noted = place / "reports" / ".notes" / "control.jsonl"
    before = len(io.read_jsonl(noted))
    run("FORCE=all")
    assert 0 < len(io.read_jsonl(noted)) < before, "only what was measured just now"
    io.write_json(place / "reports" / "control.json", full | {"world": {}})
    assert list(run()["methods"]) == ["full"], "another world's figures are not mixed with this one's"


@pytest.mark.parametrize(("passed", "status"), [(True, 0), (False, NOT_PASSED)])
def test_the_exit_status_tells_not_passed_from_not_run(passed, status, monkeypatch, capsys):
    report = {"chance": fictional.CHANCE, "methods": {"full": figures(taught=32 if passed else 20)}}
    monkeypatch.setattr(control, "run_control", lambda words: report)
    assert control.main([]) == status
    assert control.control_verdict(report)[1] in capsys.readouterr().out


@pytest.mark.parametrize("word", ["METHOD=magic", "METHOD", "PASES=3"])
def test_what_cannot_be_is_refused(word, capsys):
    assert control.main([word]) == 1
    assert word.partition("=")[0] in capsys.readouterr().err


def test_one_wording_reads_as_many_tokens_as_many_wordings():
    settings = tiny.resolve()
    one, many = (
        control.Trial(name, "full", settings, fictional.build_world(), Folders())
        for name in list(control.RUNS)[:0:-1]
    )
    assert {one.run, many.run} == {"one_wording", "many_wordings"}
    tiny.embedded()
    read = []
    for trial in (one, many):
        sizes = batches.row_lengths(trial.reading.rows)
        updates = config.plan_updates(sizes, trial.recipe, 0)
        read.append(sum(sizes[row] for update in updates for row in update))
    largest = control.ROWS_PER_UPDATE * control.LONGEST
    assert max(read) - min(read) < largest < 0.05 * min(read)


def rate(right, n=32):
    item = [{"group": group} for group in CONTROL_GROUPS for _ in range(n)]
    return fictional.recall_rates(item, [number < right for number in range(n)] * 2)["read"]


def figures(base=4, taught=32, read=28):
    """Runs with these counts of right answers among 32."""
    return {
        "base": {"taught": rate(base), "read": rate(base)},
        "one_wording": {"taught": rate(32), "read": rate(8)},
        "many_wordings": {"taught": rate(taught), "read": rate(read)},
    }


@pytest.mark.parametrize(
    ("runs", "why"),
    [
        (figures(), ""),
        (figures(base=12), "the untouched model gets 38%"),
        (figures(taught=30), "94% (80% to 98%) came back"),
        (figures(read=6), "which may be chance"),
    ],
)
def test_the_verdict_says_what_is_wrong(runs, why):
    report = {"chance": fictional.CHANCE, "methods": {"full": runs}}
    passed, sentence = control.control_verdict(report)
    assert passed == (not why)
    assert why in sentence
    assert passed == sentence.startswith("The control passes")


@pytest.mark.skipif(not control_plots.RECORDED.exists(), reason="no control has been recorded with this course")
def test_the_recorded_control_passes_and_is_of_this_world(monkeypatch, tmp_path):
    monkeypatch.setattr(Folders, "reports", tmp_path)
    recorded = control_plots.recorded_or_own(Folders())
    assert (recorded["from"], recorded["own"]) == ("reports/recorded/control.json", False)
    assert recorded["world"] == fictional.describe_world(fictional.build_world())
    passed, sentence = control.control_verdict(recorded)
    assert passed, sentence


def test_without_any_control_the_way_to_one_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(Folders, "reports", tmp_path)
    monkeypatch.setattr(control_plots, "RECORDED", tmp_path / "recorded.json")
    with pytest.raises(CourseError, match="make control"):
        control_plots.recorded_or_own(Folders())


def test_a_control_of_ones_own_comes_first(monkeypatch, tmp_path):
    monkeypatch.setattr(Folders, "reports", tmp_path)
    monkeypatch.setattr(control_plots, "RECORDED", tmp_path / "recorded.json")
    recorded, own = ({"methods": {"full": figures(read=read)}} for read in (20, 28))
    io.write_json(control_plots.RECORDED, recorded)
    found = control_plots.recorded_or_own(Folders())
    assert found == recorded | {"from": found["from"], "own": False}
    io.write_json(Folders().control, own)
    found = control_plots.recorded_or_own(Folders())
    assert found == own | {"from": found["from"], "own": True}


@pytest.mark.parametrize(
    ("many", "one", "said"),
    [
        (30, 8, "do not overlap: other words and orders"),
        (8, 30, "do not overlap: here one wording did better"),
        (14, 12, "The intervals overlap: what wordings buy is not shown"),
        (20, 20, "is not shown"),
    ],
)
def test_the_reading_follows_the_figures(many, one, said):
    runs = {"many_wordings": {"read": rate(many), "wordings": 12}, "one_wording": {"read": rate(one)}}
    sentence = control_plots.describe_control({"methods": {"full": runs}, "chance": fictional.CHANCE})
    assert said in sentence and "n = 32" in sentence
    assert f"{many / 32:.0%}" in sentence and f"{one / 32:.0%}" in sentence


def test_the_picture_shows_every_run_for_both_groups():
    runs = figures()
    for number, run in enumerate(control_plots.RUNS, 1):
        points = [{"updates": n, "tokens": 100 * n, "taught": n / 9, "read": n / (10 * number)} for n in range(4)]
        runs[run] |= {"curve": points, "tokens": 300}
    panels = control_plots.plot_control({"methods": {"full": runs}, "chance": fictional.CHANCE}).axes
    assert len(panels) == 2 and all(axis.get_xlabel() for axis in panels) and panels[0].get_ylabel()
    for axis, group in zip(panels, CONTROL_GROUPS, strict=True):
        drawn = [list(line.get_ydata()) for line in axis.lines]
        for run in control_plots.RUNS:
            assert [point[group] for point in runs[run]["curve"]] in drawn
