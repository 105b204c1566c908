"""What an exam found about a model: every mean with its interval, and the answer in sentences."""

from collections.abc import Iterable, Mapping

from helpers.evaluation import item_context, item_values, summarise_task
from helpers.grading import Graded
from helpers.report.format import BASE_OF, INSTRUMENTS, format_count, format_figure, format_interval, task_label

OF_PAPERS = ("recall", "bits_per_byte")  # what the answer is about once there are papers
PLAIN = ("cloze", "general_bits")  # and before


def finding_rows(measured: Mapping[str, list[dict]]) -> list[dict[str, str]]:
    """A table: each instrument, its n, what guessing scores, and every model's mean with its 95 % interval."""
    found = summarise_variants(measured)
    names = {name for of_row in found.values() for name in of_row}
    return [
        finding_row(name, {row: of_row.get(name) for row, of_row in found.items()})
        for name in [*(name for name in INSTRUMENTS if name in names), *sorted(names - set(INSTRUMENTS))]
    ]


def summarise_variants(measured: Mapping[str, list[dict]]) -> dict[str, dict[str, dict]]:
    """{row: {instrument: what `measures.measure` returns}}."""
    known = item_context(measured)
    return {
        row: {name: summarise_task(name, scored, known) for name, scored in item_values(row, of_row).items()}
        for row, of_row in measured.items()
    }


def finding_row(name: str, per_row: Mapping[str, dict | None]) -> dict[str, str]:
    """One row of the table; "–" for a model that did not sit this instrument."""
    one = next(filter(None, per_row.values()))
    about = task_label(name, one["chance"])
    cells = {
        row: f"{format_figure(m['mean'], about.unit)}\n{format_interval(m['low'], m['high'], about.unit)}"
        if m
        else "–"
        for row, m in per_row.items()
    }
    title = f"{about.title}, bits per byte" if about.unit == "bits" else about.title
    return {"instrument": title, "n": format_count(one), "guessing": format_figure(one["chance"], "share")} | cells


def finding_sentences(row: str, measured: Mapping[str, list[dict]], grades: Iterable[Graded]) -> list[str]:
    """What this run says about `row`, beside the untouched model it came from; [] if it was not examined.

    Nothing is called a difference here: the items are compared in pairs by stage 8.
    """
    if row not in measured:
        return []
    found = summarise_variants(measured)
    wanted = [name for name in OF_PAPERS if name in found[row]] or [name for name in PLAIN if name in found[row]]
    told = "; ".join(sentence_on_items(name, row, found) for name in wanted)
    last = "Whether these figures differ by more than chance is left to notebook 8, which compares item by item."
    if row not in BASE_OF:
        last = "This is the baseline: nothing has been compared with it yet."
    return [sentence_on_questions(row, grades), f"{told[:1].upper()}{told[1:]}.", last]


def sentence_on_questions(row: str, grades: Iterable[Graded]) -> str:
    scores = {str(number): one.score for number, one in enumerate(grades) if one.score is not None}
    if not scores:
        return "No question that was asked has criteria, so no answer is graded."
    found = summarise_task("rubric", scores, {})
    interval = f"95 % interval {format_interval(found['low'], found['high'], 'score')}"
    if len(set(scores.values())) == 1:
        interval = "all alike, so they say nothing about their spread"
    earned = f"{format_figure(found['mean'], 'score')} of 1 (n = {format_count(found)}, {interval})"
    return f"By the rubric, the greedy answers of {row} earn {earned}."


def sentence_on_items(name: str, row: str, found: Mapping[str, Mapping[str, dict]]) -> str:
    """The row's mean and that of its untouched model, if it is another, with intervals, n and chance."""
    about, own = task_label(name), found[row][name]
    unit = " bits per byte" if about.unit == "bits" else ""
    told = " and ".join(
        f"{format_figure(m['mean'], about.unit)}{unit} for {one} "
        f"(95 % interval {format_interval(m['low'], m['high'], about.unit)})"
        for one in (row, BASE_OF.get(row))
        if one and (m := found[one].get(name))
    )
    what = "surprise at" if unit else "right endings in"
    chance = f", guessing {format_figure(own['chance'], about.unit)}" if own["chance"] is not None else ""
    return f"{what} {about.title}: {told}, n = {format_count(own)}{chance}"
