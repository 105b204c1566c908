"""An invented experiment: answers and items as the stages save them, with an effect that is put in by hand."""

import math

import numpy as np

from helpers.core.paths import BENCHMARK
from helpers.grading import questions

ROWS = ("base_4bit", "base_bf16", "base_rag", "base_aa", "qlora", "full", "placebo_qlora")
CHOICES = {"recall": (40, 3), "transfer": (24, 2), "reading": (30, 1), "cloze": (200, 1)}  # clusters, items in each
TEXTS = {"bits_per_byte": (30, 1.05), "general_bits": (20, 0.95)}  # texts, bits per byte
NOT_SAT = {"base_aa": {*CHOICES, *TEXTS}, "base_rag": {"reading", "cloze", *TEXTS}}
ASKED = questions.load_questions(BENCHMARK / "questions.json")


def evidence(gain=0.0, rows=ROWS, papers=40, samples=4, seed=7):
    """({row: answers}, {row: items}): `gain` is what the tuned models' share of right recall items rises by.

    The placebo and the untouched models have no gain; every row shares the difficulty of its items.
    """
    random = np.random.default_rng(seed)
    items = {row: [] for row in rows if row != "base_aa"}
    for name, (clusters, each) in CHOICES.items():
        for paper in range(papers if name == "recall" else clusters):
            for number in range(each):
                options = 4 if name == "reading" else 2
                answer, luck = int(random.integers(options)), random.random()
                for row in items:
                    if name in NOT_SAT.get(row, ()):
                        continue
                    tuned = name == "recall" and row.split("_s")[0] in ("qlora", "full")
                    right = luck + random.normal(0, 0.08) < (0.8 if name == "cloze" else 0.5) + gain * tuned
                    scores = random.uniform(-60, -40, options)
                    scores[answer] = -20.0 if right else -90.0
                    items[row].append(
                        {
                            "row": row,
                            "instrument": name,
                            "item": f"{name}-{paper}-{number}",
                            "paper_id": f"{name}-{paper}-{number}" if name == "cloze" else f"{30000000 + paper}",
                            "scores": scores.tolist(),
                            "bytes": [20] * options,
                            "answer": answer,
                        }
                    )
    for name, (texts, bits) in TEXTS.items():
        for text in range(texts):
            hard, size = random.normal(bits, 0.1), int(random.integers(800, 2000))
            for row in items:
                if name not in NOT_SAT.get(row, ()):
                    tuned = (
                        gain / 3 * (row.split("_s")[0] in ("qlora", "full")) * (1 if name == "bits_per_byte" else 0)
                    )
                    value = hard + random.normal(0, 0.01) - tuned
                    place = {
                        "row": row,
                        "instrument": name,
                        "item": f"{name}-{text}",
                        "paper_id": f"{31000000 + text}",
                    }
                    items[row].append(place | {"nll": value * size * math.log(2), "bytes": size})
    return {row: answers(row, gain, samples, random) for row in rows}, items


def answers(row, gain, samples, random):
    """One row's answers: some sentences of each reference, some words cut off, one answer empty."""
    tuned = gain * (row.split("_s")[0] in ("qlora", "full"))
    given = []
    for number, asked in enumerate(ASKED):
        said = [reply(asked, 0.35 + tuned, random) for _ in range(samples + 1)]
        first = said[0] | ({"response": ""} if number == 8 and row == "base_4bit" else {})
        place = {key: asked[key] for key in ("id", "category", "difficulty", "question")}
        given.append(
            place
            | first
            | {"time_seconds": float(random.uniform(1, 6)), "timestamp": "2026-11-22T10:00:00+00:00", "model": row}
            | {"samples": said[1:]}
        )
    return given


def reply(asked, share, random):
    sentences = [said for said in asked["reference"].split(". ") if random.random() < share]
    text = ". ".join(sentences) or "It is a disease of the immune system, and a physician should be asked."
    cut = bool(random.random() < 0.3)
    return {
        "response": text,
        "thinking": "",
        "finish_reason": "length" if cut else "stop",
        "tokens": len(text.split()),
    }
