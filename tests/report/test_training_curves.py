"""Pictures of a training, and what is said of them."""

import warnings
from itertools import combinations

import numpy as np
import pytest
from support import tiny

from helpers.core import progress
from helpers.report import training_curves
from helpers.training.run_record import History

MANY = 24


def history(held_out, train=(3.0, 2.0), updates=MANY, chosen=None, guard=None, pace=True):
    """A training with these held-out losses at even distances; the training loss moves along a line."""
    losses = np.linspace(*train, updates)
    steps = [round(place * updates / max(1, len(held_out) - 1)) for place in range(len(held_out))]
    looks = [{"step": step, "loss": loss} for step, loss in zip(steps, held_out, strict=True)]
    for look, value in zip(looks, guard or [], strict=False):
        look["guard"] = value
    rows = [{"step": n + 1, "tokens": 100 + n, "loss": losses[n], "learning_rate": 1e-4} for n in range(updates)]
    measured = [{"step": n + 1, "seconds": 0.5, "memory": 2**30} for n in range(updates)]
    return History(rows, looks, chosen=updates if chosen is None else chosen, pace=measured if pace else [])


FALLING = (3.0, 2.8, 2.6, 2.4)
FLAT = (3.0, 2.6, 2.5, 2.5 - training_curves.WOBBLE / 2)
RISING = (3.0, 2.5, 2.6, 2.7)


@pytest.mark.parametrize(
    ("losses", "train", "said"),
    [
        (RISING, (3.0, 2.0), "over-fits: the held-out loss rose by 0.200 since update 8"),
        ((2.5, 2.6, 2.7, 2.8), (3.0, 2.0), "over-fits: the held-out loss rose by 0.300 since update 0"),
        (RISING, (2.0, 3.0), "the training loss did not fall"),
        ((2.5, 2.6, 2.7, 2.8), (2.0, 3.0), "the training loss did not fall"),
        (FALLING, (3.0, 2.0), "still falling at the end, by 0.200 nats"),
        (FLAT, (3.0, 2.0), "flat"),
        ((3.0, 2.5, 2.5 + training_curves.WOBBLE / 2), (3.0, 2.0), "flat"),
        ((3.0, 2.5), (3.0, 2.0), "Too few looks at the held-out rows (2)"),
    ],
)
def test_the_trend_is_named(losses, train, said):
    assert said in training_curves.describe_trend(history(losses, train))


def test_what_the_training_loss_did_is_measured_since_the_minimum():
    """A training loss that fell before the minimum of the held-out loss, and not after it, is no memorising."""
    seen = history((3.0, 2.7, 2.5, 2.6, 2.7), (2.0, 2.0))
    for update in seen.updates[:6]:
        update["loss"] = 4.0
    assert "did not fall" in training_curves.describe_trend(seen)
    for update in seen.updates[18:]:
        update["loss"] = 1.5
    assert "while the training loss fell by 0.500" in training_curves.describe_trend(seen)


def test_which_weights_were_kept_and_why():
    guard = [3.0, 3.1, 3.2, 3.3]
    assert "update 24 of 24 were kept, the last: nothing was chosen" in training_curves.describe_curves(
        history(RISING)
    )
    by_held_out = training_curves.describe_curves(history(RISING, chosen=8), "held_out")
    assert "update 8 of 24 were kept: there the held-out loss was lowest" in by_held_out
    by_guard = training_curves.describe_curves(history(RISING, chosen=0, guard=guard), "guard")
    assert "update 0 of 24 were kept: there the loss on general text was lowest" in by_guard
    assert training_curves.describe_curves(History()) == "Nothing was trained."


HISTORIES = {
    "nothing": History(),
    "before the first update": history((3.0,), updates=0, guard=[3.0]),
    "one update": history((3.0,), updates=1),
    "two updates": history((3.0, 2.9, 2.8), updates=2, guard=[3.2, 3.2, 3.2]),
    "under way": history(FALLING, guard=[3.0, 3.0, 3.01, 3.02], chosen=-1),
    "over-fitted": history(RISING, guard=[2.5, 2.6, 2.7, 2.71], chosen=8),
    "all lines end in one place": history((2.0, 2.0, 2.0), (2.0, 2.0), guard=[2.0] * 3),
    "read from disk": history(FLAT, pace=False),
    "large": history(FALLING, updates=400),
}


def words(picture):
    """Every text beside the ticks: labels, titles, notes."""
    for axis in picture.axes:
        yield from (axis.xaxis.label, axis.yaxis.label, axis.title, *axis.texts)


@pytest.mark.parametrize("seen", HISTORIES.values(), ids=HISTORIES)
def test_every_history_can_be_drawn_and_read(seen):
    """Without a warning, with named axes, every word inside the picture and none over another."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = training_curves.plot_training(seen)
        picture.draw_without_rendering()
    labels = {axis.get_ylabel() for axis in picture.axes}
    assert labels == {"loss (nats per graded token)", "learning rate", "tokens/s", "peak memory (GiB)"}
    boxes = [word.get_window_extent() for word in words(picture) if word.get_text() and word.get_visible()]
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]
    assert all(picture.bbox.x0 <= box.x0 and box.x1 <= picture.bbox.x1 for box in boxes)


def test_the_curves_lie_over_the_tokens_read():
    picture = training_curves.plot_training(HISTORIES["over-fitted"])
    loss = picture.axes[0]
    read = np.cumsum([100 + n for n in range(MANY)])
    raw, _, held_out, guard, *_, ring = loss.lines
    assert list(raw.get_xdata()) == list(read)
    assert list(held_out.get_xdata()) == list(guard.get_xdata()) == [0, read[7], read[15], read[23]]
    assert list(held_out.get_ydata()) == list(RISING)
    assert list(ring.get_xdata()) == [read[7]]
    assert "kept: update 8" in [text.get_text() for text in loss.texts]
    assert not [
        text
        for text in training_curves.plot_training(HISTORIES["under way"]).axes[0].texts
        if "kept" in text.get_text()
    ]
    speed = next(axis for axis in picture.axes if axis.get_ylabel() == "tokens/s")
    assert list(speed.lines[0].get_ydata()) == [(100 + n) / 0.5 for n in range(MANY)]


def test_a_running_mean_looks_back_only():
    assert list(training_curves.running_mean([])) == []
    assert list(training_curves.running_mean([1.0, 3.0])) == [1.0, 2.0]
    assert training_curves.running_mean([0.0] * 10 + [5.0] * 10)[[9, 10, 19]] == pytest.approx([0, 1, 5])


@pytest.mark.parametrize(("rate", "shown"), [(0, "0"), (1e-4, "1e-4"), (0.00015, "1.5e-4"), (2.0, "2e0")])
def test_rates_are_short(rate, shown):
    assert training_curves.format_rate(rate) == shown


class Clock:
    """A clock that a test sets, and a display that takes time and counts."""

    def __init__(self, cost=0.0):
        self.now, self.cost, self.shown = 1000.0, cost, []

    def monotonic(self):
        return self.now

    def display(self, picture):
        self.now += self.cost
        self.shown.append(picture)

    update = display


@pytest.mark.parametrize("cost", [0.1, 1.0])
@pytest.mark.parametrize("between_looks", [1, 500])
def test_drawing_takes_a_fiftieth_of_the_time_at_most(monkeypatch, cost, between_looks):
    """Ten minutes of updates of a tenth of a second, with a look after every one or every fifty seconds."""
    clock, live, seen = Clock(cost), training_curves.LiveCurves(), history((3.0,), updates=1)
    monkeypatch.setattr(training_curves, "time", clock)
    monkeypatch.setattr(training_curves, "plot_training", lambda seen: len(seen.held_out))
    live.handle = clock
    for done in range(6000):
        if done % between_looks == 0:
            seen.held_out.append({"step": 0, "loss": 3.0})
        live(seen, 10_000)
        clock.now += 0.1
    drawings = len(clock.shown)
    assert cost * (drawings - 1) <= 600 / training_curves.REST
    assert drawings >= 600 / (max(training_curves.SECONDS_BETWEEN_DRAWINGS, training_curves.REST * cost) + cost) - 1
    assert between_looks == 1 or cost > 0.5 or set(clock.shown) == set(range(2, 14)), "every look is drawn"


def test_looks_and_the_end_are_drawn_at_once(monkeypatch):
    """Updates that take no time are not drawn; looks are, and with a drawing that takes long the end still is."""
    for cost, expected in ((0.0, [0, 8, 16, 24]), (1.0, [0, 24])):
        clock, live, whole = Clock(cost), training_curves.LiveCurves(), history(FALLING)
        monkeypatch.setattr(training_curves, "time", clock)
        live.handle = clock
        for done in range(MANY + 1):
            if done:
                live(History(whole.updates[:done], [x for x in whole.held_out if x["step"] < done]), MANY)
            live(History(whole.updates[:done], [x for x in whole.held_out if x["step"] <= done]), MANY)
        assert [len(picture.axes[0].lines[0].get_xdata()) for picture in clock.shown] == expected


def test_a_real_training_ends_in_a_whole_picture(tmp_path):
    clock, live = Clock(), training_curves.LiveCurves()
    live.handle = clock
    seen = tiny.fit("full", tiny.write_model(tmp_path / "base"), tmp_path, show=live)
    last = clock.shown[-1].axes[0]
    assert len(last.lines[0].get_xdata()) == len(seen.updates) > 2
    assert f"kept: update {seen.chosen}" in [text.get_text() for text in last.texts]
    assert training_curves.describe_curves(seen).endswith("nothing was chosen by looking (EARLY_STOPPING=off).")


def test_replay_is_drawn_with_what_it_costs():
    """A mean over the trainings of one ratio, every training as a dot, the untouched model as a line."""
    rows = [
        {"method": "qlora", "ratio": ratio, "held_out": loss, "guard": 3.0, "seconds": 60}
        for ratio, loss in ((0.5, 2.4), (0.0, 2.2), (0.0, 2.0))
    ]
    picture = training_curves.plot_replay_effect(rows, {"qlora": {"held_out": 2.6, "guard": 2.9}})
    picture.draw_without_rendering()
    mean, dots, untouched = picture.axes[0].lines
    assert (list(mean.get_xdata()), list(mean.get_ydata())) == ([0.0, 0.5], pytest.approx([2.1, 2.4]))
    assert sorted(dots.get_ydata()) == [2.0, 2.2, 2.4]
    assert set(untouched.get_ydata()) == {2.6}
    boxes = [word.get_window_extent() for word in words(picture) if word.get_text()]
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]


def test_what_was_resumed_does_not_shorten_the_time_left(monkeypatch):
    """Begun again at 50 of 100: ten seconds for ten of them leave forty for the other forty."""
    clock, line = Clock(), progress.ProgressLine()
    monkeypatch.setattr(progress, "time", clock)
    line.handle = clock
    line.show("updates", 50, 100)
    clock.now += 10
    line.show("updates", 60, 100, "· loss 2.00")
    first, second = (shown.data for shown in clock.shown)
    assert "left" not in first
    assert "60 of 100 · 0:10, 0:40 left · loss 2.00" in second
