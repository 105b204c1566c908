"""How long a stage will take, told from receipts; and what is said where the time does not suffice."""

import pytest
from support import tiny

from helpers.core import Folders, io, stage_of
from helpers.core.errors import CourseError
from helpers.pipeline import estimates
from helpers.pipeline.estimates import Estimate, estimate_stage, require_time

TRAINING, EXAM, PAPERS = stage_of(4), stage_of(5), stage_of(3)


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    """An empty reports folder, and a recorded run in which training took 600 s and 60,000 tokens."""
    monkeypatch.setattr(estimates, "ROOT", tmp_path)
    monkeypatch.setattr(estimates, "RECORDED", tmp_path / "reports" / "recorded" / "receipts")
    monkeypatch.setattr("helpers.core.paths.ROOT", tmp_path)
    settings = {"MODEL_NAME": "smollm2-135m", "TOKEN_BUDGET": 60000, "CONTROLS": "off", "SEEDS": 1, "NO_LONGER": 1}
    write(TRAINING, "recorded", 600, settings, machine="another")
    return tmp_path / "reports"


def write(stage, run, seconds, settings=None, finished="2026-01-01", machine=None, **facts):
    machine = machine or estimates.machine_id()
    receipt = {"status": "done", "seconds": float(seconds), "finished": finished, "machine": machine}
    receipt |= {"key": {"settings": settings or {}}, **facts}
    io.write_json(Folders(run).reports / "receipts" / f"{stage.name}.json", receipt)


def settings(**values):
    return tiny.resolve(CONTROLS="off", TOKEN_BUDGET=30000, **values)


def test_nothing_known_is_said():
    assert estimate_stage(PAPERS, settings()) == Estimate()
    assert "nobody knows how long" in str(Estimate())


def test_the_recorded_run_is_scaled_and_not_called_sure():
    expected = estimate_stage(TRAINING, settings())
    assert (round(expected.seconds), expected.sure) == (round(15 + 585 / 2), False)
    assert str(expected).startswith("about 5 min, by the recorded run")
    assert estimate_stage(TRAINING, settings(MODEL_NAME="another/model")) == Estimate(), (
        "another model's time is no help"
    )


def test_this_machines_newest_receipt_in_any_run_wins_over_the_recorded_one():
    same = {"MODEL_NAME": "smollm2-135m", "TOKEN_BUDGET": 30000, "CONTROLS": "off", "SEEDS": 1}
    write(TRAINING, "", 100, same, finished="2026-01-02")
    write(TRAINING, "b", 200, same, finished="2026-01-03")
    write(TRAINING, "c", 9999, same, finished="2026-01-04", machine="another")
    write(TRAINING, "d", 9999, same | {"MODEL_NAME": "x/y"}, finished="2026-01-05")
    io.write_text(Folders("e").reports / "receipts" / f"{TRAINING.name}.json", "[" * 100_000)
    expected = estimate_stage(TRAINING, settings())
    assert (expected.seconds, expected.sure, str(expected)) == (200, True, "about 3 min, as it took here last time")
    twice = estimate_stage(TRAINING, settings(SEEDS=2))
    assert twice.seconds == 15 + 185 * 2 and "scaled from 3 min here" in str(twice)


def test_a_stage_that_found_its_work_done_does_not_teach_that_it_is_quick():
    write(
        TRAINING, "", 20, {"MODEL_NAME": "smollm2-135m", "TOKEN_BUDGET": 30000, "CONTROLS": "off"}, train_seconds=300
    )
    assert estimate_stage(TRAINING, settings()).seconds == 300


def test_an_exam_is_scaled_by_the_tokens_of_its_answers():
    write(EXAM, "", 115, {"MODEL_NAME": "smollm2-135m", "MAX_NEW_TOKENS": 16, "SAMPLES": 1, "CONTROLS": "off"})
    assert estimate_stage(EXAM, settings(MAX_NEW_TOKENS=32, SAMPLES=3)).seconds == 15 + 100 * 4


@pytest.mark.parametrize("limit", [None, 11])
def test_what_fits_is_not_mentioned(limit):
    assert require_time(TRAINING, Estimate(600, True, "x"), settings(TIME_LIMIT=limit), 30) == ""


def test_what_surely_does_not_fit_is_refused_with_what_would():
    with pytest.raises(CourseError) as error:
        require_time(TRAINING, Estimate(1200, True, "as it took"), settings(TIME_LIMIT=15, RUN="b"), 300)
    assert "takes about 20 min, as it took, and 10 min of TIME_LIMIT=15 minutes are left" in str(error.value)
    longer, smaller = error.value.way_out.split(", or ")
    others = {"make", "pipeline", "PROFILE=smoke", "CONTROLS=off", "RUN=b"}
    assert set(longer.split()) == {"TIME_LIMIT=25", "TOKEN_BUDGET=30000", *others}
    assert set(smaller.split()) == {"TIME_LIMIT=15", "TOKEN_BUDGET=13500", *others}


def test_what_fits_into_a_whole_limit_waits_for_the_next_command():
    with pytest.raises(CourseError, match="run the same command again: it begins with stage 3"):
        require_time(PAPERS, Estimate(600, True, "x"), settings(TIME_LIMIT=11), 300)


def test_what_is_not_sure_is_begun_with_a_warning():
    assert require_time(TRAINING, Estimate(1200), settings(TIME_LIMIT=1), 0) == "it may not fit into TIME_LIMIT"


def test_the_machine_in_a_receipt_is_no_name(monkeypatch):
    before = estimates.machine_id()
    monkeypatch.setattr("platform.node", lambda: "another")
    assert estimates.machine_id() == before and len(before) == 12
