"""A folder ready to share: `python -m helpers.export [NAME=value …]`, or `make export`.

WHICH=qlora or full, MERGED=on (adds the adapter merged into its base), and any other setting. The folder is
models/[run/]export/<row>: weights as safetensors, tokenizer, model card, results, SHA256SUMS. It holds no pickle, no
path of this machine and no passage of a publisher's abstract.
"""

import json
import pickletools
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from huggingface_hub import ModelCard
from safetensors import SafetensorError, safe_open

from helpers import files, held_out, merging, model_cards, questions, settings, weights
from helpers.course import stage_of
from helpers.errors import CourseError
from helpers.labels import BASE_OF
from helpers.papers import read_papers
from helpers.paths import BENCHMARK, RECORD, ROOT, Folders, base_model, relative
from helpers.record import passages_of, without
from helpers.run import read_receipt
from helpers.runner import Stopped, stoppable, the_only_runner
from helpers.settings import Settings

BEHIND = {"qlora": (2, 3, 4, 5, 8), "full": (3, 6, 7, 8)}  # the stages behind a model, each after what it reads
KINDS = (".safetensors", ".json", ".jsonl", ".jinja", ".txt", ".md")
SUMS = "SHA256SUMS"
ADAPTER = "adapter_config.json"
PAPERS = 6  # held-out papers on which merged and unmerged are compared


def main(words: list[str]) -> int:
    """Export what `words` ask for; the process's exit status."""
    try:
        with stoppable():
            out = export(words)
    except CourseError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except (Stopped, KeyboardInterrupt) as stop:
        print("\nstopped; nothing was exported\n→ run the same command again", file=sys.stderr)
        return 128 + getattr(stop, "number", 2)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{relative(out)}: {size / 1e6:.1f} MB, ready to share; check it with sha256sum -c {SUMS}")
    return 0


def export(words: Iterable[str]) -> Path:
    """Write the folder of one trained model, complete or not at all, and return its path.

    Raises CourseError for a bad setting, for a model that is not trained, tested and scored, for files that are
    damaged or of another kind than KINDS, and for a full disk.
    """
    wanted = read(words)
    folders = Folders(wanted.RUN)
    with the_only_runner(folders):
        return write(wanted, folders)


def write(wanted: Settings, folders: Folders) -> Path:
    """The export itself; nothing else may write to this run meanwhile."""
    row, base = wanted.WHICH, base_model(wanted.MODEL_NAME)
    out, merge = folders.exported(row), wanted.MERGED == "on" and row == "qlora"
    require_plain(folders.model(row))
    kept = require_evidence(row, folders)
    record = provenance(row, folders, wanted.MODEL_NAME)
    files.sweep(out.parent)
    sources = [*kept, *(base.iterdir() if merge else ())]  # no merged model is larger than its base
    files.require_space(out, sum(path.stat().st_size for path in sources), f"exporting {row}")
    with files.writing_folder(out) as folder:
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
        files.write_text(folder / SUMS, "".join(f"{sha}  {name}\n" for name, sha in hashes(folder)))
    return out


def read(words: Iterable[str]) -> Settings:
    """The settings of `NAME=value` words; WHICH is qlora unless it was set.

    Raises CourseError for an unknown name, a bad value, or WHICH=base.
    """
    values = settings.from_words(words, "make export WHICH=full, for example")
    given, origins = settings.load(values, command_line=values)
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
        if (path.is_symlink() or not path.is_dir()) and (fault := strange(path)):
            raise CourseError(f"{relative(path)} {fault}: it is not shared", "remove it, or run its stage again")


def strange(path: Path) -> str:
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
    return "is a pickle inside" if "\0" in text or (not lines and pickled(text)) else ""


def pickled(text: str) -> bool:
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
    model = f"{relative(folders.model(row))}/"
    kept = [ROOT / name for name in made if name.startswith(model)]
    kept += [*measured(row, folders), folders.cards / f"{row}.md", folders.papers]
    for path in kept:
        if not path.exists() or files.sha256(path) != made.get(relative(path)):
            raise CourseError(
                f"{relative(path)} is missing or not the file that its stage left",
                "run make pipeline",
                "there-is-no-model-to-serve-or-export",
            )
    return kept


def measured(row: str, folders: Folders) -> list[Path]:
    """The scores, and the answers and items of the model and of its base."""
    pair = (row, BASE_OF[row])
    return [folders.scores, *map(folders.results, pair), *map(folders.items_of, pair)]


def provenance(row: str, folders: Folders, name: str) -> dict:
    """training.json of `row` with the sha256 of the base's weight files.

    Raises CourseError if the base on disk is damaged, or not the one that was trained.
    """
    folder, record = base_model(name), files.read_json(folders.model(row) / RECORD)
    if damaged := weights.damaged(folder):
        raise CourseError(
            f"{relative(folder)}/{damaged[0]} is missing or damaged",
            "run make pipeline STAGES=1",
            "a-file-differs-from-its-hash",
        )
    manifest = weights.read_manifest(name)
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
        config, base = files.read_json(out / ADAPTER), record["base"]
        config |= {"base_model_name_or_path": base["id"], "revision": model_cards.hub_revision(base)}
        files.write_json(out / ADAPTER, config)
        record["files"][ADAPTER] = files.sha256(out / ADAPTER)
    files.write_json(out / RECORD, record)


def write_results(row: str, folders: Folders, out: Path) -> None:
    """Copy the scores, answers and items, without what repeats a passage of an abstract (as `record` does)."""
    passages = passages_of(read_papers(folders.papers))
    for path in measured(row, folders):
        if path.suffix == ".jsonl":
            files.write_jsonl(out / "items" / path.name, without(passages, files.read_jsonl(path)))
        else:
            files.write_json(out / path.name, without(passages, files.read_json(path)))


def write_merged(base: Path, wanted: Settings, folders: Folders, out: Path) -> dict:
    """Write the merged model; how far it is from base and adapter apart, on questions and held-out papers."""
    adapter, how = folders.model("qlora"), (wanted.ATTENTION, wanted.DTYPE)
    asked = [q["question"] for q in questions.load(wanted.QUESTIONS_FILE or BENCHMARK / "questions.json")]
    texts = [held_out.text_of(paper) for paper in held_out.load(folders.held_out)[:PAPERS]]
    merging.merge(base, adapter, out, *how)
    print("merged; asking base and adapter apart, and the merged model …", flush=True)
    found = merging.difference(base, adapter, out, *how, asked, texts, wanted.MAX_NEW_TOKENS)
    print(model_cards.moved(found))
    return found


def write_card(out: Path, card: ModelCard, record: Mapping, merged: Mapping | None, whole: bool) -> None:
    files.write_text(out / "README.md", f"{model_cards.shared(card, record, merged, whole)}\n")


def hashes(folder: Path) -> Iterator[tuple[str, str]]:
    """(name, sha256) of every file in `folder` but SHA256SUMS itself, as sha256sum writes them."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / SUMS:
            yield path.relative_to(folder).as_posix(), files.sha256(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
