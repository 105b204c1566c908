"""Finished stages kept on another disk (a Drive folder, say) and brought back into a fresh session."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from helpers.core import (
    ROOT,
    STAGES,
    CourseError,
    Folders,
    Settings,
    Stage,
    atomic_file,
    check_receipt,
    hash_file,
    read_receipt,
    relative_path,
    require_space,
)
from helpers.pipeline.stages import is_left_by


@dataclass
class Restored:
    """The stages that were brought back, and {stage: why} of those that were kept and stayed away."""

    stages: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"brought back: {', '.join(self.stages)}"] if self.stages else []
        return "\n".join([*lines, *(f"not brought back: {name}: {why}" for name, why in self.skipped.items())])


def keep_stage(stage: Stage, folders: Folders, place: Path | None) -> None:
    """Copy a finished stage's outputs, then its receipt, to `place` (ARTEFACTS_DIR); nothing if that is None."""
    if place is None:
        return
    for name in read_receipt(stage, folders)["outputs"]:
        copy_file(ROOT / name, place / name)
    receipt = stage.receipt(folders)
    copy_file(receipt, place / relative_path(receipt))


def restore_stages(resolved: Mapping[int, Settings], folders: Folders, place: Path | None) -> Restored:
    """Bring back every stage kept in `place` (ARTEFACTS_DIR) that this machine lacks; `resolved` are their settings.

    Only what that stage of that run leaves is written. A stage whose receipt cannot be read or names anything else,
    or whose files do not match it, is left where it is, and named.
    """
    restored = Restored()
    for stage in STAGES if place else ():
        receipt = stage.receipt(folders)
        kept = place / relative_path(receipt)
        if read_receipt(stage, folders) or not kept.exists():
            continue
        try:
            outputs = check_receipt(kept)["outputs"]
            for name, sha in outputs.items():
                require_kept(stage, resolved[stage.number], folders, place, name, sha)
        except CourseError as error:
            restored.skipped[stage.name] = error.problem
            continue
        for name in outputs:
            copy_file(place / name, ROOT / name)
        copy_file(kept, receipt)
        restored.stages.append(stage.name)
    return restored


def require_kept(stage: Stage, settings: Settings, folders: Folders, place: Path, name: str, sha: str) -> None:
    """Raises CourseError unless `name` is of what the stage leaves, and in `place` as a plain file with this hash."""
    way_out = f"remove {place}, or let the stage run again"
    if not is_left_by(stage, settings, folders, name):
        raise CourseError(f"its receipt names {name}, which this stage does not leave here", way_out)
    if (place / name).is_symlink() or not (place / name).is_file():
        raise CourseError(f"{name} is not there", way_out)
    if hash_file(place / name) != sha:
        raise CourseError(f"{name} is not the file that it was", way_out)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file so that the target is complete or absent; one that is already the same is left alone."""
    if target.is_file() and hash_file(target) == hash_file(source):
        return
    require_space(target.parent, source.stat().st_size, f"copying {target.name}")
    with atomic_file(target) as temporary:
        shutil.copyfile(source, temporary)
