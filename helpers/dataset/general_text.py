"""General English written for this course: what is mixed into training, and what forgetting is measured on."""

import re
from pathlib import Path

from helpers.core import GENERAL, CourseError, relative_path

REPLAY = GENERAL / "replay.txt"
GUARD = GENERAL / "guard.txt"
VIEW = "replay"
SEPARATOR = re.compile(r"^###[ \t]*$", re.MULTILINE)


def read_pieces(path: Path) -> list[str]:
    """The pieces of a UTF-8 text file, in its order, without the lines holding only ### that separate them.

    Raises CourseError naming the file if it is missing, not UTF-8, or holds no text.
    """
    path = Path(path)
    if not path.is_file():
        raise CourseError(f"{relative_path(path)} does not exist", "restore it: it is part of the repository")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CourseError(f"{relative_path(path)} is not UTF-8: {error}", "save it as UTF-8") from None
    found = [piece for part in SEPARATOR.split(text) if (piece := part.strip())]
    if not found:
        raise CourseError(f"{relative_path(path)} holds no text", "restore it: it is part of the repository")
    return found


def replay_rows() -> list[dict]:
    """One training row for each piece of REPLAY."""
    return running_text(REPLAY, VIEW)


def guard_rows() -> list[dict]:
    """The pieces of GUARD in the form of training rows; they are only ever looked at."""
    return running_text(GUARD, "guard")


def running_text(path: Path, view: str) -> list[dict]:
    """A row for each piece of a file: no prompt, and the whole is the completion."""
    return [
        {
            "text": piece,
            "source": "general",
            "paper_id": f"general-{number:03}",
            "title": "",
            "prompt": "",
            "completion": piece,
            "view": view,
            "licence": "CC0-1.0",
        }
        for number, piece in enumerate(read_pieces(path), start=1)
    ]
