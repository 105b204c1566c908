"""What every timed run of the bench is given: rows, held-out rows, questions and multiple-choice items."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from helpers.core import CourseError, Folders, Settings, base_model_folder, read_json
from helpers.dataset import build_rows, load_held_out, load_rows
from helpers.grading import load_questions
from helpers.models import load_tokenizer
from helpers.papers import from_sample, load_topic, screen_papers
from helpers.training import count_within, encode_rows, row_lengths, shuffle_rows, train_config

TOKENS = 3000  # a training reads at least so many, the first update among them
HELD_OUT_TOKENS = 1500
ITEMS, OPTIONS, WORDS = 16, 4, 12  # multiple-choice items, the options of one, and the words of an option


def bench_inputs(resolved: Settings, folders: Folders) -> dict[str, list]:
    """What every run is given: rows to train on ("qlora", "full"), "held_out" rows, "questions" and "items"."""
    tokenizer = load_tokenizer(base_model_folder(resolved.MODEL_NAME))
    taught, unseen = bench_material(resolved, folders)
    encoded, looked_at = (encode_rows(rows, tokenizer, resolved.MAX_SEQ_LENGTH) for rows in (taught, unseen))
    held_out = looked_at.select(range(count_within(row_lengths(looked_at), HELD_OUT_TOKENS)))
    chosen = {method: take_enough(encoded, resolved, method) for method in ("qlora", "full")}
    asked = [question["question"] for question in load_questions(resolved.QUESTIONS_FILE)]
    return {**chosen, "held_out": plain_rows(held_out), "questions": asked, "items": bench_items(folders, unseen)}


def bench_material(resolved: Settings, folders: Folders) -> tuple[list[dict], list[dict]]:
    """(training rows, one held-out row a paper) of stage 3 or of TRAINING_DATA; of the written sample without any."""
    taught = resolved.TRAINING_DATA or folders.training_data
    sample = ([], []) if taught.exists() and folders.held_out.exists() else sample_rows(resolved)
    papers = load_held_out(folders.held_out) if folders.held_out.exists() else sample[1]
    training_rows = load_rows(taught) if taught.exists() else sample[0]
    return plain_rows(training_rows), plain_rows(row for paper in papers for row in paper["rows"][:1])


def sample_rows(resolved: Settings) -> tuple[list[dict], list[dict]]:
    """(training rows, held-out papers) of the written sample."""
    topic = load_topic("autoimmune")
    with tempfile.TemporaryDirectory() as folder:
        kept = screen_papers(from_sample().papers, topic, resolved.MAX_PAPERS, Path(folder) / "dropped.jsonl").kept
    return build_rows(kept, resolved, topic)


def plain_rows(rows: Iterable[Mapping]) -> list[dict]:
    """What training reads of rows."""
    return [{name: row[name] for name in ("prompt", "completion")} for row in rows]


def take_enough(encoded: Iterable[Mapping], resolved: Settings, method: str) -> list[dict]:
    """Rows of whole updates, in the order of a hash, until there are TOKENS tokens.

    Raises CourseError if there are too few rows for an update that warms up and two that are timed.
    """
    portion = train_config(resolved, method).batch_size * resolved.GRAD_ACCUMULATION
    order, taken, tokens = shuffle_rows(range(len(encoded)), resolved.SEED, 0), [], 0
    while len(order) >= portion and (tokens < TOKENS or len(taken) < 3 * portion):
        update, order = order[:portion], order[portion:]
        taken += update
        tokens += sum(len(encoded[row]["input_ids"]) for row in update)
    if len(taken) < 3 * portion:
        raise CourseError(
            f"{len(encoded)} training rows are too few to time three updates of {portion}",
            f"lower GRAD_ACCUMULATION or {method.upper()}_BATCH_SIZE, or give more rows",
        )
    return plain_rows(encoded[row] for row in taken)


def bench_items(folders: Folders, unseen: list[dict]) -> list[dict]:
    """{"context", "options"}: stage 3's probes; without them held-out prompts, with how answers begin."""
    if folders.probes.exists():
        probes = read_json(folders.probes)
        spread = probes[:: max(1, len(probes) // ITEMS)][:ITEMS]
        return [{"context": probe["question"], "options": probe["options"]} for probe in spread]
    around = [[unseen[(n + k) % len(unseen)] for k in range(OPTIONS)] for n in range(min(ITEMS, len(unseen)))]
    begins = [[" " + " ".join(row["completion"].split()[:WORDS]) for row in group] for group in around]
    return [{"context": group[0]["prompt"], "options": begun} for group, begun in zip(around, begins, strict=True)]
