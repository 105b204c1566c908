"""How fast we are against the recipes everybody copies: `python -m helpers bench [NAME=value …]`, or `make bench`.

Any setting may be given, and REPEATS (5) and FORCE=all, which times anew what an earlier, interrupted bench has done.
Every repeat is a process of its own, `python -m helpers bench one TASK SIDE`, and sides take turns. Leave the machine
alone meanwhile.
"""

import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from helpers.bench.baselines import require_trl, why_no_llama
from helpers.bench.inputs import bench_inputs
from helpers.bench.worker import SIDES, UNIT
from helpers.bench.worker import run as worker_run
from helpers.core import (
    NAMES,
    ROOT,
    SECRETS,
    CourseError,
    Folders,
    Settings,
    append_jsonl,
    device_name,
    hash_code,
    hash_json,
    load_settings,
    parse_words,
    read_json,
    read_jsonl,
    relative_path,
    run_command,
    settings_as_json,
    write_json,
)
from helpers.models import fetch_model
from helpers.pipeline import hold_run_lock

COMMAND = (sys.executable, "-m", "helpers", "bench")
OPTIONS = ("REPEATS", "FORCE")  # what the command line takes besides settings
REPEATS = 5
SAME = 0.01  # two results may differ by this share
RESULT = {"qlora": "held-out loss", "full": "held-out loss", "probes": "log-probability"}
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "trl", "llama-cpp-python")


def main(words: list[str]) -> int:
    """Time everything, or one run if the words say so; the process's exit status."""
    if words[:1] == ["one"]:
        return run_command(lambda: print_one(*words[1:3], words[3:]), "this run was not timed")
    kept = "finished repeats are kept\n→ the same command goes on from here"
    return run_command(lambda: time_and_report(words), kept)


def print_one(task: str, side: str, words: list[str]) -> int:
    print(json.dumps(run_one(task, side, words)))
    return 0


def time_and_report(words: list[str]) -> int:
    show_report(run_bench(words))
    return 0


def run_bench(words: list[str]) -> dict:
    """Time every side REPEATS times, write reports/bench.json and return what it holds.

    Finished repeats are noted in reports/.notes/bench.jsonl and not timed again while code, settings, rows and
    machine are the same. Raises CourseError where TRL is missing or a run fails.
    """
    values, repeats, force = read_command(words)
    resolved, _ = load_settings(values, command_line=values)
    require_trl()
    with hold_run_lock(Folders(resolved.RUN)):
        return bench_run(resolved, values, repeats, force)


def bench_run(resolved: Settings, values: Mapping[str, str], repeats: int, force: bool) -> dict:
    """The bench itself, as `run_bench` returns it; nothing else may write to this run meanwhile."""
    folders = Folders(resolved.RUN)
    fetch_model(resolved)
    inputs, unable = bench_inputs(resolved, folders), {}
    if why := why_no_llama(resolved.MODEL_NAME):
        unable["answers", "llama.cpp"] = why
    write_json(input_file(folders), inputs)
    knobs = settings_as_json(resolved, [n for n in NAMES if n not in (*SECRETS, "RUN", "ENV_FILE")])
    identity = hash_json([inputs, knobs, platform.node(), read_versions(), hash_code("bench")])
    sides = [(task, side) for task, group in SIDES.items() for side in group if (task, side) not in unable]
    order = [(turn, *sides[(n + turn) % len(sides)]) for turn in range(repeats) for n in range(len(sides))]
    runs = time_all(order, identity, folders.notes / "bench.jsonl", force, [f"{n}={v}" for n, v in values.items()])
    report = {
        "machine": describe_bench_machine(runs),
        "measured": [
            compare_sides(task, group[0], other, runs, unable.get((task, other), ""))
            for task, group in SIDES.items()
            for other in group[1:]
        ],
    }
    write_json(folders.reports / "bench.json", report)
    return report | {"file": relative_path(folders.reports / "bench.json")}


def read_command(words: Iterable[str]) -> tuple[dict[str, str], int, bool]:
    """(settings, repeats, whether to forget what is noted) of `NAME=value` words.

    Raises CourseError for an unknown name or a number of repeats that is none.
    """
    values = dict.fromkeys(OPTIONS, "") | parse_words(words, "make bench REPEATS=5", OPTIONS)
    repeats, force = values.pop("REPEATS") or str(REPEATS), values.pop("FORCE")
    if not repeats.isdigit() or int(repeats) < 1:
        raise CourseError(f"REPEATS={repeats!r} is no number of repeats", "REPEATS is a whole number from 1 on")
    return values, int(repeats), force not in ("", "0")


def input_file(folders: Folders) -> Path:
    """What all runs of a bench are given."""
    return folders.notes / "bench_input.json"


def run_one(task: str, side: str, words: list[str]) -> dict:
    """One run, in this process: what `timing.run` measured."""
    if side not in SIDES.get(task, ()):
        raise CourseError(f"there is no run {task} {side}", f"tasks and sides are {SIDES}")
    resolved, _ = load_settings(read_command(words)[0])
    return worker_run(task, side, resolved, read_json(input_file(Folders(resolved.RUN))))


def time_all(
    order: list[tuple[int, str, str]], identity: str, notes: Path, force: bool, words: list[str]
) -> dict[tuple[str, str], list[dict]]:
    """{(task, side): what each repeat measured}; `order` lists (repeat, task, side)."""
    known = {} if force else {noted["work"]: noted["measured"] for noted in read_jsonl(notes)}
    runs: dict[tuple[str, str], list[dict]] = {}
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("timing", total=len(order))
        for turn, task, side in order:
            progress.update(bar, description=f"{turn + 1}: {task} {side}")
            work = hash_json([identity, turn, task, side])
            if work not in known:
                known[work] = run_apart(task, side, words)
                append_jsonl(notes, [{"work": work, "task": task, "side": side, "measured": known[work]}])
            runs.setdefault((task, side), []).append(known[work])
            progress.advance(bar)
    return runs


def run_apart(task: str, side: str, words: list[str]) -> dict:
    """What one run measures in a process of its own.

    Raises CourseError with what that process says last, if it fails.
    """
    done = subprocess.run([*COMMAND, "one", task, side, *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if not line.startswith("  see ")]
        said = said or [f"it ended with status {done.returncode}"]
        problem, way_out = said[-2:] if said[-1].startswith("→") else (said[-1], "→ run it alone to see all of it")
        raise CourseError(f"the run {task} {side} failed: {problem}", way_out.removeprefix("→ "))
    return json.loads(done.stdout.splitlines()[-1])


def compare_sides(task: str, our: str, other: str, runs: Mapping[tuple[str, str], list[dict]], not_run: str) -> dict:
    """One line of the report: our side of a task against another one, medians of the repeats."""
    sides = {"ours": runs[task, our], "reference": runs.get((task, other), [])}
    line = {
        "name": f"{task}: {our} against {other}",
        "task": task,
        "unit": f"{UNIT[task]}/s",
        **{name: median_of(map(rate_of, of)) for name, of in sides.items()},
        "ratio": None,
        "repeats": len(sides["ours"]),
        "not_run": not_run,
        "spread": {name: relative_spread([rate_of(r) for r in of]) for name, of in sides.items()},
        "memory": {name: median_of(r["memory"] for r in of) for name, of in sides.items()},
        "share_of_peak": {name: peak_shares(of) for name, of in sides.items()},
        "result": None if not_run else same_result(task, **sides),
        "runs": sides,
    }
    return line if not_run else line | {"ratio": line["ours"] / line["reference"]}


def rate_of(run: Mapping) -> float:
    """Tokens or items a second."""
    return run["count"] / run["seconds"]


def median_of(values: Iterable[float]) -> float | None:
    values = list(values)
    return float(np.median(values)) if values else None


def relative_spread(values: list[float]) -> float | None:
    """Interquartile range as a share of the median; None of fewer than two values."""
    if len(values) < 2:
        return None
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float((high - low) / middle)


def peak_shares(runs: list[dict]) -> dict[str, float]:
    """{dtype: model FLOPs a second as a share of the faster of the matrix products before and after}."""
    kinds = [run["peaks"] for run in runs[:1] if "peaks" in run]
    return {d: median_of(r["flops"] / r["seconds"] / max(r["peaks"][d]) for r in runs) for k in kinds for d in k}


def same_result(task: str, ours: list[dict], reference: list[dict]) -> dict | None:
    """What both sides reached, and whether every repeat of the reference is within SAME of ours; None of answers."""
    if task not in RESULT:
        return None
    own, other = (median_of(r["result"] for r in runs) for runs in (ours, reference))
    same = all(abs(run["result"] / own - 1) <= SAME for run in (*ours, *reference))
    before = {"untrained": ours[0]["untrained"]} if "untrained" in ours[0] else {}
    return {"what": RESULT[task], **before, "ours": own, "reference": other, "same": same}


def describe_bench_machine(runs: Mapping[tuple[str, str], list[dict]]) -> dict[str, object]:
    """Cores, memory, versions, and {dtype: lowest, median and highest FLOPs a second} of matrix products."""
    measured = [run["peaks"] for group in runs.values() for run in group if "peaks" in run]
    peaks = {dtype: [flops for peak in measured for flops in peak[dtype]] for dtype in measured[0]}
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(logical=False),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device_name() == "cuda" else "cpu",
        "memory": psutil.virtual_memory().total,
        "peaks": {d: {"lowest": min(p), "median": median_of(p), "highest": max(p)} for d, p in peaks.items()},
        "python": platform.python_version(),
        "versions": read_versions(),
    }


def read_versions() -> dict[str, str]:
    """{package: version} of what is timed; "" for what is not installed."""
    return {name: installed_version(name) for name in PACKAGES}


def installed_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def show_report(report: dict) -> None:
    """The report as a table on the terminal, and how quiet the machine was."""
    table = Table("measured", "ours", "reference", "ratio", "share of bf16 peak", "memory, GiB", "result", "same")
    for line in report["measured"]:
        ratio = f"{line['ratio']:.2f} ×" if line["ratio"] else line["not_run"]
        reached = line["result"] or {}
        table.add_row(
            line["name"],
            f"{line['ours']:,.1f} {line['unit']}",
            "not run" if line["not_run"] else f"{line['reference']:,.1f}",
            ratio,
            join_values({name: share.get("bfloat16") for name, share in line["share_of_peak"].items()}, "{:.0%}"),
            join_values({name: size and size / 2**30 for name, size in line["memory"].items()}, "{:.1f}"),
            join_values({name: reached.get(name) for name in ("untrained", "ours", "reference")}, "{:.4g}"),
            {True: "yes", False: "NO"}.get(reached.get("same"), ""),
        )
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(describe_noise(report), highlight=False)
    console.print(f"all repeats: {report['file']}", highlight=False)


def join_values(values: Mapping[str, float | None], form: str) -> str:
    """The values there are, one after the other."""
    return " / ".join(form.format(value) for value in values.values() if value is not None)


def describe_noise(report: dict) -> str:
    """How much the repeats differ, in words."""
    widths = [width for line in report["measured"] for width in line["spread"].values() if width is not None]
    peaks = report["machine"]["peaks"].items()
    products = ", ".join(f"{d} {p['lowest'] / 1e9:,.0f} to {p['highest'] / 1e9:,.0f}" for d, p in peaks)
    said = f"matrix products ran at {products} GFLOPs a second"
    if not widths:
        return f"one repeat, so nothing is known of the noise; {said}"
    width = f"{median_of(widths):.0%} of the median, {max(widths):.0%} at most"
    return f"interquartile range of the repeats: {width}; {said}"
