"""The packages this course needs, read from pyproject.toml: `python -m helpers.dependencies list|check [dev]`.

Standard library only: it runs before anything is installed.
"""

import sys
import tomllib
from importlib import metadata
from pathlib import Path

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def declared_requirements(dev: bool = False) -> list[str]:
    """Requirements as pyproject.toml has them ("torch>=2.10"), with those of the tests if `dev`."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    return project["project"]["dependencies"] + (project["dependency-groups"]["dev"] if dev else [])


def find_missing(requirements: list[str]) -> list[str]:
    """The requirements that this interpreter does not meet."""
    try:
        from packaging.requirements import Requirement
    except ImportError:  # part of every installation that has the rest
        return requirements
    return [line for line in requirements if not is_met(Requirement(line))]


def is_met(requirement) -> bool:
    try:
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def list_pins(without: list[str] = ()) -> list[str]:
    """name==version of every package of this interpreter, save those that the requirements `without` are about."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version

    left_out, found = {canonicalize_name(Requirement(line).name) for line in without}, {}
    for package in metadata.distributions():
        name = canonicalize_name(package.metadata["Name"] or "")
        try:
            if name and name not in left_out:
                found.setdefault(name, f"{name}=={Version(package.version)}")  # the first one is what is imported
        except (InvalidVersion, TypeError):
            continue  # of the system, without a version that pip knows: it cannot be a requirement's either
    return sorted(found.values())


def main(what: str, group: str = "") -> int:
    """Print the list, or what is missing; the process's exit status."""
    requirements = declared_requirements(dev=group == "dev")
    lacking = requirements if what == "list" else find_missing(requirements)
    if what == "list" or not lacking:
        print(*lacking, sep="\n", end="\n" if lacking else "")
        return 0
    quoted = " ".join(f"'{line}'" for line in lacking)
    print(
        f"{sys.executable} lacks {len(lacking)} packages\n→ {sys.executable} -m pip install {quoted}", file=sys.stderr
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
