"""One notebook, executed into a report; what nbclient overlooks counts as a fault too."""

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.core import NOTEBOOKS, ROOT, explain_full_disk, hide_secrets, make_visible, write_text

if TYPE_CHECKING:
    from nbformat import NotebookNode

EXECUTION = "COURSE_EXECUTION"  # what the runner tells the notebook that it executes, as JSON
QUIET = logging.getLogger(__name__)  # what nbclient logs, it raises as well, or it is the echo of a stop
QUIET.setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True)
class Execution:
    """Who runs a notebook: a person, or the runner, which tells what its command line asks for.

    `token` is unique to an execution, `force` asks for finished work to be done again, `progress` is the file that
    the runner reads, `command_line` the settings that were typed after `make`.
    """

    token: str = "by hand"
    force: bool = False
    progress: str = ""
    command_line: dict[str, str] = field(default_factory=dict)

    def variable(self) -> dict[str, str]:
        """The environment variable that tells the notebook's process."""
        return {EXECUTION: json.dumps(asdict(self))}


def read_execution(environment: Mapping[str, str]) -> Execution:
    """What the runner has told this process; by hand where it told nothing."""
    return Execution(**json.loads(environment.get(EXECUTION, "{}")))


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
    environment: Mapping[str, str],
    unproven: Callable[[], Fault | None],
) -> Fault | None:
    """Run `notebook` in its own folder with `parameters`; None if all cells ran and `unproven` finds no fault.

    The report is `reports/<name>.ipynb`, or `<name>.failed.ipynb` (also when the run is stopped by a signal). It is
    written once, when `secrets` and paths of this machine are blotted out: a kill leaves nothing of it on the disk.
    `environment` is the notebook's process's. Raises CourseError if the disk is full.
    """
    import nbformat  # seconds to import, and only needed where a notebook runs

    document = add_parameters(nbformat.read(notebook, as_version=4), parameters)
    report = reports / notebook.name
    fault = Fault("", "it was stopped")
    try:
        with explain_full_disk(report):
            fault = run_cells(document, environment) or unproven()
    finally:
        place = report.with_suffix(".failed.ipynb") if fault else report
        write_text(place, scrub_notebook(nbformat.writes(document), secrets))
    return fault and Fault(hide_secrets(fault.cell, secrets), hide_secrets(fault.error, secrets))


def add_parameters(document: "NotebookNode", parameters: Mapping[str, object]) -> "NotebookNode":
    """The notebook with a cell after its parameters cell that gives these names these values."""
    from nbformat.v4 import new_code_cell

    for cell in document.cells:
        cell.pop("execution_count", None)
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = None, []
    if parameters:
        source = "\n".join(["# Parameters", *(f"{name} = {value!r}" for name, value in parameters.items())])
        tags = [cell.metadata.get("tags", []) for cell in document.cells]
        place = next((number for number, found in enumerate(tags, 1) if "parameters" in found), 0)
        document.cells.insert(place, new_code_cell(source, metadata={"tags": ["injected-parameters"]}))
    return document


def run_cells(document: "NotebookNode", environment: Mapping[str, str]) -> Fault | None:
    """Run all cells, which get their outputs, in a process of this interpreter; the fault of the first that fails."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from traitlets.config import Config

    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    client = NotebookClient(
        document,
        kernel_manager_class=this_interpreter(),
        config=Config({"KernelManager": {"transport_encryption": "auto"}}),  # else ipykernel warns
        extra_arguments=["--IPKernelApp.log_level=50"],  # its stderr is this terminal
        resources={"metadata": {"path": str(NOTEBOOKS)}},
        coalesce_streams=True,
        record_timing=False,
        startup_timeout=300,
        iopub_timeout=60,
        raise_on_iopub_timeout=True,
        log=QUIET,
    )
    client.reset_execution_trackers()
    cell = None
    try:
        with client.setup_kernel(env=dict(environment)):
            for number, cell in enumerate(document.cells):
                client.execute_cell(cell, number)
                if any(output.output_type == "error" for output in cell.get("outputs", [])):
                    return Fault(cell.source, "an error was raised here")  # in a cell whose tag allows errors
    except CellExecutionError as error:
        return Fault(cell.source, describe_error(error.ename, error.evalue))
    except CellTimeoutError:
        return Fault(cell.source, "this cell ended, and its output never came")
    except DeadKernelError:
        return Fault(
            cell.source if cell else "",
            "the notebook's Python process died in this cell. Most often the memory ran out\n"
            "→ close other programs, or take a smaller MODEL_NAME, *_BATCH_SIZE or MAX_SEQ_LENGTH\n"
            "  see TROUBLESHOOTING.md#the-kernel-dies",
        )
    return None


def this_interpreter() -> type:
    """A manager whose kernels run on the Python of this process, whatever kernel specifications are installed."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    class ThisInterpreter(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(**get_kernel_dict())

    return ThisInterpreter


def describe_error(name: str, value: str) -> str:
    """An error as one reads it; a CourseError's own two lines need no more."""
    if name == "SystemExit":
        return "the notebook was ended here by sys.exit(), before its last cell"
    return value if name == "CourseError" else make_visible(f"{name}: {value}".rstrip(": "))


def scrub_notebook(text: str, secrets: Sequence[str] = ()) -> str:
    """An executed notebook's JSON without paths of this machine, widget state and secrets."""
    import nbformat

    notebook = nbformat.reads(text, as_version=4)
    notebook.metadata.pop("widgets", None)
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
