"""The first and the last call of every notebook: `begin` and `finish`."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from IPython import get_ipython
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure

from helpers.core import (
    AMBIENT,
    SECRETS,
    STAGES,
    CourseError,
    Folders,
    Run,
    Settings,
    Stage,
    base_model_folder,
    explain_receipt,
    listen,
    load_settings,
    looks_like_setting,
    make_command,
    make_folder,
    peak_memory,
    read_receipt,
    relative_path,
    report_progress,
    show_setting,
    stage_of,
)
from helpers.pipeline.artefacts import keep_stage, restore_stages
from helpers.pipeline.notebook import Execution, read_execution
from helpers.pipeline.order import ALL
from helpers.pipeline.provenance import find_damage, stage_key, write_receipt
from helpers.pipeline.stages import FIXED_INPUTS, artefact_path, knobs_of, outputs_of
from helpers.report import course_map, html_table


class Session:
    """An open stage: its settings (only those in its parameters cell), its folders, and its receipt."""

    def __init__(self, stage: Stage, resolved: Settings, origins: Mapping[str, str], execution: Execution):
        self.stage, self.resolved, self.origins, self.execution = stage, resolved, origins, execution
        self.folders = Folders(resolved.RUN)
        self.knobs = knobs_of(stage)
        self.settings = resolved.readable_in((*self.knobs, *AMBIENT))
        self.force = execution.force
        self.run = Run(stage, self.settings, self.folders, self.force)
        self.started = time.monotonic()
        self.key = stage_key(stage, resolved, self.folders)
        self.failed_commands: list[str] = []

    def table(self) -> HTML:
        """Every knob of this stage: value, where it came from, what it does."""
        fields = Settings.model_fields
        return html_table(
            {
                "setting": name,
                "value": show_setting(self.resolved, name),
                "from": self.origins[name],
                "what it does": fields[name].description,
            }
            for name in self.knobs
        )

    def map(self) -> Figure:
        """The eight stages as boxes and arrows; this notebook's is filled."""
        return course_map(self.stage)

    def finish(self, status: str = "done", reason: str = "", **facts: object) -> None:
        """Check that nothing failed silently, write the receipt and say what was left behind.

        Raises CourseError if a shell command of this notebook failed or an output is missing.
        """
        if self.failed_commands:
            raise CourseError(
                f"a shell command of this notebook failed: {'; '.join(self.failed_commands)}",
                "mend it and run the notebook again",
            )
        outputs = [artefact_path(name, self.resolved, self.folders) for name in outputs_of(self.stage, self.resolved)]
        missing = [relative_path(path) for path in outputs if not path.exists()]
        if missing and status == "done":
            raise CourseError(
                f"{missing[0]} was not written",
                "run every cell of this notebook, in order",
                "a-stage-needs-another-one",
            )
        receipt = write_receipt(
            self.stage,
            self.resolved,
            self.folders,
            key=self.key,
            seconds=time.monotonic() - self.started,
            execution=self.execution.token,
            status=status,
            reason=reason,
            peak_memory=peak_memory(),
            **facts,
        )
        keep_stage(self.stage, self.folders, self.resolved.ARTEFACTS_DIR)
        report_progress("finished")
        left = "\n".join(f"- `{name}`" for name in receipt["outputs"]) or "- nothing"
        display(Markdown(f"**{status}** in {receipt['seconds']:.0f} s. Left behind:\n\n{left}"))


def begin(name: str, cell_names: Mapping[str, object], execution: Execution | None = None) -> Session:
    """Open a stage from its notebook: `begin("3_download_papers", globals())`.

    What the runner asks of this execution stands in the environment, unless it is given.

    Raises CourseError for an unknown or wrong setting, for a secret in a cell, and where a stage this one needs is
    not done.
    """
    stage, execution = stage_of(name), execution or read_execution(os.environ)
    parameters = {n: v for n, v in cell_names.items() if n in knobs_of(stage) or looks_like_setting(n)}
    if written := sorted(n for n in SECRETS if parameters.get(n)):
        raise CourseError(
            f"{written[0]} stands in a cell of {name}, where reports would show it",
            "take it out of the notebook and put it into .env or the environment",
        )
    listen(Path(execution.progress) if execution.progress else None)
    resolved, origins = load_settings(parameters, command_line=execution.command_line)
    folders = Folders(resolved.RUN)
    make_folder(folders.reports)
    if not execution.progress:  # the runner has brought them back, and taken away what it forces
        print(restore_stages(dict.fromkeys(ALL, resolved), folders, resolved.ARTEFACTS_DIR) or "", end="")
    require_needed_stages(stage, resolved, folders)
    session = Session(stage, resolved, origins, execution)
    watch_commands(session)
    report_progress("started")
    return session


def require_needed_stages(stage: Stage, resolved: Settings, folders: Folders) -> None:
    """Refuse to go on where a stage this one builds on has not finished, or its output was damaged since."""
    for needed in (s for s in STAGES if s.number in stage.needs):
        receipt = read_receipt(needed, folders)
        if why := find_damage(receipt) if receipt else explain_receipt(needed, folders):
            raise CourseError(
                f"{stage.name} needs {needed.name}: {why}",
                f"run notebooks/{needed.name}.ipynb, or: {make_command(resolved, STAGES=str(needed.number))}",
                "a-stage-needs-another-one",
            )

    if "base" in FIXED_INPUTS[stage.number] and not base_model_folder(resolved.MODEL_NAME).exists():
        raise CourseError(
            f"MODEL_NAME={resolved.MODEL_NAME!r}: stage 1 has not fetched this model",
            make_command(resolved, STAGES="1"),
            "a-stage-needs-another-one",
        )


def watch_commands(session: Session) -> None:
    """Remember every `!command` or `%pip` that fails, which neither Jupyter nor papermill does."""
    shell = get_ipython()
    if shell is None:
        return
    system = shell.system

    def watched(command: str) -> None:
        system(command)
        if shell.user_ns.get("_exit_code"):
            session.failed_commands.append(command.strip())

    shell.system = watched
    if session.execution.progress:
        shell.ask_exit = refuse_exit


def refuse_exit() -> None:
    """exit() only asks the kernel to end some time: under the runner, later cells may or may not be run."""
    raise CourseError("the notebook was ended here by exit(), before its last cell", "take the exit() out")
