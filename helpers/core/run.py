"""One run of the course as the code of a stage sees it: its settings, its folders, and whether to begin anew."""

from dataclasses import dataclass

from helpers.core.course import STAGES, Stage
from helpers.core.io import read_json
from helpers.core.paths import Folders
from helpers.core.settings import Settings


@dataclass(frozen=True)
class Run:
    """What training and evaluation take from the stage that calls them.

    `settings` can be read where the stage declares them (its parameters cell), `force` asks for work that is done
    already to be done again.
    """

    stage: Stage
    settings: Settings
    folders: Folders
    force: bool = False


def read_receipt(stage: Stage, folders: Folders) -> dict | None:
    """What a finished stage left in its receipt; None if it has not finished."""
    path = stage.receipt(folders)
    return read_json(path) if path.exists() else None


def read_receipts(folders: Folders) -> dict[str, dict]:
    """{stage name: receipt} of every finished stage of a run."""
    found = {stage.name: read_receipt(stage, folders) for stage in STAGES}
    return {name: receipt for name, receipt in found.items() if receipt}
