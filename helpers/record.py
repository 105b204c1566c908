"""A recorded run: its receipts, scores and timings kept in the repository, and the README's tables made from them."""

import shutil
import sys
from pathlib import Path

from helpers import files
from helpers.errors import CourseError
from helpers.paths import ROOT, Folders, relative
from helpers.progress import clock
from helpers.stages import STAGES
from helpers.tables import number

RECORDED = ROOT / "reports" / "recorded"
README = ROOT / "README.md"
BENCH, REPLAY = "bench.json", "replay.json"  # measured apart from the run, by make bench and with REPLAY_RATIO


def record(folders: Folders) -> None:
    """Copy what a finished run may publish to reports/recorded, and put its table into the README.

    Pages are left out: they show passages of abstracts, which belong to their publishers.

    Raises CourseError if a stage of the run has not finished.
    """
    for stage in STAGES:
        if not stage.receipt(folders).exists():
            raise CourseError(f"{stage.name} has no receipt in {relative(folders.reports)}", "run make pipeline")
    files.remove_folder(RECORDED / "receipts")
    (RECORDED / "receipts").mkdir(parents=True)
    apart = [path for name in (BENCH, REPLAY) if (path := folders.reports / name).exists()]
    for path in [folders.scores, *sorted(folders.reports.glob("results_*.json")), *apart]:
        shutil.copy(path, RECORDED / path.name)
    for stage in STAGES:
        shutil.copy(stage.receipt(folders), RECORDED / "receipts" / f"{stage.name}.json")
    write_readme()


def write_readme() -> None:
    """Put the tables of what is recorded into the README, each between its two marks."""
    text = README.read_text(encoding="utf-8")
    for name, made in (("recorded run", summary()), ("timings", timings())):
        start, end = marks(name)
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{made}\n{end}{rest.partition(end)[2]}"
    files.write_text(README, text)


def marks(name: str) -> tuple[str, str]:
    """The comments between which the README has a table."""
    return f"<!-- {name}: start -->", f"<!-- {name}: end -->"


def summary(recorded: Path = RECORDED) -> str:
    """The recorded run in Markdown: verdict, rows, comparisons, cost. Every figure is read from its files."""
    scores = files.read_json(recorded / "scores.json")
    receipts = {s.number: files.read_json(recorded / "receipts" / f"{s.name}.json") for s in STAGES}
    route, counts = receipts[3]["route"], receipts[3]["counts"]
    return "\n".join(
        [
            f"> {scores['conclusion']}",
            "",
            f"Profile `{receipts[1]['profile']}`, model {receipts[1]['model']} ({receipts[1]['source']}); "
            f"papers by the `{route['name']}` route: {counts['found']:,} records found, {counts['kept']} kept, "
            f"{counts['rows']} training rows, {counts['held_out']} papers held out.",
            "",
            *rows_table(scores),
            "",
            *comparisons_table(scores),
            "",
            *cost_table(receipts),
        ]
    )


def rows_table(scores: dict) -> list[str]:
    lines = ["| model | rubric score (0–1) | bits per byte, held-out papers | words an answer |", "|---|--:|--:|--:|"]
    for name, row in scores["rows"].items():
        rubric, bits = measured(row["measures"].get("rubric"), 3), measured(row["measures"].get("bits_per_byte"), 4)
        words = number((row["answers"] or {}).get("words_mean"), 0)
        lines.append(f"| `{name}` | {rubric} | {bits} | {words} |")
    return lines


def measured(instrument: dict | None, digits: int) -> str:
    """A mean and its n; "–" for what was not measured."""
    return f"{number(instrument['mean'], digits)} (n = {instrument['n']})" if instrument else "–"


def comparisons_table(scores: dict) -> list[str]:
    lines = ["| comparison | difference | 95 % interval | detectable | verdict |", "|---|--:|--:|--:|---|"]
    for c in scores["comparisons"]:
        interval = f"{number(c['low'], 4)} to {number(c['high'], 4)}"
        detectable = number(c["minimum_detectable_effect"], 4)
        difference = number(c["mean_difference"], 4)
        lines.append(f"| {c['name']} | {difference} | {interval} | {detectable} | {c['verdict']} |")
    return lines


def cost_table(receipts: dict[int, dict]) -> list[str]:
    lines = ["| stage | minutes | peak memory | left behind |", "|---|--:|--:|--:|"]
    for stage in STAGES:
        receipt = receipts[stage.number]
        lines.append(
            f"| {stage.number} {stage.title} | {clock(receipt['seconds'])} "
            f"| {receipt['peak_memory'] / 2**30:.1f} GiB | {receipt['megabytes_left']:.1f} MB |"
        )
    total = sum(receipt["seconds"] for receipt in receipts.values())
    most = max(receipt["peak_memory"] for receipt in receipts.values())
    return [*lines, f"| all | {clock(total)} | {most / 2**30:.1f} GiB | |"]


def replay(recorded: Path = RECORDED) -> dict:
    """Losses after trainings with different replay ratios: {"rows", "base"} as curves.replay_effect takes them."""
    return files.read_json(recorded / REPLAY)


def timings(recorded: Path = RECORDED) -> str:
    """What make bench measured, in Markdown."""
    bench = files.read_json(recorded / BENCH)
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
        record(Folders(sys.argv[1] if len(sys.argv) > 1 else ""))
    except CourseError as error:
        sys.exit(str(error))
