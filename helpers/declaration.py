"""What counts as success, written down before training: the outcome, its family, the guard."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from helpers import questions
from helpers.comparison import ALPHA, POWER
from helpers.files import read_json, sha256_of
from helpers.scoring import criteria_hash

if TYPE_CHECKING:
    from helpers.session import Session

PRIMARY = ("recall", "qlora", "base_4bit")
FAMILY = (PRIMARY, ("recall", "full", "base_bf16"), ("recall", "qlora", "placebo_qlora"))
GUARD = tuple(
    (instrument, a, b)
    for a, b in (("qlora", "base_4bit"), ("full", "base_bf16"))
    for instrument in ("cloze", "general_bits")
)
CONTROLS = (("base_aa", "base_4bit"), ("placebo_qlora", "base_4bit"))


def role(instrument: str, a: str, b: str) -> str:
    """What a comparison was declared to be: "primary", "family", "guard", "control" or "exploratory"."""
    place = (instrument, a, b)
    if place == PRIMARY:
        return "primary"
    if place in FAMILY:
        return "family"
    if place in GUARD:
        return "guard"
    return "control" if (a, b) in CONTROLS else "exploratory"


def of_run(session: "Session") -> dict:
    """The declaration for this run's questions and probes."""
    rubric = criteria_hash(questions.load(session.settings.QUESTIONS_FILE))
    return declare(rubric, read_json(session.folders.probes))


def declare(rubric: str, probes: Sequence[dict]) -> dict:
    """The declaration as JSON values: {"primary", "family", "alpha", "correction", "power", "test", "normalisation",
    "guard", "exploratory", "items": {instrument: {"n", "papers"}}, "criteria_hash", "probes_hash", "hash"}.

    `rubric`: hash of the criteria (`scoring.criteria_hash`); `probes`: the items of data/probes.json. `hash` is the
    sha256 of all the rest: change a probe, a criterion or a rule after training, and it differs.
    """
    said = {
        "primary": named(PRIMARY),
        "family": [named(place) for place in FAMILY],
        "alpha": ALPHA,
        "correction": "Holm",
        "power": POWER,
        "test": "paired sign flips of whole papers, two-sided",
        "normalisation": "log-probability divided by bytes",
        "guard": [named(place) for place in GUARD],
        "exploratory": "every other comparison",
        "items": counted(probes),
        "criteria_hash": rubric,
        "probes_hash": sha256_of(list(probes)),
    }
    return {**said, "hash": sha256_of(said)}


def named(place: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("instrument", "a", "b"), place, strict=True))


def counted(probes: Sequence[dict]) -> dict[str, dict[str, int]]:
    """{instrument: {"n": items, "papers"}}, in the order of the probes."""
    papers: dict[str, list] = {}
    for probe in probes:
        papers.setdefault(probe["instrument"], []).append(probe.get("paper_id", probe["id"]))
    return {instrument: {"n": len(found), "papers": len(set(found))} for instrument, found in papers.items()}


def sentences(declaration: dict) -> list[str]:
    """The declaration in plain English, to be printed before training."""
    primary, alpha = declaration["primary"], f"{declaration['alpha']:.0%}".replace("%", " %")
    asked = declaration["items"].get(primary["instrument"], {"n": 0, "papers": 0})
    others = ", ".join(f"{c['a']} − {c['b']}" for c in declaration["family"] if c != primary)
    counts = ", ".join(f"{name} {c['n']} of {c['papers']} papers" for name, c in declaration["items"].items())
    guards = " and ".join(dict.fromkeys(GUARD_WORDS[c["instrument"]] for c in declaration["guard"]))
    return [
        f"Success is decided by one number: the share of {primary['instrument']} items answered right, "
        f"{primary['a']} − {primary['b']}, on {asked['n']} items of {asked['papers']} papers.",
        f"Two more comparisons of the same number share its error rate of {alpha}: {others}. "
        f"Their p values are corrected together ({declaration['correction']}'s method).",
        f"The test: {declaration['test']}. A model's answer is the option with the highest "
        f"{declaration['normalisation']}.",
        f"What must not get worse: {guards}. It is tested without correction, so that a loss is not hidden.",
        f"All else is exploratory: it can suggest, not prove. Items: {counts or 'none'}.",
        f"Fingerprint of this declaration, the items and the rubrics: {declaration['hash'][:12]}.",
    ]


GUARD_WORDS = {"cloze": "plain knowledge (cloze items)", "general_bits": "the prediction of general English"}
