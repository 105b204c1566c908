"""What a sentence can be asked for: the number or the name whose place is left open."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from helpers.text.entities import Entity

GAP = "____"
ORDER = ("drug", "molecule", "antibody", "heading", "cell", "disease")  # of two names the first is asked for
NUMBER = re.compile(
    r"(?<![\w.,·/:<>=≤≥±×^⁻−–-])(?<!\d\s)(?P<value>\d{1,3}(?:,\d{3})+|\d+(?:[.·]\d+)?)(?P<unit>\s?%|-fold)?"
    r"(?![\w:/·×^⁺]|[.,]\d|\s\d|\s?[-–−]\s?\d|\s?±|-(?!fold))"
)
TRIVIAL = re.compile(r"(?:0|1|2|95|100)$")
YEAR = re.compile(r"(?:19|20)\d\d$")
NO_RESULT = re.compile(  # what makes the number after it a name, a date, a range or the result of a test
    r"(?:\b[pP]\s?[=<>≤]|\b[pP][- ]values?(?: of| was| were)?|±|×|\bper"
    r"|\b(?:type|phase|grade|stage|class|group|part|week|month|day|year|aged?|vs\.?|versus|version|level|model|factor"
    r"|chromosome|vitamin|visit|step|cohort|cluster|table|figure)"
    r"|\d%? (?:to|and|or)|\d (?:days|weeks|months|years) to"
    r"|\b(?:CI|confidence intervals?|range[ds]?|IQR|SD|SE)\b[^()]*)\s?$"
)
COUNTED = re.compile(
    r"\s(?:\w+[- ]){0,3}?(?:patients?|participants?|subjects|children|adults|women|men|cases|controls|studies|trials"
    r"|samples|individuals|people|persons|adolescents|infants|families|respondents|proteins|genes|peptides|metabolites"
    r"|autoantibodies|antibodies|SNPs|RCTs|articles|records|publications|reports|mice|rats|weeks|months|years|days"
    r"|times|mg|µg|kg|episodes|cent(?:er|re)s|countries|pregnancies|eyes|lesions|relapses|deaths|events|points?"
    r"|\w*RNAs)\b"
)

VERSION = re.compile(r"\b[A-Z][A-Za-z]+ \d+\.\d+$")  # of a program
HALF = re.compile(r"\b(?:[TB]|inhibitors? of|target of|vascular) $")  # before what is half a name
REST = re.compile(  # after it
    r"[-/)]| \([A-Z]| (?:proteins?|peptides?|antigens?|(?:auto)?antibod\w+|receptors?|inhibit(?:or|ion)s?"
    r"|(?:ant)?agonists?|blockers?|blockade|kinases?|inflammasomes?|viruse?s?|complex(?:es)?|pulses?|pumps?|cells?)\b"
)


class Gap(NamedTuple):
    """What is left open: [start, end) of a sentence; `kind` is number, direction, or the kind of a name."""

    kind: str
    start: int
    end: int


def find_number_gaps(sentence: str) -> list[Gap]:
    """The numbers of a sentence worth asking for: shares, counts, measurements; no dates, p-values, intervals."""
    found = []
    for match in NUMBER.finditer(sentence):
        before, after, value = sentence[: match.start()], sentence[match.end() :], match["value"]
        if TRIVIAL.match(value) or NO_RESULT.search(before) or after.lstrip().startswith(("CI", "confidence")):
            continue
        if before.count("(") > before.count(")"):
            fits = match["unit"] and before.endswith(("(", "; "))
        else:
            fits = match["unit"] or ((COUNTED.match(after) or re.search(r"[.·]", value)) and not YEAR.match(value))
        gap = Gap("number", *match.span("value"))
        fits = fits and (match["unit"] or not VERSION.search(sentence[: match.end()]))
        if fits and occurs_once(sentence, gap):
            found.append(gap)
    return found


def find_name_gaps(sentence: str, title: str, found: Iterable[Entity]) -> list[Gap]:
    """Those of the names `found` in a sentence that stand in it once and not in the title, in ORDER."""
    fit = [
        Gap(*entity)
        for entity in found
        if occurs_once(sentence, entity)
        and sentence[entity.start : entity.end].lower().rstrip("s") not in title.lower()
        and not sentence[: entity.start].endswith(("(", "-", "/"))
        and not HALF.search(sentence[: entity.start])
        and not REST.match(sentence, entity.end)
    ]
    return sorted(fit, key=lambda gap: (ORDER.index(gap.kind), gap.start))


def occurs_once(sentence: str, gap: Gap | Entity) -> bool:
    """Whether what is left open is said nowhere else in the sentence."""
    return sentence.lower().count(sentence[gap.start : gap.end].lower()) == 1


def open_gap(sentence: str, gap: Gap) -> str:
    """The sentence with the gap in it."""
    return f"{sentence[: gap.start]}{GAP}{sentence[gap.end :]}"
