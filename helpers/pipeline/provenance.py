"""Receipts: what a finished stage was made from and what it left, by content and never by date."""

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata

from helpers.core import (
    ROOT,
    STAGES,
    Folders,
    Settings,
    Stage,
    explain_receipt,
    fingerprint_files,
    hash_code,
    hash_json,
    read_receipt,
    relative_path,
    settings_as_json,
    strip_code,
    write_json,
)
from helpers.pipeline.estimates import machine_id
from helpers.pipeline.stages import (
    ROOMS,
    UNKEYED,
    artefact_path,
    code_cells,
    inputs_of,
    is_left_by,
    knobs_of,
    outputs_of,
)

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "datasets")


@dataclass(frozen=True)
class State:
    """Whether a stage is done; if not, `why` says what differs."""

    done: bool
    why: str = ""


def stage_key(stage: Stage, settings: Settings, folders: Folders) -> dict[str, object]:
    """What a stage's result depends on: its resolved settings, the bytes it reads and the code it runs."""
    names = [name for name in knobs_of(stage) if name not in UNKEYED]
    paths = [artefact_path(name, settings, folders) for name in inputs_of(stage, settings)]
    return {
        "settings": settings_as_json(settings, names),
        "inputs": merge_dicts(fingerprint_files(path) for path in paths if path is not None),
        "needs": {needed.name: stage_outcome(needed, folders) for needed in STAGES if needed.number in stage.needs},
        "code": notebook_code(stage),
    }


def stage_outcome(stage: Stage, folders: Folders) -> str:
    """ "done", "skipped" with its reason, or "" for a stage that has not finished: another stage may depend on it."""
    receipt = read_receipt(stage, folders) or {"status": "", "reason": ""}
    return f"{receipt['status']} {receipt['reason']}".strip()


def write_receipt(
    stage: Stage,
    settings: Settings,
    folders: Folders,
    *,
    key: dict[str, object],
    seconds: float,
    execution: str = "by hand",
    status: str = "done",
    reason: str = "",
    **facts: object,
) -> dict:
    """Write the receipt of a stage that has just finished and return it.

    `key` is the one the stage began with: what was changed while it ran, it has not seen. `execution` is the
    runner's token.
    `facts` are what the stage wants remembered (counts, metrics, route …), as JSON values.
    """
    left = outputs_of(stage, settings) if status == "done" else ()
    outputs = merge_dicts(fingerprint_files(artefact_path(name, settings, folders)) for name in left)
    receipt = {
        "stage": stage.name,
        "status": status,
        "reason": reason,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "execution": execution,
        "key": key,
        "outputs": outputs,
        "megabytes_left": round(sum((ROOT / name).stat().st_size for name in outputs) / 1e6, 1),
        **facts,
        "machine": machine_id(),
        "profile": settings.PROFILE,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }
    write_json(stage.receipt(folders), receipt)
    return receipt


def stage_state(stage: Stage, settings: Settings, folders: Folders) -> State:
    """Whether the stage's receipt still describes what it would do now, and its outputs are intact."""
    if why := explain_receipt(stage, folders):
        return State(False, why)
    receipt, now = read_receipt(stage, folders), stage_key(stage, settings, folders)
    for part, word in (("settings", "setting"), ("inputs", "input"), ("needs", "outcome"), ("code", "code")):
        if changed := list_differences(receipt["key"][part], now[part]):
            return State(False, f"{word} changed: {', '.join(changed[:3])}")
    why = find_damage(receipt) or find_strange_output(stage, receipt, settings, folders)
    return State(not why, why)


def find_damage(receipt: dict) -> str:
    """The first output that has not the bytes that the receipt records, and what it is; "" if all have."""
    for name, expected in receipt["outputs"].items():
        found = fingerprint_files(ROOT / name).get(name)
        if found != expected:
            return f"{name} is {'damaged' if found else 'missing'}"
    return ""


def find_strange_output(stage: Stage, receipt: dict, settings: Settings, folders: Folders) -> str:
    """Where a receipt's outputs are not what the stage leaves under these settings; "" if they are."""
    for name in receipt["outputs"]:
        if not is_left_by(stage, settings, folders, name):
            return f"its receipt names {name}, which it does not leave"
    for artefact in outputs_of(stage, settings) if receipt["status"] == "done" else ():
        place = relative_path(artefact_path(artefact, settings, folders))
        if not any(name == place or name.startswith(f"{place}/") for name in receipt["outputs"]):
            return f"{place} is not in its receipt"
    return ""


def list_differences(before: dict, now: dict) -> list[str]:
    return [name for name in {**now, **before} if before.get(name) != now.get(name)]


def merge_dicts(parts: Iterable[dict]) -> dict:
    return {name: value for part in parts for name, value in part.items()}


def notebook_code(stage: Stage) -> dict[str, str]:
    """Hashes of the notebook's code cells and of every room its result depends on; comments and layout left out.

    The parameters cell counts through the settings, the setup cell only finds the repository.
    """
    sources = [source for tags, source in code_cells(stage.notebook) if not {"parameters", "setup"} & set(tags)]
    return {"notebook": hash_json([strip_code(source) for source in sources])} | {
        room: hash_code(room) for room in ROOMS[stage.number]
    }
