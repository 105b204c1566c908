"""Public benchmarks, asked through EleutherAI's lm-evaluation-harness where the Hub can be reached.

Prompts, options and scoring are those of the harness (lm_eval, an optional extra), with no examples in the prompt.
One data set is another: the harness's own pubmedqa comes with a loading script, which datasets 4 and later refuse to
run. qiaojin/PubMedQA holds the same items with their PMIDs. All 1,000 that experts labelled (Jin et al. 2019, arXiv
1909.06146) are candidates, not only the half meant for testing, since nobody here trains on the other half.

Tested against a server on loopback with rows in the form of the real data sets, not against the Hub itself.
"""

import logging
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HTTPError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.core import CourseError, ProgressLine, append_jsonl, device_name, hash_json, read_jsonl
from helpers.papers import Topic, is_abbreviation

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

HARNESS = "lm_eval>=0.4.13,<0.5"
LONGEST = 2048  # tokens read at once; the head of a longer prompt is cut, a longer page is read in windows
CHUNK = 32  # items between two notes


PUBMEDQA = {
    "task": "pubmedqa",
    "dataset_path": "qiaojin/PubMedQA",
    "dataset_name": "pqa_labeled",
    "test_split": "train",
    "output_type": "multiple_choice",
    "doc_to_text": "Abstract: {{context.contexts | join('\n')}}\nQuestion: {{question}}\nAnswer:",
    "doc_to_target": "final_decision",
    "doc_to_choice": ["yes", "no", "maybe"],
}


@dataclass(frozen=True)
class Benchmark:
    """A task of the harness, by its name there or written out, and what is ours about it."""

    task: str | dict
    dataset: str
    number: str = "id"  # the document's own name for itself; where it has none, its place counts
    of_topic: bool = True  # only items that name the topic; the others guard against forgetting
    per_byte: bool = False  # its options are texts, compared per byte; labels (yes, A) are compared as they are


BENCHMARKS = {
    "pubmedqa": Benchmark(PUBMEDQA, PUBMEDQA["dataset_path"], number="pubid"),
    "medqa": Benchmark("medqa_4options", "GBaker/MedQA-USMLE-4-options-hf"),
    "medmcqa": Benchmark("medmcqa", "openlifescienceai/medmcqa"),
    "arc_easy": Benchmark("arc_easy", "allenai/ai2_arc", of_topic=False, per_byte=True),
    "wikitext": Benchmark("wikitext", "EleutherAI/wikitext_document_level", of_topic=False),
}


def check_benchmarks(wanted: str, endpoint: str) -> list[str]:
    """The benchmarks that PUBLIC_BENCHMARKS names, once each; [] for "", and then nothing is imported or asked.

    `endpoint` is HF_ENDPOINT. Raises CourseError for an unknown name, without lm_eval, and where the Hub does not
    answer for one of the data sets.
    """
    names = list(dict.fromkeys(name for word in wanted.split(",") if (name := word.strip())))
    if unknown := [name for name in names if name not in BENCHMARKS]:
        raise CourseError(
            f"PUBLIC_BENCHMARKS: there is no {unknown[0]!r}",
            f"there is: {', '.join(BENCHMARKS)}",
            "a-public-benchmark-is-refused",
        )
    if names and not find_spec("lm_eval"):
        raise CourseError(
            f"PUBLIC_BENCHMARKS={wanted!r} needs lm_eval, which is not installed",
            f"{sys.executable} -m pip install '{HARNESS}'",
            "a-public-benchmark-is-refused",
        )
    if names and endpoint.rstrip("/") != constants.ENDPOINT:
        raise CourseError(
            f"HF_ENDPOINT={endpoint!r} does not reach the libraries that read PUBLIC_BENCHMARKS",
            "set it in the environment or on make's line, not in .env",
            "a-public-benchmark-is-refused",
        )
    for name in names:
        with explain_harness_failures(name):
            HfApi(endpoint=endpoint).dataset_info(BENCHMARKS[name].dataset, timeout=30)
    return names


def measure_benchmarks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    *,
    row: str,
    topic: Topic,
    training_ids: Collection[str],
    identity: str,
    notes: Path,
    force: bool = False,
) -> list[dict]:
    """Items {"row", "instrument", "item", "paper_id", …} of the benchmarks `names`, the same for every model.

    Of a choice: "scores" (summed log-probability in nats of each option), "answer" (index) and "bytes": the UTF-8
    bytes of each option, or 1 where options are labels, so that the best score wins as in the harness's accuracy.
    Of a page of wikitext: "nll" (nats) and "bytes" (of the page as published, as the harness counts).

    `training_ids` are the PMIDs that any of the compared models was trained on: PubMedQA's items on them are left
    out. Items noted in `notes` by the same `identity` are not asked again, unless `force`. Raises CourseError where
    the Hub fails.
    """
    known = {} if force else {noted["work"]: noted["measured"] for noted in read_jsonl(notes)}
    reader = wrap_model(model, tokenizer) if names else None
    rows = []
    for name in names:
        task, asked, total = load_benchmark(name, topic, training_ids)
        about = [identity, version("lm_eval"), LONGEST, name]
        works = [hash_json([*about, item, text]) for item, text in asked]
        unread = [place for place, work in enumerate(works) if work not in known]
        line, doing = ProgressLine(), f"{row}: {name}, {len(asked)} of {total} items"
        for start in range(0, len(unread), CHUNK):
            samples = ask_benchmark(reader, task, unread[start : start + CHUNK])
            noted = [{"work": works[sample["doc_id"]], "measured": keep_sample(name, sample)} for sample in samples]
            append_jsonl(notes, noted)
            known |= {note["work"]: note["measured"] for note in noted}
            line.show(doing, start + len(noted), len(unread))
        for (item, _), work in zip(asked, works, strict=True):
            rows.append({"row": row, "instrument": name, "item": item, "paper_id": item, **known[work]})
    return rows


def wrap_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> "HFLM":
    """The model as the harness takes it; probabilities in float32, as 16 bits make ties of different options."""
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    longest = min(LONGEST, model.config.get_text_config().max_position_embeddings)
    batch = (
        1 if device_name() == "cpu" else 2
    )  # all logits of a batch are kept: 2 GB in float32 for 2 × 2048 × 150,000
    return HFLM(model, tokenizer=tokenizer, max_length=longest, batch_size=batch, softmax_dtype="float32")


@cache
def load_harness() -> "TaskManager":
    """The tasks that the harness knows; it takes seconds to find them."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def load_benchmark(
    name: str, topic: Topic, training_ids: Collection[str]
) -> tuple["Task", list[tuple[str, str]], int]:
    """(the harness's task with the documents to be asked, (item, text) of each of those, how many there were)."""
    benchmark = BENCHMARKS[name]
    with explain_harness_failures(name), hide_progress():
        (task,) = load_harness().load([benchmark.task])["tasks"].values()
    documents = task.eval_docs
    items = [(str(doc.get(benchmark.number, place)), document_text(task, doc)) for place, doc in enumerate(documents)]
    kept = [
        place
        for place, (item, text) in enumerate(items)
        if not benchmark.of_topic or (item not in training_ids and names_topic(topic, text))
    ]
    if not kept:
        print(f"{name}: none of {len(items)} items is about {topic.name}")
    task.dataset[task.config.test_split] = documents.select(kept)
    return task, [items[place] for place in kept], len(items)


def document_text(task: "Task", document: dict) -> str:
    """All that the model reads of a document: the prompt and its options, or the page."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return task.doc_to_target(document)
    return "\n".join([task.doc_to_text(document), *task.doc_to_choice(document)])


def names_topic(topic: Topic, text: str) -> bool:
    """Whether a text names a disease or another term of the topic in words; an abbreviation alone does not count."""
    return topic.glance(text) and not all(map(is_abbreviation, topic.mentions(text)))


def ask_benchmark(reader: "HFLM", task: "Task", places: list[int]) -> list[dict]:
    """The harness's record of each of the task's documents at these `places`, which must be in order."""
    from lm_eval.evaluator import evaluate

    name = task.config.task
    with hide_progress():
        found = evaluate(reader, {"tasks": {name: task}}, samples={name: places}, bootstrap_iters=0)
    return found["samples"][name]


def keep_sample(name: str, sample: dict) -> dict:
    """What we keep of the harness's record of one document."""
    if name == "wikitext":
        likelihood, size = sample["bits_per_byte"]
        return {"nll": -likelihood, "bytes": size}
    options = [continuation.removeprefix(" ") for _, continuation in sample["arguments"]]
    target = sample["target"]
    return {
        "scores": [score for score, _ in sample["filtered_resps"]],
        "bytes": [len(option.encode()) if BENCHMARKS[name].per_byte else 1 for option in options],
        "answer": target if isinstance(target, int) else options.index(target),
    }


def hide_progress() -> redirect_stderr:
    """Keep the libraries' progress bars out of the notebook, which shows its own line."""
    return redirect_stderr(StringIO())


@contextmanager
def explain_harness_failures(name: str) -> Iterator[None]:
    """Turn what the Hub's clients raise into an error that names the benchmark."""
    try:
        yield
    except (HTTPError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise CourseError(
            f"{BENCHMARKS[name].dataset}, the data of {name}, could not be fetched from {constants.ENDPOINT}: "
            f"{f'HTTP {status}' if status else type(error).__name__}",
            "check the network and HF_ENDPOINT, or unset PUBLIC_BENCHMARKS",
            "a-public-benchmark-is-refused",
        ) from error
