"""Receipts: what a finished stage was made from and what it left, by content and never by date."""

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata

from helpers import files
from helpers.course import STAGES, Stage
from helpers.fingerprint import code_of, fingerprints, plain
from helpers.paths import ROOT, Folders
from helpers.run import read_receipt
from helpers.settings import Settings, jsonable
from helpers.stages import ROOMS, UNKEYED, artefact, code_cells, inputs_of, knobs_of, outputs_of

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "papermill", "biopython", "arxiv")


@dataclass(frozen=True)
class State:
    """Whether a stage is done; if not, `why` says what differs."""

    done: bool
    why: str = ""


def key(stage: Stage, settings: Settings, folders: Folders) -> dict[str, object]:
    """What a stage's result depends on: its resolved settings, the bytes it reads and the code it runs."""
    names = [name for name in knobs_of(stage) if name not in UNKEYED]
    paths = [artefact(name, settings, folders) for name in inputs_of(stage, settings)]
    return {
        "settings": jsonable(settings, names),
        "inputs": merge(fingerprints(path) for path in paths if path is not None),
        "needs": {needed.name: outcome(needed, folders) for needed in STAGES if needed.number in stage.needs},
        "code": notebook_code(stage),
    }


def outcome(stage: Stage, folders: Folders) -> str:
    """ "done", "skipped" with its reason, or "" for a stage that has not finished: another stage may depend on it."""
    receipt = read_receipt(stage, folders) or {"status": "", "reason": ""}
    return f"{receipt['status']} {receipt['reason']}".strip()


def write(
    stage: Stage,
    settings: Settings,
    folders: Folders,
    *,
    key: dict[str, object],
    seconds: float,
    status: str = "done",
    reason: str = "",
    **facts: object,
) -> dict:
    """Write the receipt of a stage that has just finished and return it.

    `key` is the one the stage began with: what was changed while it ran, it has not seen.
    `facts` are what the stage wants remembered (counts, metrics, route …), as JSON values.
    """
    left = outputs_of(stage, settings) if status == "done" else ()
    outputs = merge(fingerprints(artefact(name, settings, folders)) for name in left)
    receipt = {
        "stage": stage.name,
        "status": status,
        "reason": reason,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "execution": os.environ.get("COURSE_EXECUTION", "by hand"),
        "key": key,
        "outputs": outputs,
        "megabytes_left": round(sum((ROOT / name).stat().st_size for name in outputs) / 1e6, 1),
        **facts,
        "profile": settings.PROFILE,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }
    files.write_json(stage.receipt(folders), receipt)
    return receipt


def state(stage: Stage, settings: Settings, folders: Folders) -> State:
    """Whether the stage's receipt still describes what it would do now, and its outputs are intact."""
    receipt = read_receipt(stage, folders)
    if receipt is None:
        return State(False, "not run yet")
    now = key(stage, settings, folders)
    for part, word in (("settings", "setting"), ("inputs", "input"), ("needs", "outcome"), ("code", "code")):
        if changed := differences(receipt["key"].get(part, {}), now[part]):
            return State(False, f"{word} changed: {', '.join(changed[:3])}")
    return outputs_intact(receipt)


def outputs_intact(receipt: dict) -> State:
    """Whether every output still has the bytes that the receipt records."""
    for name, expected in receipt["outputs"].items():
        found = fingerprints(ROOT / name).get(name)
        if found != expected:
            return State(False, f"{name} is {'damaged' if found else 'missing'}")
    return State(True)


def differences(before: dict, now: dict) -> list[str]:
    return [name for name in {**before, **now} if before.get(name) != now.get(name)]


def merge(parts: Iterable[dict]) -> dict:
    return {name: value for part in parts for name, value in part.items()}


def notebook_code(stage: Stage) -> dict[str, str]:
    """Hashes of the notebook's code cells and of every room its result depends on; comments and layout left out.

    The parameters cell counts through the settings, the setup cell only finds the repository.
    """
    sources = [source for tags, source in code_cells(stage.notebook) if not {"parameters", "setup"} & set(tags)]
    return {"notebook": files.sha256_of([plain(source) for source in sources])} | {
        room: code_of(room) for room in ROOMS[stage.number]
    }
