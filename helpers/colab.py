"""What a Colab session lacks: a few packages, and the secrets that Colab keeps."""

import os
import subprocess
import sys

from helpers.dependencies import declared, missing
from helpers.errors import CourseError

SECRETS = ("HF_TOKEN", "NCBI_EMAIL", "NCBI_API_KEY")


def prepare() -> None:
    """On Colab: install the packages it lacks, replace none it has, and read its secrets. Elsewhere: nothing.

    The lower bounds in pyproject.toml admit what Colab has preinstalled, so what is missing there is absent.

    Raises CourseError if a package does not install.
    """
    if "google.colab" not in sys.modules:
        return
    if lacking := missing(declared()):
        print("installing", ", ".join(lacking))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade-strategy", "only-if-needed"]
        done = subprocess.run([*command, *lacking])
        if done.returncode or missing(declared()):
            raise CourseError(
                f"these packages did not install: {', '.join(lacking)}",
                "run this cell again",
                "packages-do-not-install-on-colab",
            )
    from google.colab import userdata

    for name in SECRETS:
        try:
            os.environ.setdefault(name, userdata.get(name))
        except (userdata.SecretNotFoundError, userdata.NotebookAccessError):
            continue  # not stored there, or not shared with this notebook: the course runs without it
