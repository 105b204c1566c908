"""Training rows as token ids: what the model reads, what it is graded on, and in which order."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import count

import torch
from datasets import Dataset, disable_progress_bars
from transformers import PreTrainedTokenizerBase

from helpers.core import CourseError
from helpers.models import row_ids, running_ids

IGNORED = -100  # the label that torch's cross-entropy leaves out

disable_progress_bars()


def encode_rows(rows: list[dict], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """The rows with three more columns: `input_ids`, `answer_from`, the place where the loss begins, and `number`,
    the row's place among `rows`.

    The prompt is put into the model's chat template exactly as it will be when the model is asked. A row with
    an empty prompt is running text: all of it counts. Rows longer than `max_length` tokens lose their end.

    Raises CourseError if no row is left to learn from.
    """
    encoded = Dataset.from_list(rows).map(
        lambda row, number: encode_row(row, tokenizer, max_length) | {"number": number},
        with_indices=True,
        keep_in_memory=True,
    )
    useful = encoded.filter(lambda row: row["answer_from"] < len(row["input_ids"]), keep_in_memory=True)
    if not len(useful):
        raise CourseError(
            f"no training row has an answer within MAX_SEQ_LENGTH={max_length} tokens",
            "raise MAX_SEQ_LENGTH",
            "rows-are-too-long",
        )
    return useful


def encode_row(row: dict, tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, object]:
    """{"input_ids", "answer_from"} of one row."""
    if not row["prompt"]:
        return {"input_ids": running_ids(tokenizer, row["completion"])[:max_length], "answer_from": 1}
    prompt, answer = row_ids(tokenizer, row["prompt"], row["completion"])
    return {"input_ids": (prompt + answer)[:max_length], "answer_from": len(prompt)}


def row_lengths(examples: Dataset) -> list[int]:
    """Tokens of each row."""
    return [len(ids) for ids in examples["input_ids"]]


def schedule_updates(
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
    general = cycle_rows(range(papers, len(sizes)), seed)
    for epoch in range(epochs):
        order = shuffle_rows(range(papers), seed, epoch)
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


def shuffle_rows(rows: Iterable[int], seed: int, epoch: int) -> list[int]:
    """`rows` in the order of a hash of seed, epoch and row."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{epoch}:{row}".encode()).hexdigest())


def cycle_rows(rows: range, seed: int) -> Iterator[int]:
    """`rows` for ever, each time round in another order."""
    return (row for round_ in count() for row in shuffle_rows(rows, seed, round_))


def split_micro_batches(rows: list[int], sizes: list[int], batch_size: int, tokens: int) -> list[list[int]]:
    """The rows of one update in groups that are computed together, as few and as even in tokens as they go.

    A group has at most `batch_size` rows and, unless it is a single row, at most `tokens` tokens. Rows are dealt
    longest first, each to the group with the fewest tokens.
    """
    count = max(-(-len(rows) // batch_size), -(-sum(sizes[row] for row in rows) // tokens))
    while True:
        groups: list[list[int]] = [[] for _ in range(count)]
        for row in sorted(rows, key=lambda row: (-sizes[row], row)):
            room = [group for group in groups if len(group) < batch_size]
            min(room, key=lambda group: sum(sizes[r] for r in group)).append(row)
        if all(len(group) == 1 or sum(sizes[row] for row in group) <= tokens for group in groups if group):
            return [group for group in groups if group]
        count += 1


def collate_packed(examples: Dataset, rows: list[int], device: str | torch.device) -> dict[str, torch.Tensor]:
    """The rows one after another in one sequence of all their tokens, T: no padding, and none sees another.

    `input_ids`, `position_ids` and `labels` are (1, T); positions begin at 0 in every row, and a row's first token
    is never graded, so that no row predicts the next. `cu_seq_lens_q` and `_k` (rows + 1) say where rows begin,
    `max_length_q` and `_k` how long the longest is: the names by which flash attention knows packed rows.
    """
    chosen = examples[rows]
    lengths = torch.tensor([len(ids) for ids in chosen["input_ids"]])
    labels = [
        torch.tensor([IGNORED] * start + ids[start:])
        for ids, start in zip(chosen["input_ids"], chosen["answer_from"], strict=True)
    ]
    starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(device, torch.int32)
    longest = int(lengths.max())
    packed = {
        "input_ids": torch.cat([torch.tensor(ids) for ids in chosen["input_ids"]]),
        "position_ids": torch.cat([torch.arange(n) for n in lengths.tolist()]),
        "labels": torch.cat(labels),
    }
    batch = {name: tensor.unsqueeze(0).to(device) for name, tensor in packed.items()}
    batch |= {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts}
    return batch | {"max_length_q": longest, "max_length_k": longest}
