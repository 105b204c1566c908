"""Files that are complete or absent: atomic writes, append-only logs, hashes."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.core.errors import CourseError
from helpers.core.paths import relative_path

TEMPORARY = ".tmp-"


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turn "no space left" into an error that names `path` and the space that is left.

    Raises CourseError for ENOSPC and EDQUOT, also where a library wrapped them in its own exception.
    """
    try:
        yield
    except Exception as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if isinstance(error, CourseError) or not full:
            raise
        free = shutil.disk_usage(existing_parent(path)).free
        raise CourseError(
            f"the disk is full: {relative_path(path)} could not be written ({free / 2**20:.0f} MiB are free)",
            "free some space and run the same command again; everything that was finished is kept",
            "disk-full",
        ) from error


def existing_parent(path: Path) -> Path:
    """`path` or the nearest folder above it that exists."""
    path = Path(path).absolute()
    return next(p for p in [path, *path.parents] if p.exists())


def require_space(path: Path, needed: int, purpose: str) -> None:
    """Refuse before writing `needed` bytes below `path` if they would not fit.

    Raises CourseError naming the folder, what is needed and what is free.
    """
    free = shutil.disk_usage(existing_parent(path)).free
    if free < needed:
        raise CourseError(
            f"{purpose} needs {needed / 2**20:.0f} MiB in {relative_path(path)}, and {free / 2**20:.0f} MiB are free",
            "free some space and run the same command again; everything that was finished is kept",
            "disk-full",
        )


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Wait until no other process is inside the same block; the lock of a killed process is free."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path`, fsynced, when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with explain_full_disk(path):
            yield temporary
            fsync_path(temporary)
            temporary.chmod(0o644)
            os.replace(temporary, path)
            fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place, fsynced, when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
    try:
        with explain_full_disk(path):
            yield temporary
            for file in sorted(temporary.rglob("*")):
                file.chmod(0o755 if file.is_dir() else 0o644)
                fsync_path(file)
            temporary.chmod(0o755)
            replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Rename `new` to `path`; a folder that stood there is removed only once the new one is in place."""
    old = path.with_name(f"{TEMPORARY}old-{path.name}")
    remove_path(old)
    if path.exists() or path.is_symlink():
        os.replace(path, old)
    os.replace(new, path)
    fsync_path(path.parent)
    remove_path(old)


def remove_folder(path: Path) -> None:
    """Delete a folder if it is there, under a temporary name first so that no half of it can be mistaken."""
    if Path(path).exists():
        doomed = Path(path).with_name(f"{TEMPORARY}gone-{Path(path).name}")
        remove_path(doomed)
        os.replace(path, doomed)
        remove_path(doomed)


def sweep_temporary(folder: Path) -> None:
    """Remove what a killed process left half-written directly in `folder`."""
    for leftover in Path(folder).glob(f"{TEMPORARY}*"):
        remove_path(leftover)


def remove_path(path: Path) -> None:
    """Remove a folder, a file or a link (not what it points to), if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def fsync_path(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, in UTF-8."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """`value` as JSON with keys in the order given, two-space indent and a final newline."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> object:
    """The JSON value in `path`.

    Raises CourseError naming the file and the place where it stops being JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CourseError(
            f"{relative_path(path)} does not exist", "check the name, or run the stage that makes it"
        ) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise CourseError(
            f"{relative_path(path)} is not JSON: {error}", "mend the file, or run its stage again"
        ) from error


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """One JSON object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def append_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Add rows at the end of an append-only file, on disk when this returns."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with explain_full_disk(path), path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a killed writer left half a line: close it, the reader drops it
                file.write(b"\n")
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_jsonl(path: Path) -> list[dict]:
    """The rows of a JSON Lines file; [] if there is none. A line torn by a kill is left out."""
    path = Path(path)
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def hash_file(path: Path) -> str:
    """Hex digest of one file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: object) -> str:
    """Hex digest of a JSON-able value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
