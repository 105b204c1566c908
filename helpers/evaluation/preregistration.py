"""What counts as success, written down before training: the outcome, its family, the guard."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from helpers.core import (
    GENERAL,
    METHOD_STAGES,
    Run,
    append_jsonl,
    hash_code,
    hash_file,
    hash_json,
    read_json,
    read_jsonl,
    read_receipt,
    stage_of,
)
from helpers.dataset import askable_items, read_seen_rows
from helpers.evaluation.statistics import ALPHA, POWER
from helpers.grading import criteria_hash, load_questions

PRIMARY = ("recall", "qlora", "base_4bit")
FAMILY = (PRIMARY, ("recall", "full", "base_bf16"), ("recall", "qlora", "placebo_qlora"))
GUARD = tuple(
    (instrument, a, b)
    for a, b in (("qlora", "base_4bit"), ("full", "base_bf16"))
    for instrument in ("cloze", "general_bits")
)
CODE = ("evaluation", "grading", "dataset/seen_rows")  # what turns answers into verdicts
CONTROLS = (("base_aa", "base_4bit"), ("placebo_qlora", "base_4bit"))


def role_of(instrument: str, a: str, b: str) -> str:
    """What a comparison was declared to be: "primary", "family", "guard", "control" or "exploratory"."""
    place = (instrument, a, b)
    if place == PRIMARY:
        return "primary"
    if place in FAMILY:
        return "family"
    if place in GUARD:
        return "guard"
    return "control" if (a, b) in CONTROLS else "exploratory"


def preregister(run: Run, rows: Sequence[Mapping]) -> dict:
    """The declaration before a training that will read these rows, also appended to reports/declarations.jsonl."""
    folders, wanted = run.folders, run.settings
    said = make_preregistration(criteria_hash(load_questions(wanted.QUESTIONS_FILE)), read_json(folders.probes), rows)
    noted = read_jsonl(folders.declarations)
    if said["hash"] not in [one["declaration"]["hash"] for one in noted]:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        append_jsonl(folders.declarations, [{"when": now, "stage": run.stage.name, "declaration": said}])
    return said


def check_preregistration(run: Run, rows: Sequence[Mapping]) -> dict:
    """What was declared before the adapter was trained, from the log, and two more keys.

    "kept": whether today the same rules, items and rubrics would be declared for every training of the run (None:
    nothing was declared). "made": how many declarations this run has seen. `rows` are all training rows.
    """
    folders, wanted = run.folders, run.settings
    log = {one["declaration"]["hash"]: one["declaration"] for one in read_jsonl(folders.declarations)}
    rubric, probes = criteria_hash(load_questions(wanted.QUESTIONS_FILE)), read_json(folders.probes)
    before, now = {}, {}
    for row, number in METHOD_STAGES.items():
        skipped = (read_receipt(stage_of(number), folders) or {}).get("status") == "skipped"
        if not skipped and (record := folders.model(row) / "training.json").exists():
            before[row] = read_json(record)["history"]["declared"]
            now[row] = make_preregistration(rubric, probes, read_seen_rows(folders.model(row), rows))
    said = log.get(before.get("qlora", ""), now.get("qlora") or make_preregistration(rubric, probes, rows))
    known = [hash for hash in before.values() if hash]
    kept = all(before[row] == now[row]["hash"] for row in before) if known else None
    return said | {"kept": kept, "made": len(log)}


def make_preregistration(rubric: str, probes: Sequence[dict], rows: Sequence[Mapping]) -> dict:
    """The declaration as JSON values: {"primary", "family", "alpha", "correction", "power", "test", "normalisation",
    "guard", "exploratory", "items": {instrument: {"n", "papers"}}, "criteria_hash", "probes_hash", "guard_hash",
    "code", "hash"}.

    `rubric`: hash of the criteria (`scoring.criteria_hash`); `probes`: the items of data/probes.json; `rows`: the
    training rows that are read, since only what they state is asked for as recall. `hash` is the sha256 of all the
    rest: change a probe, a criterion, the grader or the test after training, and it differs.
    """
    asked = askable_items(probes, rows)
    said = {
        "primary": contrast_as_json(PRIMARY),
        "family": [contrast_as_json(place) for place in FAMILY],
        "alpha": ALPHA,
        "correction": "Holm",
        "power": POWER,
        "test": "paired sign flips of whole papers, two-sided",
        "normalisation": "log-probability of an option divided by its bytes",
        "guard": [contrast_as_json(place) for place in GUARD],
        "exploratory": "every other comparison",
        "items": count_by_task(asked),
        "criteria_hash": rubric,
        "probes_hash": hash_json(asked),
        "guard_hash": hash_json([read_json(GENERAL / "cloze.json"), hash_file(GENERAL / "guard.txt")]),
        "code": hash_code(*CODE),
    }
    return {**said, "hash": hash_json(said)}


def contrast_as_json(place: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("instrument", "a", "b"), place, strict=True))


def count_by_task(probes: Sequence[dict]) -> dict[str, dict[str, int]]:
    """{instrument: {"n": items, "papers"}}, in the order of the probes."""
    papers: dict[str, list] = {}
    for probe in probes:
        papers.setdefault(probe["instrument"], []).append(probe.get("paper_id", probe["id"]))
    return {instrument: {"n": len(found), "papers": len(set(found))} for instrument, found in papers.items()}


def describe_preregistration(declaration: dict) -> list[str]:
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
