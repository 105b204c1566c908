"""Finished stages kept on another disk (a Drive folder, say) and brought back into a fresh session."""

import shutil
from pathlib import Path, PurePosixPath

from helpers.core import (
    ROOT,
    STAGES,
    CourseError,
    Folders,
    Settings,
    Stage,
    atomic_file,
    hash_file,
    read_json,
    read_receipt,
    relative_path,
    require_space,
)


def keep_stage(stage: Stage, settings: Settings, folders: Folders) -> None:
    """Copy a finished stage's outputs, then its receipt, to ARTEFACTS_DIR; nothing if that is unset."""
    if settings.ARTEFACTS_DIR is None:
        return
    receipt = read_receipt(stage, folders)
    for name in receipt["outputs"]:
        copy_file(ROOT / name, settings.ARTEFACTS_DIR / name)
    receipt_path = stage.receipt(folders)
    copy_file(receipt_path, settings.ARTEFACTS_DIR / relative_path(receipt_path))


def restore_stages(settings: Settings, folders: Folders) -> list[str]:
    """Bring back every stage kept in ARTEFACTS_DIR that this machine lacks; the names of those restored.

    A kept file whose bytes no longer match its receipt, a receipt that cannot be read, or one that names a file
    outside the folders that stages write to, is left where it is, and its stage runs again.
    """
    if settings.ARTEFACTS_DIR is None:
        return []
    restored = []
    for stage in STAGES:
        receipt_path = stage.receipt(folders)
        kept_receipt = settings.ARTEFACTS_DIR / relative_path(receipt_path)
        if receipt_path.exists() or not kept_receipt.exists():
            continue
        try:
            outputs = read_json(kept_receipt)["outputs"]
        except CourseError:
            continue
        kept = {name: settings.ARTEFACTS_DIR / name for name in outputs}
        if all(is_inside_run(n) and path.exists() and hash_file(path) == outputs[n] for n, path in kept.items()):
            for name, path in kept.items():
                copy_file(path, ROOT / name)
            copy_file(kept_receipt, receipt_path)
            restored.append(stage.name)
    return restored


def is_inside_run(name: str) -> bool:
    """Whether a path in a receipt, which others may have written, stays in the folders that stages write to."""
    parts = PurePosixPath(name).parts
    return parts[:1] in (("data",), ("models",), ("reports",)) and ".." not in parts


def copy_file(source: Path, target: Path) -> None:
    """Copy a file so that the target is complete or absent; one that is already the same is left alone."""
    if target.exists() and hash_file(target) == hash_file(source):
        return
    require_space(target.parent, source.stat().st_size, f"copying {target.name}")
    with atomic_file(target) as temporary:
        shutil.copyfile(source, temporary)
