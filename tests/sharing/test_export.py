"""What make export writes: whole, checked, loadable elsewhere, and free of pickles, paths and publishers' texts."""

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import bitsandbytes.functional as bnb
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from support import experiment, tiny

from helpers.core import io as files
from helpers.core import paths, stage_of
from helpers.core.errors import CourseError
from helpers.core.fingerprint import fingerprint_files
from helpers.core.paths import ROOT, Folders, relative_path
from helpers.dataset import held_out
from helpers.evaluation.scores import score_run
from helpers.models import download, load, merge
from helpers.pipeline import provenance
from helpers.report import format, model_card
from helpers.report.recorded import LEFT_OUT
from helpers.sharing import export

ABSTRACT = (
    "Anti-TNF treatment of sixty patients with active disease lowered the score by three points in twelve weeks."
)
PICKLE = pickle.dumps(SimpleNamespace(weights=[1.0, 2.0]))
LETTERS = pickle.dumps({"weights": [1, 2]}, protocol=0)
WITHOUT = """
import sys
for name in ("peft", "bitsandbytes"):
    sys.modules[name] = None
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of a tiny model: base, both trainings, invented answers and items, their scores and cards."""
    place = tmp_path_factory.mktemp("finished")
    base = tiny.write_model(place / "models" / "base" / "tester--tiny")
    with elsewhere(place) as folders:
        for row in ("qlora", "full"):
            tiny.fit(row, base, place / row, out=folders.model(row), epochs=4, learning_rate=1e-2)
        answers, items = experiment.evidence(0.4, papers=6)
        answers["qlora"][0]["response"] = f"As we know: {ABSTRACT.upper()}"
        for row, found in answers.items():
            files.write_json(folders.results(row), found)
        for row, found in items.items():
            files.write_jsonl(folders.items_of(row), found)
        section = {"label": "RESULTS", "text": ABSTRACT}
        paper = {"paper_id": "34000001", "source": "PubMed", "title": "A title", "abstract": [section]}
        files.write_jsonl(folders.papers, [paper])
        files.write_json(folders.held_out, [{"title": f"Paper {n}", "abstract": ABSTRACT} for n in range(8)])
        found = score_run(answers, experiment.ASKED, items, seed=42)
        files.write_json(folders.scores, found)
        rows = [{"paper_id": "34000001", "source": "PubMed", "title": "A title"}] * len(tiny.ROWS)
        model_card.write_cards(folders, found, rows)
        write_receipts(folders)
    return place


def write_receipts(folders):
    """Receipts of the stages behind both exports, as far as the export reads them."""
    left = {
        2: [folders.results("base_4bit")],
        3: [folders.papers],
        4: [folders.model("qlora")],
        5: [folders.results("qlora"), folders.items_of("base_4bit"), folders.items_of("qlora")],
        6: [folders.model("full")],
        7: [*map(folders.results, ("base_bf16", "full")), *map(folders.items_of, ("base_bf16", "full"))],
        8: [folders.scores, folders.cards],
    }
    read = {5: left[4], 7: left[6], 8: left[2] + left[5] + left[7]}
    for number, made in left.items():
        seen, outputs = (
            provenance.merge_dicts(map(fingerprint_files, found)) for found in (read.get(number, []), made)
        )
        receipt = {"status": "done", "reason": "", "key": {"inputs": seen}, "outputs": outputs}
        files.write_json(stage_of(number).receipt(folders), receipt)


@contextmanager
def elsewhere(place):
    """Folders and base models below `place` in place of the repository."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("data", "models", "reports"):
            patch.setattr(Folders, name, property(lambda _, name=name: place / name))
        patch.setattr(paths, "BASE_MODELS", place / "models" / "base")
        yield Folders()


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, to spoil; its receipts name the copies."""
    place = tmp_path / "run"
    shutil.copytree(finished, place, ignore=shutil.ignore_patterns("export"))
    with elsewhere(place) as folders:
        for receipt in folders.receipts.iterdir():
            receipt.write_text(receipt.read_text().replace(str(finished), str(place)))
        yield folders


def exported(*words):
    return export.export_model(
        ["PROFILE=smoke", "MODEL_NAME=tester/tiny", "DTYPE=float32", "MAX_NEW_TOKENS=12", *words]
    )


@pytest.fixture(scope="module")
def shared(finished, tmp_path_factory):
    """{"qlora" with merged/, "full"}: the folders of one export, made once."""
    with elsewhere(finished):
        return {"qlora": exported("MERGED=on"), "full": exported("WHICH=full", "MERGED=on")}


def changed(folder):
    """Names of the files of an exported folder that are missing, added or different from its SHA256SUMS."""
    lines = (folder / export.SUMS).read_text(encoding="utf-8").splitlines()
    expected, found = {line[66:]: line[:64] for line in lines}, dict(export.hash_folder(folder))
    return sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))


def texts(folder):
    return {path: path.read_text() for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors"}


@pytest.mark.parametrize("row", ["qlora", "full"])
def test_the_folder_has_all_that_is_needed_and_nothing_of_this_machine(shared, finished, row):
    folder = shared[row]
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    weights_, base = {"qlora": "adapter_model", "full": "model"}[row], format.BASE_OF[row]
    expected = {f"{weights_}.safetensors", "tokenizer.json", "README.md", "training.json", "SHA256SUMS"}
    expected |= {"results/scores.json", f"results/results_{row}.json", f"results/items/{base}.jsonl"}
    assert expected <= names and ("merged/model.safetensors" in names) == (row == "qlora")
    assert not any("training_data" in name or "heldout" in name for name in names)
    for path, text in texts(folder).items():
        assert str(finished) not in text and str(ROOT) not in text and ABSTRACT.upper() not in text, path
    for config in folder.rglob("config.json"):
        assert not {"quantization_config", "auto_map"} & set(files.read_json(config))


def test_the_sums_are_sha256sums_own_and_find_every_change(shared, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(shared["qlora"], folder)
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=True)
    assert changed(folder) == []
    with (folder / "merged" / "model.safetensors").open("r+b") as file:
        file.seek(-1, io.SEEK_END)
        file.write(b"\1")
    (folder / "training.json").unlink()
    (folder / "added.txt").write_text("more")
    assert changed(folder) == ["added.txt", "merged/model.safetensors", "training.json"]


def test_the_base_is_named_by_id_revision_and_the_hash_of_its_weights(shared, finished):
    base = finished / "models" / "base" / "tester--tiny"
    sha = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    config = files.read_json(shared["qlora"] / "adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == ("tester/tiny", "0" * 40)
    for row, folder in shared.items():
        assert files.read_json(folder / "training.json")["base"]["weights"] == {"model.safetensors": sha}
        card = ModelCard.load(folder / "README.md")
        known = card.data.to_dict()
        assert (known["base_model"], known["base_model_revision"]) == ("tester/tiny", "0" * 40)
        assert known["base_model_sha256"] == {"model.safetensors": sha} and sha in card.text
        assert format.NOTICE in card.text and card.data.eval_results, row


def test_a_revision_that_is_none_of_the_hubs_is_not_given_to_peft(run):
    """The embedded model's is the hash of a wheel: asking the Hub for it would fail."""
    wheel = {"source": "expanded from a file", "revision": "b" * 64}
    for path in (paths.base_model_folder("tester/tiny") / "manifest.json", run.model("qlora") / "training.json"):
        text = path.read_text().replace("0" * 40, "b" * 64).replace('"a test"', '"expanded from a file"')
        path.write_text(text)
    write_receipts(run)
    folder = exported()
    assert files.read_json(folder / "adapter_config.json")["revision"] is None
    card = ModelCard.load(folder / "README.md")
    assert all(value in card.text for value in wheel.values()) and "not quite these" in card.text
    assert "revision=" not in block(card)


def block(card):
    return re.search(r"```python\n(.*?)```", card.text, re.S)[1]


@pytest.mark.slow
@pytest.mark.parametrize("inside", ["", "merged"])
def test_the_cards_own_snippet_loads_the_folder_elsewhere(shared, finished, tmp_path, inside):
    """In a process of its own, in a copy, without the course; one piece also without peft and bitsandbytes."""
    folder = tmp_path / "copy"
    shutil.copytree(shared["qlora"] / inside, folder)
    base = finished / "models" / "base" / "tester--tiny"
    code = block(ModelCard.load(folder / "README.md")).replace("tester/tiny", str(base))
    alone = WITHOUT if inside else ""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", alone + code], cwd=folder, env=environment, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_the_exported_adapter_is_one_that_the_course_accepts(shared, finished):
    base = load.load_model(finished / "models" / "base" / "tester--tiny", "nf4", dtype="float32")
    load.load_adapter(base, shared["qlora"])


def test_the_adapter_is_added_to_what_nf4_made_of_the_base(shared, finished):
    """Recomputed from the files: NF4 and back, plus B·A·alpha/r, to the precision of the stored type."""
    base = load_file(finished / "models" / "base" / "tester--tiny" / "model.safetensors")
    adapter, merged = (
        load_file(shared["qlora"] / name) for name in ("adapter_model.safetensors", "merged/model.safetensors")
    )
    name = "model.layers.0.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{letter}.weight"].float() for letter in "AB")
    original = base[f"{name}.weight"].float()
    packed, state = bnb.quantize_4bit(original, quant_type="nf4", compress_statistics=True)
    change = b @ a * tiny.LORA["lora_alpha"] / tiny.LORA["r"]
    stored = merged[f"{name}.weight"]
    assert stored.dtype == getattr(torch, merge.DTYPE)
    wanted = bnb.dequantize_4bit(packed, state) + change
    assert (stored.float() - wanted).abs().max() < 2**-10 * wanted.abs().max() < change.abs().max()
    assert (stored.float() - original - change).abs().max() > 0.01 * original.abs().max()


def test_merged_and_apart_are_compared_and_the_card_says_so(shared):
    card = ModelCard.load(shared["qlora"] / "README.md").text
    said = re.search(r"(\d+) of (\d+) greedy answers.*moved by (\S+) nats on average and (\S+) at most", card)
    assert int(said[2]) == len(experiment.ASKED) and int(said[1]) == int(said[2])
    assert 0 < float(said[3]) < float(said[4]) < 0.05
    assert "Merged and apart" not in ModelCard.load(shared["full"] / "README.md").text


def test_a_merge_that_went_wrong_shows_in_the_comparison(shared, finished, tmp_path):
    """The base's own weights in place of the merged ones: the figures must not stay small."""
    base = finished / "models" / "base" / "tester--tiny"
    with elsewhere(finished) as folders:
        texts_ = [held_out.held_out_text(paper) for paper in held_out.load_held_out(folders.held_out)[:2]]
        asked = [q["question"] for q in experiment.ASKED[:3]]
        found = merge.measure_difference(base, folders.model("qlora"), base, "auto", "float32", asked, texts_, 12)
    assert found["same"] < found["answers"] and found["mean"] > 0.1


def test_answers_that_repeat_a_passage_are_left_out_and_others_stay(shared, finished):
    kept = files.read_json(shared["qlora"] / "results" / "results_qlora.json")
    before = files.read_json(finished / "reports" / "results_qlora.json")
    assert kept[0]["response"] == LEFT_OUT and kept[1:] == before[1:]


def change_a_file(run):
    path = run.model("qlora") / "tokenizer_config.json"
    path.write_text(path.read_text() + "\n")


def train_anew(run):
    """Stage 4 has run again and stages 5 and 8 have not."""
    change_a_file(run)
    receipt = stage_of(4).receipt(run)
    made = files.read_json(receipt) | {"outputs": fingerprint_files(run.model("qlora"))}
    files.write_json(receipt, made)


def damage_the_base(run):
    with (paths.base_model_folder("tester/tiny") / "model.safetensors").open("ab") as file:
        file.write(b"\0")


def skip(run):
    receipt = stage_of(4).receipt(run)
    files.write_json(receipt, files.read_json(receipt) | {"status": "skipped", "reason": "it does not fit"})


def plant(name, content):
    def spoil(run):
        (run.model("qlora") / name).write_bytes(content)

    return spoil


SPOILT = {
    "not trained": (lambda run: stage_of(4).receipt(run).unlink(), "4_qlora_finetune has not finished"),
    "not scored": (lambda run: stage_of(8).receipt(run).unlink(), "8_score_results has not finished"),
    "skipped": (skip, "it does not fit"),
    "damaged": (change_a_file, "tokenizer_config.json is missing or not the file"),
    "trained anew": (train_anew, "5_test_qlora ran before"),
    "papers gone": (lambda run: run.papers.unlink(), "papers.jsonl is missing or not"),
    "papers changed": (lambda run: files.write_jsonl(run.papers, []), "papers.jsonl is missing or not"),
    "another card": (
        lambda run: files.write_text(run.cards / "qlora.md", "---\n---\n"),
        "qlora.md is missing or not",
    ),
    "damaged base": (damage_the_base, "model.safetensors is missing or damaged"),
    "a pickle": (plant("optimizer.bin", PICKLE), "optimizer.bin is none of"),
    "a pickle of letters": (plant("merges.txt", LETTERS), "merges.txt is a pickle inside"),
    "a pickle called safetensors": (plant("adapter_model.safetensors", PICKLE), "is no safetensors inside"),
    "a pickle called json": (plant("adapter_config.json", LETTERS), "is no json inside"),
    "a script": (plant("modeling.py", b"print()"), "modeling.py is none of"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_cannot_be_shared_is_refused(run, case):
    spoil, said = SPOILT[case]
    spoil(run)
    with pytest.raises(CourseError, match=re.escape(said)):
        exported()
    assert not run.exported("qlora").exists()


def test_a_link_is_refused(run):
    (run.model("qlora") / "extra.json").symlink_to("/etc/hostname")
    with pytest.raises(CourseError, match="is a link"):
        exported()


def test_another_base_is_refused(run):
    manifest = paths.base_model_folder("tester/tiny") / download.MANIFEST
    files.write_json(manifest, files.read_json(manifest) | {"revision": "1" * 40})
    with pytest.raises(CourseError, match="was trained on tester/tiny"):
        exported("WHICH=full")


def test_a_full_disk_is_refused_before_anything_is_written(run, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(CourseError, match="exporting qlora needs"):
        exported()
    assert not run.exported("qlora").parent.exists()


def test_while_another_command_works_on_the_run_nothing_is_exported(run):
    held = "import fcntl, sys; f = open(sys.argv[1], 'a+'); fcntl.flock(f, 2); print(1, flush=True); input()"
    run.reports.mkdir(exist_ok=True)
    line = [sys.executable, "-c", held, str(run.reports / ".lock")]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(CourseError, match="another command is at work"):
            exported()
        other.communicate(b"\n")


def test_what_vanishes_meanwhile_is_noticed(run, monkeypatch):
    whole = export.write_results

    def write_results(*given):
        next(run.exported("qlora").parent.glob(".tmp-*/adapter_model.safetensors")).unlink()
        whole(*given)

    monkeypatch.setattr(export, "write_results", write_results)
    with pytest.raises(CourseError, match=r"adapter_model\.safetensors vanished"):
        exported()
    assert not run.exported("qlora").exists()


def test_a_folder_that_is_a_link_is_replaced_as_often_as_you_like(run, tmp_path):
    out = exported()
    out.rename(tmp_path / "larger disk")
    out.symlink_to(tmp_path / "larger disk")
    for _ in range(2):
        assert exported() == out and not out.is_symlink() and not changed(out)


def test_an_export_that_fails_leaves_the_one_before(run, monkeypatch):
    before = tiny.contents(exported())

    def fail(*_):
        raise RuntimeError("the machine gave up")

    monkeypatch.setattr(export, "measure_difference", fail)
    with pytest.raises(RuntimeError):
        exported("MERGED=on")
    assert tiny.contents(run.exported("qlora")) == before
    assert [path.name for path in run.exported("qlora").parent.iterdir()] == ["qlora"]


def test_two_exports_are_the_same_to_the_byte(run):
    assert tiny.contents(exported("MERGED=on")) == tiny.contents(exported("MERGED=on"))


def test_words_are_settings(capsys, monkeypatch):
    assert export.main(["WHICH=base"]) == 1 and "WHICH is qlora or full" in capsys.readouterr().err
    assert export.main(["WICH=full"]) == 1 and "did you mean WHICH?" in capsys.readouterr().err
    assert export.main(["full"]) == 1 and "is not NAME=value" in capsys.readouterr().err
    assert export.read_command([]).WHICH == "qlora" and export.read_command(["WHICH=full"]).WHICH == "full"
    monkeypatch.setenv("WHICH", "full")
    assert export.read_command([]).WHICH == "full"


@pytest.mark.parametrize("text", ["", "plain words.", "---\nlicense: x\n---\n", ".", json.dumps({"a": [1]})])
def test_plain_text_is_no_pickle(text, tmp_path):
    (tmp_path / "text.md").write_text(text)
    assert export.find_strangeness(tmp_path / "text.md") == ""


def test_safetensors_are_recognised(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    assert export.find_strangeness(tmp_path / "a.safetensors") == ""
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-1])
    assert "no safetensors" in export.find_strangeness(tmp_path / "cut.safetensors")


@pytest.mark.after_notebooks
@pytest.mark.parametrize("row", ["qlora", "full"])
def test_what_the_notebooks_left_can_be_shared(row):
    environment = os.environ | {"PROFILE": "smoke", "RUN": "smoke", "ENV_FILE": ""}
    words = [f"WHICH={row}", "MERGED=on"]
    done = subprocess.run(
        [sys.executable, "-m", "helpers", "export", *words], cwd=ROOT, env=environment, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    folder = Folders("smoke").exported(row)
    assert relative_path(folder) in done.stdout and changed(folder) == []
