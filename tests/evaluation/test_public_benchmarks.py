"""Public benchmarks: what is asked of whom, and that what we keep of the harness's records is what it meant."""

import json
import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest
import torch
from huggingface_hub import constants
from support.fake_datasets import MEDMCQA, MEDQA, DataSets
from support.loopback import TOPIC, closed_port
from support.tiny import model_for, write_model

from helpers.core.errors import CourseError
from helpers.core.paths import ROOT
from helpers.evaluation import public_benchmarks
from helpers.models import load

ALL = ",".join(public_benchmarks.BENCHMARKS)
RECORDS = {  # of lm_eval 0.4.13, asked on the tiny random model; what is not read left out
    "pubmedqa": {
        "arguments": [["Abstract: …\nAnswer:", " yes"], ["…", " no"], ["…", " maybe"]],
        "target": "yes",
        "filtered_resps": [[-27.228389739990234, False], [-15.756875991821289, False], [-42.75575256347656, False]],
    },
    "medqa": {
        "arguments": [["Question: …\nAnswer:", " A"], ["…", " B"], ["…", " C"], ["…", " D"]],
        "target": 1,
        "filtered_resps": [[-14.148, False], [-16.899, False], [-12.29, False], [-13.842, False]],
    },
    "arc_easy": {
        "arguments": [["Question: …\nAnswer:", " gold"], ["…", " salt"], ["…", " carbon dioxide"]],
        "target": 2,
        "filtered_resps": [[-29.106874465942383, False], [-31.44843292236328, False], [-86.37748718261719, False]],
    },
    "wikitext": {"bits_per_byte": [-272.22216796875, 46]},
}


@pytest.fixture
def hub(monkeypatch):
    """A Hub on loopback that this process takes for the real one, and lm_eval as if installed."""
    with DataSets() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        monkeypatch.setattr(public_benchmarks, "find_spec", lambda name: True)
        yield running


def test_nothing_happens_unless_asked_for(tmp_path):
    names = public_benchmarks.check_benchmarks("", "http://127.0.0.1:1")
    asked = {"row": "qlora", "topic": TOPIC, "training_ids": (), "identity": "", "notes": tmp_path / "notes.jsonl"}
    assert public_benchmarks.measure_benchmarks(None, None, names, **asked) == names == []
    assert "lm_eval" not in sys.modules and not asked["notes"].exists()


def test_names_are_read_as_they_are_typed(hub):
    assert public_benchmarks.check_benchmarks(" medqa, arc_easy,,medqa ", hub.address) == ["medqa", "arc_easy"]


def test_an_unknown_name_is_refused_with_those_there_are(hub):
    with pytest.raises(CourseError, match=r"(?s)'bioasq'.*pubmedqa, medqa, medmcqa, arc_easy, wikitext"):
        public_benchmarks.check_benchmarks("medqa,bioasq", hub.address)


def test_without_the_harness_the_line_that_installs_it_is_shown(hub, monkeypatch):
    monkeypatch.setattr(public_benchmarks, "find_spec", lambda name: None)
    with pytest.raises(CourseError, match="needs lm_eval") as refused:
        public_benchmarks.check_benchmarks("medqa", hub.address)
    assert refused.value.way_out == f"{sys.executable} -m pip install '{public_benchmarks.HARNESS}'"


def test_the_extra_is_what_that_line_installs():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["public"] == [public_benchmarks.HARNESS]


def test_an_address_that_the_libraries_do_not_know_is_refused(hub):
    with pytest.raises(CourseError, match=r"HF_ENDPOINT='http://elsewhere'.*does not reach"):
        public_benchmarks.check_benchmarks("medqa", "http://elsewhere")


def test_a_hub_that_does_not_answer_is_named(hub, monkeypatch):
    nowhere = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    with pytest.raises(CourseError, match=f"the data of medqa, could not be fetched from {nowhere}: ConnectError"):
        public_benchmarks.check_benchmarks("medqa", nowhere)


def test_a_data_set_that_is_gone_is_named(hub):
    del hub.sets["allenai/ai2_arc"]
    with pytest.raises(CourseError, match=r"allenai/ai2_arc, the data of arc_easy, could not be fetched.*404"):
        public_benchmarks.check_benchmarks("medqa,arc_easy", hub.address)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Question: A woman has ptosis.\nA. Stroke\nB. Myasthenia gravis\nAnswer:", True),
        ("Methotrexate in Rheumatoid Arthritis", True),
        ("Coeliac and celiac disease", True),
        ("A murmur of MS is heard", False),
        ("A man has chest pain on exertion.", False),
        ("", False),
    ],
)
def test_an_item_is_asked_if_it_names_the_topic_in_words(text, named):
    assert public_benchmarks.names_topic(TOPIC, text) is named


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("pubmedqa", {"bytes": [1, 1, 1], "answer": 0}),
        ("medqa", {"bytes": [1, 1, 1, 1], "answer": 1}),
        ("arc_easy", {"bytes": [4, 4, 14], "answer": 2}),
    ],
)
def test_what_is_kept_of_a_choice(name, kept):
    scores = [score for score, _ in RECORDS[name]["filtered_resps"]]
    assert public_benchmarks.keep_sample(name, RECORDS[name]) == {"scores": scores, **kept}


def test_what_is_kept_of_a_page():
    assert public_benchmarks.keep_sample("wikitext", RECORDS["wikitext"]) == {"nll": 272.22216796875, "bytes": 46}


def examine(place):
    """Ask all five benchmarks of the tiny model; for a process of its own that knows HF_ENDPOINT from the start.

    Writes run.json: rows, the harness's records, what was asked anew, and where the harness finds its data.
    """
    place, records = Path(place), {}
    folder = write_model(place / "model")
    model, tokenizer = load.load_model(folder, "bfloat16"), load.load_tokenizer(folder)
    names, ask = public_benchmarks.check_benchmarks(ALL, os.environ["HF_ENDPOINT"]), public_benchmarks.ask_benchmark

    def noted(reader, task, places):
        found = ask(reader, task, places)
        records.setdefault(task.config.task, []).extend(found)
        return found

    def measure(model, names, identity):
        asked = {"row": "qlora", "topic": TOPIC, "training_ids": {"91000002"}, "notes": place / "notes.jsonl"}
        return public_benchmarks.measure_benchmarks(model, tokenizer, names, identity=identity, **asked)

    with mock.patch.object(public_benchmarks, "ask", noted), mock.patch.object(public_benchmarks, "CHUNK", 1):
        rows = measure(model, names, "one")
    with mock.patch.object(public_benchmarks, "ask", side_effect=AssertionError("asked again")):
        again = measure(model, names, "one")
    adapted = model_for("qlora", folder)
    with adapted.disable_adapter():
        below = measure(adapted, ["medqa"], "its base")
    for name, weights in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, generator=torch.Generator().manual_seed(0))
    found = {
        "rows": rows,
        "again": again,
        "records": records,
        "base": below,
        "adapted": measure(adapted, ["medqa"], "adapted"),
        "paths": {name: public_benchmarks.load_benchmark(name, TOPIC, ())[0].DATASET_PATH for name in names},
        "alone": [alone(model, tokenizer, *pair) for pair in records["medqa_4options"][0]["arguments"]],
    }
    (place / "run.json").write_text(json.dumps(found, default=str))


def alone(model, tokenizer, context, option):
    """Log-probability of an option after its context, without the harness."""
    before, whole = (torch.tensor([tokenizer(text).input_ids]) for text in (context, context + option))
    with torch.inference_mode():
        logs = model(whole[:, :-1]).logits[0].float().log_softmax(-1)
    return sum(logs[n - 1, whole[0, n]].item() for n in range(before.shape[1], whole.shape[1]))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What `examine` found, with a Hub on loopback."""
    if not find_spec("lm_eval"):
        pytest.skip(f"lm_eval is not installed: {sys.executable} -m pip install '{public_benchmarks.HARNESS}'")
    place = tmp_path_factory.mktemp("public")
    code = "import sys, test_public; test_public.examine(sys.argv[1])"
    with DataSets() as hub:
        here = {"HF_ENDPOINT": hub.address, "HF_HOME": str(place / "hf")}
        here["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        subprocess.run([sys.executable, "-c", code, str(place)], env=os.environ | here, check=True)
    return json.loads((place / "run.json").read_text())


def test_the_items_asked_are_of_the_topic_and_in_no_training_row(run):
    asked = {}
    for row in run["rows"]:
        asked.setdefault(row["instrument"], []).append(row["paper_id"])
    assert asked == {
        "pubmedqa": ["91000001"],
        "medqa": ["test-00000", "test-00002"],
        "medmcqa": ["q0"],
        "arc_easy": ["Mercury_0", "Mercury_1"],
        "wikitext": ["0", "1"],
    }


def test_right_is_what_the_harness_calls_right(run):
    records = [record for name in run["records"] for record in run["records"][name]]
    for row, record in zip(run["rows"], records, strict=True):
        if "scores" in row:
            each = [score / size for score, size in zip(row["scores"], row["bytes"], strict=True)]
            right = each.index(max(each)) == row["answer"]
            assert right == record["acc_norm" if row["instrument"] == "arc_easy" else "acc"], row
        else:
            assert [-row["nll"], row["bytes"]] == record["bits_per_byte"]


def test_the_answers_are_the_data_sets_own(run):
    right = [right for *_, right in (MEDQA[0], MEDQA[2], MEDMCQA[0])]
    assert [row["answer"] for row in run["rows"] if row["instrument"].startswith("med")] == right
    assert [row["answer"] for row in run["rows"] if row["instrument"] == "arc_easy"] == [1, 2]


def test_scores_are_log_probabilities_after_the_prompt(run):
    first = next(row for row in run["rows"] if row["instrument"] == "medqa")
    assert first["scores"] == pytest.approx(run["alone"], abs=1e-4)


def test_what_is_noted_is_not_asked_again(run):
    assert run["again"] == run["rows"]


def test_an_adapter_is_heard_and_can_be_switched_off(run):
    assert [row["item"] for row in run["base"]] == [row["item"] for row in run["adapted"]]
    for below, above in zip(run["base"], run["adapted"], strict=True):
        assert below["scores"] != pytest.approx(above["scores"], abs=0.1)


def test_the_hub_is_asked_for_the_data_that_the_harness_reads(run):
    assert run["paths"] == {name: benchmark.dataset for name, benchmark in public_benchmarks.BENCHMARKS.items()}
