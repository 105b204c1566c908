"""The sentence that code chooses: a win, a tie, a loss, too few papers, no full fine-tune, and what lies between."""

import re
from functools import cache

import pytest
from support.made_up import LOSS, PLACEBO_TOO, QUESTIONS, RATES, TIE, WIN, answers, choices, items, run, without

from helpers.evaluation import preregistration
from helpers.evaluation import verdict as verdict_module
from helpers.evaluation.scores import score_run
from helpers.evaluation.verdict import conclude

CASES = {
    "win": (WIN, 60, "better_than_placebo", "The model learned facts of its topic"),
    "tie": (TIE, 60, "no_difference", "No measurable difference: "),
    "loss": (LOSS, 60, "worse", "QLoRA training made the model worse: "),
    "too few papers": (WIN, 6, "too_few", "Too few papers to decide"),
    "without full": (without("full", "base_bf16"), 60, "better_than_placebo", "The model learned facts"),
    "without placebo": (without("placebo_qlora"), 60, "better_than_base", "QLoRA training took the model from"),
    "placebo as good": (PLACEBO_TOO, 60, "no_better_than_placebo", "QLoRA training took the model from"),
    "only the base": ({"base_4bit": 0.3}, 60, "nothing", "The declared outcome, recall after QLoRA training"),
}


@cache
def made(name):
    rates, papers, *_ = CASES[name]
    return run(rates, papers=papers)


def said(scores, start):
    return next(sentence for sentence in scores["verdict"]["sentences"] if sentence.startswith(start))


@pytest.mark.parametrize("name", CASES)
def test_code_and_headline(name):
    scores, (_, _, code, start) = made(name), CASES[name]
    headline = scores["verdict"]["headline"]
    assert (scores["verdict"]["code"], headline[: len(start)]) == (code, start)
    assert scores["conclusion"] == headline and headline.endswith(".") and "None" not in headline
    assert ("learned facts" in headline) == (code == "better_than_placebo")
    for sentence in scores["verdict"]["sentences"]:
        assert sentence.endswith(".") and not re.search(r"None|nan|\.\.|  |\{", sentence), sentence


@pytest.mark.parametrize("name", ["win", "tie", "loss", "placebo as good", "without placebo"])
def test_the_headline_has_its_numbers(name):
    scores = made(name)
    c, headline = scores["comparisons"][0], scores["conclusion"]
    for number in (c["mean_difference"], c["low"], c["high"]):
        assert f"{100 * number:+.1f}".replace("-", "−") in headline
    assert f"{100 * c['minimum_detectable_effect']:.1f} points" in headline and "180 items of 60 papers" in headline
    for row in ("base_4bit", "qlora"):
        assert f"{100 * scores['rows'][row]['measures']['recall']['mean']:.1f} %" in headline


def test_a_tie_says_what_would_have_gone_unseen():
    assert "would probably go unseen" in made("tie")["conclusion"]
    assert "would probably go unseen" not in made("win")["conclusion"]


def test_too_few_names_the_numbers():
    assert "18 items of 6 papers were asked" in made("too few papers")["conclusion"]
    assert "fewer than 7 papers" in made("too few papers")["conclusion"]
    assert run(WIN, papers=7)["verdict"]["code"] != "too_few"


def test_a_gain_that_the_correction_undoes_is_no_gain():
    """Nine of ten papers better and none worse but one: p = 0.021 alone, 0.064 as one of three."""
    right = {f"P{i}": float(i < 9) for i in range(10)}
    told = {}
    for row, answered in (("base_4bit", {p: 1 - r for p, r in right.items()}), ("qlora", right)):
        told[row] = [
            {"instrument": "recall", "item": p, "paper_id": p, "answer": 0, "bytes": [1, 1]}
            | {"scores": [-1.0, -2.0] if r else [-2.0, -1.0]}
            for p, r in answered.items()
        ]
    scores = score_run({}, QUESTIONS, told)
    c = scores["comparisons"][0]
    assert (c["gained"], c["lost"]) == (9, 1) and c["p_value"] == pytest.approx(22 / 1024) and c["low"] > 0
    assert scores["verdict"]["code"] == "no_difference" and c["verdict"] == "no measurable difference"
    assert "the interval leaves out zero, but corrected for 3 comparisons p = 0.064" in scores["conclusion"]


def test_the_family_is_told_with_corrected_p():
    scores = made("win")
    c = next(c for c in scores["comparisons"] if (c["instrument"], c["a"]) == ("recall", "full"))
    sentence = said(scores, "Recall, full − base_bf16: a gain")
    assert f"p = {c['p_value']:.2g}, corrected for 3 comparisons {c['p_holm']:.2g}" in sentence
    assert "Recall, full" not in str(made("without full")["verdict"]["sentences"])
    assert "full − base_bf16" in said(made("without full"), "Not compared")


def test_forgetting_is_seen_and_bounded():
    fell = run(WIN, guards={"qlora": {"cloze": 0.4, "general": 0.05}})
    sentence = said(fell, "Forgetting after QLoRA training")
    assert "plain knowledge got worse (−20.0 percentage points" in sentence
    assert "the prediction of general English got worse (+0.0" in sentence
    kept = said(made("win"), "Forgetting after QLoRA training")
    low = next(c["low"] for c in made("win")["comparisons"] if c["instrument"] == "cloze" and c["a"] == "qlora")
    assert "plain knowledge shows no measurable fall" in kept
    assert f"a loss of {-100 * low:.1f} points is not ruled out" in kept
    rose = run(WIN, guards={"qlora": {"cloze": 0.9, "general": -0.05}})
    assert said(rose, "Forgetting after QLoRA training").count("got better") == 2
    assert "any loss is ruled out" in said(rose, "Forgetting after QLoRA training")


def test_a_guard_on_which_hardly_an_item_changed_rules_nothing_out():
    found = dict.fromkeys(("n", "clusters"), 240) | {"instrument": "cloze", "a": "full", "b": "base_bf16"}
    found |= {"mean_difference": 1 / 240, "low": 0.0, "high": 0.009, "gained": 1, "lost": 0, "higher_is_better": True}
    found |= {"verdict": "no measurable difference", "minimum_detectable_effect": 0.033, "items": "items"}
    rows = {"base_bf16": {"measures": {"cloze": {"low": 0.9, "chance": 0.25}}}}
    sentence = verdict_module.guard(found, rows)
    assert "a loss below 3.3 points would probably go unseen" in sentence and "ruled out" not in sentence


def test_a_guard_at_chance_is_called_blind():
    at_chance = run(WIN, guards={row: {"cloze": 0.25} for row in WIN})
    assert "not above guessing here, so a fall could not show" in said(at_chance, "Forgetting after QLoRA")
    assert "guessing here" not in said(made("win"), "Forgetting after QLoRA")


def test_the_questions_say_what_they_cannot_show():
    scores = run(WIN, known={"qlora": 3})
    sentence = said(scores, "The 10 written questions, QLoRA training: no measurable difference")
    mde = next(c["minimum_detectable_effect"] for c in scores["comparisons"] if c["instrument"] == "rubric")
    assert "0.100 before, 0.300 after" in sentence and f"any difference below {mde:.2f}" in sentence
    assert "would shrink only the luck of the draw" in sentence
    assert "a gain" in said(run(WIN, known={"qlora": 9}), "The 10 written questions, QLoRA training")


def test_quantisation_is_not_training():
    sentence = said(run(WIN | {"base_bf16": 0.6}), "Quantisation is not training")
    assert "a gain in recall against itself in 4 bits, +30.0 percentage points" in sentence


def test_retrieval_is_the_rival():
    sentence = said(made("win"), "The rival without training")
    assert "answers 60.0 % of the recall items right" in sentence and "a loss, −10.0 percentage points" in sentence


@pytest.mark.parametrize("known, start", [(1, "Control passed"), (9, "Control failed")])
def test_the_model_against_itself(known, start):
    sample = [{"finish_reason": "stop", "tokens": 9, "thinking": ""}]
    results = {}
    for row, right in (("base_4bit", 1), ("base_aa", known)):
        given = answers(row, 1)
        replies = answers(row, right)
        results[row] = [
            one | {"samples": [sample[0] | {"response": reply["response"]}]}
            for one, reply in zip(given, replies, strict=True)
        ]
    scores = score_run(results, QUESTIONS, {"base_4bit": items("base_4bit", 0.3)})
    assert said(scores, start)
    c = next(c for c in scores["comparisons"] if c["a"] == "base_aa")
    assert (c["instrument"], c["role"]) == ("rubric_sampled", "control")


def test_a_changed_declaration_is_in_the_headline():
    scores = run(WIN, kept=False)
    assert scores["conclusion"].endswith("; but the declaration was changed after training, so this is exploratory.")
    assert said(scores, "The items, the rubrics or the rules are not those declared")
    assert said(run(WIN, kept=True), "The outcome, its test and its items are those")


def test_nothing_tested():
    assert conclude([], {}, skipped=[], seeds=[], kept=None)["headline"].startswith("Nothing could be compared")


def test_the_declaration_counts_what_will_be_read_and_is_sealed():
    probes = [
        {
            "id": one["item"],
            "instrument": "recall",
            "paper_id": one["paper_id"],
            "options": ["low", "high"],
            "answer": 1,
        }
        | {"question": f"From a paper on lupus: … item {one['item']} was"}
        for one in choices("qlora", "recall", RATES["qlora"], 20, 3)
    ]
    rows = [
        {"paper_id": probe["paper_id"], "completion": f"We saw that item {probe['id']} was high."} for probe in probes
    ]
    declared = preregistration.make_preregistration("abc", probes, rows)
    assert declared["items"] == {"recall": {"n": 60, "papers": 20}} and len(declared["family"]) == 3
    assert declared == preregistration.make_preregistration("abc", probes, rows) and len(declared["hash"]) == 64
    changes = [
        preregistration.make_preregistration("abd", probes, rows),
        preregistration.make_preregistration("abc", probes[1:], rows),
    ]
    changes.append(
        preregistration.make_preregistration("abc", [probes[0] | {"options": ["so", "high"]}, *probes[1:]], rows)
    )
    assert len({declared["hash"], *(one["hash"] for one in changes)}) == 4
    told = preregistration.describe_preregistration(declared)
    assert "qlora − base_4bit, on 60 items of 20 papers" in told[0] and "error rate of 5 %" in told[1]
    assert declared["hash"][:12] in told[-1] and all(sentence.endswith(".") for sentence in told)
    assert preregistration.make_preregistration("abc", probes, rows[:30])["items"]["recall"]["n"] == 30, (
        "what is not read is not asked"
    )


def test_a_rule_changed_in_the_code_changes_the_seal(monkeypatch):
    before = preregistration.make_preregistration("abc", [], [])["hash"]
    monkeypatch.setattr(preregistration, "ALPHA", 0.1)
    assert preregistration.make_preregistration("abc", [], [])["hash"] != before
    monkeypatch.undo()
    monkeypatch.setattr(preregistration, "hash_code", lambda *modules: "another grader")
    assert preregistration.make_preregistration("abc", [], [])["hash"] != before


@pytest.mark.parametrize(("verdict", "told"), [("worse", "it was worse than"), ("tie", "not measurably better than")])
def test_a_placebo_that_is_better_is_not_called_a_tie(verdict, told):
    rates = RATES | {"placebo_qlora": {"worse": 0.95, "tie": RATES["qlora"]}[verdict]}
    scores = run(rates)
    assert scores["verdict"]["code"] == "no_better_than_placebo" and told in scores["conclusion"]


def test_other_seeds_that_disagree_are_in_the_headline():
    scores = run(RATES | {"qlora_s43": 0.1, "qlora_s44": 0.12})
    assert "; other training seeds do not agree (" in scores["conclusion"]
    assert "do not agree" not in run(RATES | {"qlora_s43": RATES["qlora"]})["conclusion"]


def test_what_held_out_papers_gained_is_said():
    assert said(run(WIN), "On facts of papers held out of training, qlora − base_4bit")
