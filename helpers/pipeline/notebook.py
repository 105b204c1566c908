"""One notebook, executed by papermill into a report; what papermill overlooks counts as a fault too."""

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.core import NOTEBOOKS, ROOT, TEMPORARY, explain_full_disk, hide_secrets, make_visible, write_text

CELL_TIMEOUT = "COURSE_CELL_TIMEOUT"  # seconds; for tests, a training cell may take a day


@dataclass(frozen=True)
class Fault:
    """Why an execution does not count: the cell it stopped in ("" if none) and what is wrong."""

    cell: str
    error: str


def execute_notebook(
    notebook: Path,
    parameters: Mapping[str, object],
    reports: Path,
    secrets: Sequence[str],
    unproven: Callable[[], Fault | None],
) -> Fault | None:
    """Run `notebook` in its own folder with `parameters`; None if all cells ran and `unproven` finds no fault.

    The report is `reports/<name>.ipynb`, or `<name>.failed.ipynb` (also when the run is stopped by a signal);
    `secrets` are blotted out of it and of the fault. Raises CourseError if the disk is full.
    """
    import papermill  # a second to import, and only needed where a notebook runs

    draft = reports / f"{TEMPORARY}{notebook.name}"
    report = reports / notebook.name
    failed = report.with_suffix(".failed.ipynb")
    fault = Fault("", "it was stopped")
    try:
        with explain_full_disk(report):
            fault = errors_of(
                lambda: papermill.execute_notebook(notebook, draft, **papermill_arguments(parameters)), draft
            )
            fault = fault or unfinished_cell(draft) or unproven()
    finally:
        if draft.exists():
            write_text(failed if fault else report, scrub_notebook(draft.read_text(encoding="utf-8"), secrets))
            draft.unlink()
    return fault and Fault(hide_secrets(fault.cell, secrets), hide_secrets(fault.error, secrets))


def papermill_arguments(parameters: Mapping[str, object]) -> dict[str, object]:
    """papermill's arguments: quiet, in the notebooks' folder, the transport that ipykernel does not warn about."""
    from traitlets.config import Config

    for name in ("papermill", "asyncio"):  # what they log, they raise as well, or it is the echo of a stop
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return {
        "parameters": dict(parameters),
        "cwd": str(NOTEBOOKS),
        "kernel_name": "python3",
        "language": "python",
        "progress_bar": False,
        "coalesce_streams": True,
        "extra_arguments": ["--IPKernelApp.log_level=50"],  # its stderr is this terminal
        "execution_timeout": int(os.environ.get(CELL_TIMEOUT) or 0) or None,
        "config": Config({"KernelManager": {"transport_encryption": "auto"}}),
    }


def errors_of(run: Callable[[], object], draft: Path) -> Fault | None:
    """Call `run` and turn what papermill and its kernel raise into a fault."""
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    try:
        run()
    except PapermillExecutionError as error:
        return Fault(error.source, describe_error(error.ename, error.evalue))
    except CellTimeoutError:
        return Fault(running_cell(draft), "the cell took longer than it may")
    except DeadKernelError:
        return Fault(
            running_cell(draft),
            "the notebook's Python process died in this cell. Most often the memory ran out\n"
            "→ close other programs, or take a smaller MODEL_NAME, *_BATCH_SIZE or MAX_SEQ_LENGTH\n"
            "  see TROUBLESHOOTING.md#the-kernel-dies",
        )
    return None


def describe_error(name: str, value: str) -> str:
    """An error as one reads it; a CourseError's own two lines need no more."""
    return value if name == "CourseError" else make_visible(f"{name}: {value}".rstrip(": "))


def cell_code(draft: Path) -> list[dict]:
    """The non-empty code cells of an executed notebook."""
    import nbformat

    if not draft.exists():
        return []
    cells = nbformat.read(draft, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]


def running_cell(draft: Path) -> str:
    """Source of the cell that was started last.

    papermill calls the cells after a death completed as well, but they have no start.
    """
    started = [cell.source for cell in cell_code(draft) if cell.metadata.get("papermill", {}).get("start_time")]
    return started[-1] if started else ""


def unfinished_cell(draft: Path) -> Fault | None:
    """The fault of a notebook that papermill calls a success although not all its cells ran to their end."""
    for cell in cell_code(draft):
        names = [output.ename for output in cell.outputs if output.output_type == "error"]
        if "SystemExit" in names:
            return Fault(cell.source, "the notebook was ended here by sys.exit(), before its last cell")
        if names:
            return Fault(cell.source, f"{names[0]} was raised")
        if cell.execution_count is None or cell.metadata.get("papermill", {}).get("status") != "completed":
            return Fault(cell.source, "this cell was not run to its end")
    return None


def scrub_notebook(text: str, secrets: Sequence[str] = ()) -> str:
    """An executed notebook's JSON without paths of this machine, widget state and secrets."""
    import nbformat

    notebook = nbformat.reads(text, as_version=4)
    for name in ("papermill", "widgets"):
        notebook.metadata.pop(name, None)
    for cell in notebook.cells:
        cell.source = hide_secrets(cell.source, secrets)
        if cell.cell_type == "code":
            cell.outputs = [clean_output(output, secrets) for output in cell.outputs]
    return nbformat.writes(notebook) + "\n"


def clean_output(value: object, secrets: Sequence[str]) -> object:
    """`value` (an output, or a part of one) with every text in it cleaned."""
    if isinstance(value, str):
        return without_machine(value, secrets)
    if isinstance(value, dict):
        return type(value)({name: clean_output(part, secrets) for name, part in value.items()})
    return [clean_output(part, secrets) for part in value] if isinstance(value, list) else value


def without_machine(text: str, secrets: Iterable[str]) -> str:
    """`text` with the repository's folder as ".", the home folder as "~" and secrets as "(hidden)"."""
    for folder, short in ((ROOT, "."), (Path.home(), "~")):
        if len(folder.parts) > 1 and str(folder) in text:
            text = re.sub(rf"{re.escape(str(folder))}(?![\w-])", short, text)
    return hide_secrets(text, secrets)
