"""Papers that no model is trained on."""

from pathlib import Path

from helpers import files


def load(path: Path) -> list[dict]:
    """The held-out papers of stage 3."""
    return files.read_json(path)


def text_of(paper: dict) -> str:
    """What is predicted: title and abstract as running text."""
    return f"{paper['title']}\n\n{paper['abstract']}"
