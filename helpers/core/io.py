"""Files that are complete or absent: atomic writes, append-only logs, hashes."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from helpers.core.errors import CourseError
from helpers.core.paths import relative_path

TEMPORARY = ".tmp-"
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # half a pair or a whole one: only then is the text looked at again
MEND = "mend the file, or run its stage again"
JSON_TYPES = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number"}
JSON_TYPES |= {bool: "true or false", type(None): "null"}


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turn "no space left", and a place that cannot be written to, into an error that names `path`.

    Raises CourseError for ENOSPC and EDQUOT, also where a library wrapped them in its own exception; for a read-only
    or forbidden place; and for a link that leads nowhere.
    """
    try:
        yield
    except CourseError:
        raise
    except Exception as error:
        if explained := explain_failed_write(Path(path), error):
            raise explained from error
        raise


def explain_failed_write(path: Path, error: Exception) -> CourseError | None:
    """Why `path` could not be written, if `error` is about the disk and not about the program."""
    number, name = getattr(error, "errno", None), relative_path(path)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        free = shutil.disk_usage(existing_parent(path)).free
        return CourseError(
            f"the disk is full: {name} could not be written ({free / 2**20:.0f} MiB are free)",
            "free some space and run the same command again; everything that was finished is kept",
            "disk-full",
        )
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return CourseError(
            f"{name} cannot be written: {os.strerror(number)}",
            "copy the course to a folder that is yours to write to, and work there",
        )
    if number == errno.EISDIR:
        return CourseError(f"{name} is a folder where a file should be", "move it away")
    for part in (path, *path.parents) if number in (errno.EEXIST, errno.ENOENT, errno.ENOTDIR) else ():
        if part.is_symlink() and not part.exists():
            return CourseError(
                f"{relative_path(part)} is a link to {os.readlink(part)}, which is not there",
                "make that folder, or remove the link",
            )
        if part.is_file() and (part != path or number == errno.EEXIST):
            return CourseError(f"{relative_path(part)} is a file where a folder should be", "move it away")
    return None


def make_folder(path: Path) -> Path:
    """`path`, made if it is not there, with the folders above it.

    Raises CourseError where that cannot be done: a read-only disk, a file or a dangling link in its place.
    """
    with explain_full_disk(path):
        Path(path).mkdir(parents=True, exist_ok=True)
    return path


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
    make_folder(path.parent)
    with explain_full_disk(path), path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path`, fsynced, when the block ends well."""
    path = Path(path)
    make_folder(path.parent)
    with explain_full_disk(path):
        handle, name = tempfile.mkstemp(prefix=temporary_prefix(), suffix=path.suffix, dir=path.parent)
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
    make_folder(path.parent)
    with explain_full_disk(path):
        temporary = Path(tempfile.mkdtemp(prefix=temporary_prefix(), dir=path.parent))
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


def temporary_prefix() -> str:
    """How the temporary files of this process begin, so that those of a dead one can be told apart."""
    return f"{TEMPORARY}{os.getpid()}-"


def sweep_temporary(folder: Path) -> None:
    """Remove what a killed process left half-written directly in `folder`; another living one's work stays."""
    for leftover in Path(folder).glob(f"{TEMPORARY}*"):
        owner = leftover.name.removeprefix(TEMPORARY).partition("-")[0]
        if not (owner.isdecimal() and int(owner) != os.getpid() and psutil.pid_exists(int(owner))):
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


def write_cache(path: Path, value: object) -> None:
    """`write_json` for what can be measured again: where it cannot be written, it is measured again."""
    with suppress(CourseError):
        write_json(path, value)


def read_json(path: Path, kind: type | None = None) -> object:
    """The JSON value in `path`, which is a `kind` (dict, list) where one is given.

    Raises CourseError naming the file if it is not there, is no file, or is not what `parse_json` takes.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise CourseError(
            f"{relative_path(path)} does not exist", "check the name, or run the stage that makes it"
        ) from error
    except OSError as error:
        raise CourseError(
            f"{relative_path(path)} cannot be read: {os.strerror(error.errno)}", "a file should be there"
        ) from error
    return parse_json(content, relative_path(path), kind)


def parse_json(content: bytes | str, name: str, kind: type | None = None) -> object:
    """The JSON value in `content`, which errors call `name`: UTF-8, a byte order mark before it or not.

    Raises CourseError where it is not UTF-8 or not JSON, is nested deeper than Python reads, holds half a surrogate
    pair (no file could be written with it), or is not a `kind`.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        value = json.loads(text)
        if SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise CourseError(f"{name} is not UTF-8 (byte {error.start})", "save it anew, as UTF-8") from error
    except UnicodeEncodeError as error:
        raise CourseError(f"{name} holds half a character (a lone surrogate)", "take it out of the file") from error
    except RecursionError as error:
        raise CourseError(f"{name} is nested too deeply to be read", MEND) from error
    except ValueError as error:
        raise CourseError(f"{name} is not JSON: {error}", MEND) from error
    if kind and not isinstance(value, kind):
        raise CourseError(
            f"{name} holds {JSON_TYPES[type(value)]}, and not {JSON_TYPES[kind]}",
            MEND,
        )
    return value


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """One JSON object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def append_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Add rows at the end of an append-only file, on disk when this returns."""
    path = Path(path)
    make_folder(path.parent)
    with explain_full_disk(path), path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a killed writer left half a line: close it, the reader drops it
                file.write(b"\n")
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_jsonl(path: Path, strict: bool = False) -> list[dict]:
    """The rows of a JSON Lines file; [] if there is none. A line torn by a kill is left out.

    `strict` is for a file that is written whole: then a line that is no JSON object raises CourseError with its
    number.
    """
    path, rows = Path(path), []
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CourseError(
            f"{relative_path(path)} cannot be read: {os.strerror(error.errno)}", "a file should be there"
        ) from error
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                rows.append(parse_json(line, f"{relative_path(path)}, line {number}", dict))
        except CourseError:
            if strict:
                raise
    return rows


def hash_file(path: Path) -> str:
    """Hex digest of one file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: object) -> str:
    """Hex digest of a JSON-able value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
