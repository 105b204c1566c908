"""What a Colab session lacks: a few packages, the secrets that Colab keeps, and a word on what is there."""

import importlib
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from helpers.core import CourseError, gpu_memory, profile_for_this_machine
from helpers.pipeline.dependencies import declared_requirements, find_missing, list_pins

SECRETS = ("HF_TOKEN", "NCBI_EMAIL", "NCBI_API_KEY", "JUDGE_API_KEY")
COLAB_IS_IT = ("jupyterlab",)  # what the notebooks are read in
KEPT = ("torch", "transformers", "pandas", "numpy")  # Colab's own, fitted to its drivers and to each other
MAIN = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "pandas")
DRIVE = Path("/content/drive")


def prepare_colab() -> None:
    """On Colab: add what it lacks, replace nothing it has, read its secrets, say what is there. Elsewhere: nothing.

    Raises CourseError if a package is too old, does not install or cannot be imported, or if work is to be kept on a
    Drive that is not mounted.
    """
    if "google.colab" not in sys.modules:
        return
    if lacking := missing_requirements():
        install_missing(lacking)
    for name in MAIN:
        try_import(name)
    read_secrets()
    print(describe_colab_machine())
    print(describe_storage())


def missing_requirements() -> list[str]:
    """The requirements that this session does not meet, without what Colab itself stands in for."""
    return [line for line in find_missing(declared_requirements()) if not line.startswith(COLAB_IS_IT)]


def install_missing(lacking: list[str]) -> None:
    """Let pip add these; every other package is pinned to the version that is here, so that none is replaced.

    Raises CourseError if one of KEPT is too old, or if a package did not install.
    """
    if old := [line for line in lacking if line.startswith(KEPT)]:
        raise CourseError(
            f"this session's packages are too old: {', '.join(old)} is needed",
            "Runtime, Change runtime type: choose the latest runtime version",
            "packages-do-not-install-on-colab",
        )
    print("installing", ", ".join(lacking))
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(list_pins(without=lacking)), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*command, "--constraint", constraints, *lacking])
    importlib.invalidate_caches()
    if done.returncode or missing_requirements():
        raise CourseError(
            f"these packages did not install: {', '.join(missing_requirements() or lacking)}",
            "run this cell again",
            "packages-do-not-install-on-colab",
        )


def try_import(name: str) -> None:
    """Import a package. Raises CourseError if that fails, whatever it raises."""
    try:
        importlib.import_module(name)
    except Exception as error:
        raise CourseError(
            f"{name} {metadata.version(name)} is installed and cannot be imported: {error}",
            "Runtime, Restart session, then run this cell first",
            "packages-do-not-install-on-colab",
        ) from error


def read_secrets() -> None:
    """Put into the environment what Colab's store has and the environment lacks."""
    from google.colab import userdata

    for name in SECRETS:
        if name in os.environ:
            continue
        try:
            value = userdata.get(name)
        except (userdata.SecretNotFoundError, userdata.NotebookAccessError, userdata.TimeoutException):
            continue  # not stored there, or not shared with this notebook: the course runs without it
        if value:
            os.environ[name] = value


def describe_colab_machine() -> str:
    """The GPU, its memory and the profile that PROFILE=auto takes, in a sentence."""

    profile = f"PROFILE=auto takes {profile_for_this_machine()}"
    if not (held := gpu_memory()):
        return f"no GPU: {profile}. Runtime, Change runtime type gives one"
    import torch

    return f"GPU: {torch.cuda.get_device_name(0)}, {held / 2**30:.0f} GiB: {profile}"


def describe_storage() -> str:
    """Whether finished stages outlive this session, or how to have them do so.

    Raises CourseError if ARTEFACTS_DIR is on a Drive that is not mounted: work would be lost unseen.
    """
    mount = f'from google.colab import drive; drive.mount("{DRIVE}")'
    folder = os.environ.get("ARTEFACTS_DIR", "")
    if not folder:
        return (
            "Nothing outlives this session, and every notebook has a session of its own. To keep finished stages and"
            f" go on with them, run these two lines in a new cell above, then this cell again:\n\n{mount}\n"
            f"%env ARTEFACTS_DIR={DRIVE}/MyDrive/course"
        )
    if DRIVE in Path(folder).parents and not (DRIVE / "MyDrive").exists():
        raise CourseError(
            f"ARTEFACTS_DIR={folder} is on a Drive that is not mounted",
            f"run this in a new cell above, then this cell again: {mount}",
            "a-lost-session",
        )
    return f"finished stages are kept in {folder}, and those kept there come back"
