"""Stage 8's numbers as rows of tables, for the notebook, the report and the cards."""

from collections.abc import Iterable, Mapping
from types import SimpleNamespace

from helpers.core import STAGES, format_clock
from helpers.papers import Topic
from helpers.report.format import (
    BASE_OF,
    INSTRUMENTS,
    ROLES,
    format_count,
    format_figure,
    format_interval,
    model_label,
    pair_label,
    plain_unit,
    task_label,
    unit_of,
)
from helpers.report.tables import format_number

GAINS = ("recall", "bits_per_byte")  # what a training is paid for


def measured_tasks(scores: Mapping) -> list[str]:
    """The instruments that any row sat, in the order of the table, public benchmarks last."""
    found = {name for row in scores["rows"].values() for name in row["measures"]}
    return [*(name for name in INSTRUMENTS if name in found), *sorted(found - set(INSTRUMENTS))]


def chance_levels(scores: Mapping) -> dict[str, float]:
    """{instrument: what guessing scores} of those that can be guessed."""
    return {
        name: measure["chance"]
        for row in scores["rows"].values()
        for name, measure in row["measures"].items()
        if measure["chance"] is not None
    }


def score_rows(scores: Mapping, group: str) -> list[dict[str, str]]:
    """One row per model: each instrument of `group` with its 95 % interval and n; the last row is guessing."""
    guessed = chance_levels(scores)
    names = [name for name in measured_tasks(scores) if task_label(name, guessed.get(name)).group == group]
    shown = [
        {"model": model_label(row)} | {name: format_cell(one["measures"].get(name), name) for name in names}
        for row, one in scores["rows"].items()
        if any(name in one["measures"] for name in names)
    ]
    if any(name in guessed for name in names):
        shown.append({"model": "guessing"} | {name: format_figure(guessed.get(name), "share") for name in names})
    return [{task_label(k, guessed.get(k)).title if k != "model" else k: v for k, v in row.items()} for row in shown]


def format_cell(measure: Mapping | None, name: str) -> str:
    """A mean, its interval and its n in three lines."""
    if not measure:
        return "–"
    unit = task_label(name, measure["chance"]).unit
    lines = (
        format_figure(measure["mean"], unit),
        format_interval(measure["low"], measure["high"], unit),
        f"n = {format_count(measure)}",
    )
    return "\n".join(lines)


def answer_rows(scores: Mapping) -> list[dict[str, object]]:
    """One row per model: how long its answers took and were, and how they failed; nothing was dropped."""
    return [
        {
            "model": model_label(row),
            "answers": said["n"],
            "words": format_number(said["words_mean"], 0),
            "seconds": format_number(said["seconds_mean"], 1),
            "cut short": said["truncated"],
            "cut in thought": said.get("truncated_in_thought", 0),
            "empty": said["empty"],
            "sampled": said.get("samples", 0),
            "of these cut": said.get("sampled_truncated", 0),
            "of these empty": said.get("sampled_empty", 0),
        }
        for row, one in scores["rows"].items()
        if (said := one["answers"])
    ]


def order_comparisons(comparisons: Iterable[Mapping]) -> list[Mapping]:
    """What was declared first, then guard and controls, what is exploratory last."""
    return sorted(comparisons, key=lambda found: list(ROLES).index(found["role"]))


def comparison_rows(scores: Mapping, roles: Iterable[str] = ROLES) -> list[dict[str, str]]:
    """One row per paired comparison of these roles: difference with its interval, p, what could have been seen,
    verdict. What none of them has, a corrected p or items won and lost, is no column."""
    roles = set(roles)
    rows = [
        {
            "measured by": f"{task_label(found['instrument']).title}\n({ROLES[found['role']]})",
            "a − b": pair_label(found).replace(" − ", "\n− "),
            "difference": format_gain(found).replace(" ", "\u00a0"),
            "p": format_figure(found["p_value"], "p"),
            "Holm": format_figure(found["p_holm"], "p"),
            "detectable": format_figure(found["minimum_detectable_effect"], plain_unit(unit_of(found))),
            "n": format_count(found).replace(" of ", "\nof "),
            "won / lost": "–" if found["gained"] is None else f"{found['gained']} / {found['lost']}",
            "verdict": found["verdict"],
        }
        for found in order_comparisons(scores["comparisons"])
        if found["role"] in roles
    ]
    empty = {name for name in ("Holm", "won / lost") if all(row[name] == "–" for row in rows)}
    return [{name: value for name, value in row.items() if name not in empty} for row in rows]


def seed_rows(scores: Mapping) -> list[dict[str, str]]:
    """One row per method and instrument: the difference with every training seed, and where the spread comes from."""
    return [
        {
            "method": model_label(one["method"]),
            "measured by": task_label(one["instrument"]).title,
            **{
                f"seed {seed}": format_figure(value, task_label(one["instrument"]).unit, "+")
                for seed, value in one["differences"].items()
            },
            "variance of questions": f"{one['question_variance']:.2g}",
            "variance of seeds": f"{one['seed_variance']:.2g}",
            "standard error": format_figure(one["standard_error"], plain_unit(task_label(one["instrument"]).unit)),
        }
        for one in scores["seeds"]
    ]


def find_comparison(scores: Mapping, name: str, a: str, b: str) -> Mapping | None:
    """The comparison of `a` with `b` by one instrument, if it was made."""
    wanted = (name, a, b)
    return next((c for c in scores["comparisons"] if (c["instrument"], c["a"], c["b"]) == wanted), None)


def training_costs_of(scores: Mapping, receipts: Mapping[str, Mapping]) -> list[dict]:
    """{"row", "minutes", "memory" (GiB), "tokens", "speed" (tokens/s), "gains": {instrument: comparison}} of each
    training; a figure is None where the receipt lacks it."""
    found, trainings = [], {}
    for row, stage in (("qlora", STAGES[3]), ("full", STAGES[5])):
        receipt = receipts.get(stage.name) or {}
        trainings |= {row: receipt} | receipt.get("others", {})
    for row, facts in trainings.items():
        if not facts.get("tokens"):
            continue
        seconds, memory = facts.get("train_seconds"), facts.get("train_peak_memory")
        gains = {name: find_comparison(scores, name, row, BASE_OF.get(row, "")) for name in GAINS}
        found.append(
            {
                "row": row,
                "minutes": seconds / 60 if seconds else None,
                "memory": memory / 2**30 if memory else None,
                "tokens": facts["tokens"],
                "speed": facts["tokens"] / seconds if seconds else None,
                "gains": {name: gain for name, gain in gains.items() if gain},
            }
        )
    return found


def cost_rows(scores: Mapping, receipts: Mapping[str, Mapping]) -> list[dict[str, str]]:
    """One row per training: what it cost, and what it gained over its own base."""
    return [
        {
            "training": model_label(one["row"]),
            "time": format_clock(60 * one["minutes"]) if one["minutes"] else "–",
            "peak memory, GiB": format_number(one["memory"], 1),
            "tokens": f"{one['tokens']:,}",
            "tokens/s": format_number(one["speed"], 0),
            **{f"gain: {task_label(name).title}": format_gain(one["gains"].get(name)) for name in GAINS},
        }
        for one in training_costs_of(scores, receipts)
    ]


def format_gain(gain: Mapping | None) -> str:
    """A difference and its interval in two lines; "–" where it was not measured."""
    if not gain:
        return "–"
    unit = unit_of(gain)
    interval = format_interval(gain["low"], gain["high"], unit, "+")
    return f"{format_figure(gain['mean_difference'], unit, '+')}\n{interval}"


OPENINGS = {
    "better_than_placebo": "Yes, it learned facts of these papers",
    "better_than_base": "It gained, but no placebo says whether it learned facts or how to take such tests",
    "no_better_than_placebo": "It gained, but the same training on papers of other fields gained as much",
    "no_difference": "Nothing that this test can see",
    "worse": "No, it became worse",
    "too_few": "Undecided: there are too few papers to ask about",
    "nothing": "Not tested: the declared outcome was not measured",
}


def short_answer(scores: Mapping) -> str:
    """Did training teach anything, and how sure is that? Up to three sentences with this run's figures."""
    code = scores["verdict"]["code"]
    found = next((c for c in scores["comparisons"] if c["role"] == "primary"), None)
    if not found or found["low"] is None:
        return f"{OPENINGS[code]}."
    name, rows = found["instrument"], scores["rows"]
    after, before = (format_figure(rows[row]["measures"][name]["mean"], "share") for row in (found["a"], found["b"]))
    said = [
        f"{OPENINGS[code]}: right answers on what it had read went from {before} to {after}, "
        f"a difference of {format_figure(found['mean_difference'], 'share', '+')} points "
        f"(95 % interval {format_interval(found['low'], found['high'], 'share', '+')})."
    ]
    if unseen := found["minimum_detectable_effect"]:
        said.append(
            f"A true difference below {format_figure(unseen, 'points')} points would probably have gone unseen."
        )
    kept = scores["declaration"].get("kept")
    if not kept:
        why = "Nothing was declared" if kept is None else "What was declared has been changed since"
        said.append(f"{why}, so this suggests and does not prove.")
    elif rival := find_comparison(scores, name, "base_rag", "base_4bit"):
        share = format_figure(rows["base_rag"]["measures"][name]["mean"], "share")
        said.append(
            f"Passages in the prompt, with no training, brought the same model to {share} ({rival['verdict']})."
        )
    return " ".join(said)


def papers_on(questions: Iterable[Mapping], training: Iterable[Mapping], topic: Topic) -> dict[str, dict]:
    """{question id: {"diseases": [names], "papers": training papers about one of them}}.

    A question that names no disease of the topic is about all of it, so every paper counts.
    """
    papers: dict[str, SimpleNamespace] = {}
    for row in training:
        paper = papers.setdefault(row["paper_id"], SimpleNamespace(title=row["title"], text=""))
        paper.text += f"\n{row['text']}"
    about = [set(topic.diseases_of(paper)) for paper in papers.values()]
    found = {}
    for asked in questions:
        named = SimpleNamespace(title=f"{asked['category']}. {asked['question']}", text="")
        diseases = topic.diseases_of(named)
        count = sum(bool(own & set(diseases)) for own in about) if diseases else len(about)
        found[asked["id"]] = {"diseases": diseases or ["any"], "papers": count}
    return found


def answers_to(scores: Mapping, question: Mapping, answers: Mapping[str, Iterable[Mapping]]) -> list[dict]:
    """{"row", "graded", "text", "met": criteria} of every model that answered the question."""
    said = []
    for row, one in scores["rows"].items():
        graded = next((q for q in one["questions"] if q["id"] == question["id"]), None)
        reply = next((a for a in answers.get(row, ()) if a["id"] == question["id"]), None)
        if graded and reply:
            met = [c for c in question.get("criteria") or [] if c["id"] in graded["met"]]
            said.append({"row": row, "graded": graded, "text": reply["response"].strip(), "met": met})
    return said


def answers_by_variant(
    scores: Mapping, question: Mapping, answers: Mapping[str, Iterable[Mapping]]
) -> list[dict[str, str]]:
    """One row per model: its answer to one question, the score, and the criteria that made it."""
    return [
        {
            "model": model_label(one["row"]),
            "score": format_figure(one["graded"]["score"], "score"),
            "answer": one["text"] or "(empty)",
            "points": "\n".join(f"{format_figure(c['points'], 'whole', '+')}: {c['text']}" for c in one["met"])
            or "none",
        }
        for one in answers_to(scores, question, answers)
    ]


def rubric_scores(scores: Mapping) -> dict[str, dict[str, float]]:
    """{row: {question: score}} of the graded questions."""
    return {
        row: {q["id"]: q["score"] for q in one["questions"] if q["score"] is not None}
        for row, one in scores["rows"].items()
        if one["questions"]
    }


def sampled_scores(scores: Mapping) -> dict[str, dict[str, list[float]]]:
    """{row: {question: score of every sampled answer}} where there are samples."""
    found = {
        row: {q["id"]: q["sampled"] for q in one["questions"] if q.get("sampled")}
        for row, one in scores["rows"].items()
    }
    return {row: values for row, values in found.items() if values}
