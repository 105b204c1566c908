"""What a Colab session lacks: a few packages, and the secrets that Colab keeps."""

import importlib.util
import os
import subprocess
import sys
import tomllib

from helpers.errors import CourseError
from helpers.paths import ROOT

MODULES = {  # where a package is imported under another name
    "biopython": "Bio",
    "huggingface-hub": "huggingface_hub",
    "pydantic-settings": "pydantic_settings",
}
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
    """The requirements of pyproject.toml that cannot be imported here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {text: text.split(">")[0].split("<")[0].strip() for text in project["dependencies"]}
    return [text for text, name in names.items() if importlib.util.find_spec(MODULES.get(name, name)) is None]
