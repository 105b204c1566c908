"""Asking a model questions: in batches, each question read once, answers saved as they arrive."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.core import ProgressLine, append_jsonl, device_name, hash_json, read_jsonl
from helpers.models import generate_answers, knows_thoughts

TOGETHER = {"cpu": 50, "cuda": 20}  # answers written together: of so many questions and their samples


def ask_questions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: list[dict],
    *,
    row: str,
    identity: str,
    max_new_tokens: int,
    notes: Path,
    samples: int = 0,
    seed: int = 0,
    force: bool = False,
    before: Callable[[str], str] = lambda question: "",
) -> list[dict]:
    """Answers in the seed's format plus audit fields, in the order of `questions`.

    `notes` is an append-only file: every batch is on disk before the next begins, and answers noted there by
    the same model (`identity`, a hash) to the same question are not asked for again, unless `force`.
    `before(question)` is read before the question; `samples` and `seed` are those of `generate`. A reasoning model
    answers once more with its thoughts open: "aloud", an answer of the same form, for a row of its own beside the
    verdict.

    Answers come in batches, so an answer's `time_seconds` is its share of `batch_seconds`, its samples' left out.
    """
    known = {} if force else {r["work"]: r for r in read_jsonl(notes)}
    prompts = {q["id"]: before(q["question"]) + q["question"] for q in questions}
    how = (identity, max_new_tokens, samples, seed)
    works = {id: hash_json([prompt, *how]) for id, prompt in prompts.items()}
    open_questions = [q for q in questions if works[q["id"]] not in known]
    size = max(1, TOGETHER[device_name()] // (1 + samples))
    line, total = ProgressLine(), max_new_tokens * -(-len(open_questions) // size)
    for start in range(0, len(open_questions), size):
        batch, deep = open_questions[start : start + size], start // size * max_new_tokens

        def watch(tokens: int, deep: int = deep) -> None:
            line.show(f"{row}: answering", deep + tokens, total, "tokens deep")

        started = time.perf_counter()
        asked = [prompts[q["id"]] for q in batch]
        answers = generate_answers(model, tokenizer, asked, max_new_tokens, watch, samples, seed=seed)
        if knows_thoughts(tokenizer):
            aloud = generate_answers(model, tokenizer, asked, max_new_tokens, watch, thinking=True)
            answers = [answer | {"aloud": other} for answer, other in zip(answers, aloud, strict=True)]
        seconds = time.perf_counter() - started
        audit = {
            "time_seconds": round(seconds / len(batch) / (1 + samples), 3),
            "batch_seconds": round(seconds, 3),
            "batch_size": len(batch),
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        noted = [{"work": works[q["id"]], **answer, **audit} for q, answer in zip(batch, answers, strict=True)]
        append_jsonl(notes, noted)
        known |= {r["work"]: r for r in noted}
    if open_questions:
        line.show(f"{row}: answering", total, total, "tokens deep")
    return [result_row(q, known[works[q["id"]]], row) for q in questions]


def result_row(question: dict, noted: dict, row: str) -> dict:
    """One row of a results file: the seed's keys first, then ours."""
    seed = {key: question[key] for key in ("id", "category", "difficulty", "question")}
    answer = {key: noted[key] for key in ("response", "time_seconds", "timestamp")}
    audit = {k: noted[k] for k in ("finish_reason", "tokens", "thinking", "batch_seconds", "batch_size")}
    more = {k: noted[k] for k in ("aloud",) if k in noted}
    return {**seed, **answer, "model": row, **audit, "samples": noted.get("samples", []), **more}
