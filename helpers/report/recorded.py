"""A recorded run: its receipts, scores and timings kept in the repository, and the README's tables made from them."""

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from helpers.core import (
    ROOT,
    STAGES,
    CourseError,
    Folders,
    format_clock,
    read_json,
    relative_path,
    remove_folder,
    write_json,
    write_text,
)
from helpers.dataset import word_runs
from helpers.evaluation import CHOICES, INSTRUMENTS
from helpers.papers import Paper, read_papers
from helpers.report.tables import format_number

QUOTE = 12
LEFT_OUT = "(left out of the repository: it repeats a passage of an abstract)"
RECORDED = ROOT / "reports" / "recorded"
README = ROOT / "README.md"
APART = ("bench.json", "replay.json", "control.json")  # measured apart: make bench, REPLAY_RATIO, make control


def record_run(folders: Folders) -> None:
    """Copy what a finished run may publish to reports/recorded, and put its table into the README.

    Abstracts belong to their publishers: pages are left out, since they show passages of them, and so is every
    answer that repeats QUOTE words of one in a row.

    Raises CourseError if a stage of the run has not finished.
    """
    for stage in STAGES:
        if not stage.receipt(folders).exists():
            raise CourseError(f"{stage.name} has no receipt in {relative_path(folders.reports)}", "run make pipeline")
    remove_folder(RECORDED / "receipts")
    (RECORDED / "receipts").mkdir(parents=True)
    apart = [path for name in APART if (path := folders.reports / name).exists()]
    for folder in ("items", "cards"):
        remove_folder(RECORDED / folder)
        shutil.copytree(folders.reports / folder, RECORDED / folder)
    for path in apart:
        shutil.copy(path, RECORDED / path.name)
    passages = passages_of(read_papers(folders.papers))
    for path in [folders.scores, *sorted(folders.reports.glob("results_*.json"))]:
        write_json(RECORDED / path.name, leave_out_passages(passages, read_json(path)))
    for stage in STAGES:
        shutil.copy(stage.receipt(folders), RECORDED / "receipts" / f"{stage.name}.json")
    write_readme()


def passages_of(papers: Iterable[Paper]) -> set[tuple[str, ...]]:
    """Every run of QUOTE words in the abstracts."""
    return {run for paper in papers for part in paper.abstract for run in word_runs(part.text, QUOTE)}


def leave_out_passages(passages: set[tuple[str, ...]], value: object) -> object:
    """`value`, a JSON value, with LEFT_OUT in place of every text that holds one of the passages."""
    if isinstance(value, dict):
        return {key: leave_out_passages(passages, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [leave_out_passages(passages, inner) for inner in value]
    quotes = isinstance(value, str) and not passages.isdisjoint(word_runs(value, QUOTE))
    return LEFT_OUT if quotes else value


def write_readme() -> None:
    """Put the tables of what is recorded into the README, each between its two marks."""
    text = README.read_text(encoding="utf-8")
    for name, made in (("recorded run", summarise_run()), ("control", control_text()), ("timings", timings_text())):
        start, end = table_marks(name)
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{made}\n{end}{rest.partition(end)[2]}"
    write_text(README, text)


def table_marks(name: str) -> tuple[str, str]:
    """The comments between which the README has a table."""
    return f"<!-- {name}: start -->", f"<!-- {name}: end -->"


def summarise_run(recorded: Path = RECORDED) -> str:
    """The recorded run in Markdown: verdict, rows, comparisons, cost. Every figure is read from its files."""
    scores = read_json(recorded / "scores.json")
    receipts = {s.number: read_json(recorded / "receipts" / f"{s.name}.json") for s in STAGES}
    route, counts = receipts[3]["route"], receipts[3]["counts"]
    return "\n".join(
        [
            f"> {scores['conclusion']}",
            "",
            f"Profile `{receipts[1]['profile']}`, model {receipts[1]['model']} ({receipts[1]['source']}); "
            f"papers by the `{route['name']}` route: {counts['found']:,} records found, {counts['kept']} kept, "
            f"{counts['rows']} training rows, {counts['held_out']} papers held out.",
            "",
            *(f"- {sentence}" for sentence in scores["verdict"]["sentences"]),
            "",
            *rows_table(scores),
            "",
            *comparisons_table(scores),
            "",
            *cost_table(receipts),
        ]
    )


def rows_table(scores: dict) -> list[str]:
    """Every row with every instrument that was measured, each figure with its 95 % interval."""
    names = [name for name in INSTRUMENTS if any(name in row["measures"] for row in scores["rows"].values())]
    heads = [f"{INSTRUMENTS[name].title}{count_of(scores, name)}" for name in names]
    lines = [f"| model | {' | '.join(heads)} | words an answer |", "|---|" + "--:|" * (len(heads) + 1)]
    for row, found in scores["rows"].items():
        cells = [interval_text(found["measures"].get(name), name) for name in names]
        words = format_number((found["answers"] or {}).get("words_mean"), 0)
        lines.append(f"| `{row}` | {' | '.join(cells)} | {words} |")
    return lines


def count_of(scores: dict, name: str) -> str:
    """How many items of how many papers a column is of, and what guessing scores."""
    found = next(row["measures"][name] for row in scores["rows"].values() if name in row["measures"])
    papers = f" of {found['clusters']} papers" if found["clusters"] < found["n"] else ""
    chance = "" if found["chance"] is None else f", chance {found['chance']:.0%}"
    return f" (n = {found['n']}{papers}{chance})"


def interval_text(measured: dict | None, name: str) -> str:
    """A mean and the ends of its interval; "–" for what was not measured."""
    if measured is None:
        return "–"
    if name in CHOICES:
        return f"{measured['mean']:.1%} ({measured['low']:.1%} to {measured['high']:.1%})"
    shown = [format_number(measured[part], 3) for part in ("mean", "low", "high")]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def comparisons_table(scores: dict) -> list[str]:
    """What was declared, what is guarded and what the controls say; the report has the exploratory rest."""
    lines = [
        "| comparison | declared as | difference | 95 % interval | p (Holm) | detectable | verdict |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for c in (c for c in scores["comparisons"] if c["role"] in ("primary", "family", "guard", "control")):
        ends = f"{format_number(c['low'], 4)} to {format_number(c['high'], 4)}"
        p = (
            format_number(c["p_value"], 4)
            if c["p_holm"] is None
            else f"{format_number(c['p_value'], 4)} ({format_number(c['p_holm'], 4)})"
        )
        detectable, difference = (
            format_number(c["minimum_detectable_effect"], 4),
            format_number(c["mean_difference"], 4),
        )
        lines.append(f"| {c['name']} | {c['role']} | {difference} | {ends} | {p} | {detectable} | {c['verdict']} |")
    return lines


def control_text(recorded: Path = RECORDED) -> str:
    """What the positive control measured, in Markdown."""
    found = read_json(recorded / "control.json")
    lines = [
        f"| trained by | what was read | taught (chance {found['chance']:.1%}) | only read | tokens | minutes |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for method, runs in found["methods"].items():
        for run, measured in runs.items():
            groups = (measured[group] for group in ("taught", "read"))
            rates = [f"{g['accuracy']:.0%} ({g['low']:.0%} to {g['high']:.0%}, n = {g['n']})" for g in groups]
            cost = f"{measured['tokens']:,} | {format_clock(measured['seconds'])}"
            lines.append(f"| {method} | {run.replace('_', ' ')} | {rates[0]} | {rates[1]} | {cost} |")
    return "\n".join(lines)


def cost_table(receipts: dict[int, dict]) -> list[str]:
    lines = ["| stage | minutes | peak memory | left behind |", "|---|--:|--:|--:|"]
    for stage in STAGES:
        receipt = receipts[stage.number]
        lines.append(
            f"| {stage.number} {stage.title} | {format_clock(receipt['seconds'])} "
            f"| {receipt['peak_memory'] / 2**30:.1f} GiB | {receipt['megabytes_left']:.1f} MB |"
        )
    total = sum(receipt["seconds"] for receipt in receipts.values())
    most = max(receipt["peak_memory"] for receipt in receipts.values())
    return [*lines, f"| all | {format_clock(total)} | {most / 2**30:.1f} GiB | |"]


def replay_losses(recorded: Path = RECORDED) -> dict:
    """Losses after trainings with different replay ratios: {"rows", "base"} as curves.replay_effect takes them."""
    return read_json(recorded / "replay.json")


def timings_text(recorded: Path = RECORDED) -> str:
    """What make bench measured, in Markdown."""
    bench = read_json(recorded / "bench.json")
    lines = [
        "| timed side by side | ours | reference | ratio | of the bf16 peak | peak memory | repeats |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for line in bench["measured"]:
        if line["not_run"]:
            lines.append(f"| {line['name']} | {line['ours']:.0f} {line['unit']} | not run | | | | |")
            continue
        peaks = [share["bfloat16"] for share in line["share_of_peak"].values() if share]
        memory = [size / 2**30 for size in line["memory"].values()]
        lines.append(
            f"| {line['name']} | {line['ours']:.0f} {line['unit']} | {line['reference']:.0f} | {line['ratio']:.2f} × "
            f"| {' against '.join(f'{share:.0%}' for share in peaks)} "
            f"| {' against '.join(f'{size:.1f}' for size in memory)} GiB | {line['repeats']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        record_run(Folders(sys.argv[1] if len(sys.argv) > 1 else ""))
    except CourseError as error:
        sys.exit(str(error))
