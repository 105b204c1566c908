"""The bench: every side trains on the same tokens, what is counted is right, and finished repeats are kept."""

import sys
from types import SimpleNamespace

import pytest
from support import tiny

from helpers.bench import baselines, bench, inputs, worker
from helpers.core import io, paths
from helpers.core.errors import CourseError
from helpers.core.paths import Folders, base_model_folder
from helpers.dataset.build import as_text
from helpers.models import load, loglikelihood
from helpers.training import batches

pytestmark = pytest.mark.alone  # it times trainings

KNOBS = {
    "MODEL_NAME": "tiny",
    "QLORA_BATCH_SIZE": 2,
    "FULL_BATCH_SIZE": 2,
    "GRAD_ACCUMULATION": 2,
    "MAX_SEQ_LENGTH": 256,
    "DTYPE": "float32",
    "LORA_DROPOUT": 0.0,
}
WORDS = [f"{name}={value}" for name, value in KNOBS.items()]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A repository's folders with the tiny model and rows in them, running text among them."""
    monkeypatch.setattr(paths, "BASE_MODELS", tmp_path / "base")
    monkeypatch.setattr(Folders, "data", tmp_path / "data")
    monkeypatch.setattr(Folders, "reports", tmp_path / "reports")
    monkeypatch.setattr("helpers.bench.bench.fetch_model", lambda settings: None)
    tiny.write_model(base_model_folder("tiny"))
    named = {"source": "PubMed", "title": ""}
    rows = [{**row, **named, "text": as_text(row["prompt"], row["completion"])} for row in tiny.ROWS]
    io.write_json(tmp_path / "data" / "training_data.json", rows)
    held_out = [{"paper_id": row["paper_id"], "rows": [row]} for row in rows[:4]]
    io.write_json(tmp_path / "data" / "heldout.json", held_out)
    monkeypatch.setattr(worker, "NEW_TOKENS", 4)
    monkeypatch.setattr(worker, "SECONDS_OF_PRODUCTS", 0.01)
    monkeypatch.setenv("PROFILE", "cpu")
    return tmp_path


def resolved():
    return tiny.settings.load_settings(KNOBS, environment={"ENV_FILE": "", "PROFILE": "cpu"})[0]


def job_of(task):
    return worker.job(task, resolved(), inputs.bench_inputs(resolved(), Folders("")))


def trainer_of(side, job, place):
    return baselines.trainer(
        side, job.base, job.rows, job.updates, job.config, job.tokenizer, job.lora, place / f"out-{side}"
    )


@pytest.mark.parametrize("side", baselines.SIDES)
@pytest.mark.parametrize("task", worker.FLOPS_PER_WEIGHT)
def test_trl_is_fed_our_tokens_in_our_updates(task, side, place):
    job = job_of(task)
    fed = list(trainer_of(side, job, place).get_train_dataloader())
    per_update = job.config.accumulation
    assert len(job.updates) >= 3
    assert len(fed) == per_update * len(job.updates)
    for number, update in enumerate(job.updates):
        theirs = []
        for batch in fed[number * per_update : (number + 1) * per_update]:
            for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
                theirs.append((ids[mask == 1].tolist(), labels[mask == 1].tolist()[1:]))
                assert mask.tolist() == sorted(mask.tolist(), reverse=True), "padding is on the right"
        packed = batches.collate_packed(job.rows, update, "cpu")
        lengths = packed["cu_seq_lens_q"].diff().tolist()
        ours = list(zip(*(packed[name][0].split(lengths) for name in ("input_ids", "labels")), strict=True))
        assert theirs == [(ids.tolist(), labels.tolist()[1:]) for ids, labels in ours]


def test_other_tokens_are_refused(place):
    with pytest.raises(CourseError, match="other tokens than this course in 1 of 2 rows"):
        baselines.require_same_loss([[1, 2], [3]], [[1, 2], [4]])
    with pytest.raises(CourseError, match="other tokens"):
        baselines.require_same_loss([[1, 2]], [[1, 2], [4]])


@pytest.mark.parametrize("task", worker.FLOPS_PER_WEIGHT)
def test_all_sides_make_the_same_training(task, place):
    given_rows = inputs.bench_inputs(resolved(), Folders(""))
    runs = {side: worker.run(task, side, resolved(), given_rows) for side in worker.SIDES[task]}
    job = worker.job(task, resolved(), given_rows)
    sizes = batches.row_lengths(job.rows)
    timed = sum(sizes[row] for update in job.updates[1:] for row in update)
    total = sum(w.numel() for w in load.load_model(job.base, "float32").parameters())
    for side, run in runs.items():
        assert run["count"] == timed, side
        assert run["flops"] == {"full": 6, "qlora": 4}[task] * total * timed
        assert len(run["pace"]) == len(job.updates)
        assert run["seconds"] == pytest.approx(sum(update["seconds"] for update in run["pace"][1:]))
        assert run["result"] == pytest.approx(runs["ours"]["result"], rel=bench.SAME), side
        assert run["result"] < run["untrained"], side
        assert run["untrained"] == runs["ours"]["untrained"]


def test_answers_and_probes_count_the_same_things(place):
    given_rows = inputs.bench_inputs(resolved(), Folders(""))
    answered = {side: worker.run("answers", side, resolved(), given_rows)["count"] for side in ("ours", "one_by_one")}
    assert answered["ours"] == answered["one_by_one"] > 0
    probed = {side: worker.run("probes", side, resolved(), given_rows) for side in worker.SIDES["probes"]}
    assert probed["ours"]["count"] == len(given_rows["items"]) > 0
    assert probed["ours"]["result"] == pytest.approx(probed["one_by_one"]["result"], rel=1e-4)


def test_options_read_alone_have_the_probabilities_of_options_read_together(place):
    folder = base_model_folder("tiny")
    model, tokenizer = load.load_model(folder, "float32"), load.load_tokenizer(folder)
    items = [("lupus is", [" rare", " an illness of many organs"]), ("", ["a", "bc"])]
    together, alone = (f(model, tokenizer, items) for f in (loglikelihood.score_options, baselines.score_one_by_one))
    for a, b in zip(together, alone, strict=True):
        assert a == pytest.approx(b, abs=1e-3)


def test_llama_cpp_says_why_it_does_not_run(monkeypatch):
    monkeypatch.setattr(baselines, "find_spec", lambda name: None)
    assert "not installed" in baselines.why_no_llama("smollm2-135m")
    monkeypatch.setattr(baselines, "find_spec", lambda name: SimpleNamespace())
    assert baselines.why_no_llama("smollm2-135m") == ""
    assert "no GGUF file of other/model" in baselines.why_no_llama("other/model")


def test_a_missing_trl_names_the_remedy(monkeypatch, place, capsys):
    monkeypatch.setitem(sys.modules, "trl", None)
    assert bench.main(WORDS) == 1
    said = capsys.readouterr().err
    assert "TRL, which is not installed" in said and "-m pip install 'trl" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["QLORA_LR"], "is not NAME=value"),
        (["QLORA_RL=1"], "did you mean QLORA_LR"),
        (["REPEATS=none"], "REPEATS='none'"),
        (["REPEATS=0"], "REPEATS='0'"),
        (["one", "qlora", "theirs"], "there is no run qlora theirs"),
    ],
)
def test_a_wrong_word_is_named(words, said, capsys):
    assert bench.main(words) == 1
    assert said in capsys.readouterr().err


def test_rows_are_whole_updates_and_too_few_are_refused(place, monkeypatch):
    monkeypatch.setattr(inputs, "TOKENS", 1)
    assert len(inputs.bench_inputs(resolved(), Folders(""))["qlora"]) == 3 * 4, "one update warms up, two are timed"
    rows = io.read_json(place / "data" / "training_data.json")
    io.write_json(place / "data" / "training_data.json", rows[:11])
    with pytest.raises(CourseError, match="11 training rows are too few"):
        inputs.bench_inputs(resolved(), Folders(""))


def test_without_rows_of_ones_own_the_sample_is_read(place):
    for name in ("training_data", "heldout"):
        (place / "data" / f"{name}.json").unlink()
    found = inputs.bench_inputs(resolved(), Folders(""))
    assert all(row["completion"] for row in found["qlora"] + found["held_out"])
    assert not {row["completion"] for row in found["qlora"]} & {row["completion"] for row in found["held_out"]}


@pytest.fixture
def counted(monkeypatch):
    """Runs that take no time: (task, side) of each is noted, and what they measure is made up."""
    made = []

    def run(task, side, words):
        made.append((task, side))
        if len(made) == getattr(run, "stop_at", None):
            raise KeyboardInterrupt
        seconds = {"ours": 1.0, "stock": 4.0}.get(side, 2.0) * (1 + made.count((task, side)) / 100)
        measured = {"seconds": seconds, "count": 100, "memory": 2**30, "result": 2.0 + (side == "tuned") / 10}
        trained = {"untrained": 3.0, "flops": 6e9, "peaks": {"bfloat16": [1e10, 2e10], "float32": [1e10, 1e10]}}
        return measured | (trained if task in worker.FLOPS_PER_WEIGHT else {})

    run.made = made
    monkeypatch.setattr(bench, "run_apart", run)
    monkeypatch.setattr(baselines, "find_spec", lambda name: None)
    return run


def test_the_report_says_what_was_measured(place, counted, capsys):
    assert bench.main([*WORDS, "REPEATS=5"]) == 0
    report = io.read_json(place / "reports" / "bench.json")
    assert set(report) == {"machine", "measured"}
    assert {"processor", "cores", "threads", "device", "memory", "peaks", "python", "versions"} == set(
        report["machine"]
    )
    lines = {line["name"]: line for line in report["measured"]}
    assert len(lines) == sum(len(sides) - 1 for sides in worker.SIDES.values())
    for line in lines.values():
        needed = {"name", "task", "unit", "ours", "reference", "ratio", "repeats", "spread", "memory", "runs"}
        assert needed <= set(line)
        assert line["repeats"] == 5 == len(line["runs"]["ours"])
        assert line["not_run"] or line["ratio"] == pytest.approx(line["ours"] / line["reference"])
    stocked = lines["full: ours against stock"]
    assert stocked["ratio"] == pytest.approx(4, rel=0.03)
    assert stocked["share_of_peak"]["ours"]["bfloat16"] == pytest.approx(6e9 / 2e10, rel=0.03)
    assert stocked["spread"]["ours"] == pytest.approx(0.02, rel=0.05)
    assert stocked["result"]["same"] and not lines["full: ours against tuned"]["result"]["same"]
    unable = lines["answers: ours against llama.cpp"]
    assert unable["reference"] is unable["ratio"] is None and "not installed" in unable["not_run"]
    assert "interquartile range" in capsys.readouterr().out


def test_sides_take_turns_and_finished_repeats_are_kept(place, counted):
    counted.stop_at = 12
    with pytest.raises(KeyboardInterrupt):
        bench.run_bench([*WORDS, "REPEATS=2"])
    sides = len({*counted.made[:11]})
    assert counted.made[:3] == [("qlora", side) for side in worker.SIDES["qlora"]]
    del counted.stop_at
    bench.run_bench([*WORDS, "REPEATS=2"])
    assert len(counted.made) == 2 * sides + 1, "only the interrupted run is made again"
    bench.run_bench([*WORDS, "REPEATS=2"])
    assert len(counted.made) == 2 * sides + 1
    bench.run_bench([*WORDS, "REPEATS=2", "FORCE=all"])
    assert len(counted.made) == 4 * sides + 1


def test_a_run_in_its_own_process(place, monkeypatch):
    io.write_json(bench.input_file(Folders("")), inputs.bench_inputs(resolved(), Folders("")))
    program = (
        "import sys; from pathlib import Path; from helpers.core import paths; place = Path(sys.argv.pop(1))\n"
        "paths.BASE_MODELS = place / 'base'; paths.Folders.reports = place / 'reports'\n"
        "from helpers.bench import bench; sys.exit(bench.main(sys.argv[1:]))"
    )
    monkeypatch.setattr(bench, "COMMAND", (sys.executable, "-c", program, str(place)))
    measured = bench.run_apart("qlora", "ours", WORDS)
    assert measured["memory"] > 100 * 2**20 and measured["result"] < measured["untrained"]
    with pytest.raises(CourseError, match=r"the run qlora theirs failed: there is no run qlora theirs"):
        bench.run_apart("qlora", "theirs", WORDS)
