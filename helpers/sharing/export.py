"""A folder ready to share: `python -m helpers export [NAME=value …]`, or `make export`.

WHICH=qlora or full, MERGED=on (adds the adapter merged into its base), and any other setting. The folder is
models/[run/]export/<row>: weights as safetensors, tokenizer, model card, results, SHA256SUMS. It holds no pickle, no
path of this machine and no passage of a publisher's abstract.
"""

import json
import pickletools
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from huggingface_hub import ModelCard
from safetensors import SafetensorError, safe_open

from helpers.core import (
    BENCHMARK,
    RECORD,
    ROOT,
    CourseError,
    Folders,
    Settings,
    atomic_folder,
    base_model_folder,
    hash_file,
    load_settings,
    parse_words,
    read_json,
    read_jsonl,
    read_receipt,
    relative_path,
    require_space,
    run_command,
    stage_of,
    sweep_temporary,
    write_json,
    write_jsonl,
    write_text,
)
from helpers.dataset import held_out_text, load_held_out
from helpers.grading import load_questions
from helpers.models import damaged_files, measure_difference, merge_adapter, read_manifest
from helpers.papers import read_papers
from helpers.pipeline import hold_run_lock
from helpers.report import BASE_OF, describe_merge, hub_revision, leave_out_passages, passages_of, shared_card

BEHIND = {"qlora": (2, 3, 4, 5, 8), "full": (3, 6, 7, 8)}  # the stages behind a model, each after what it reads
KINDS = (".safetensors", ".json", ".jsonl", ".jinja", ".txt", ".md")
SUMS = "SHA256SUMS"
ADAPTER = "adapter_config.json"
PAPERS = 6  # held-out papers on which merged and unmerged are compared


def main(words: list[str]) -> int:
    """Export what `words` ask for; the process's exit status."""
    return run_command(lambda: export_and_report(words), "nothing was exported\n→ run the same command again")


def export_and_report(words: list[str]) -> int:
    out = export_model(words)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{relative_path(out)}: {size / 1e6:.1f} MB, ready to share; check it with sha256sum -c {SUMS}")
    return 0


def export_model(words: Iterable[str]) -> Path:
    """Write the folder of one trained model, complete or not at all, and return its path.

    Raises CourseError for a bad setting, for a model that is not trained, tested and scored, for files that are
    damaged or of another kind than KINDS, and for a full disk.
    """
    wanted = read_command(words)
    folders = Folders(wanted.RUN)
    with hold_run_lock(folders):
        return write_export(wanted, folders)


def write_export(wanted: Settings, folders: Folders) -> Path:
    """The export itself; nothing else may write to this run meanwhile."""
    row, base = wanted.WHICH, base_model_folder(wanted.MODEL_NAME)
    out, merge = folders.exported(row), wanted.MERGED == "on" and row == "qlora"
    require_plain(folders.model(row))
    kept = require_evidence(row, folders)
    record = describe_provenance(row, folders, wanted.MODEL_NAME)
    sweep_temporary(out.parent)
    sources = [*kept, *(base.iterdir() if merge else ())]  # no merged model is larger than its base
    require_space(out, sum(path.stat().st_size for path in sources), f"exporting {row}")
    with atomic_folder(out) as folder:
        write_weights(folders.model(row), folder, record)
        write_results(row, folders, folder / "results")
        merged = write_merged(base, wanted, folders, folder / "merged") if merge else None
        card = ModelCard.load(folders.cards / f"{row}.md")
        write_card(folder, card, record, merged, whole=row == "full")
        if merged:
            write_card(folder / "merged", card, record, merged, whole=True)
        require_plain(folder)
        if lacking := [name for name in record["files"] if not (folder / name).is_file()]:
            raise CourseError(f"{lacking[0]} vanished while it was exported", "run the same command again")
        write_text(folder / SUMS, "".join(f"{sha}  {name}\n" for name, sha in hash_folder(folder)))
    return out


def read_command(words: Iterable[str]) -> Settings:
    """The settings of `NAME=value` words; WHICH is qlora unless it was set.

    Raises CourseError for an unknown name, a bad value, or WHICH=base.
    """
    values = parse_words(words, "make export WHICH=full")
    given, origins = load_settings(values, command_line=values)
    if origins["WHICH"] == "default":
        return given.model_copy(update={"WHICH": "qlora"})
    if given.WHICH == "base":
        raise CourseError(
            "WHICH=base: the untouched model is not ours to share",
            "WHICH is qlora or full",
            "there-is-no-model-to-serve-or-export",
        )
    return given


def require_plain(folder: Path) -> None:
    """Refuse a folder with a file that is not what its name says, or of a kind that can carry code.

    Raises CourseError for the first one.
    """
    for path in sorted(folder.rglob("*")):
        if (path.is_symlink() or not path.is_dir()) and (fault := find_strangeness(path)):
            raise CourseError(f"{relative_path(path)} {fault}: it is not shared", "remove it, or run its stage again")


def find_strangeness(path: Path) -> str:
    """What is wrong with a file, by its name and its bytes; "" if it is safetensors, JSON or plain text."""
    if path.is_symlink():
        return "is a link"
    if not path.is_file():
        return "is no plain file"
    if path.suffix not in KINDS:
        return f"is none of {', '.join(KINDS)}"
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "np"):
                return ""
        text = path.read_text(encoding="utf-8")
        lines = {".json": [text], ".jsonl": text.splitlines()}.get(path.suffix, [])
        for line in lines:
            json.loads(line)
    except (SafetensorError, ValueError):
        return f"is no {path.suffix[1:]} inside"
    return "is a pickle inside" if "\0" in text or (not lines and is_pickled(text)) else ""


def is_pickled(text: str) -> bool:
    """Whether `text` reads as a pickle of protocol 0, which is all letters, from its beginning to its end mark."""
    try:
        return len(list(pickletools.genops(text.encode()))) > 1
    except Exception:  # whatever stops the reader, it is no pickle
        return False


def require_evidence(row: str, folders: Folders) -> list[Path]:
    """The files behind the export of `row`, each with the bytes that its stage left, all of one and the same model.

    Raises CourseError if a stage has not finished or was skipped, if a later one has seen other files than an
    earlier one left, or if a file has changed since.
    """
    made: dict[str, str] = {}
    for stage in map(stage_of, BEHIND[row]):
        receipt = read_receipt(stage, folders)
        if receipt is None:
            raise CourseError(
                f"{stage.name} has not finished, so {row} cannot be shared",
                "run make pipeline",
                "there-is-no-model-to-serve-or-export",
            )
        if receipt["status"] == "skipped":
            raise CourseError(
                f"{stage.name} was skipped: {receipt['reason']}",
                "share WHICH=qlora",
                "there-is-no-model-to-serve-or-export",
            )
        seen = receipt["key"]["inputs"].items()
        if other := [name for name, sha in seen if made.get(name, sha) != sha]:
            raise CourseError(
                f"{stage.name} ran before {other[0]} was made anew",
                "run make pipeline",
                "there-is-no-model-to-serve-or-export",
            )
        made |= receipt["outputs"]
    model = f"{relative_path(folders.model(row))}/"
    kept = [ROOT / name for name in made if name.startswith(model)]
    kept += [*read_measured(row, folders), folders.cards / f"{row}.md", folders.papers]
    for path in kept:
        if not path.exists() or hash_file(path) != made.get(relative_path(path)):
            raise CourseError(
                f"{relative_path(path)} is missing or not the file that its stage left",
                "run make pipeline",
                "there-is-no-model-to-serve-or-export",
            )
    return kept


def read_measured(row: str, folders: Folders) -> list[Path]:
    """The scores, and the answers and items of the model and of its base."""
    pair = (row, BASE_OF[row])
    return [folders.scores, *map(folders.results, pair), *map(folders.items_of, pair)]


def describe_provenance(row: str, folders: Folders, name: str) -> dict:
    """training.json of `row` with the sha256 of the base's weight files.

    Raises CourseError if the base on disk is damaged, or not the one that was trained.
    """
    folder, record = base_model_folder(name), read_json(folders.model(row) / RECORD)
    if damaged := damaged_files(folder):
        raise CourseError(
            f"{relative_path(folder)}/{damaged[0]} is missing or damaged",
            "run make pipeline STAGES=1",
            "a-file-differs-from-its-hash",
        )
    manifest = read_manifest(name)
    if any(record["base"][part] != manifest[part] for part in ("id", "revision")):
        trained, given = (f"{b['id']} ({b['revision'][:12]})" for b in (record["base"], manifest))
        raise CourseError(f"{row} was trained on {trained}, and MODEL_NAME={name} is {given}", "set MODEL_NAME")
    hashed = {file: sha for file, sha in manifest["files"].items() if file.endswith(".safetensors")}
    return record | {"base": record["base"] | {"weights": hashed}}


def write_weights(model: Path, out: Path, record: dict) -> None:
    """Copy the trained weights and the tokenizer; the record beside them vouches for what is written.

    An adapter names its base by its id on the Hub, and by its revision where that is one of the Hub's.
    """
    for name in record["files"]:
        shutil.copyfile(model / name, out / name)
    if ADAPTER in record["files"]:
        config, base = read_json(out / ADAPTER), record["base"]
        config |= {"base_model_name_or_path": base["id"], "revision": hub_revision(base)}
        write_json(out / ADAPTER, config)
        record["files"][ADAPTER] = hash_file(out / ADAPTER)
    write_json(out / RECORD, record)


def write_results(row: str, folders: Folders, out: Path) -> None:
    """Copy the scores, answers and items, without what repeats a passage of an abstract (as `record` does)."""
    passages = passages_of(read_papers(folders.papers))
    for path in read_measured(row, folders):
        if path.suffix == ".jsonl":
            write_jsonl(out / "items" / path.name, leave_out_passages(passages, read_jsonl(path)))
        else:
            write_json(out / path.name, leave_out_passages(passages, read_json(path)))


def write_merged(base: Path, wanted: Settings, folders: Folders, out: Path) -> dict:
    """Write the merged model; how far it is from base and adapter apart, on questions and held-out papers."""
    adapter, how = folders.model("qlora"), (wanted.ATTENTION, wanted.DTYPE)
    asked = [q["question"] for q in load_questions(wanted.QUESTIONS_FILE or BENCHMARK / "questions.json")]
    texts = [held_out_text(paper) for paper in load_held_out(folders.held_out)[:PAPERS]]
    merge_adapter(base, adapter, out, *how)
    print("merged; asking base and adapter apart, and the merged model …", flush=True)
    found = measure_difference(base, adapter, out, *how, asked, texts, wanted.MAX_NEW_TOKENS)
    print(describe_merge(found))
    return found


def write_card(out: Path, card: ModelCard, record: Mapping, merged: Mapping | None, whole: bool) -> None:
    write_text(out / "README.md", f"{shared_card(card, record, merged, whole)}\n")


def hash_folder(folder: Path) -> Iterator[tuple[str, str]]:
    """(name, sha256) of every file in `folder` but SHA256SUMS itself, as sha256sum writes them."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / SUMS:
            yield path.relative_to(folder).as_posix(), hash_file(path)
