"""Asking a model questions: batched, greedy, saved as they arrive."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from helpers import chat, files
from helpers.progress import Line, forced

BATCH = 10  # questions answered together


class Watch(StoppingCriteria):
    """Never stops anything; redraws the progress line at every token."""

    def __init__(self, line: Line, doing: str, before: int, most: int, total: int):
        self.line, self.doing, self.before, self.most, self.total = line, doing, before, most, total
        self.tokens = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.tokens += 1
        self.line.show(self.doing, self.before + min(self.tokens, self.most), self.total, "tokens deep")
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    max_new_tokens: int = 160,
    watch: Watch | None = None,
) -> list[dict]:
    """Greedy answers to a batch: [{"response", "thinking", "finish_reason", "tokens"}] in the order asked.

    `finish_reason` is "stop" if the model ended its answer and "length" if it was cut.
    """
    asked = [chat.prompt_ids(tokenizer, prompt) for prompt in prompts]
    longest = max(map(len, asked))
    padded = [[tokenizer.pad_token_id] * (longest - len(ids)) + ids for ids in asked]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in asked]
    ends = end_tokens(model, tokenizer)
    with torch.inference_mode():
        out = model.generate(
            input_ids=torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
            stopping_criteria=StoppingCriteriaList([watch] if watch else []),
        )
    return [finished(tokenizer, row[longest:].tolist(), ends) for row in out]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that end an answer: the model's and the tokenizer's."""
    own = model.generation_config.eos_token_id
    own = own if isinstance(own, list) else [own]
    return sorted({i for i in [*own, tokenizer.eos_token_id] if i is not None})


def finished(tokenizer: PreTrainedTokenizerBase, ids: list[int], ends: list[int]) -> dict:
    """One row of generated ids as text, cut at the first token that ends an answer."""
    stop = next((place for place, token in enumerate(ids) if token in ends), None)
    thinking, answer = chat.split_thinking(tokenizer.decode(ids[:stop], skip_special_tokens=True))
    return {
        "response": answer,
        "thinking": thinking,
        "finish_reason": "length" if stop is None else "stop",
        "tokens": len(ids) if stop is None else stop,
    }


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: list[dict],
    *,
    row: str,
    identity: str,
    max_new_tokens: int,
    notes: Path,
) -> list[dict]:
    """Answers in the seed's format plus audit fields, in the order of `questions`.

    `notes` is an append-only file: every batch is on disk before the next begins, and answers noted there by
    the same model (`identity`, a hash) to the same question are not asked for again.

    Answers come in batches, so a question's `time_seconds` is its share of `batch_seconds`.
    """
    known = {} if forced() else {r["work"]: r for r in files.read_jsonl(notes)}
    works = {q["id"]: files.sha256_of([identity, q["question"], max_new_tokens]) for q in questions}
    open_questions = [q for q in questions if works[q["id"]] not in known]
    line, total = Line(), max_new_tokens * -(-len(open_questions) // BATCH)
    for number, batch in enumerate(batches(open_questions)):
        watch = Watch(line, f"{row}: answering", number * max_new_tokens, max_new_tokens, total)
        started = time.perf_counter()
        answers = generate(model, tokenizer, [q["question"] for q in batch], max_new_tokens, watch)
        seconds = time.perf_counter() - started
        audit = {
            "time_seconds": round(seconds / len(batch), 3),
            "batch_seconds": round(seconds, 3),
            "batch_size": len(batch),
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        noted = [{"work": works[q["id"]], **answer, **audit} for q, answer in zip(batch, answers, strict=True)]
        files.append_jsonl(notes, noted)
        known |= {r["work"]: r for r in noted}
    if open_questions:
        line.show(f"{row}: answering", total, total, "tokens deep")
    return [result_row(q, known[works[q["id"]]], row) for q in questions]


def result_row(question: dict, noted: dict, row: str) -> dict:
    """One row of a results file: the seed's keys first, then ours."""
    seed = {key: question[key] for key in ("id", "category", "difficulty", "question")}
    answer = {key: noted[key] for key in ("response", "time_seconds", "timestamp")}
    audit = {k: noted[k] for k in ("finish_reason", "tokens", "thinking", "batch_seconds", "batch_size")}
    return {**seed, **answer, "model": row, **audit}


def batches(questions: list[dict]) -> Iterable[list[dict]]:
    return (questions[start : start + BATCH] for start in range(0, len(questions), BATCH))
