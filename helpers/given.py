"""What every timed run of the bench is given: rows, held-out rows, questions and multiple-choice items."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from helpers import examples, files, harvest, held_out, models, questions, rows, tuning
from helpers.errors import CourseError
from helpers.paths import Folders, base_model
from helpers.recipes import recipe
from helpers.screening import screen
from helpers.settings import Settings
from helpers.topics import load_topic

TOKENS = 3000  # a training reads at least so many, the first update among them
HELD_OUT_TOKENS = 1500
ITEMS, OPTIONS, WORDS = 16, 4, 12  # multiple-choice items, the options of one, and the words of an option


def inputs(resolved: Settings, folders: Folders) -> dict[str, list]:
    """What every run is given: rows to train on ("qlora", "full"), "held_out" rows, "questions" and "items"."""
    tokenizer = models.load_tokenizer(base_model(resolved.MODEL_NAME))
    taught, unseen = material(resolved, folders)
    encoded, looked_at = (examples.encode(rows, tokenizer, resolved.MAX_SEQ_LENGTH) for rows in (taught, unseen))
    held_out = looked_at.select(range(tuning.within(examples.lengths(looked_at), HELD_OUT_TOKENS)))
    chosen = {method: enough(encoded, resolved, method) for method in ("qlora", "full")}
    asked = [question["question"] for question in questions.load(resolved.QUESTIONS_FILE)]
    return {**chosen, "held_out": plain(held_out), "questions": asked, "items": items(folders, unseen)}


def material(resolved: Settings, folders: Folders) -> tuple[list[dict], list[dict]]:
    """(training rows, one held-out row a paper) of stage 3 or of TRAINING_DATA; of the written sample without any."""
    taught = resolved.TRAINING_DATA or folders.training_data
    sample = ([], []) if taught.exists() and folders.held_out.exists() else sample_rows(resolved)
    papers = held_out.load(folders.held_out) if folders.held_out.exists() else sample[1]
    training_rows = rows.load_rows(taught) if taught.exists() else sample[0]
    return plain(training_rows), plain(row for paper in papers for row in paper["rows"][:1])


def sample_rows(resolved: Settings) -> tuple[list[dict], list[dict]]:
    """(training rows, held-out papers) of the written sample."""
    topic = load_topic("autoimmune")
    with tempfile.TemporaryDirectory() as folder:
        kept = screen(harvest.from_sample().papers, topic, resolved.MAX_PAPERS, Path(folder) / "dropped.jsonl").kept
    return rows.build(kept, resolved, topic)


def plain(rows: Iterable[Mapping]) -> list[dict]:
    """What training reads of rows."""
    return [{name: row[name] for name in ("prompt", "completion")} for row in rows]


def enough(encoded: Iterable[Mapping], resolved: Settings, method: str) -> list[dict]:
    """Rows of whole updates, in the order of a hash, until there are TOKENS tokens.

    Raises CourseError if there are too few rows for an update that warms up and two that are timed.
    """
    portion = recipe(resolved, method).batch_size * resolved.GRAD_ACCUMULATION
    order, taken, tokens = examples.shuffled(range(len(encoded)), resolved.SEED, 0), [], 0
    while len(order) >= portion and (tokens < TOKENS or len(taken) < 3 * portion):
        update, order = order[:portion], order[portion:]
        taken += update
        tokens += sum(len(encoded[row]["input_ids"]) for row in update)
    if len(taken) < 3 * portion:
        raise CourseError(
            f"{len(encoded)} training rows are too few to time three updates of {portion}",
            f"lower GRAD_ACCUMULATION or {method.upper()}_BATCH_SIZE, or give more rows",
        )
    return plain(encoded[row] for row in taken)


def items(folders: Folders, unseen: list[dict]) -> list[dict]:
    """{"context", "options"}: stage 3's probes; without them held-out prompts, with how answers begin."""
    if folders.probes.exists():
        probes = files.read_json(folders.probes)
        spread = probes[:: max(1, len(probes) // ITEMS)][:ITEMS]
        return [{"context": probe["question"], "options": probe["options"]} for probe in spread]
    around = [[unseen[(n + k) % len(unseen)] for k in range(OPTIONS)] for n in range(min(ITEMS, len(unseen)))]
    begins = [[" " + " ".join(row["completion"].split()[:WORDS]) for row in group] for group in around]
    return [{"context": group[0]["prompt"], "options": begun} for group, begun in zip(around, begins, strict=True)]
