"""Stage 8's numbers: every answer graded, every row compared, one dict that becomes reports/scores.json.

{
  "criteria_hash": sha256 of the rubrics,
  "questions": {"n": 10, "graded": ["Q001", …], "not_graded": […]},
  "rows": {"base_4bit": {
      "rubric": {"mean": 0 to 1 (clipped), "n": 10} or None,
      "answers": {"n", "missing": [ids], "truncated", "empty", "words_mean", "seconds_total", "seconds_mean"} or None,
      "questions": [{"id", "category", "difficulty", "score": None if not graded, "met": [criterion ids],
                     "evidence": {criterion id: sentence}, "words", "time_seconds", "truncated", "empty"}],
      "bits_per_byte": {"mean", "n": papers, "papers": {paper_id: bits per byte}} or None}, …},
  "comparisons": [{"instrument", "a", "b", and the fields of helpers.comparison.Comparison}],
  "skipped": [{"what": "full − base_bf16", "instrument", "reason"}],
  "conclusion": one sentence
}

Nothing is rounded: every number follows from the answers, the items and the questions.
"""

import math
from collections import defaultdict
from dataclasses import asdict

from helpers.comparison import Comparison, compare, headline
from helpers.errors import CourseError
from helpers.scoring import criteria_hash, grade, mean_score

ROWS = ("base_4bit", "base_bf16", "qlora", "full")
PAIRS = (("qlora", "base_4bit"), ("full", "base_bf16"))
INSTRUMENTS = {  # name: (what it is called, whether more is better, what it is counted in)
    "rubric": ("rubric score", True, "questions"),
    "bits_per_byte": ("held-out bits per byte", False, "papers"),
}


def score(
    results: dict[str, list[dict]], questions: list[dict], items: dict[str, list[dict]], *, seed: int = 42
) -> dict:
    """The dict described above.

    `results`: per row the answers (the seed's keys `id question response time_seconds` …, ours `finish_reason`);
    `items`: per row {"instrument": "bits_per_byte", "item": paper_id, "nll": nats, "bytes": int}, other instruments
    ignored. A row without answers or items is skipped and named.

    Raises CourseError if answers belong to other questions, or an item's numbers are impossible.
    """
    names = [row for row in dict.fromkeys([*ROWS, *results, *items]) if results.get(row) or items.get(row)]
    rows = {row: score_row(row, results.get(row) or [], questions, items.get(row) or []) for row in names}
    comparisons, skipped = compare_rows(rows, seed)
    graded = [question["id"] for question in questions if question.get("criteria")]
    return {
        "criteria_hash": criteria_hash(questions),
        "questions": {
            "n": len(questions),
            "graded": graded,
            "not_graded": [question["id"] for question in questions if question["id"] not in graded],
        },
        "rows": rows,
        "comparisons": [
            {"instrument": instrument, "a": a, "b": b, **asdict(comparison)}
            for (instrument, a, b), comparison in comparisons.items()
        ],
        "skipped": skipped,
        "conclusion": conclusion(list(comparisons.values()), skipped),
    }


def score_row(row: str, answers: list[dict], questions: list[dict], items: list[dict]) -> dict:
    """One row's part of the dict."""
    by_id = answers_by_id(row, answers, questions)
    graded = [grade_answer(by_id[question["id"]], question) for question in questions if question["id"] in by_id]
    scored = [one["score"] for one in graded if one["score"] is not None]
    papers = bits_per_byte(row, items)
    return {
        "rubric": {"mean": mean_score(scored), "n": len(scored)} if scored else None,
        "answers": count_answers(graded, questions) if graded else None,
        "questions": graded,
        "bits_per_byte": {"mean": mean(papers.values()), "n": len(papers), "papers": papers} if papers else None,
    }


def answers_by_id(row: str, answers: list[dict], questions: list[dict]) -> dict[str, dict]:
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
    graded = grade(response, question)
    return {
        "id": question["id"],
        "category": question["category"],
        "difficulty": question["difficulty"],
        "score": graded.score,
        "met": graded.met,
        "evidence": graded.evidence,
        "words": len(response.split()),
        "time_seconds": answer.get("time_seconds"),
        "truncated": answer.get("finish_reason") == "length",
        "empty": not response.strip(),
    }


def count_answers(graded: list[dict], questions: list[dict]) -> dict:
    """Lengths, times and failures of one row; truncated and empty answers are in the scores as they are."""
    seconds = [one["time_seconds"] for one in graded if one["time_seconds"] is not None]
    answered = {one["id"] for one in graded}
    return {
        "n": len(graded),
        "missing": [question["id"] for question in questions if question["id"] not in answered],
        "truncated": sum(one["truncated"] for one in graded),
        "empty": sum(one["empty"] for one in graded),
        "words_mean": mean(one["words"] for one in graded),
        "seconds_total": math.fsum(seconds) if seconds else None,
        "seconds_mean": mean(seconds) if seconds else None,
    }


def bits_per_byte(row: str, items: list[dict]) -> dict[str, float]:
    """Per paper: Σ nll / ln 2 / Σ bytes, with nll in nats over the paper's UTF-8 bytes; the tokenizer cancels out
    (Gao et al. 2020, "The Pile", section 3.1).

    Raises CourseError for a paper without bytes or with an nll that is negative or not a number.
    """
    nats, size = defaultdict(list), defaultdict(int)
    for item in items:
        if item.get("instrument") == "bits_per_byte":
            if not (math.isfinite(item["nll"]) and item["nll"] >= 0 and item["bytes"] > 0):
                raise CourseError(
                    f"{row}: paper {item['item']} has nll {item['nll']} over {item['bytes']} bytes",
                    "run its test stage again",
                )
            nats[str(item["item"])].append(item["nll"])
            size[str(item["item"])] += item["bytes"]
    return {paper: math.fsum(nll) / math.log(2) / size[paper] for paper, nll in nats.items()}


def compare_rows(rows: dict, seed: int) -> tuple[dict[tuple[str, str, str], Comparison], list[dict]]:
    """Every pair on every instrument over the items both have, and what could not be compared, with the reason."""
    comparisons, skipped = {}, []
    for a, b in PAIRS:
        for instrument, (title, higher_is_better, unit) in INSTRUMENTS.items():
            ours, theirs = measured(rows.get(a), instrument), measured(rows.get(b), instrument)
            shared = [item for item in ours if item in theirs]
            if not shared:
                lacking = " and ".join(row for row, values in ((a, ours), (b, theirs)) if not values)
                reason = f"no {unit} scored for {lacking}" if lacking else f"they share no {unit}"
                skipped.append({"what": f"{a} − {b}", "instrument": instrument, "reason": reason})
                continue
            comparisons[instrument, a, b] = compare(
                {item: ours[item] for item in shared},
                {item: theirs[item] for item in shared},
                name=f"{title}, {a} − {b}",
                higher_is_better=higher_is_better,
                seed=seed,
                items=unit,
            )
    return comparisons, skipped


def measured(row: dict | None, instrument: str) -> dict[str, float]:
    """{item: score} of one row on one instrument; {} if it was not measured."""
    if row is None:
        return {}
    if instrument == "rubric":
        return {one["id"]: one["score"] for one in row["questions"] if one["score"] is not None}
    return row[instrument]["papers"] if row[instrument] else {}


def conclusion(comparisons: list[Comparison], skipped: list[dict]) -> str:
    """The headline, and which pairs it could not speak of."""
    left_out = list(dict.fromkeys(one["what"] for one in skipped))
    compared = {c.name.rpartition(", ")[2] for c in comparisons}
    left_out = [what for what in left_out if what not in compared]
    return headline(comparisons) + (f" Not compared: {', '.join(left_out)}." if left_out else "")


def mean(values) -> float:
    values = list(values)
    return math.fsum(values) / len(values)
