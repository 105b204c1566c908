"""The course's address in its notebooks, where Colab needs it, as a badge too: python -m helpers badges

The address stands in pyproject.toml, [tool.course] repository; empty takes both out again.
"""

import json
import re
import tomllib
from pathlib import Path

from helpers.core import NOTEBOOKS, CourseError, parse_json, run_command, write_text
from helpers.pipeline.dependencies import PYPROJECT

GITHUB = re.compile(r"https://github\.com/([\w-]+/[\w.-]+?)(?:\.git)?/?")
BADGE = re.compile(r"\[!\[Open in Colab\]\([^\n]*\n\n")
LINE = re.compile(r'^REPOSITORY = "[^"]*"', re.MULTILINE)
COLAB = "https://colab.research.google.com"


def read_address(pyproject: Path = PYPROJECT) -> str:
    """The repository's address as pyproject.toml has it; "" for none."""
    return tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]["course"]["repository"]


def owner_and_name(repository: str) -> str:
    """ "owner/name" of an address on GitHub, the only place that Colab opens notebooks from by address.

    Raises CourseError for any other.
    """
    if found := GITHUB.fullmatch(repository):
        return found[1]
    raise CourseError(
        f"repository = {repository!r} in pyproject.toml is not an address on GitHub",
        'write it as "https://github.com/owner/name", or "" for none',
    )


def badge_line(repository: str, name: str) -> str:
    """The line that opens notebook `name` in Colab."""
    where = f"{COLAB}/github/{owner_and_name(repository)}/blob/main/notebooks/{name}"
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({where})\n\n"


def add_address(text: str, name: str, repository: str) -> str:
    """A notebook's JSON with this address in its setup cell and as a badge above its title, or with neither."""
    notebook = parse_json(text, name, dict)
    title, setup = notebook["cells"][:2]
    top = badge_line(repository, name) if repository else ""
    title["source"] = split_lines(top + BADGE.sub("", "".join(title["source"])))
    setup["source"] = split_lines(LINE.sub(f'REPOSITORY = "{repository}"', "".join(setup["source"])))
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def split_lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def write_badges(folder: Path = NOTEBOOKS, repository: str | None = None) -> list[str]:
    """Bring every notebook of the folder up to date with the address; the names of those that changed."""
    repository = read_address() if repository is None else repository
    changed = []
    for path in sorted(folder.glob("*.ipynb")):
        before = path.read_text(encoding="utf-8")
        after = add_address(before, path.name, repository)
        if after != before:
            write_text(path, after)
            changed.append(path.name)
    return changed


def main(words: list[str]) -> int:
    """Write the address and say which notebooks changed; the process's exit status."""
    return run_command(write_and_report, "notebooks are written one by one")


def write_and_report() -> int:
    changed = write_badges()
    print(f"{read_address() or 'no address'}: {', '.join(changed) or 'every notebook has it so'}")
    return 0
