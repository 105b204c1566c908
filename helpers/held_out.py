"""How well a model predicts papers it has never seen, in bits per byte."""

import math
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers import chat, files, likelihood
from helpers.progress import Line, forced

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
    unread = [p for p in papers if works[p["paper_id"]] not in known]
    texts = [chat.plain_ids(tokenizer, text_of(p))[:max_length] for p in unread]
    pairs = [([likelihood.beginning(tokenizer)], ids) for ids in texts]
    line, doing, done = Line(), f"{row}: reading {len(unread)} held-out papers", 0
    for batch in likelihood.in_batches(model, pairs, TOKENS_PER_BATCH):
        noted = [
            {"work": works[unread[n]["paper_id"]], "nll": -found, "bytes": len(tokenizer.decode(texts[n]).encode())}
            for n, found in batch.items()
        ]
        files.append_jsonl(notes, noted)
        known |= {r["work"]: r for r in noted}
        done += len(noted)
        line.show(doing, done, len(unread))
    return [item(row, p["paper_id"], known[works[p["paper_id"]]]) for p in papers]


def item(row: str, paper_id: str, noted: dict) -> dict:
    counts = {"nll": noted["nll"], "bytes": noted["bytes"]}
    return {"row": row, "instrument": "bits_per_byte", "item": paper_id, **counts}


def bits_per_byte(items: list[dict]) -> float:
    """Mean over papers of nll / ln 2 / bytes."""
    return sum(i["nll"] / math.log(2) / i["bytes"] for i in items) / len(items)
