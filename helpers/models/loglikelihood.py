"""How probable a model finds one text after another."""

from collections.abc import Container, Iterator, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.models.chat_template import plain_ids
from helpers.models.decoding import keep_rows, read_prompts

Item = tuple[str, Sequence[str]]  # a context, and texts each of which may continue it
Group = tuple[tuple[int, ...], list[tuple[int, list[int]]]]  # ids read once; (place, ids read after them) of rows


def score_options(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], tokens_per_batch: int = 1024
) -> list[list[float]]:
    """Summed log-probability in nats of each option's tokens after its context, in the order given.

    Every context begins with one token of its own (`beginning`), so that it may be "". Where its last token and the
    option's first would be one token ("is " and "lupus" give " lupus"), the tokens are those of the whole text, and
    every option of the item is scored from the same place: the first token at which any of them leaves the context.
    """
    encoded = [encode_options(tokenizer, *item) for item in items]
    pairs = [(context, option) for context, options in encoded for option in options]
    found = {}
    for batch in loglikelihood_batches(model, pairs, tokens_per_batch):
        found |= batch
    scores = iter([found[place] for place in range(len(pairs))])
    return [[next(scores) for _ in options] for _, options in encoded]


def option_sizes(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]) -> list[list[dict[str, int]]]:
    """{"tokens", "bytes"} of each option, to normalise its score: tokens scored, and UTF-8 bytes of the option."""
    return [
        [
            {"tokens": len(ids), "bytes": len(option.encode())}
            for ids, option in zip(encode_options(tokenizer, context, options)[1], options, strict=True)
        ]
        for context, options in items
    ]


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token before every text: the tokenizer's beginning, which may be a chat marker, or its end."""
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id


def encode_options(
    tokenizer: PreTrainedTokenizerBase, context: str, options: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """(context ids, ids of each option): the texts' own tokens, split where the first option leaves the context."""
    before = plain_ids(tokenizer, context)
    wholes = [plain_ids(tokenizer, context + option) for option in options]
    split = min([shared_prefix(before, whole) for whole in wholes], default=len(before))
    return [start_token(tokenizer), *before[:split]], [whole[split:] for whole in wholes]


def shared_prefix(a: list[int], b: list[int]) -> int:
    """How many tokens `a` and `b` have in common at the beginning."""
    return next((place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def loglikelihood_batches(
    model: PreTrainedModel,
    pairs: Sequence[tuple[list[int], list[int]]],
    tokens_per_batch: int,
    known: Container[int] = (),
) -> Iterator[dict[int, float]]:
    """After each batch {place in `pairs`: summed log-probability in nats of the second ids after the first}.

    A batch holds at most `tokens_per_batch` tokens with padding, or one group of `grouped`. Who is read together
    does not depend on what is `known`, since rounding does depend on it; a batch wholly known is passed over.
    """
    for batch in batch_groups(pairs, tokens_per_batch):
        if any(place not in known for _, rows in batch for place, _ in rows):
            yield read_batch(model, pairs, batch)


def batch_groups(pairs: Sequence[tuple[list[int], list[int]]], tokens_per_batch: int) -> Iterator[list[Group]]:
    """The groups that are read together."""
    batch: list[Group] = []
    for group in group_rows(pairs, tokens_per_batch):
        mixed = batch and bool(batch[-1][0]) != bool(group[0])  # a prefix of padding alone has nothing to look at
        if mixed or (batch and padded_tokens([*batch, group]) > tokens_per_batch):
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


def group_rows(pairs: Sequence[tuple[list[int], list[int]]], tokens_per_batch: int) -> list[Group]:
    """Rows with the same context together, short groups first.

    The context's last token is read with each row, whose first token it predicts; the tokens before it are read
    once, unless there is one row only. The rows of a group hold at most `tokens_per_batch` tokens, or are one row.
    """
    of_context: dict[tuple[int, ...], list[int]] = {}
    for place, (context, _) in enumerate(pairs):
        of_context.setdefault(tuple(context), []).append(place)
    groups = []
    for context, places in of_context.items():
        alone = len(places) == 1 or len(context) == 1
        prefix, tail = ((), context) if alone else (context[:-1], context[-1:])
        rows = sorted(((place, [*tail, *pairs[place][1][:-1]]) for place in places), key=lambda row: len(row[1]))
        most = 1 if alone else max(1, tokens_per_batch // len(rows[-1][1]))
        groups += [(prefix, rows[start : start + most]) for start in range(0, len(rows), most)]
    return sorted(groups, key=lambda group: (len(group[0]), len(group[1][-1][1]), group[1][0][0]))


def padded_tokens(groups: list[Group]) -> int:
    """Tokens computed for these groups together: prefixes as long as the longest, and rows likewise."""
    prefixes = len(groups) * max(len(prefix) for prefix, _ in groups)
    return prefixes + sum(len(rows) for _, rows in groups) * max(len(rows[-1][1]) for _, rows in groups)


@torch.inference_mode()
def read_batch(
    model: PreTrainedModel, pairs: Sequence[tuple[list[int], list[int]]], groups: list[Group]
) -> dict[int, float]:
    """{place: summed log-probability} of the rows of these groups, their prefixes read once."""
    rows = [row for _, members in groups for row in members]
    longest = max(len(ids) for _, ids in rows)
    inputs = torch.tensor([ids + [0] * (longest - len(ids)) for _, ids in rows], device=model.device)
    first = min(len(ids) - max(1, len(pairs[place][1])) for place, ids in rows)  # the first place that is graded
    keep = torch.arange(first, longest, device=model.device)
    logits = model(input_ids=inputs, logits_to_keep=keep, **cache_arguments(model, groups, rows, longest)).logits
    found = {}
    for line, (place, ids) in zip(logits, rows, strict=True):
        wanted = torch.tensor(pairs[place][1], dtype=torch.long, device=model.device)
        graded = line[len(ids) - len(wanted) - first : len(ids) - first].float().log_softmax(-1)
        found[place] = graded.gather(1, wanted[:, None]).sum().item()
    return found


def cache_arguments(
    model: PreTrainedModel, groups: list[Group], rows: list[tuple[int, list[int]]], longest: int
) -> dict:
    """What tells the model that the rows come after their prefixes; without prefixes the rows stand alone.

    Rows are padded on the right, where nothing that is graded looks.
    """
    if not any(prefix for prefix, _ in groups):
        return {"use_cache": False}
    _, cache, mask = read_prompts(model, [list(prefix) for prefix, _ in groups])
    mask = keep_rows(cache, mask, [place for place, (_, members) in enumerate(groups) for _ in members])
    own = [[1] * len(ids) + [0] * (longest - len(ids)) for _, ids in rows]
    positions = mask.sum(-1, keepdim=True) + torch.arange(longest, device=mask.device)
    mask = torch.cat([mask, torch.tensor(own, device=mask.device)], dim=1)
    return {"attention_mask": mask, "position_ids": positions, "past_key_values": cache, "use_cache": True}
