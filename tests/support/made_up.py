"""Runs made up for the tests of stage 8: how many items each model has right is put in by hand."""

import math

import numpy as np

from helpers.evaluation import preregistration
from helpers.evaluation.scores import score_run
from helpers.grading.questions import load_questions

QUESTIONS = load_questions()
NOTHING = "This is a difficult question and it should be put to a doctor."
RATES = {"base_4bit": 0.3, "base_bf16": 0.32, "base_rag": 0.6, "qlora": 0.5, "full": 0.5, "placebo_qlora": 0.31}
SIZES = {"recall": (60, 3), "transfer": (30, 2), "reading": (20, 1), "cloze": (120, 1)}  # papers, items of each


def answers(row, known, **more):
    """A results file: the reference for the first `known` questions, an empty phrase for the others."""
    return [
        {key: question[key] for key in ("id", "category", "difficulty", "question")}
        | {"response": question["reference"] if n < known else NOTHING, "time_seconds": 1.5, "model": row}
        | {"finish_reason": "stop", "tokens": 20, "timestamp": "2026-01-01T00:00:00Z", "thinking": ""}
        | more
        for n, question in enumerate(QUESTIONS)
    ]


def choices(row, instrument, rate, papers, each):
    """Items of which the share `rate` is right; models agree on most, since easy items are easy for all."""
    n = papers * each
    ease = np.random.default_rng([n, len(instrument)]).random(n)
    own = ease + np.random.default_rng([n, *map(ord, row)]).normal(0, 0.1, n)
    right = np.argsort(np.argsort(own)) < round(rate * n)
    return [
        {"row": row, "instrument": instrument, "item": f"{instrument}-{i}", "paper_id": f"P{i // each}"}
        | {"scores": [-30.0, -20.0 if right[i] else -50.0, -40.0, -45.0], "bytes": [10] * 4, "answer": 1}
        for i in range(n)
    ]


def texts(row, instrument, bits, n):
    noise = np.random.default_rng(1).normal(0, 0.2, n)
    own = np.random.default_rng([*map(ord, row)]).normal(0, 0.002, n)
    return [
        {"row": row, "instrument": instrument, "item": f"{instrument}-{i}", "paper_id": f"{instrument}-{i}"}
        | {"nll": (1 + bits + noise[i] + own[i]) * math.log(2) * 800, "bytes": 800}
        for i in range(n)
    ]


def items(row, rate, papers=60, cloze=0.6, general=0.0):
    """Every instrument of one row; `papers` that recall asks about."""
    sizes = SIZES | {"recall": (papers, SIZES["recall"][1])}
    rates = {"recall": rate, "transfer": 0.3, "reading": 0.3, "cloze": cloze}
    told = [one for name, size in sizes.items() for one in choices(row, name, rates[name], *size)]
    return told + texts(row, "bits_per_byte", -rate / 10, 25) + texts(row, "general_bits", general, 40)


def run(rates, *, known=None, guards=None, papers=60, seed=42, kept=None):
    """scores.json of a run with these recall rates; `known`: {row: questions answered right}, default 1;
    `guards`: {row: {"cloze": rate, "general": bits added}}."""
    given = {row: items(row, rate, papers, **(guards or {}).get(row, {})) for row, rate in rates.items()}
    results = {row: answers(row, (known or {}).get(row, 1)) for row in rates}
    more = {"declared": declared(given, kept)} if kept is not None else {}
    return score_run(results, QUESTIONS, given, seed=seed, **more)


def without(*rows, **changed):
    return {row: rate for row, rate in (RATES | changed).items() if row not in rows}


WIN = RATES
TIE = RATES | {"qlora": 0.31, "full": 0.33}
LOSS = RATES | {"qlora": 0.12, "full": 0.15}
PLACEBO_TOO = RATES | {"placebo_qlora": 0.5}


def declared(measured, kept=True):
    """A declaration about as many recall items as these rows were asked, as `declaration.check` returns it."""
    asked = {item["item"] for row in measured.values() for item in row if item["instrument"] == "recall"}
    said = preregistration.make_preregistration("rubric", [], [])
    return said | {"items": {"recall": {"n": len(asked), "papers": len(asked)}}, "kept": kept, "made": 1}
