"""From rows to a trained model, from a model to its exam: and what is said where there is no room for either."""

from types import SimpleNamespace

import psutil
import pytest
import torch
from peft import LoraConfig
from support import tiny

from helpers.core import io, paths, stage_of
from helpers.core.errors import CourseError
from helpers.core.paths import Folders, base_model_folder
from helpers.evaluation import instruments, items, preregistration, run
from helpers.models import load as models
from helpers.papers import paper
from helpers.report import weight_changes
from helpers.training import finetune, loop, planner
from helpers.training import model as trainable

pytestmark = pytest.mark.slow  # it trains and examines

NAME = "tester/tiny"
GIB = 2**30
QUESTIONS = [
    {"id": n, "category": "c", "difficulty": "easy", "question": f"What does study {n} say?"} for n in (1, 2)
]


def row(n, subject="TNF-α"):
    prompt, completion = f"What does study {n} say?", f"{subject} ≥ {n} µg/L is high."
    words = {"text": f"User: {prompt}\n\nAssistant: {completion}", "prompt": prompt, "completion": completion}
    return words | {"source": "PubMed", "paper_id": str(n), "title": f"Study {n}"}


def probe(n):
    asked = {"question": f"On TNF: … ≥ {n} µg/L is", "options": ["high", "low"], "answer": 0}
    return {"id": f"P{n}", "instrument": ("recall", "transfer", "reading")[n % 3], "paper_id": str(n), **asked}


@pytest.fixture
def open_stage(tmp_path, monkeypatch):
    """Opens a stage in a repository of its own, in which stages 1 and 3 are done: open_stage(SETTING=value)."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "BASE_MODELS", tmp_path / "models" / "base")
    folders = Folders()
    tiny.write_model(base_model_folder(NAME))
    io.write_json(folders.training_data, [row(n) for n in range(12)])
    unseen = [
        {"paper_id": str(n), "title": f"Study {n}", "abstract": "Lupus. " * n, "rows": [row(n)]} for n in (20, 21)
    ]
    io.write_json(folders.held_out, unseen)
    io.write_json(folders.placebo_data, [row(n, "Bridges") for n in range(30, 36)])
    io.write_json(folders.probes, [probe(n) for n in range(6)])
    about = {"source": "PubMed", "title": "A study of TNF", "abstract": [{"text": "TNF-α was high."}]}
    paper.write_papers(folders.papers, [paper.Paper(paper_id=str(n), **about) for n in range(12)])

    def opened(**values):
        quick = {"MODEL_NAME": NAME, "DTYPE": "float32", "MAX_NEW_TOKENS": 4, "FULL_LR": 1e-3, "QLORA_LR": 1e-2}
        quick |= {"MAX_ITEMS": 10, "CONTROLS": "off"}
        return SimpleNamespace(settings=tiny.resolve(**quick | values), folders=folders, force=False)

    return opened


def build(job):
    """The model that notebook 4 or 6 trains."""
    if job.declined:
        return None
    if job.recipe.method == "full":
        return finetune.load_trainable(job)
    return trainable.add_adapter(finetune.load_frozen(job), LoraConfig(**tiny.LORA), seed=1)


def trained(stage, method):
    job, seen = finetune.prepare_finetuning(stage, method), []
    return job, finetune.run_finetuning(job, build(job), lambda history, total: seen.append(history)), seen


@pytest.mark.parametrize(("method", "base"), [("qlora", "base_4bit"), ("full", "base_bf16")])
def test_a_model_is_trained_and_sits_the_exam_beside_the_one_it_came_from(open_stage, method, base):
    stage = open_stage(WHICH=method)
    job, history, seen = trained(stage, method)
    assert history.updates and seen and job.declined == "" and job.out.is_dir()
    assert history.held_out[-1]["loss"] < history.held_out[0]["loss"]

    io.write_json(stage_of(6).receipt(stage.folders), {"status": "done", "reason": ""})
    candidate = run.open_candidate(stage)
    assert (candidate.row, candidate.rows[0], candidate.absent) == (method, base, "")
    answers = run.answer_questions(candidate, QUESTIONS)
    assert answers == io.read_json(stage.folders.results(method))
    assert [a["model"] for a in answers] == [method] * 2 and all(len(a["samples"]) == 1 for a in answers)
    assert stage.folders.results("base_bf16").exists() == (method == "full")

    measured = run.measure_variants(candidate)
    assert set(measured) == set(candidate.rows)
    for name in measured:
        assert measured[name] == io.read_jsonl(stage.folders.items_of(name))
    bits = instruments.values_by_variant(measured, "bits_per_byte")
    assert list(bits) == [base, method] and all(len(values) == 2 for values in bits.values())
    assert sum(bits[method]) < sum(bits[base]), "it predicts such papers better than before"
    for name in ("recall", "transfer", "reading", "cloze", "general_bits"):
        assert {base, method} <= set(instruments.values_by_variant(measured, name))

    change = (weight_changes.adapter_change if method == "qlora" else weight_changes.full_change)(job)
    assert set(change) == {f"{kind}_proj" for kind in ("down", "gate", "k", "o", "q", "up", "v")}
    assert all(len(layers) == 2 and all(0 < size < 1 for size in layers) for layers in change.values())


@pytest.fixture
def adapted(open_stage):
    """A candidate of notebook 5 whose adapter says something."""
    stage = open_stage(WHICH="qlora")
    trained(stage, "qlora")
    return run.open_candidate(stage)


def test_without_its_adapter_the_candidate_is_the_untouched_model(adapted):
    ids = torch.arange(20, 60)[None]
    untouched = run.open_candidate(adapted_session(adapted)).four_bit("base_4bit")
    with torch.inference_mode():
        expected = untouched(ids).logits
        with adapted.sitting("base_4bit") as base:
            assert torch.equal(base(ids).logits, expected)
        with adapted.sitting("qlora") as model:
            assert not torch.equal(model(ids).logits, expected)
        for row in run.UNTOUCHED:
            with adapted.sitting(row) as base:
                assert torch.equal(base(ids).logits, expected), "and so it stays, whoever sat there in between"


def adapted_session(candidate):
    return SimpleNamespace(settings=candidate.settings, folders=candidate.folders, force=False)


def test_adapters_take_turns_on_one_base(open_stage):
    stage = open_stage(WHICH="qlora", CONTROLS="placebo", SEEDS=2)
    job, history, _ = trained(stage, "qlora")
    done = finetune.train_other_variants(job, history, LoraConfig(**tiny.LORA))
    assert list(done) == ["placebo_qlora", "qlora_s43"]
    read = [history.tokens, *(other.tokens for other in done.values())]
    largest = max(update["tokens"] for other in done.values() for update in other.updates)
    assert max(read) - min(read) <= largest, "as many tokens, to within an update"
    assert done["qlora_s43"].updates != history.updates, "in another order"
    records = {row: io.read_json(stage.folders.model(row) / "training.json") for row in ("qlora", *done)}
    assert {row: record["recipe"]["seed"] for row, record in records.items()} == {
        "qlora": 42,
        "placebo_qlora": 42,
        "qlora_s43": 43,
    }
    ids, logits = torch.arange(20, 60)[None], {}
    candidate = run.open_candidate(stage)
    for _ in range(2):
        for row in ("qlora", "placebo_qlora", "base_4bit", "qlora_s43"):
            with candidate.sitting(row) as model, torch.inference_mode():
                logits.setdefault(row, []).append(model(ids).logits)
    assert all(torch.equal(first, second) for first, second in logits.values())
    assert len({str(first) for first, _ in logits.values()}) == 4
    alone = models.load_adapter(models.dequantise(models.load_model(job.base, "nf4", "auto", "float32")), job.out)
    with torch.inference_mode():
        assert torch.equal(alone(ids).logits, logits["qlora"][0])


def test_controls_sit_the_exam_too(open_stage):
    stage = open_stage(WHICH="qlora", CONTROLS="full")
    job, history, _ = trained(stage, "qlora")
    finetune.train_other_variants(job, history, LoraConfig(**tiny.LORA))
    candidate = run.open_candidate(stage)
    run.answer_questions(candidate, QUESTIONS)
    measured = run.measure_variants(candidate)
    assert list(measured) == ["base_4bit", "base_rag", "qlora", "placebo_qlora"]
    assert set(items.item_values("base_rag", measured["base_rag"])) == {"recall", "transfer"}
    names = [items.item_values(row, measured[row]).keys() for row in ("qlora", "placebo_qlora")]
    assert names[0] == names[1]
    again = io.read_json(stage.folders.results("base_aa"))
    seed = candidate.settings.SEED
    with candidate.sitting("base_4bit") as model:
        how = {"row": "base_4bit", "identity": "x", "max_new_tokens": 4, "notes": stage.folders.notes / "x"}
        first = run.ask_questions(model, candidate.tokenizer, QUESTIONS, samples=1, seed=seed, **how)
    assert [a["response"] for a in again] == [a["response"] for a in first], "greedy: the same"
    assert [a["samples"] for a in again] != [a["samples"] for a in first], "sampled: other dice"
    read = candidate.before("base_rag")("What about TNF?")
    assert read.count("A study of TNF\nTNF-α was high.\n\n") == 2 and candidate.before("qlora")("What?") == ""


@pytest.mark.parametrize(
    ("method", "names"), [("qlora", ["tester--tiny"]), ("full", ["tester--tiny", "full_finetuned_model"])]
)
def test_a_notebook_loads_each_model_once(open_stage, monkeypatch, method, names):
    stage = open_stage(WHICH=method)
    trained(stage, method)
    io.write_json(stage_of(6).receipt(stage.folders), {"status": "done", "reason": ""})
    loads, load = [], run.load_model
    monkeypatch.setattr(run, "load_model", lambda place, *how: loads.append(place.name) or load(place, *how))
    candidate = run.open_candidate(stage)
    run.answer_questions(candidate, QUESTIONS)
    run.measure_variants(candidate)
    assert candidate.trained() is candidate.trained() and loads == names


def set_chosen_by(candidate, papers):
    record = candidate.folders.model("qlora") / "training.json"
    said = io.read_json(record)
    assert "chosen_by" in said["history"], "trained.save writes it here"
    io.write_json(record, said | {"history": said["history"] | {"chosen_by": papers}})


@pytest.mark.parametrize(("instrument", "chosen"), [("bits_per_byte", "20"), ("general_bits", "general-002")])
def test_texts_that_chose_the_checkpoint_do_not_test_it(adapted, capsys, instrument, chosen):
    everything = run.measure_variants(adapted)
    assert "left out" not in capsys.readouterr().out
    set_chosen_by(adapted, [chosen])
    assert run.measure_variants(adapted) == {
        row: [one for one in measured if one["item"] != chosen] for row, measured in everything.items()
    }
    texts = sum(one["instrument"] == instrument for one in everything["qlora"])
    said = f"1 of {texts} texts of {instrument} chose the checkpoint and are left out\n"
    assert capsys.readouterr().out.count(said) == 1
    set_chosen_by(adapted, [one["item"] for one in everything["qlora"] if one["instrument"] == instrument])
    with pytest.raises(CourseError, match=f"all {texts} texts of {instrument} chose the weights of qlora"):
        run.measure_variants(adapted)


def test_the_untouched_model_is_asked_and_reads_no_papers(open_stage):
    stage = open_stage(WHICH="base")
    candidate = run.open_candidate(stage)
    assert [a["model"] for a in run.answer_questions(candidate, QUESTIONS)] == ["base_4bit"] * 2
    place = stage.folders.results("base_4bit")
    assert place.name == "results_baseline.json" and place.exists()
    measured = run.measure_variants(candidate)
    assert set(items.item_values("base_4bit", measured["base_4bit"])) == {"cloze", "general_bits"}
    assert not stage.folders.items.exists(), "notebook 5 measures it again, beside the adapter"


def test_the_identity_of_a_model_is_its_weights(open_stage):
    stage = open_stage(WHICH="qlora")
    trained(stage, "qlora")
    candidate = run.open_candidate(stage)
    before = {row: candidate.identity(row) for row in ("base_4bit", "qlora")}
    assert len(set(before.values())) == 2
    trained(open_stage(WHICH="qlora", QLORA_LR=5e-3), "qlora")
    after = {row: run.open_candidate(stage).identity(row) for row in before}
    assert after["base_4bit"] == before["base_4bit"] and after["qlora"] != before["qlora"]


def test_other_rows_are_another_training(open_stage):
    stage = open_stage()
    _, first, _ = trained(stage, "full")
    rows = io.read_json(stage.folders.training_data)
    io.write_json(stage.folders.training_data, [row(99), *rows[1:]])
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
    assert job.declined.startswith(reason) and history == loop.History() and not seen
    assert not job.out.exists()
    io.write_json(stage_of(6).receipt(stage.folders), {"status": "skipped", "reason": job.declined})
    candidate = run.open_candidate(stage)
    assert candidate.absent == job.declined
    assert run.answer_questions(candidate, QUESTIONS) == [] and run.measure_variants(candidate) == {}
    assert not stage.folders.results("full").exists() and not stage.folders.items.exists()


def test_another_shape_of_adapter_is_another_training(open_stage):
    job = finetune.prepare_finetuning(open_stage(), "qlora")
    shapes = [
        finetune.adapter_shape(
            trainable.add_adapter(finetune.load_frozen(job), LoraConfig(**tiny.LORA | change), seed=1)
        )
        for change in ({}, {}, {"r": 8}, {"use_rslora": True}, {"target_modules": ["q_proj"]})
    ]
    assert shapes[0] == shapes[1] and len({str(shape) for shape in shapes}) == 4
    assert finetune.adapter_shape(finetune.load_frozen(job)) == {}


def test_rows_from_papers_of_the_test_are_refused_by_number(open_stage, tmp_path):
    own = tmp_path / "own.json"
    io.write_json(own, [row(1), row(20), row(3), row(21)])
    with pytest.raises(
        CourseError, match=r"TRAINING_DATA: 2 rows come from held-out papers \(first: row 2, paper 20\)"
    ):
        finetune.prepare_finetuning(open_stage(TRAINING_DATA=str(own)), "qlora")


def test_full_tuning_that_is_wanted_happens_whatever_the_plan_says(open_stage, monkeypatch):
    monkeypatch.setattr(planner, "available_memory", lambda: -psutil.Process().memory_info().rss)
    job = finetune.prepare_finetuning(open_stage(FULL_FINETUNE="on"), "full")
    assert not job.plan.fits and job.declined == ""
    with pytest.raises(CourseError, match=r"QLoRA does not fit: about .* GiB needed"):
        finetune.prepare_finetuning(open_stage(), "qlora")


def test_only_models_that_were_examined_are_evidence(open_stage):
    stage = open_stage(CONTROLS="placebo")
    statuses = {2: "done", 5: "done", 7: "skipped"}
    for number, status in statuses.items():
        same = {"settings": {"CONTROLS": "placebo", "SEEDS": 1, "SEED": 42}}
        io.write_json(stage_of(number).receipt(stage.folders), {"stage": str(number), "status": status, "key": same})
    for name in ("base_4bit", "base_rag", "qlora", "placebo_qlora", "full", "base_bf16", "qlora_s43"):
        io.write_json(stage.folders.results(name), [{"model": name}])
        io.write_jsonl(stage.folders.items_of(name), [{"row": name}])
    results, found = run.read_evidence(stage)
    examined = ["base_4bit", "base_rag", "qlora", "placebo_qlora"]
    assert results == {name: [{"model": name}] for name in examined}
    assert found == {name: [{"row": name}] for name in examined}, "what an earlier run left does not count"
    with pytest.raises(CourseError, match="2 was run with CONTROLS=placebo, and this notebook has CONTROLS=off"):
        run.read_evidence(open_stage(CONTROLS="off"))


def test_only_what_was_read_is_asked_for(open_stage):
    stage = open_stage(WHICH="qlora", TOKEN_BUDGET=300)
    job, history, _ = trained(stage, "qlora")
    planned = [row["paper_id"] for row in finetune.planned_rows(job)]
    assert [job.rows[n]["paper_id"] for n in history.read] == planned and 0 < len(planned) < 12
    asked = {
        item["item"] for item in run.items_for_stage(run.open_candidate(stage)) if item["instrument"] == "recall"
    }
    assert asked == {f"P{n}" for n in (0, 3) if str(n) in planned}


def test_rows_of_papers_that_nobody_collected_are_looked_up_themselves(open_stage, tmp_path):
    own = tmp_path / "own.json"
    io.write_json(own, [row(n, "Interferon") for n in range(50, 56)])
    stage = open_stage(WHICH="qlora", TRAINING_DATA=str(own))
    trained(stage, "qlora")
    candidate = run.open_candidate(stage)
    assert "Interferon" in candidate.before("base_rag")("What about interferon?")
    assert not any(item["instrument"] == "recall" for item in run.items_for_stage(candidate)), "others' papers"


def test_a_declaration_lasts_as_long_as_the_weights(open_stage):
    stage = open_stage()
    stage.stage = SimpleNamespace(name="4_qlora_finetune")
    job = finetune.prepare_finetuning(stage, "qlora")
    first = preregistration.preregister(stage, finetune.planned_rows(job))
    history = finetune.run_finetuning(job, build(job), declared=first["hash"])
    rows = io.read_json(stage.folders.training_data)
    assert history.declared == first["hash"]
    assert preregistration.check_preregistration(stage, rows) == first | {"kept": True, "made": 1}
    probes = io.read_json(stage.folders.probes)
    io.write_json(stage.folders.probes, [probes[0] | {"answer": 1}, *probes[1:]])
    again = preregistration.preregister(stage, finetune.planned_rows(job))
    assert finetune.run_finetuning(job, build(job), declared=again["hash"]).declared == first["hash"], (
        "they were not trained anew"
    )
    assert preregistration.check_preregistration(stage, rows) == first | {"kept": False, "made": 2}


# small parts


def test_changes_are_sorted_by_layer_and_kind():
    moved = {f"model.layers.{layer}.{name}": layer for layer in (10, 2, 0) for name in ("mlp.up_proj", "attn.q_proj")}
    found = weight_changes.by_layer(moved | {"model.layers.2.mlp.up_proj": 0.5})
    assert found == {"q_proj": [0, 2, 10], "up_proj": [0, 0.5, 10]} and list(found) == ["q_proj", "up_proj"]
    assert weight_changes.by_layer({}) == {}


def test_an_adapters_change_is_what_it_adds_to_a_matrix(open_stage):
    job, _, _ = trained(open_stage(LORA_R=4, LORA_ALPHA=8), "qlora")
    adapter = models.load_adapter(models.load_model(job.base, "float32"), job.out)
    layer = adapter.base_model.model.model.layers[1].mlp.up_proj
    expected = layer.get_delta_weight("default").norm() / layer.base_layer.weight.norm()
    assert weight_changes.adapter_change(job)["up_proj"][1] == pytest.approx(expected.item(), rel=1e-5)


def test_weights_are_read_from_one_file_or_several(tmp_path):
    model = models.load_model(tiny.write_model(tmp_path / "one"), "float32")
    model.save_pretrained(tmp_path / "several", max_shard_size="100KB")
    assert len(list((tmp_path / "several").glob("*.safetensors"))) > 2
    with weight_changes.Weights(tmp_path / "one") as one, weight_changes.Weights(tmp_path / "several") as several:
        assert one.names() == several.names()
        assert all(torch.equal(one.get(name), several.get(name)) for name in one.names())


@pytest.mark.parametrize(("tokens", "rows"), [(0, 4), (30, 4), (54, 5), (10**6, 7)])
def test_the_watched_rows_stay_within_their_share(tokens, rows):
    assert finetune.count_within([10] * 5 + [5, 5], tokens) == rows
    assert finetune.count_within([10, 10], tokens) == 2
