"""Papers that no model is trained on."""

from pathlib import Path

from helpers.core import read_json


def load_held_out(path: Path) -> list[dict]:
    """The held-out papers of stage 3."""
    return read_json(path)


def held_out_text(paper: dict) -> str:
    """What is predicted: title and abstract as running text."""
    return f"{paper['title']}\n\n{paper['abstract']}"
