"""Runs the notebooks that are not done: `python -m helpers pipeline [NAME=value …]`, or `make pipeline`.

Any setting may be given, and STAGES (3-5 or 1,4) and FORCE (stage numbers, or all).
"""

import fcntl
import os
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from helpers.core import (
    AMBIENT,
    RAW,
    SECRETS,
    STAGES,
    CourseError,
    Folders,
    Settings,
    Stage,
    explain_full_disk,
    format_clock,
    make_command,
    make_folder,
    read_receipt,
    relative_path,
    run_command,
    settings_as_json,
    sweep_temporary,
)
from helpers.pipeline.artefacts import restore_stages
from helpers.pipeline.board import Board
from helpers.pipeline.estimates import estimate_stage, format_minutes, require_time
from helpers.pipeline.notebook import Execution, Fault, execute_notebook
from helpers.pipeline.order import Order, read_order, resolve_settings
from helpers.pipeline.provenance import list_differences, stage_key, stage_state
from helpers.pipeline.stages import parameters_of

NOT_PASSED = 3  # the status of a control that ran and did not find what it taught
SHOWN_LINES = 12  # of the cell that failed


def main(words: list[str]) -> int:
    """Run the pipeline as the command line says; the process's exit status."""
    return run_command(
        lambda: run_ordered(words), "all that was finished is kept\n→ the same command goes on from here"
    )


def run_ordered(words: list[str]) -> int:
    order = read_order(words, os.environ)
    return run_pipeline(order, resolve_settings(order))


def run_pipeline(order: Order, resolved: Mapping[int, Settings]) -> int:
    """Bring the selected stages up to date, in order, up to the first that fails; 0 or 1."""
    folders, began = Folders(resolved[1].RUN), time.monotonic()
    with hold_run_lock(folders):
        for folder in (RAW, folders.data, folders.models, folders.reports, folders.receipts, folders.items):
            sweep_temporary(folder)
        if brought := str(restore_stages(resolved, folders, resolved[1].ARTEFACTS_DIR)):
            print(brought)
        require_needs(order, resolved, folders)
    print(f"profile {resolved[1].PROFILE} · model {resolved[1].MODEL_NAME} · {relative_path(folders.reports)}/")
    if 8 in order.stages and resolved[8].CONTROLS == "full":
        run_control(order)  # it holds the lock itself
    with hold_run_lock(folders), Board(STAGES, folders.progress) as board:
        ran, fault = bring_up_to_date(order, resolved, folders, board, began)
    if fault:
        stage, fault = fault
        print(f"\n{describe_failure(stage, fault, folders)}", file=sys.stderr)
        return 1
    print(f"\n{summarise_run_line(ran, order, folders)} · {format_clock(time.monotonic() - began)}")
    return 0


def run_control(order: Order) -> None:
    """The positive control, before anything else: without it a null result could be a broken trainer.

    What it has measured it does not measure again. Raises CourseError if it could not be run; whether it passed is
    for the report to say.
    """
    given = [f"{name}={value}" for name, value in order.values.items()]
    done = subprocess.run([sys.executable, "-m", "helpers", "control", *given], check=False)
    if done.returncode not in (0, NOT_PASSED):
        raise CourseError(
            "the positive control could not be run",
            "mend it, or leave it out: CONTROLS=placebo",
            "the-positive-control-does-not-pass",
        )


def bring_up_to_date(
    order: Order, resolved: Mapping[int, Settings], folders: Folders, board: Board, began: float
) -> tuple[int, tuple[Stage, Fault] | None]:
    """How many stages ran, and the one that failed with its fault, or None.

    Raises CourseError before a stage that does not fit into what is left of TIME_LIMIT since `began`.
    """
    for stage in STAGES:
        if stage.number not in order.stages:
            board.change(stage.number, "not needed")
    ran = 0
    for stage in (s for s in STAGES if s.number in order.stages):
        forced = stage.number in order.forced
        why = "forced" if forced else why_run(stage, resolved[stage.number], folders)
        if not why:
            board.change(stage.number, "skipped", "nothing it depends on has changed")
            continue
        settings = resolved[stage.number]
        expected = estimate_stage(stage, settings)
        warning = require_time(stage, expected, settings, time.monotonic() - began)
        board.change(stage.number, "running", " · ".join(filter(None, [why, str(expected), warning])))
        try:
            fault = run_stage(stage, settings, folders, order, forced)
        except BaseException:
            board.change(stage.number, "stopped")
            raise
        if fault:
            board.change(stage.number, "failed")
            return ran, (stage, fault)
        receipt = read_receipt(stage, folders)
        left_out = f"left out: {receipt['reason']}" if receipt["status"] == "skipped" else ""
        told = f"{format_minutes(expected.seconds)} were expected" if expected.seconds is not None else ""
        board.change(stage.number, "done", left_out or told)
        ran += 1
    return ran, None


def why_run(stage: Stage, resolved: Settings, folders: Folders) -> str:
    """Why a stage must run, "" if it need not."""
    found = stage_state(stage, resolved, folders)
    if not found.done:
        return found.why
    return "" if stage.page(folders).exists() else "its page is missing"


def require_needs(order: Order, resolved: Mapping[int, Settings], folders: Folders) -> None:
    """Refuse a selection that builds on a stage outside it that is not done.

    Raises CourseError naming that stage and the selection that would include it.
    """
    needed, waiting = set(), list(order.stages)
    while waiting:
        more = set(STAGES[waiting.pop() - 1].needs) - needed - set(order.stages)
        needed |= more
        waiting.extend(more)
    lacking = {n: stage_state(STAGES[n - 1], resolved[n], folders) for n in sorted(needed)}
    lacking = {n: state.why for n, state in lacking.items() if not state.done}
    if lacking:
        first = min(lacking)
        together = ",".join(map(str, sorted({*lacking, *order.stages})))
        raise CourseError(
            f"stage {first} ({STAGES[first - 1].title}) is needed and not done: {lacking[first]}",
            make_command(resolved[first], STAGES=together),
            "a-stage-needs-another-one",
        )


def run_stage(stage: Stage, resolved: Settings, folders: Folders, order: Order, forced: bool) -> Fault | None:
    """Execute a stage's notebook and make its page; None if it left its receipt."""
    from helpers.report import render_page  # seconds to import, and only needed where a notebook runs

    execution = Execution(uuid.uuid4().hex, forced, str(folders.progress), dict(order.values))
    environment = os.environ | order.values | execution.variable()
    environment["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # a user's own would leave the plots out
    for leftover in (folders.progress, *folders.reports.glob(f"{stage.name}.failed.*")):
        leftover.unlink(missing_ok=True)
    if forced:
        stage.receipt(folders).unlink(missing_ok=True)
    typed = [n for n in parameters_of(stage) if order.values.get(n) and n not in AMBIENT]
    secrets = [value.get_secret_value() for name in SECRETS if (value := getattr(resolved, name))]
    fault = execute_notebook(
        stage.notebook,
        settings_as_json(resolved, typed),
        folders.reports,
        secrets,
        environment,
        lambda: find_missing_proof(stage, resolved, folders, execution.token),
    )
    if fault and (receipt := read_receipt(stage, folders)) and receipt["execution"] == execution.token:
        stage.receipt(folders).unlink()
    page = stage.page(folders).with_suffix(".failed.html" if fault else ".html")
    render_page(page.with_suffix(".ipynb"), page, stage)
    return fault


def find_missing_proof(stage: Stage, resolved: Settings, folders: Folders, token: str) -> Fault | None:
    """The fault of a notebook that ran to its end but left no receipt of this execution and these settings."""
    receipt = read_receipt(stage, folders)
    if receipt is None or receipt["execution"] != token:
        return Fault("", "the notebook ran to its end without a receipt\n→ its last cell must call session.finish()")
    now = stage_key(stage, resolved, folders)["settings"]
    if changed := list_differences(receipt["key"]["settings"], now):
        return Fault(
            "",
            f"the notebook ran with another {changed[0]} than it was given\n→ leave settings to the parameters cell",
        )
    return None


def describe_failure(stage: Stage, fault: Fault, folders: Folders) -> str:
    """What the terminal says of a stage that failed: the cell, the error, where the whole report is."""
    lines = fault.cell.strip().splitlines()
    if len(lines) > SHOWN_LINES:
        lines = [*lines[: SHOWN_LINES - 1], f"… {len(lines) - SHOWN_LINES + 1} more lines"]
    cell = f" in this cell:\n\n{textwrap.indent(chr(10).join(lines), '    | ')}\n" if lines else ":\n"
    page = relative_path(stage.page(folders).with_suffix(".failed.html"))
    return f"stage {stage.number} ({stage.title}) failed{cell}\n{fault.error}\n\nall of it: {page}"


def summarise_run_line(ran: int, order: Order, folders: Folders) -> str:
    """The last line: how many stages ran and what to open."""
    index = folders.reports / "index.html"
    page = index if index.exists() else STAGES[order.stages[-1] - 1].page(folders)
    done = f"{ran} stage{'s' * (ran != 1)} ran" if ran else "nothing to do, 0 stages ran"
    return f"{done} · open {relative_path(page)}"


@contextmanager
def hold_run_lock(folders: Folders) -> Iterator[None]:
    """Hold the run's lock. It belongs to the process, so that a killed one leaves none behind.

    Raises CourseError with the process id of the runner that holds it.
    """
    lock_path = make_folder(folders.reports) / ".lock"
    with explain_full_disk(lock_path):
        lock = lock_path.open("a+")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise CourseError(
                f"another command is at work in {relative_path(folders.reports)} (process {lock.read().strip()})",
                "wait for it, or give this one its own folders: the same command with RUN=another",
                "two-runs-at-once",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
