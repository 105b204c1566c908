"""Stage 8's numbers: every answer graded, every row compared, one dict that becomes reports/scores.json.

{
  "criteria_hash": sha256 of the rubrics,
  "questions": {"n": 10, "graded": ["Q001", …], "not_graded": […]},
  "declaration": {what `declaration.declare` returns, "kept": true, false, or null where none was recorded},
  "rows": {"base_4bit": {
      "questions": [{"id", "category", "difficulty", "score": None if not graded, "met": [criterion ids],
                     "evidence": {criterion id: sentence}, "sampled": [score of each sample], "words", "time_seconds",
                     "truncated", "empty", "truncated_in_thought"}],
      "answers": {"n", "missing": [ids], "truncated", "empty", "truncated_in_thought", "words_mean", "seconds_total",
                  "seconds_mean", "samples", "sampled_truncated", "sampled_empty", "sampled_truncated_in_thought"}
                 or None,
      "measures": {instrument: {"mean", "low", "high", "n", "clusters", "chance", "method", "items": {item: value}}},
                  an instrument that was not measured is absent}, …},
  "comparisons": [{"instrument", "a", "b", "role", and the fields of helpers.comparison.Comparison}],
  "skipped": [{"what": "full − base_bf16", "instrument": its name or "all", "reason"}],
  "seeds": [{"method", "instrument", "n", "differences": {seed: mean}, "question_variance", "seed_variance",
             "standard_error"}], [] with one seed,
  "verdict": {"code", "headline", "sentences"},
  "conclusion": the headline
}

Nothing is rounded: every number follows from the answers, the items and the questions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from helpers.core import CourseError
from helpers.evaluation.items import OWN, item_context, item_values
from helpers.evaluation.measures import INSTRUMENTS, mean_of, summarise_task
from helpers.evaluation.preregistration import FAMILY, PRIMARY, role_of
from helpers.evaluation.repeats import repeated_trainings, split_variance
from helpers.evaluation.statistics import Comparison, compare_paired, correct_holm
from helpers.evaluation.verdict import conclude
from helpers.grading import criteria_hash
from helpers.grading import grade_answer as rubric_grade_answer

ROWS = ("base_4bit", "base_bf16", "base_rag", "base_aa", "qlora", "full", "placebo_qlora")
BASES = {"qlora": "base_4bit", "full": "base_bf16"}
PAIRS = (
    *BASES.items(),
    ("qlora", "placebo_qlora"),
    ("placebo_qlora", "base_4bit"),
    ("base_bf16", "base_4bit"),
    ("base_rag", "base_4bit"),
    ("qlora", "base_rag"),
    ("base_aa", "base_4bit"),
)
SCORED = (*OWN, "rubric", "rubric_sampled")  # public benchmarks are asked only where somebody wants them
SITS = {"base_rag": ("recall", "transfer", "rubric", "rubric_sampled"), "base_aa": ("rubric_sampled",)}


def score_run(
    results: Mapping[str, list[dict]],
    questions: Sequence[dict],
    items: Mapping[str, list[dict]],
    *,
    seed: int = 42,
    declared: Mapping | None = None,
) -> dict:
    """The dict described above.

    `results`: per row the answers (the seed's keys `id question response time_seconds` …, ours `finish_reason`,
    `thinking`, `samples`); `items`: per row {"instrument", "item"} with {"scores", "bytes", "answer", "paper_id"} of
    a choice or {"nll", "bytes"} of a text. A row without answers or items is skipped and named. `seed`: of the random
    sign patterns, and of the trainings that name none. `declared`: what was declared before training, and whether it
    was kept (`declaration.check`).

    Raises CourseError if answers belong to other questions, or an item's numbers are impossible.
    """
    names = [row for row in dict.fromkeys([*ROWS, *results, *items]) if results.get(row) or items.get(row)]
    known = item_context(items)
    rows = {row: score_variant(row, results.get(row) or [], questions, items.get(row) or [], known) for row in names}
    comparisons, skipped = compare_variants(rows, known, seed) if rows else ([], [])
    graded = [question["id"] for question in questions if question.get("criteria")]
    said = check_item_counts(dict(declared or {"kept": None}), rows)
    seeds = split_by_seed(rows, known, seed)
    found = conclude(comparisons, rows, skipped=skipped, seeds=seeds, kept=said["kept"])
    return {
        "criteria_hash": criteria_hash(questions),
        "questions": {
            "n": len(questions),
            "graded": graded,
            "not_graded": [question["id"] for question in questions if question["id"] not in graded],
        },
        "declaration": said,
        "rows": rows,
        "comparisons": comparisons,
        "skipped": skipped,
        "seeds": seeds,
        "verdict": found,
        "conclusion": found["headline"],
    }


def check_item_counts(said: dict, rows: Mapping[str, Mapping]) -> dict:
    """The declaration, not kept if another number of items decides than was declared."""
    instrument, ours, _ = PRIMARY
    measured = rows.get(ours, {"measures": {}})["measures"].get(instrument)
    if said["kept"] and measured and measured["n"] != said["items"].get(instrument, {"n": 0})["n"]:
        said["kept"] = False
    return said


def score_variant(row: str, answers: list[dict], questions: Sequence[dict], items: list[dict], known: dict) -> dict:
    """One row's part of the dict."""
    by_id = answers_by_id(row, answers, questions)
    graded = [grade_answer(by_id[question["id"]], question) for question in questions if question["id"] in by_id]
    found = item_values(row, items) | {
        "rubric": {one["id"]: one["score"] for one in graded if one["score"] is not None},
        "rubric_sampled": {one["id"]: mean_of(one["sampled"]) for one in graded if one["sampled"]},
    }
    return {
        "questions": graded,
        "answers": count_answers(graded, list(by_id.values()), questions) if graded else None,
        "measures": {name: summarise_task(name, found[name], known) for name in INSTRUMENTS if found.get(name)},
    }


def answers_by_id(row: str, answers: list[dict], questions: Sequence[dict]) -> dict[str, dict]:
    """The answers of one row, each to a question that we still ask in the same words.

    Raises CourseError for an unknown or changed question, or two answers to one.
    """
    asked = {question["id"]: question["question"] for question in questions}
    found = {}
    for answer in answers:
        id = answer.get("id")
        if id not in asked or answer.get("question", asked[id]) != asked[id]:
            raise CourseError(
                f"{row}: the answer to {id} is to another question than ours", "run its test stage again"
            )
        if id in found:
            raise CourseError(f"{row}: there are two answers to {id}", "run its test stage again")
        found[id] = answer
    return found


def grade_answer(answer: dict, question: dict) -> dict:
    """One entry of a row's "questions"."""
    response = answer.get("response") or ""
    graded = rubric_grade_answer(response, question)
    sampled = [rubric_grade_answer(one["response"], question).score for one in answer.get("samples") or []]
    return {
        "id": question["id"],
        "category": question["category"],
        "difficulty": question["difficulty"],
        "score": graded.score,
        "met": graded.met,
        "evidence": graded.evidence,
        "sampled": [one for one in sampled if one is not None],
        "words": len(response.split()),
        "time_seconds": answer.get("time_seconds"),
        **answer_failures(answer),
    }


def answer_failures(answer: dict) -> dict[str, bool]:
    """How an answer or a sample failed: cut, empty, or cut before its thought ended."""
    truncated, empty = answer.get("finish_reason") == "length", not (answer.get("response") or "").strip()
    thought = truncated and empty and bool(answer.get("thinking"))
    return {"truncated": truncated, "empty": empty, "truncated_in_thought": thought}


def count_answers(graded: list[dict], answers: list[dict], questions: Sequence[dict]) -> dict:
    """Lengths, times and failures of one row; truncated and empty answers are in the scores as they are."""
    seconds = [one["time_seconds"] for one in graded if one["time_seconds"] is not None]
    answered = {one["id"] for one in graded}
    samples = [answer_failures(sample) for answer in answers for sample in answer.get("samples") or []]
    kinds = ("truncated", "empty", "truncated_in_thought")
    return {
        "n": len(graded),
        "missing": [question["id"] for question in questions if question["id"] not in answered],
        **{kind: sum(one[kind] for one in graded) for kind in kinds},
        "words_mean": mean_of(one["words"] for one in graded),
        "seconds_total": math.fsum(seconds) if seconds else None,
        "seconds_mean": mean_of(seconds) if seconds else None,
        "samples": len(samples),
        **{f"sampled_{kind}": sum(one[kind] for one in samples) for kind in kinds},
    }


def compare_variants(rows: dict, known: dict, seed: int) -> tuple[list[dict], list[dict]]:
    """Every pair on every instrument over the items both have, Holm's correction in the declared family, and what
    could not be compared, with the reason."""
    found, skipped = {}, []
    measured = {name for row in rows.values() for name in row["measures"]}
    for a, b in PAIRS:
        if missing := [row for row in (a, b) if row not in rows]:
            reason = " and ".join(missing) + (" was" if len(missing) == 1 else " were") + " not tested"
            skipped.append({"what": f"{a} − {b}", "instrument": "all", "reason": reason})
            continue
        for instrument in (name for name in INSTRUMENTS if name in measured and both_sit(name, a, b)):
            values_a, values_b, reason = shared_values(rows, a, b, instrument)
            if reason:
                skipped.append({"what": f"{a} − {b}", "instrument": instrument, "reason": reason})
            else:
                found[instrument, a, b] = compare_pair(values_a, values_b, (instrument, a, b), known, seed)
    family = [place for place in FAMILY if place in found]
    size = len(FAMILY)
    found |= dict(zip(family, correct_holm([found[place] for place in family], size), strict=True))
    skipped += [
        {"what": "every pair", "instrument": name, "reason": "no model was measured on it"}
        for name in SCORED
        if name not in measured
    ]
    return [
        {"instrument": place[0], "a": place[1], "b": place[2], "role": role_of(*place), **asdict(one)}
        for place, one in found.items()
    ], skipped


def both_sit(instrument: str, *pair: str) -> bool:
    """Whether both rows of a pair are asked this."""
    return all(instrument in SITS.get(row, INSTRUMENTS) for row in pair)


def shared_values(rows: dict, a: str, b: str, instrument: str) -> tuple[dict, dict, str]:
    """Both rows' values of the items that both have, and the reason if there are none."""
    ours, theirs = (task_values(rows, row, instrument) for row in (a, b))
    both, unit = [item for item in ours if item in theirs], INSTRUMENTS[instrument].unit
    lacking = " and ".join(row for row, found in ((a, ours), (b, theirs)) if not found)
    reason = f"no {unit} scored for {lacking}" if lacking else f"they share no {unit}"
    return {i: ours[i] for i in both}, {i: theirs[i] for i in both}, "" if both else reason


def task_values(rows: dict, row: str, instrument: str) -> dict[str, float]:
    """{item: value}; {} where the row was not measured."""
    return rows[row]["measures"].get(instrument, {"items": {}})["items"]


def compare_pair(ours: dict, theirs: dict, place: tuple[str, str, str], known: dict, seed: int) -> Comparison:
    """`comparison.compare` of two rows on one instrument, items of one paper together."""
    instrument, a, b = place
    title, higher_is_better, unit = INSTRUMENTS[instrument]
    return compare_paired(
        ours,
        theirs,
        name=f"{title}, {a} − {b}",
        higher_is_better=higher_is_better,
        seed=seed,
        items=unit,
        clusters=papers_of(ours, instrument, known),
        family=len(FAMILY) if place in FAMILY else 1,
    )


def papers_of(items: Mapping[str, object], instrument: str, known: dict) -> dict[str, str]:
    """{item: its paper}; a question is its own."""
    return {item: known.get((instrument, item), {"paper": item})["paper"] for item in items}


def split_by_seed(rows: dict, known: dict, seed: int) -> list[dict]:
    """The part "seeds": for every method trained more than once, each instrument that all its trainings sat."""
    found = []
    for method, base in BASES.items():
        trained = repeated_trainings(rows, method, seed)
        if len(trained) < 2 or base not in rows:
            continue
        for instrument in INSTRUMENTS:
            every = [task_values(rows, row, instrument) for row in (base, *trained.values())]
            both = [item for item in every[0] if all(item in one for one in every)]
            clusters = papers_of(both, instrument, known)
            if len(set(clusters.values())) < 2:
                continue
            differences = {
                number: {item: one[item] - every[0][item] for item in both}
                for number, one in zip(trained, every[1:], strict=True)
            }
            split = split_variance(differences, clusters)
            found.append({"method": method, "instrument": instrument, "n": len(both), **split})
    return found
