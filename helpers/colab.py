"""What a Colab session lacks: a few packages, and the secrets that Colab keeps."""

import importlib
import os
import subprocess
import sys

from helpers import dependencies
from helpers.errors import CourseError

SECRETS = ("HF_TOKEN", "NCBI_EMAIL", "NCBI_API_KEY")


def prepare() -> None:
    """On Colab: install the packages it lacks, replace none it has, and read its secrets. Elsewhere: nothing."""
    if "google.colab" not in sys.modules:
        return
    if missing := missing_packages():
        print("installing", ", ".join(missing))
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade-strategy", "only-if-needed", *missing]
        )
        if done.returncode or missing_packages():
            raise CourseError(f"these packages did not install: {', '.join(missing)}", "run this cell again")
    from google.colab import userdata

    for name in SECRETS:
        try:
            os.environ.setdefault(name, userdata.get(name))
        except (userdata.SecretNotFoundError, userdata.NotebookAccessError):
            continue  # not stored there, or not shared with this notebook: the course runs without it


def missing_packages() -> list[str]:
    """The requirements of pyproject.toml that are not met here."""
    importlib.invalidate_caches()
    return dependencies.missing(dependencies.declared())
