"""The verdict: what code, not hope, makes of the comparisons, in plain English and with its numbers."""

from collections.abc import Mapping, Sequence

from helpers.evaluation.items import CHOICES
from helpers.evaluation.preregistration import FAMILY, PRIMARY
from helpers.evaluation.statistics import ALPHA, format_signed

BASES = {"qlora": "base_4bit", "full": "base_bf16"}
METHODS = {"qlora": "QLoRA training", "full": "full fine-tuning"}
PLACEBO = ("recall", "qlora", "placebo_qlora")
FEW = "too few items to decide"
SEEN = 6  # items that must change, all in one direction, before McNemar's exact test sees it at 5 %


def conclude(
    comparisons: Sequence[Mapping],
    rows: Mapping[str, Mapping],
    *,
    skipped: Sequence[Mapping],
    seeds: Sequence[Mapping],
    kept: bool | None,
) -> dict:
    """{"code", "headline", "sentences"} from the parts of the same names in scores.json (see helpers.scores).

    `code`: "better_than_placebo", "better_than_base" (no placebo was tested), "no_better_than_placebo",
    "no_difference", "worse", "too_few" or "nothing" (the declared outcome was not measured). Only the first allows
    the headline to say that facts were learned. `kept`: whether the declaration is still the one before training.
    """
    found = {(c["instrument"], c["a"], c["b"]): c for c in comparisons}
    code = verdict_code(found)
    sentences = [
        *declared(kept),
        *family(found, rows),
        *transfer(found, rows),
        *forgetting(found, rows),
        *questions(found, rows),
        *quantisation(found),
        *retrieval(found, rows),
        *against_itself(found),
        *trainings(seeds),
        *left_out(skipped),
    ]
    late = "; but the declaration was changed after training, so this is exploratory" if kept is False else ""
    told = headline(code, found, rows, skipped) + other_seeds(seeds) + late
    return {"code": code, "headline": f"{told}.", "sentences": sentences}


def verdict_code(found: Mapping[tuple, Mapping]) -> str:
    if PRIMARY not in found:
        return "nothing"
    verdict = found[PRIMARY]["verdict"]
    if verdict != "better":
        return {FEW: "too_few", "worse": "worse"}.get(verdict, "no_difference")
    if PLACEBO not in found or found[PLACEBO]["verdict"] == FEW:
        return "better_than_base"
    return "better_than_placebo" if found[PLACEBO]["verdict"] == "better" else "no_better_than_placebo"


def headline(code: str, found: Mapping, rows: Mapping, skipped: Sequence[Mapping]) -> str:
    """One sentence without its full stop."""
    if code == "nothing":
        return nothing(rows, skipped)
    c = found[PRIMARY]
    if code == "too_few":
        return (
            f"Too few papers to decide whether QLoRA training taught the model anything: {size(c)} were asked before "
            f"and after it, and with fewer than {fewest()} papers no result could be told from chance"
        )
    before, after = (percent(rate(rows, c, row)) for row in (c["b"], c["a"]))
    change = f"from {before} to {after} right answers on its training papers"
    seen = f"; {detectable(c)}" if c["minimum_detectable_effect"] else ""
    numbers = f"{difference(c)} ({interval(c)}; {size(c)}{seen})"
    if code == "no_difference":
        return f"No measurable difference: QLoRA training took the model {change}, {numbers}{almost(c)}"
    if code == "worse":
        return f"QLoRA training made the model worse: it went {change}, {numbers}"
    if code == "better_than_base":
        return (
            f"QLoRA training took the model {change}, {numbers}; whether it learned what the papers say, or only how "
            "such questions are answered, is open, since no placebo was tested"
        )
    placebo = found[PLACEBO]
    if code == "no_better_than_placebo":
        than = "worse than" if placebo["verdict"] == "worse" else "not measurably better than"
        return (
            f"QLoRA training took the model {change}, {numbers}, but it was {than} the same training on papers of "
            f"other fields: {difference(placebo)} ({interval(placebo)})"
        )
    return (
        f"The model learned facts of its topic: QLoRA training took it {change}, "
        f"{numbers}, and beat the same training on papers of other fields by {difference(placebo)} "
        f"({interval(placebo)})"
    )


def other_seeds(seeds: Sequence[Mapping]) -> str:
    """Said beside the headline where trainings with other seeds went another way."""
    found = next((one["differences"].values() for one in seeds if one["instrument"] == PRIMARY[0]), ())
    if not found or min(found) > 0 or max(found) < 0:
        return ""
    return f"; other training seeds do not agree ({points(min(found))} to {points(max(found))} points)"


def nothing(rows: Mapping, skipped: Sequence[Mapping]) -> str:
    wanted = {f"{PRIMARY[1]} − {PRIMARY[2]}": ("all", PRIMARY[0]), "every pair": (PRIMARY[0],)}
    reasons = [one["reason"] for one in skipped if one["instrument"] in wanted.get(one["what"], ())]
    if not rows:
        return "Nothing could be compared: no model was tested"
    return f"The declared outcome, recall after QLoRA training, could not be tested: {reasons[0]}"


def almost(c: Mapping) -> str:
    """Said where the interval leaves out 0 and the correction undoes it."""
    if c["p_holm"] is None or c["p_value"] > ALPHA:
        return ""
    return f"; the interval leaves out zero, but corrected for {len(FAMILY)} comparisons p = {c['p_holm']:.2g}"


def declared(kept: bool | None) -> list[str]:
    if kept is None:
        return ["No declaration was recorded before training: nothing shows that the outcome was fixed beforehand."]
    if kept:
        return ["The outcome, its test and its items are those declared before training."]
    return ["The items, the rubrics or the rules are not those declared before training: all is exploratory."]


def family(found: Mapping, rows: Mapping) -> list[str]:
    """The declared comparisons that the headline does not speak of, or not with their p."""
    said = []
    for place in FAMILY:
        if place in found and found[place]["verdict"] != FEW:
            c = found[place]
            rates = " against ".join(f"{percent(rate(rows, c, row))} ({row})" for row in (c["a"], c["b"]))
            said.append(
                f"Recall, {c['a']} − {c['b']}: {named(c)}; {rates}, {difference(c)} ({interval(c)}; {size(c)}; "
                f"guessing scores {percent(chance(rows, c))}; p = {c['p_value']:.2g}, corrected for {len(FAMILY)} "
                f"comparisons {c['p_holm']:.2g})."
            )
    own = found.get(("recall", "placebo_qlora", "base_4bit"))
    if own and own["verdict"] != FEW:
        said.append(
            f"The placebo, trained on papers of other fields, against the untouched model: {named(own)} in recall, "
            f"{difference(own)} ({interval(own)}); its gains "
            "are skill at such questions, not facts of these papers."
        )
    return said


def transfer(found: Mapping, rows: Mapping) -> list[str]:
    """What the same kinds of items from papers that were held out say."""
    c = found.get(("transfer", "qlora", "base_4bit"))
    if c is None or c["verdict"] == FEW:
        return []
    return [
        f"On facts of papers held out of training, qlora − base_4bit: {named(c)}, {difference(c)} ({interval(c)}; "
        f"{size(c)}; exploratory). What is gained there too is knowledge of the field, or of such items, and not of "
        "the papers that were read."
    ]


def forgetting(found: Mapping, rows: Mapping) -> list[str]:
    """What training cost elsewhere, and the largest loss that the intervals leave open."""
    said = []
    for method, words in METHODS.items():
        guards = [c for (_, a, _), c in found.items() if a == method and c["role"] == "guard" and c["verdict"] != FEW]
        if parts := [guard(c, rows) for c in guards]:
            said.append(f"Forgetting after {words}: {'; '.join(parts)}.")
    return said


def guard(c: Mapping, rows: Mapping) -> str:
    cloze = c["instrument"] == "cloze"
    what = "plain knowledge" if cloze else "the prediction of general English"
    loss = max(0.0, -c["low"] if c["higher_is_better"] else c["high"])
    open_to = f"{100 * loss:.1f} points" if cloze else f"{loss:.4f} bits per byte"
    numbers = f"{difference(c)}, {interval(c)}; {size(c)}"
    if c["verdict"] == "worse":
        return f"{what} got worse ({numbers})"
    blind = cloze and (rows[c["b"]]["measures"]["cloze"]["low"] <= chance(rows, c))
    unseen = ", but the untouched model is not above guessing here, so a fall could not show" if blind else ""
    verb = "got better" if c["verdict"] == "better" else "shows no measurable fall"
    rest = f"; a loss of {open_to} is not ruled out" if loss else "; any loss is ruled out"
    if cloze and not loss and c["gained"] + c["lost"] < SEEN:
        unseen_below = 100 * c["minimum_detectable_effect"]
        rest = f"; hardly an item changed, and a loss below {unseen_below:.1f} points would probably go unseen"
    return f"{what} {verb} ({numbers}{rest}){unseen}"


def questions(found: Mapping, rows: Mapping) -> list[str]:
    """What the written questions show, and what so few of them cannot."""
    said = []
    for method, words in METHODS.items():
        c = found.get(("rubric", method, BASES[method]))
        if c is None:
            continue
        before, after = (f"{rate(rows, c, row):.3f}" for row in (c["b"], c["a"]))
        same = c["low"] == c["high"] == 0
        numbers = "" if c["low"] is None or same else f"; {difference(c)} ({interval(c)})"
        mde = c["minimum_detectable_effect"]
        limit = f" So few would probably miss any difference below {mde:.2f};" if mde else ""
        more = " more answers to the same questions would shrink only the luck of the draw." if mde else ""
        said.append(
            f"The {c['n']} written questions, {words}: {named(c)} in the rubric score, {before} before, {after} after"
            f"{', the same on each' if same else numbers}.{limit}{more}"
        )
    return said


def quantisation(found: Mapping) -> list[str]:
    c = found.get(("recall", "base_bf16", "base_4bit"))
    if c is None or c["verdict"] == FEW:
        return []
    return [
        f"Quantisation is not training: unquantised, the untouched model shows {named(c)} in recall against itself "
        f"in 4 bits, {difference(c)} ({interval(c)}). So each trained model is compared with its own base."
    ]


def retrieval(found: Mapping, rows: Mapping) -> list[str]:
    c = found.get(("recall", "qlora", "base_rag"))
    if c is None or c["verdict"] == FEW:
        return []
    return [
        f"The rival without training, the untouched model with passages of the same papers in its prompt, answers "
        f"{percent(rate(rows, c, 'base_rag'))} of the recall items right; QLoRA training against it: {named(c)}, "
        f"{difference(c)} ({interval(c)}; exploratory)."
    ]


def against_itself(found: Mapping) -> list[str]:
    c = found.get(("rubric_sampled", "base_aa", "base_4bit"))
    if c is None or c["verdict"] == FEW:
        return []
    told = f"the untouched model against itself, sampled with another seed: {difference(c)} ({interval(c)})"
    if c["verdict"] == "no measurable difference":
        return [f"Control passed: {told}, no measurable difference, as it should be."]
    return [f"Control failed: {told}. That happens by chance once in 20 times; trust no finding on the questions."]


def trainings(seeds: Sequence[Mapping]) -> list[str]:
    return [
        f"Trained with {len(one['differences'])} seeds, {METHODS[one['method']]} changed recall by "
        f"{points(min(one['differences'].values()))} to {points(max(one['differences'].values()))} points; the "
        f"standard error of their mean, items and seeds together, is {100 * one['standard_error']:.1f} points."
        for one in seeds
        if one["instrument"] == PRIMARY[0]
    ]


def left_out(skipped: Sequence[Mapping]) -> list[str]:
    """The pairs that could not be compared at all."""
    gaps = [one["what"] for one in skipped if one["instrument"] == "all"]
    return [f"Not compared, since a model is missing: {', '.join(gaps)}."] if gaps else []


def rate(rows: Mapping, c: Mapping, row: str) -> float:
    """The mean of `row` over the items that both models of a comparison have."""
    ours, theirs = (rows[one]["measures"][c["instrument"]]["items"] for one in (c["a"], c["b"]))
    values = rows[row]["measures"][c["instrument"]]["items"]
    both = [values[item] for item in ours if item in theirs]
    return sum(both) / len(both)


def chance(rows: Mapping, c: Mapping) -> float:
    return rows[c["b"]]["measures"][c["instrument"]]["chance"]


def fewest() -> int:
    """The smallest number of papers with which a comparison of the family can be decided: 2 / 2ᴳ · family ≤ 0.05."""
    return next(g for g in range(1, 64) if 2 * len(FAMILY) <= ALPHA * 2**g)


def size(c: Mapping) -> str:
    """ "300 items of 120 papers", "10 questions"."""
    return f"{c['n']} {c['items']}" + (f" of {c['clusters']} papers" if c["clusters"] != c["n"] else "")


def difference(c: Mapping) -> str:
    if c["instrument"] in CHOICES:
        return f"{points(c['mean_difference'])} percentage points"
    unit = " bits per byte" if "bits" in c["instrument"] else ""
    return format_signed(c["mean_difference"], digits(c)) + unit


def interval(c: Mapping) -> str:
    ends = [
        points(c[end]) if c["instrument"] in CHOICES else format_signed(c[end], digits(c)) for end in ("low", "high")
    ]
    return f"95 % interval {ends[0]} to {ends[1]}"


def detectable(c: Mapping) -> str:
    size = f"{100 * c['minimum_detectable_effect']:.1f} points"
    if c["verdict"] == "no measurable difference":
        return f"a true difference below {size} would probably go unseen"
    return f"a true difference of {size} is found four times out of five"


def named(c: Mapping) -> str:
    """The verdict inside a sentence."""
    return {"better": "a gain", "worse": "a loss", FEW: "too little to decide"}.get(c["verdict"], c["verdict"])


def digits(c: Mapping) -> int:
    return 4 if "bits" in c["instrument"] else 3


def points(number: float) -> str:
    return format_signed(100 * number, 1)


def percent(number: float) -> str:
    return f"{100 * number:.1f} %"
