"""Finished stages kept on another disk (a Drive folder, say) and brought back into a fresh session."""

import shutil
from pathlib import Path, PurePosixPath

from helpers import files
from helpers.course import STAGES, Stage
from helpers.errors import CourseError
from helpers.paths import ROOT, Folders, relative
from helpers.run import read_receipt
from helpers.settings import Settings


def keep(stage: Stage, settings: Settings, folders: Folders) -> None:
    """Copy a finished stage's outputs, then its receipt, to ARTEFACTS_DIR; nothing if that is unset."""
    if settings.ARTEFACTS_DIR is None:
        return
    receipt = read_receipt(stage, folders)
    for name in receipt["outputs"]:
        copy(ROOT / name, settings.ARTEFACTS_DIR / name)
    receipt_path = stage.receipt(folders)
    copy(receipt_path, settings.ARTEFACTS_DIR / relative(receipt_path))


def restore(settings: Settings, folders: Folders) -> list[str]:
    """Bring back every stage kept in ARTEFACTS_DIR that this machine lacks; the names of those restored.

    A kept file whose bytes no longer match its receipt, a receipt that cannot be read, or one that names a file
    outside the folders that stages write to, is left where it is, and its stage runs again.
    """
    if settings.ARTEFACTS_DIR is None:
        return []
    restored = []
    for stage in STAGES:
        receipt_path = stage.receipt(folders)
        kept_receipt = settings.ARTEFACTS_DIR / relative(receipt_path)
        if receipt_path.exists() or not kept_receipt.exists():
            continue
        try:
            outputs = files.read_json(kept_receipt)["outputs"]
        except CourseError:
            continue
        kept = {name: settings.ARTEFACTS_DIR / name for name in outputs}
        if all(inside(n) and path.exists() and files.sha256(path) == outputs[n] for n, path in kept.items()):
            for name, path in kept.items():
                copy(path, ROOT / name)
            copy(kept_receipt, receipt_path)
            restored.append(stage.name)
    return restored


def inside(name: str) -> bool:
    """Whether a path in a receipt, which others may have written, stays in the folders that stages write to."""
    parts = PurePosixPath(name).parts
    return parts[:1] in (("data",), ("models",), ("reports",)) and ".." not in parts


def copy(source: Path, target: Path) -> None:
    """Copy a file so that the target is complete or absent; one that is already the same is left alone."""
    if target.exists() and files.sha256(target) == files.sha256(source):
        return
    files.require_space(target.parent, source.stat().st_size, f"copying {target.name}")
    with files.writing(target) as temporary:
        shutil.copyfile(source, temporary)
