"""How well a model predicts papers it has never seen, in bits per byte."""

import math
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers import chat, files
from helpers.progress import forced, track

TOKENS_PER_BATCH = 1024


def load(path: Path) -> list[dict]:
    """The held-out papers of stage 3."""
    return files.read_json(path)


def text_of(paper: dict) -> str:
    """What is predicted: title and abstract as running text."""
    return f"{paper['title']}\n\n{paper['abstract']}"


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    papers: list[dict],
    *,
    row: str,
    identity: str,
    max_length: int,
    notes: Path,
) -> list[dict]:
    """One item per paper: {"row", "instrument": "bits_per_byte", "item", "nll", "bytes"}.

    `nll` is the summed negative log-likelihood of the text's tokens in nats, `bytes` the UTF-8 bytes of the
    text that those tokens spell, so that nll / ln 2 / bytes compares models with different tokenizers.
    Texts longer than `max_length` tokens are cut. Papers noted in `notes` by the same model are not
    measured again.
    """
    known = {} if forced() else {r["work"]: r for r in files.read_jsonl(notes)}
    works = {p["paper_id"]: files.sha256_of([identity, text_of(p), max_length]) for p in papers}
    encoded = [
        (works[p["paper_id"]], chat.plain_ids(tokenizer, text_of(p))[:max_length])
        for p in papers
        if works[p["paper_id"]] not in known
    ]
    groups = list(by_length(encoded))
    for group in track(groups, f"{row}: reading {len(encoded)} held-out papers"):
        nlls = log_likelihoods(model, tokenizer, [ids for _, ids in group])
        noted = [
            {"work": work, "nll": nll, "bytes": len(tokenizer.decode(ids).encode())}
            for (work, ids), nll in zip(group, nlls, strict=True)
        ]
        files.append_jsonl(notes, noted)
        known |= {r["work"]: r for r in noted}
    return [item(row, p["paper_id"], known[works[p["paper_id"]]]) for p in papers]


def item(row: str, paper_id: str, noted: dict) -> dict:
    counts = {"nll": noted["nll"], "bytes": noted["bytes"]}
    return {"row": row, "instrument": "bits_per_byte", "item": paper_id, **counts}


def log_likelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[list[int]]
) -> list[float]:
    """Summed negative log-likelihood in nats of each token list, every token predicted.

    One context token comes before the first: the tokenizer's beginning, which may be a chat marker, or its end.
    """
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    longest = max(map(len, texts))
    inputs = torch.full((len(texts), longest + 1), tokenizer.pad_token_id)
    for place, ids in enumerate(texts):
        inputs[place, : len(ids) + 1] = torch.tensor([first, *ids])
    inputs = inputs.to(model.device)
    with torch.inference_mode():
        logits = model(inputs[:, :-1], use_cache=False).logits
    nlls = []
    for place, ids in enumerate(texts):
        scores = logits[place, : len(ids)].float().log_softmax(-1)
        nlls.append(-scores.gather(1, inputs[place, 1 : len(ids) + 1, None]).sum().item())
    return nlls


def by_length(encoded: list[tuple[str, list[int]]]) -> list[list[tuple[str, list[int]]]]:
    """Groups of similar length, about TOKENS_PER_BATCH tokens each."""
    groups, group = [], []
    for entry in sorted(encoded, key=lambda e: (len(e[1]), e[0])):
        if group and len(entry[1]) * (len(group) + 1) > TOKENS_PER_BATCH:
            groups.append(group)
            group = []
        group.append(entry)
    return [*groups, group] if group else groups


def bits_per_byte(items: list[dict]) -> float:
    """Mean over papers of nll / ln 2 / bytes."""
    return sum(i["nll"] / math.log(2) / i["bytes"] for i in items) / len(items)
