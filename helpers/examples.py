"""Training rows as token ids: what the model reads, what it is graded on, and in which order."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import count

import torch
from datasets import Dataset, disable_progress_bars
from transformers import PreTrainedTokenizerBase

from helpers import chat
from helpers.errors import CourseError

IGNORED = -100  # the label that torch's cross-entropy leaves out

disable_progress_bars()


def encode(rows: list[dict], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """The rows with two more columns: `input_ids`, and `answer_from`, the place where the loss begins.

    The prompt is put into the model's chat template exactly as it will be when the model is asked. A row with
    an empty prompt is running text: all of it counts. Rows longer than `max_length` tokens lose their end.

    Raises CourseError if no row is left to learn from.
    """
    encoded = Dataset.from_list(rows).map(lambda row: encode_row(row, tokenizer, max_length), keep_in_memory=True)
    useful = encoded.filter(lambda row: row["answer_from"] < len(row["input_ids"]), keep_in_memory=True)
    if not len(useful):
        raise CourseError(
            f"no training row has an answer within MAX_SEQ_LENGTH={max_length} tokens", "raise MAX_SEQ_LENGTH"
        )
    return useful


def encode_row(row: dict, tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, object]:
    """{"input_ids", "answer_from"} of one row."""
    answer = chat.answer_ids(tokenizer, row["completion"])
    if not row["prompt"]:
        return {"input_ids": answer[:max_length], "answer_from": 1}
    prompt = chat.prompt_ids(tokenizer, row["prompt"])
    return {"input_ids": (prompt + answer)[:max_length], "answer_from": len(prompt)}


def lengths(examples: Dataset) -> list[int]:
    return [len(ids) for ids in examples["input_ids"]]


def schedule(
    sizes: list[int],
    *,
    rows_per_update: int,
    epochs: int,
    token_budget: int,
    seed: int,
    replay: int = 0,
    replay_ratio: float = 0.0,
) -> list[list[int]]:
    """Row numbers of every update: each epoch in its own order, until the epochs or the tokens run out.

    `sizes` are the rows' lengths in tokens. The last `replay` rows are general text: they are dealt in between
    wherever their share of the tokens so far is below `replay_ratio`, over and over if need be, and count for
    no epoch. The order depends on the seed and nothing else.
    """
    papers, updates, tokens, general_tokens = len(sizes) - replay, [], 0, 0
    general = cycled(range(papers, len(sizes)), seed)
    for epoch in range(epochs):
        order = shuffled(range(papers), seed, epoch)
        while order:
            if tokens >= token_budget:
                return updates
            update = []
            while order and len(update) < rows_per_update:
                if replay and general_tokens < replay_ratio * tokens:
                    update.append(next(general))
                    general_tokens += sizes[update[-1]]
                else:
                    update.append(order.pop(0))
                tokens += sizes[update[-1]]
            updates.append(update)
    return updates


def shuffled(rows: Iterable[int], seed: int, epoch: int) -> list[int]:
    """`rows` in the order of a hash of seed, epoch and row."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{epoch}:{row}".encode()).hexdigest())


def cycled(rows: range, seed: int) -> Iterator[int]:
    """`rows` for ever, each time round in another order."""
    return (row for round_ in count() for row in shuffled(rows, seed, round_))


def micro_batches(rows: list[int], sizes: list[int], batch_size: int, tokens: int) -> list[list[int]]:
    """The rows of one update in groups of similar lengths, so that there is little padding.

    A group has at most `batch_size` rows and, unless it is a single row, at most `tokens` tokens with padding.
    """
    groups: list[list[int]] = []
    for row in sorted(rows, key=lambda row: (sizes[row], row)):
        if not groups or len(groups[-1]) == batch_size or (len(groups[-1]) + 1) * sizes[row] > tokens:
            groups.append([])
        groups[-1].append(row)
    return groups


def collate(examples: Dataset, rows: list[int], pad: int, device: str) -> dict[str, torch.Tensor]:
    """Right-padded `input_ids`, `attention_mask` and `labels`, each (rows, longest)."""
    chosen = examples[rows]
    longest = max(map(len, chosen["input_ids"]))
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), IGNORED)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for place, (row_ids, start) in enumerate(zip(chosen["input_ids"], chosen["answer_from"], strict=True)):
        ids[place, : len(row_ids)] = torch.tensor(row_ids)
        labels[place, start : len(row_ids)] = torch.tensor(row_ids[start:])
        mask[place, : len(row_ids)] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}
