"""What every model is measured with besides questions: options to choose from, and texts to predict.

An item with options has {"instrument", "item", "paper_id", "context", "options", "answer"} and a text
{"instrument", "item", "paper_id", "text"}; `paper_id` is the paper they were made from, or the item itself.
"""

from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.core import (
    GENERAL,
    CourseError,
    ProgressLine,
    append_jsonl,
    hash_json,
    read_json,
    read_jsonl,
    relative_path,
)
from helpers.dataset import guard_rows, held_out_text
from helpers.evaluation.items import item_values
from helpers.models import encode_options, loglikelihood_batches, plain_ids, start_token

TOKENS_PER_BATCH = 1024
CLOZE = GENERAL / "cloze.json"
LOOKED_UP = ("recall", "transfer")  # what can be looked up in the training papers


def paper_items(probes: list[dict], unseen: list[dict]) -> list[dict]:
    """Probes of stage 3, and its held-out papers as texts."""
    asked = [
        {name: probe[name] for name in ("instrument", "paper_id", "options", "answer")}
        | {"item": probe["id"], "context": probe["question"]}
        for probe in probes
    ]
    return asked + [text_item("bits_per_byte", paper["paper_id"], held_out_text(paper)) for paper in unseen]


def regression_items(most: int, cloze: Path = CLOZE) -> list[dict]:
    """What must not be forgotten: sentences of plain knowledge to complete, and general English to predict.

    At most so many of each, the first of their files.

    Raises CourseError naming the file and the item that is not four options with one answer.
    """
    asked = []
    for item in read_json(cloze)[:most]:
        if len(item["options"]) != 4 or not 0 <= item["answer"] < 4:
            raise CourseError(
                f"{relative_path(cloze)}: {item['id']} has not four options and an answer", "restore it"
            )
        name = {"instrument": "cloze", "item": item["id"], "paper_id": item["id"]}
        asked.append(name | {"context": item["prompt"], "options": item["options"], "answer": item["answer"]})
    return asked + [text_item("general_bits", row["paper_id"], row["text"]) for row in guard_rows()[:most]]


def text_item(instrument: str, name: str, words: str) -> dict:
    return {"instrument": instrument, "item": name, "paper_id": name, "text": words}


def measure_items(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: list[dict],
    *,
    row: str,
    identity: str,
    max_length: int,
    notes: Path,
    force: bool = False,
) -> list[dict]:
    """One line an item, in their order: {"row", "instrument", "item", "paper_id"} and what was measured.

    Of options: "scores" (the summed log-probability of each after the context, in nats), "bytes" of each in UTF-8,
    and "answer". Of a text: "nll" (the summed negative log-likelihood of its tokens in nats) and "bytes" of what
    those tokens spell, so that nll / ln 2 / bytes compares models with different tokenizers; a text is cut after
    `max_length` tokens. What `notes` holds of the same model (`identity`, a hash) is not measured again unless
    `force`, and what is measured together does not depend on it, so that a run that was killed ends with the same
    numbers.
    """
    encoded = [encode_item(tokenizer, item, max_length) for item in items]
    pairs = [pair for of_item in encoded for pair in of_item]
    works = [hash_json([identity, *pair]) for pair in pairs]
    known = {} if force else {noted["work"]: noted["nats"] for noted in read_jsonl(notes)}
    done = {place for place, work in enumerate(works) if work in known}
    line = ProgressLine()
    for batch in loglikelihood_batches(model, pairs, TOKENS_PER_BATCH, done):
        noted = [{"work": works[place], "nats": nats} for place, nats in batch.items()]
        append_jsonl(notes, noted)
        known |= {one["work"]: one["nats"] for one in noted}
        done |= set(batch)
        line.show(f"{row}: likelihoods", len(done), len(pairs))
    nats = iter([known[work] for work in works])
    return [
        item_result(row, item, of_item, [next(nats) for _ in of_item], tokenizer)
        for item, of_item in zip(items, encoded, strict=True)
    ]


def encode_item(tokenizer: PreTrainedTokenizerBase, item: dict, max_length: int) -> list[tuple[list[int], list[int]]]:
    """(ids that are read, ids that are predicted) of every option, or of the text."""
    if "text" in item:
        return [([start_token(tokenizer)], plain_ids(tokenizer, item["text"])[:max_length])]
    context, options = encode_options(tokenizer, item["context"], item["options"])
    return [(context, option) for option in options]


def item_result(row: str, item: dict, encoded: list, nats: list[float], tokenizer: PreTrainedTokenizerBase) -> dict:
    """One line as `measure` returns it."""
    named = {"row": row} | {name: item[name] for name in ("instrument", "item", "paper_id")}
    if "text" in item:
        return named | {"nll": -nats[0], "bytes": len(tokenizer.decode(encoded[0][1]).encode())}
    return named | {
        "scores": nats,
        "bytes": [len(option.encode()) for option in item["options"]],
        "answer": item["answer"],
    }


def values_by_variant(measured: Mapping[str, list[dict]], instrument: str) -> dict[str, list[float]]:
    """{row: the values of its items} on one instrument, for the rows that were measured with it."""
    found = {row: list(item_values(row, of_row).get(instrument, {}).values()) for row, of_row in measured.items()}
    return {row: each for row, each in found.items() if each}


def summarise_items(measured: Mapping[str, list[dict]]) -> list[dict]:
    """A table: for every instrument the mean of each row, over how many items of how many papers, and chance."""
    lines = {}
    for row, of_row in measured.items():
        for name, found in item_values(row, of_row).items():
            its = [one for one in of_row if one["instrument"] == name]
            chance = sum(1 / len(one["scores"]) for one in its) / len(its) if "scores" in its[0] else None
            line = lines.setdefault(
                name,
                {"instrument": name}
                | {
                    "items": len(its),
                    "papers": len({one["paper_id"] for one in its}),
                    "chance": "" if chance is None else f"{chance:.0%}",
                },
            )
            mean = sum(found.values()) / len(found)
            line[row] = f"{mean:.1%}" if chance is not None else f"{mean:.4f} bits"
    rows = dict.fromkeys(measured, "")
    return [{**line, **(rows | {row: line[row] for row in rows if row in line})} for line in lines.values()]
