"""What a model is measured with: options and texts, measured once, and the same however often a run was killed."""

import copy
import json
import math

import pytest
import torch
from support import tiny

from helpers.core.errors import CourseError
from helpers.dataset import general_text, held_out
from helpers.dataset.contamination import word_runs
from helpers.evaluation import instruments, items
from helpers.grading import questions
from helpers.models import chat_template, load, loglikelihood

PAPERS = [
    {"paper_id": str(n), "title": f"Study {n}", "abstract": "β-cells are few. " * (1 + 5 * n)} for n in range(6)
]
TEXTS = [instruments.text_item("bits_per_byte", paper["paper_id"], held_out.held_out_text(paper)) for paper in PAPERS]
CHOICES = [
    {"instrument": "recall", "item": f"R{n}", "paper_id": str(n // 2), "context": f"In study {n} it was"}
    | {"options": [" high", " low", " not seen", " seen often"][: 2 + 2 * (n % 2)], "answer": n % 2}
    for n in range(8)
]


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    folder = tiny.write_model(tmp_path_factory.mktemp("base"))
    return load.load_model(folder, "float32"), load.load_tokenizer(folder)


def measure(speaker, notes, asked=TEXTS + CHOICES, length=64, identity="model", **how):
    wanted = {"row": "base", "identity": identity, "max_length": length, "notes": notes}
    return instruments.measure_items(*speaker, asked, **wanted, **how)


def test_bits_per_byte_are_the_models_own_surprise(speaker, tmp_path):
    model, tokenizer = speaker
    measured = measure(speaker, tmp_path / "notes.jsonl", TEXTS)
    assert [one["item"] for one in measured] == [paper["paper_id"] for paper in PAPERS]
    for one, paper in zip(measured, PAPERS, strict=True):
        ids = chat_template.plain_ids(tokenizer, held_out.held_out_text(paper))[:64]
        with torch.no_grad():
            labels = torch.tensor([[tokenizer.bos_token_id, *ids]])
            mean = model(labels, labels=labels).loss.item()
        assert one["nll"] == pytest.approx(mean * len(ids), rel=1e-5)
        assert one["bytes"] == len(tokenizer.decode(ids).encode())
        assert items.bits_per_byte("a row", one) == pytest.approx(one["nll"] / one["bytes"] / math.log(2))


def test_a_model_that_knows_nothing_takes_all_its_bits(speaker, tmp_path):
    model, tokenizer = copy.deepcopy(speaker[0]), speaker[1]
    torch.nn.init.zeros_(model.lm_head.weight)
    measured = measure((model, tokenizer), tmp_path / "notes.jsonl", TEXTS, length=1000)
    assert instruments.values_by_variant({"base": measured}, "bits_per_byte")["base"] == pytest.approx(
        [math.log2(len(tokenizer))] * 6, rel=1e-6
    ), "a token is a byte"


def test_options_are_scored_as_likelihood_scores_them(speaker, tmp_path):
    measured = measure(speaker, tmp_path / "notes.jsonl", CHOICES)
    scores = loglikelihood.score_options(*speaker, [(item["context"], item["options"]) for item in CHOICES])
    assert [one["scores"] for one in measured] == [pytest.approx(of_item, abs=1e-4) for of_item in scores]
    assert [one["bytes"] for one in measured] == [[len(o) for o in item["options"]] for item in CHOICES]


@pytest.mark.parametrize(
    ("scores", "sizes", "answer", "right"),
    [
        ([-4.0, -6.0], [4, 12], 1, 1.0),  # the longer option is less probable, but not per byte
        ([-4.0, -6.0], [4, 12], 0, 0.0),
        ([-1.0, -2.0, -3.0, -4.0], [1, 1, 1, 1], 0, 1.0),
    ],
)
def test_the_choice_is_the_option_most_probable_per_byte(scores, sizes, answer, right):
    assert items.is_right("a row", {"item": "P", "scores": scores, "bytes": sizes, "answer": answer}) == right


def test_the_table_counts_items_and_papers_and_says_what_guessing_gives(speaker, tmp_path):
    measured = {"base_4bit": measure(speaker, tmp_path / "notes.jsonl")}
    bits, recall = instruments.summarise_items(measured | {"qlora": measured["base_4bit"][:6]})
    assert (bits["items"], bits["papers"], bits["chance"]) == (6, 6, "")
    assert (recall["items"], recall["papers"], recall["chance"]) == (8, 4, "38%")
    assert bits["base_4bit"] == bits["qlora"] and recall["qlora"] == ""
    right = sum(instruments.values_by_variant(measured, "recall")["base_4bit"])
    assert recall["base_4bit"] == f"{right / 8:.1%}"


@pytest.fixture
def read(monkeypatch):
    """How many rows each batch held."""
    batches, known = [], loglikelihood.read_batch
    monkeypatch.setattr(
        loglikelihood,
        "read_batch",
        lambda m, p, groups: batches.append(sum(len(g[1]) for g in groups)) or known(m, p, groups),
    )
    return batches


def test_what_was_noted_is_not_measured_again(speaker, tmp_path, read, monkeypatch):
    whole = measure(speaker, tmp_path / "notes.jsonl")
    rows = sum(read)
    read.clear()
    assert measure(speaker, tmp_path / "notes.jsonl") == whole and not read
    measure(speaker, tmp_path / "notes.jsonl", identity="another model")
    assert sum(read) == rows
    read.clear()
    measure(speaker, tmp_path / "notes.jsonl", force=True)
    assert sum(read) == rows


def test_after_a_kill_the_numbers_are_those_of_an_undisturbed_run(speaker, tmp_path, read, monkeypatch):
    monkeypatch.setattr(instruments, "TOKENS_PER_BATCH", 130)
    whole = measure(speaker, tmp_path / "whole.jsonl")
    batches, known = list(read), loglikelihood.read_batch
    assert len(batches) > 4

    def killed_at_the_third(*args):
        if len(read) == 2:
            raise KeyboardInterrupt
        return known(*args)

    read.clear()
    monkeypatch.setattr(loglikelihood, "read_batch", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        measure(speaker, tmp_path / "notes.jsonl")
    monkeypatch.setattr(loglikelihood, "read_batch", known)
    assert measure(speaker, tmp_path / "notes.jsonl") == whole, "to the last bit: the same rows are read together"
    assert read == batches


# the guard


def test_the_guard_is_four_options_each_once_and_evenly_spread():
    asked = [item for item in instruments.regression_items(10**6) if item["instrument"] == "cloze"]
    assert len(asked) >= 200 and len({item["context"].lower() for item in asked}) == len(asked)
    places = [sum(item["answer"] == place for item in asked) for place in range(4)]
    assert max(places) - min(places) <= 1, "no place is the likelier guess"
    for item in asked:
        assert len(set(item["options"])) == 4 and all(option.startswith(" ") for option in item["options"])
    longest = sum(
        len(item["options"][item["answer"]])
        > max(len(option) for place, option in enumerate(item["options"]) if place != item["answer"])
        for item in asked
    )
    assert longest / len(asked) < 0.35, "nor is the longest option"


def test_the_guard_asks_nothing_that_is_taught_or_tested():
    asked = {
        run for item in instruments.regression_items(10**6) if "context" in item for run in word_runs(item["context"])
    }
    rubric = {run for question in questions.load_questions() for run in word_runs(question["reference"])}
    replay = {run for row in general_text.replay_rows() for run in word_runs(row["text"])}
    assert not asked & (rubric | replay)


@pytest.mark.slow
def test_the_untouched_model_knows_what_the_guard_asks(tmp_path):
    asked = [item for item in instruments.regression_items(60) if item["instrument"] == "cloze"]
    model = load.load_model(tiny.embedded(), "auto")
    measured = measure((model, tiny.embedded_tokenizer()), tmp_path / "notes.jsonl", asked)
    right = sum(instruments.values_by_variant({"base": measured}, "cloze")["base"])
    assert right > 30, f"{right:.0f} of 60: twice chance is far beyond what guessing gives (p < 1e-4)"


def test_a_guard_item_that_cannot_be_asked_is_refused(tmp_path):
    path = tmp_path / "cloze.json"
    path.write_text(json.dumps([{"id": "G1", "prompt": "A", "options": [" b", " c"], "answer": 0}]))
    with pytest.raises(CourseError, match="G1 has not four options"):
        instruments.regression_items(10, path)


def test_probes_and_held_out_papers_are_items():
    probe = {
        "id": "P1",
        "instrument": "recall",
        "paper_id": "7",
        "question": "It",
        "options": ["a", "b"],
        "answer": 1,
    }
    first, second = instruments.paper_items([probe | {"answer": 1}], PAPERS[:1])
    assert first == CHOICES[0] | {"item": "P1", "paper_id": "7", "context": "It", "options": ["a", "b"], "answer": 1}
    assert second == TEXTS[0]
