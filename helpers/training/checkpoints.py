"""Checkpoints that are complete or absent, and verified before they are used. No pickles."""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from helpers.core import CourseError, atomic_folder, hash_file, read_json, relative_path, remove_folder, require_space

MANIFEST = "manifest.json"


def save_checkpoint(folder: Path, step: int, tensors: dict[str, torch.Tensor], state: dict, keep: int = 2) -> Path:
    """Write `folder`/step-… with tensors, state and a manifest of hashes, then drop all but the newest `keep`."""
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    require_space(folder, int(size * 1.05), "saving a checkpoint")
    path = folder / f"step-{step:06d}"
    with atomic_folder(path) as temporary:
        save_file(
            {name: t.detach().contiguous().cpu() for name, t in tensors.items()}, temporary / "state.safetensors"
        )
        (temporary / "state.json").write_text(json.dumps(state))
        hashes = {file.name: hash_file(file) for file in sorted(temporary.iterdir())}
        (temporary / MANIFEST).write_text(json.dumps(hashes))
    for old in list_checkpoints(folder)[keep:]:
        remove_folder(old)
    return path


def newest_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], dict] | None:
    """(tensors, state) of the newest checkpoint whose every file matches its manifest; None without one.

    Others are set aside as damaged-…, and said.
    """
    for path in list_checkpoints(folder):
        if problem := find_damage(path):
            aside = path.with_name(f"damaged-{path.name}")
            remove_folder(aside)
            path.rename(aside)
            print(f"{relative_path(path)}: {problem}; set aside as {aside.name}")
            continue
        return load_file(path / "state.safetensors"), read_json(path / "state.json")
    return None


def find_damage(path: Path) -> str:
    """Which file of a checkpoint is missing or differs from its manifest; "" if it is whole."""
    try:
        hashes = read_json(path / MANIFEST)
    except CourseError as error:
        return error.problem
    expected = {"state.safetensors", "state.json"}
    if not isinstance(hashes, dict) or set(hashes) != expected:
        return f"{MANIFEST} does not name its files"
    for name, sha in hashes.items():
        if not (path / name).exists():
            return f"{name} is missing"
        if hash_file(path / name) != sha:
            return f"{name} is damaged"
    return ""


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, newest first."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{6}", path.name)]
    return sorted(found, reverse=True)
