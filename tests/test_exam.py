"""From rows to a trained model, from a model to its exam: and what is said where there is no room for either."""

from types import SimpleNamespace

import psutil
import pytest
import tiny
import torch
from peft import LoraConfig

from helpers import changes, exam, files, held_out, models, paths, planner, trainable, training, tuning
from helpers.errors import CourseError
from helpers.paths import Folders, base_model
from helpers.stages import stage_of

NAME = "tester/tiny"
GIB = 2**30
QUESTIONS = [
    {"id": n, "category": "c", "difficulty": "easy", "question": f"What does study {n} say?"} for n in (1, 2)
]


def row(n):
    prompt, completion = f"What does study {n} say?", f"TNF-α ≥ {n} µg/L is high."
    words = {"text": f"User: {prompt}\n\nAssistant: {completion}", "prompt": prompt, "completion": completion}
    return words | {"source": "PubMed", "paper_id": str(n), "title": f"Study {n}"}


@pytest.fixture
def open_stage(tmp_path, monkeypatch):
    """Opens a stage in a repository of its own, in which stages 1 and 3 are done: open_stage(SETTING=value)."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "BASE_MODELS", tmp_path / "models" / "base")
    folders = Folders()
    tiny.write_model(base_model(NAME))
    files.write_json(folders.training_data, [row(n) for n in range(12)])
    papers = [
        {"paper_id": str(n), "title": f"Study {n}", "abstract": "Lupus. " * n, "rows": [row(n)]} for n in (20, 21)
    ]
    files.write_json(folders.held_out, papers)

    def opened(**values):
        quick = {"MODEL_NAME": NAME, "DTYPE": "float32", "MAX_NEW_TOKENS": 4, "FULL_LR": 1e-3, "QLORA_LR": 1e-2}
        return SimpleNamespace(settings=tiny.resolve(**quick | values), folders=folders)

    return opened


def build(job):
    """The model that notebook 4 or 6 trains."""
    if job.declined:
        return None
    if job.recipe.method == "full":
        return tuning.load_trainable(job)
    return trainable.add_adapter(tuning.load_frozen(job), LoraConfig(**tiny.LORA), seed=1)


def trained(stage, method):
    job, seen = tuning.prepare(stage, method), []
    return job, tuning.train(job, build(job), lambda history, total: seen.append(history)), seen


@pytest.mark.parametrize(("method", "base"), [("qlora", "base_4bit"), ("full", "base_bf16")])
def test_a_model_is_trained_and_sits_the_exam_beside_the_one_it_came_from(open_stage, method, base):
    stage = open_stage(WHICH=method)
    job, history, seen = trained(stage, method)
    assert history.updates and seen and job.declined == "" and job.out.is_dir()
    assert history.held_out[-1]["loss"] < history.held_out[0]["loss"]

    files.write_json(stage_of(6).receipt(stage.folders), {"status": "done", "reason": ""})
    candidate = exam.candidate(stage)
    assert (candidate.row, candidate.base_row, candidate.absent) == (method, base, "")
    answers = exam.answer(candidate, QUESTIONS)
    assert answers == files.read_json(stage.folders.results(method))
    assert [a["model"] for a in answers] == [method] * 2
    assert stage.folders.results("base_bf16").exists() == (method == "full")

    bits = exam.read_papers(candidate)
    assert list(bits) == [base, method] and all(len(values) == 2 for values in bits.values())
    assert sum(bits[method]) < sum(bits[base]), "it predicts such papers better than before"
    for name in bits:
        items = files.read_jsonl(stage.folders.items / f"{name}.jsonl")
        assert [held_out.bits_per_byte([item]) for item in items] == bits[name]

    change = (changes.adapter_change if method == "qlora" else changes.full_change)(job)
    assert set(change) == {f"{kind}_proj" for kind in ("down", "gate", "k", "o", "q", "up", "v")}
    assert all(len(layers) == 2 and all(0 < size < 1 for size in layers) for layers in change.values())


@pytest.fixture
def adapted(open_stage):
    """A candidate of notebook 5 whose adapter says something."""
    stage = open_stage(WHICH="qlora")
    trained(stage, "qlora")
    return exam.candidate(stage)


def test_without_its_adapter_the_candidate_is_the_untouched_model(adapted):
    ids = torch.arange(20, 60)[None]
    untouched = adapted.load("base_4bit")
    with torch.inference_mode():
        expected = untouched(ids).logits
        with adapted.sitting("base_4bit") as base:
            assert torch.equal(base(ids).logits, expected)
        with adapted.sitting("qlora") as model:
            assert not torch.equal(model(ids).logits, expected)
        with adapted.sitting("base_4bit") as base:
            assert torch.equal(base(ids).logits, expected), "and so it stays, whoever sat there in between"


@pytest.mark.parametrize(("method", "names"), [("qlora", ["qlora"]), ("full", ["base_bf16", "full"])])
def test_a_notebook_loads_each_model_once(open_stage, monkeypatch, method, names):
    stage = open_stage(WHICH=method)
    trained(stage, method)
    files.write_json(stage_of(6).receipt(stage.folders), {"status": "done", "reason": ""})
    loads, load = [], exam.Candidate.load
    monkeypatch.setattr(exam.Candidate, "load", lambda self, row: loads.append(row) or load(self, row))
    candidate = exam.candidate(stage)
    exam.answer(candidate, QUESTIONS)
    exam.read_papers(candidate)
    assert candidate.trained() is candidate.trained() and loads == names


def set_chosen_by(candidate, papers):
    record = candidate.folder / "training.json"
    said = files.read_json(record)
    assert "chosen_by" in said["history"], "trained.save writes it here"
    files.write_json(record, said | {"history": said["history"] | {"chosen_by": papers}})


def test_papers_that_chose_the_checkpoint_do_not_test_it(adapted, capsys):
    everything = exam.read_papers(adapted)
    assert "left out" not in capsys.readouterr().out
    set_chosen_by(adapted, ["20"])
    assert exam.read_papers(adapted) == {row: values[1:] for row, values in everything.items()}
    assert capsys.readouterr().out.count("1 of 2 held-out papers chose the checkpoint and are left out\n") == 1
    for row in everything:
        assert [item["item"] for item in files.read_jsonl(adapted.folders.items / f"{row}.jsonl")] == ["21"]
    set_chosen_by(adapted, ["20", "21"])
    with pytest.raises(CourseError, match="all 2 held-out papers chose the weights of qlora"):
        exam.read_papers(adapted)


def test_the_untouched_model_is_asked_and_reads_no_papers(open_stage):
    stage = open_stage(WHICH="base")
    candidate = exam.candidate(stage)
    assert [a["model"] for a in exam.answer(candidate, QUESTIONS)] == ["base_4bit"] * 2
    assert stage.folders.results("base").name == "results_baseline.json" and stage.folders.results("base").exists()
    assert exam.read_papers(candidate) == {}


def test_the_identity_of_a_model_is_its_weights(open_stage):
    stage = open_stage(WHICH="qlora")
    trained(stage, "qlora")
    candidate = exam.candidate(stage)
    before = {row: candidate.identity(row) for row in ("base_4bit", "qlora")}
    assert len(set(before.values())) == 2
    trained(open_stage(WHICH="qlora", QLORA_LR=5e-3), "qlora")
    after = {row: exam.candidate(stage).identity(row) for row in before}
    assert after["base_4bit"] == before["base_4bit"] and after["qlora"] != before["qlora"]


def test_other_rows_are_another_training(open_stage):
    stage = open_stage()
    _, first, _ = trained(stage, "full")
    rows = files.read_json(stage.folders.training_data)
    files.write_json(stage.folders.training_data, [row(99), *rows[1:]])
    _, second, _ = trained(stage, "full")
    assert first.updates != second.updates
    _, third, _ = trained(stage, "full")
    assert third.updates == second.updates


@pytest.mark.parametrize(
    ("wanted", "reason"), [("off", "FULL_FINETUNE=off"), ("auto", "all weights do not fit: about")]
)
def test_where_full_tuning_is_declined_nobody_sits_the_exam(open_stage, monkeypatch, wanted, reason):
    monkeypatch.setattr(planner, "available_memory", lambda: -psutil.Process().memory_info().rss)
    stage = open_stage(WHICH="full", FULL_FINETUNE=wanted)
    job, history, seen = trained(stage, "full")
    assert job.declined.startswith(reason) and history == training.History() and not seen
    assert not job.out.exists()
    files.write_json(stage_of(6).receipt(stage.folders), {"status": "skipped", "reason": job.declined})
    candidate = exam.candidate(stage)
    assert candidate.absent == job.declined
    assert exam.answer(candidate, QUESTIONS) == [] and exam.read_papers(candidate) == {}
    assert not stage.folders.results("full").exists() and not stage.folders.items.exists()


def test_another_shape_of_adapter_is_another_training(open_stage):
    job = tuning.prepare(open_stage(), "qlora")
    shapes = [
        tuning.adapter_shape(trainable.add_adapter(tuning.load_frozen(job), LoraConfig(**tiny.LORA | change), seed=1))
        for change in ({}, {}, {"r": 8}, {"use_rslora": True}, {"target_modules": ["q_proj"]})
    ]
    assert shapes[0] == shapes[1] and len({str(shape) for shape in shapes}) == 4
    assert tuning.adapter_shape(tuning.load_frozen(job)) == {}


def test_rows_from_papers_of_the_test_are_refused_by_number(open_stage, tmp_path):
    own = tmp_path / "own.json"
    files.write_json(own, [row(1), row(20), row(3), row(21)])
    with pytest.raises(
        CourseError, match=r"TRAINING_DATA: 2 rows come from held-out papers \(first: row 2, paper 20\)"
    ):
        tuning.prepare(open_stage(TRAINING_DATA=str(own)), "qlora")


def test_full_tuning_that_is_wanted_happens_whatever_the_plan_says(open_stage, monkeypatch):
    monkeypatch.setattr(planner, "available_memory", lambda: -psutil.Process().memory_info().rss)
    job = tuning.prepare(open_stage(FULL_FINETUNE="on"), "full")
    assert not job.plan.fits and job.declined == ""
    with pytest.raises(CourseError, match=r"QLoRA does not fit: about .* GiB needed"):
        tuning.prepare(open_stage(), "qlora")


def test_only_models_that_were_examined_are_evidence(open_stage):
    stage = open_stage()
    statuses = {5: "done", 7: "skipped"}
    for number, status in statuses.items():
        files.write_json(stage_of(number).receipt(stage.folders), {"status": status})
    for name in ("base", "qlora", "full", "base_bf16"):
        files.write_json(stage.folders.results(name), [{"model": name}])
    for name in ("base_4bit", "qlora", "full", "base_bf16"):
        files.write_jsonl(stage.folders.items / f"{name}.jsonl", [{"row": name}])
    results, items = exam.evidence(stage.folders)
    assert results == {"base_4bit": [{"model": "base"}], "qlora": [{"model": "qlora"}]}
    assert items == {name: [{"row": name}] for name in results}, "what an earlier run left does not count"


# small parts


def test_changes_are_sorted_by_layer_and_kind():
    moved = {f"model.layers.{layer}.{name}": layer for layer in (10, 2, 0) for name in ("mlp.up_proj", "attn.q_proj")}
    found = changes.by_layer(moved | {"model.layers.2.mlp.up_proj": 0.5})
    assert found == {"q_proj": [0, 2, 10], "up_proj": [0, 0.5, 10]} and list(found) == ["q_proj", "up_proj"]
    assert changes.by_layer({}) == {}


def test_an_adapters_change_is_what_it_adds_to_a_matrix(open_stage):
    job, _, _ = trained(open_stage(LORA_R=4, LORA_ALPHA=8), "qlora")
    adapter = models.load_adapter(models.load(job.base, "float32"), job.out)
    layer = adapter.base_model.model.model.layers[1].mlp.up_proj
    expected = layer.get_delta_weight("default").norm() / layer.base_layer.weight.norm()
    assert changes.adapter_change(job)["up_proj"][1] == pytest.approx(expected.item(), rel=1e-5)


def test_weights_are_read_from_one_file_or_several(tmp_path):
    model = models.load(tiny.write_model(tmp_path / "one"), "float32")
    model.save_pretrained(tmp_path / "several", max_shard_size="100KB")
    assert len(list((tmp_path / "several").glob("*.safetensors"))) > 2
    with changes.Weights(tmp_path / "one") as one, changes.Weights(tmp_path / "several") as several:
        assert one.names() == several.names()
        assert all(torch.equal(one.get(name), several.get(name)) for name in one.names())


@pytest.mark.parametrize(("tokens", "rows"), [(0, 4), (30, 4), (54, 5), (10**6, 7)])
def test_the_watched_rows_stay_within_their_share(tokens, rows):
    assert tuning.within([10] * 5 + [5, 5], tokens) == rows
    assert tuning.within([10, 10], tokens) == 2
