"""How models, instruments and numbers are called and written in every table, picture and card."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

NOTICE = (
    "For research and teaching only, not for medical use. The model was made for a course about measuring "
    "fine-tuning. It can be wrong in fluent sentences. It gives no medical advice and must not be used for "
    "diagnosis, treatment or any decision about a person's health."
)
MODELS = {
    "base_4bit": "base, 4-bit",
    "base_bf16": "base, unquantised",
    "base_rag": "base with passages (RAG)",
    "base_aa": "base once more (A/A)",
    "qlora": "QLoRA adapter",
    "full": "full fine-tune",
    "placebo_qlora": "placebo adapter",
}
BASE_OF = {"qlora": "base_4bit", "placebo_qlora": "base_4bit", "full": "base_bf16"}
ROLES = {
    "primary": "declared: primary",
    "family": "declared: family",
    "guard": "guard",
    "control": "control",
    "exploratory": "exploratory",
}
REPEAT = re.compile(r"(.+)_s(\d+)")
MINUS = str.maketrans("-", "−")


@dataclass(frozen=True)
class Instrument:
    """How an instrument is shown: its unit (share, score or bits), whether more is better, what it asks."""

    title: str
    unit: str
    more: bool
    group: str
    about: str


LEARNED, ANSWERS, KEPT, PUBLIC = "did it learn?", "does it answer?", "what did it keep?", "public benchmarks"
INSTRUMENTS = {
    "recall": Instrument(
        "recall",
        "share",
        True,
        LEARNED,
        "facts that were read in training, asked by keywords and the words before them",
    ),
    "transfer": Instrument("transfer", "share", True, LEARNED, "facts of papers that were held out"),
    "reading": Instrument("reading", "share", True, LEARNED, "title and background given: which conclusion?"),
    "bits_per_byte": Instrument(
        "held-out papers", "bits", False, LEARNED, "bits per byte: surprise at papers that were held out"
    ),
    "rubric": Instrument("rubric", "score", True, ANSWERS, "the questions, one greedy answer each, 0 to 1"),
    "rubric_sampled": Instrument("rubric, sampled", "score", True, ANSWERS, "the same, mean of the sampled answers"),
    "cloze": Instrument("plain knowledge", "share", True, KEPT, "everyday sentences to complete"),
    "general_bits": Instrument("general English", "bits", False, KEPT, "bits per byte of ordinary text"),
}


def task_label(name: str, chance: float | None = None) -> Instrument:
    """How `name` is shown; a public benchmark is a share where it can be guessed, else bits per byte."""
    if name in INSTRUMENTS:
        return INSTRUMENTS[name]
    return Instrument(name, "bits" if chance is None else "share", chance is not None, PUBLIC, "a public benchmark")


def model_label(row: str) -> str:
    """What a row is called: "qlora_s43" → "QLoRA adapter, seed 43"."""
    if repeat := REPEAT.fullmatch(row):
        return f"{model_label(repeat[1])}, seed {repeat[2]}"
    return MODELS.get(row, row)


DIGITS = {"share": 1, "points": 1, "score": 2, "bits": 4, "p": 4, "tenth": 1, "whole": 0}


def format_figure(value: float | None, unit: str, sign: str = "") -> str:
    """A number for reading: shares as percentages, their differences (with a sign) in points, a real minus, no sign
    for 0; "–" for None."""
    if value is None:
        return "–"
    digits = DIGITS[unit] + (unit == "score" and bool(sign))
    shown = round(100 * value if unit in ("share", "points") else value, digits) or 0.0
    text = f"{shown:{sign if shown else ''},.{digits}f}".translate(MINUS)
    return f"{text} %" if unit == "share" and not sign else text


def format_interval(low: float | None, high: float | None, unit: str, sign: str = "") -> str:
    """An interval for reading; "–" where n does not allow one."""
    if low is None or high is None:
        return "–"
    return f"{format_figure(low, unit, sign)} to {format_figure(high, unit, sign)}".replace(" % to", " to")


def format_count(measure: Mapping) -> str:
    """ "120 of 40 papers" where several items come from one paper, else "10"."""
    n, clusters = measure["n"], measure["clusters"]
    return f"{n:,}" if n == clusters else f"{n:,} of {clusters:,} papers"


def unit_of(found: Mapping) -> str:
    """The unit of a comparison; a public benchmark of right and wrong has counts of items gained and lost."""
    return task_label(found["instrument"], None if found["gained"] is None else 0).unit


def plain_unit(unit: str) -> str:
    """The unit of a difference without direction: shares differ by points."""
    return "points" if unit == "share" else unit


def pair_label(found: Mapping) -> str:
    return f"{model_label(found['a'])} − {model_label(found['b'])}"
