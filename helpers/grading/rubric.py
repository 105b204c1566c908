"""The rubric grader: what an answer asserts, found by rules a person can check, without a judge model.

What counts, in the order it is checked:

1. The unit is a *sentence* (or a line: a heading or a bullet ends one). A question asserts nothing. A sentence that
   points back ("It causes…", a pronoun in its first three words) is read a second time with the last one before it
   that does not; one under a heading is read with the heading.
2. A sentence must read like one: at least four words (three with a verb such as "is"), one in fifteen a structural
   word (`is`, `of`, `the`…) that belongs to no alias; or at most fourteen words, with a common verb and one comma at
   most ("Pyridostigmine improves symptoms"). Impossible word order ("the of", "is are") and long lists are no
   sentences. So lists of keywords and shuffled words say nothing. A label and a colon ("Treatment: X") say "is".
3. A criterion is met when *one* sentence holds an alias of every group of its `any_of`, and at least one of them
   is not in the question itself. So an echo says nothing.
4. A match is *negated* by a negation in the ten words before it in its clause, or as the verb after it ("X and Y
   are not"). A negation that is part of a matched alias ("do not stop") does not count, nor does "not only".
5. A criterion with negative points is a wrong claim. It is met only if it is asserted: any negation or warning
   ("never", "is dangerous") in the same statement clears it, save a negation in a later clause of it. What stands
   in a condition ("if …,") is not asserted; only the names of the first group may stand there. A contrast or a
   reason ("whereas", "because") ends the statement.

An alias is matched on whole words, without regard to case, accents, hyphens, Greek letters and plural s. A final
`*` matches any ending (`demyelinat*`); `...` stands for up to six words of one clause (`graves ... levothyroxine`).
An alias with a minus first is a rival: the parts of the sentence that belong to it are left out (`owned`), so that
"A causes X and B causes Y" is not taken for "A causes Y". The first group holds the names that a part can belong to
instead; those that stand in another group as well only make the first group optional. "X & Y" in the first group is
the claim Y about the name X, for which the names before the other "&" are rivals.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from helpers.core import hash_json
from helpers.grading.rubric_words import (
    AUXILIARIES,
    CONTRASTS,
    NEGATIONS,
    REASONS,
    RELATIVES,
    STOPS,
    Match,
    count_faults,
    find_headings,
    find_matches,
    in_context,
    read_list,
    reads_like_a_sentence,
    split_answer,
    tokenise,
)

WINDOW = 10
LONGEST_SUBJECT = 16  # words between a match and the negated verb it is the subject of


WARNINGS = NEGATIONS | read_list(
    "dangerous harmful fatal deadly error mistake instead rather caution worsen exacerbate aggravate trigger failed "
    "unreliable seldom rarely unlikely insufficient incurable"
)
CLAUSE_STARTS = CONTRASTS | {".", "unless", "until"}
VERBS_THAT_NEGATE = read_list("cannot never lack")
NEW_SUBJECTS = AUXILIARIES | read_list("it they this these there the no")
HARMLESS = (
    "not only",
    "not just",
    "not merely",
    "not limited to",
    "not as specific",
    "not so specific",
    "not very specific",
    "not be missed",
    "not be overlooked",
    "not be forgotten",
    "not be ignored",
    "not forget",
    "not miss",
    "unless contraindicated",
    "without contraindication",
    "without a contraindication",
    "without delay",
    "no doubt",
)
DENIAL = re.compile(r"^(it|this|that) (is|was) (not (true|correct|the case)|false|untrue|incorrect|wrong|a myth)\b")


@dataclass(frozen=True)
class Graded:
    """`score`: points met over positive points, 1 for a perfect answer, below 0 for a harmful one, None where the
    question has no criteria. `met`: ids of the criteria met. `evidence`: for each, the sentence that met it."""

    score: float | None
    met: list[str] = field(default_factory=list)
    evidence: dict[str, str] = field(default_factory=dict)


def grade_answer(answer: str | None, question: dict) -> Graded:
    """Which of the question's criteria the answer meets, and the score.

    score = Σ points of met criteria / Σ positive points: HealthBench, `calculate_score` in openai/simple-evals
    healthbench_eval.py (Arora et al. 2025). One answer may score below 0; only a mean is clipped (`mean_score`).
    """
    criteria = question.get("criteria")
    if not criteria:
        return Graded(None)
    asked = tokenise(question["question"])
    wanted = (criterion for criterion in criteria if criterion["points"] > 0)
    aliases = {alias for criterion in wanted for group in criterion["any_of"] for alias in group if alias[0] != "-"}
    readable = [(text, tokenise(text)) for text in split_answer(answer or "")]
    if sum(count_faults(tokens) for _, tokens in readable) > sum(len(tokens) for _, tokens in readable) / 35:
        readable = []
    readable = [(text, tokens) for text, tokens in readable if reads_like_a_sentence(text, tokens, aliases)]
    units = in_context(readable, find_headings(answer or ""))
    evidence = {}
    for criterion in criteria:
        said = next((text for text, tokens in units if asserts_criterion(tokens, criterion, asked)), None)
        if said is not None:
            evidence[criterion["id"]] = said
    met = [criterion for criterion in criteria if criterion["id"] in evidence]
    possible = sum(criterion["points"] for criterion in criteria if criterion["points"] > 0)
    return Graded(
        sum(criterion["points"] for criterion in met) / possible, [criterion["id"] for criterion in met], evidence
    )


def mean_score(scores: Iterable[float]) -> float | None:
    """The mean, clipped to [0, 1] as HealthBench does (`_compute_clipped_stats`); None of no scores."""
    scores = list(scores)
    return min(1.0, max(0.0, sum(scores) / len(scores))) if scores else None


def criteria_hash(questions: list[dict]) -> str:
    """sha256 of everything a grade depends on besides the answer: frozen before training, shown in the report."""
    return hash_json([[q["id"], q["question"], q.get("criteria", [])] for q in questions])


def asserts_criterion(tokens: tuple[str, ...], criterion: dict, asked: tuple[str, ...]) -> bool:
    """Rules 3 to 5 of the module for one sentence."""
    if is_denied(tokens):
        return False
    for groups, rivals in criterion_readings(criterion["any_of"]):
        first, others = set().union(*groups[:1]), set().union(*groups[1:])
        ours = owned_tokens(tokens, first - others, rivals) if rivals else tokens
        wrong_claim = criterion["points"] < 0
        if any(
            groups_hold(part, groups, asked, wrong_claim)
            for part in (split_statements(ours) if wrong_claim else [ours])
        ):
            return True
    return False


def criterion_readings(any_of: list[list[str]]) -> list[tuple[list[list[str]], tuple[str, ...]]]:
    """(groups, rivals) of each way to meet a criterion: one, or one for each name before a "&" in the first group."""
    rivals = tuple(alias[1:] for group in any_of for alias in group if alias.startswith("-"))
    groups = [kept for group in any_of if (kept := [alias for alias in group if not alias.startswith("-")])]
    said_of = {}
    for name, _, claim in (alias.partition(" & ") for alias in groups[0]):
        said_of.setdefault(name, []).append(claim)
    if not any(map(any, said_of.values())):
        return [(groups, rivals)]
    return [
        ([[name], claims, *groups[1:]], (*rivals, *(said_of.keys() - {name}))) for name, claims in said_of.items()
    ]


def owned_tokens(tokens: tuple[str, ...], names: set[str], rivals: tuple[str, ...]) -> tuple[str, ...]:
    """The sentence without its rivals' parts: from a part with a rival up to the next that holds one of `names`.

    Parts end at commas, "and" and words of contrast.
    """
    parts = cut_tokens(tokens, CONTRASTS | STOPS | {"and"})
    owners = [
        False
        if any(find_matches(part, rival) for rival in rivals)
        else any(find_matches(part, name) for name in names) or None
        for part in parts
    ]
    kept, ours = [], not names or next((owner for owner in owners if owner is not None), True)
    for part, owner in zip(parts, owners, strict=True):
        ours = ours if owner is None else owner
        kept += part if ours else ()
    return tuple(kept)


def groups_hold(tokens: tuple[str, ...], groups: list[list[str]], asked: tuple[str, ...], wrong_claim: bool) -> bool:
    """True if every group has a match that is not negated, one of them an alias that the question does not hold."""
    found = []
    for group in groups:
        found.append([(alias, match) for alias in group for match in find_matches(tokens, alias)])
        if not found[-1]:
            return False
    inside = {i for group in found for _, match in group for i in range(match.start, match.end)}
    if wrong_claim:
        if is_warned(tokens, inside):
            return False
        supposed = conditional_positions(tokens, inside)
        claims = (
            found[1:] or found
        )  # the first group holds names, which a condition may give: "if ANA is positive, …"
        found = [*found[: -len(claims)], *([m for m in claim if m[1].start not in supposed] for claim in claims)]
    negators = find_negations(tokens) - inside
    found = [[(alias, match) for alias, match in group if not is_negated(match, tokens, negators)] for group in found]
    return all(found) and any(not find_matches(asked, alias) for group in found for alias, _ in group)


def is_warned(tokens: tuple[str, ...], inside: set[int]) -> bool:
    """True for a warning or a negation that is not `inside` an alias, save a negation in a later clause."""
    last = max(inside, default=0)
    return any(
        word in WARNINGS
        and i not in inside
        and not (i > last and word in NEGATIONS and new_clause(tokens, last + 1, i))
        for i, word in enumerate(tokens)
    )


def conditional_positions(tokens: tuple[str, ...], inside: set[int]) -> set[int]:
    """Positions from an "if" that is not `inside` an alias up to the next comma."""
    supposed, condition = set(), False
    for i, word in enumerate(tokens):
        condition = word not in STOPS and (condition or (word == "if" and i not in inside))
        if condition:
            supposed.add(i)
    return supposed


def find_negations(tokens: tuple[str, ...]) -> set[int]:
    """Positions of the words that negate something."""
    exempt = {
        i for phrase in HARMLESS for match in find_matches(tokens, phrase) for i in range(match.start, match.end)
    }
    return {i for i, word in enumerate(tokens) if word in NEGATIONS} - exempt


def is_negated(match: Match, tokens: tuple[str, ...], negators: set[int]) -> bool:
    """True if a negator stands in the `WINDOW` words before the match in its clause, or after it as the verb of the
    same clause ("X and Y are not", "X cannot") without a contrast that puts it right ("X is not A but B")."""
    for position in negators:
        if 0 <= match.start - position - 1 < WINDOW and not new_clause(tokens, position + 1, match.start):
            return True
        if match.end <= position < match.end + LONGEST_SUBJECT and not CONTRASTS & set(tokens[position:]):
            subject = list(tokens[match.end : position])
            verbs = 0
            while subject and subject[-1] in AUXILIARIES | {"play"}:
                subject.pop()
                verbs += 1
            if not (AUXILIARIES | RELATIVES | CONTRASTS | {"."}) & set(subject) and (
                verbs or tokens[position] in VERBS_THAT_NEGATE
            ):
                return True
    return False


def new_clause(tokens: tuple[str, ...], start: int, end: int) -> bool:
    """True if a clause with a verb of its own begins between `start` and `end`: at a contrast, at "and it" or "and
    is", or at a comma whose part of the sentence holds an auxiliary (the parts of a list hold none)."""
    for i in range(start, end):
        if tokens[i] in CLAUSE_STARTS or (tokens[i] in {"and", "so"} and tokens[i + 1] in NEW_SUBJECTS):
            return True
        if tokens[i] == ",":
            rest = tokens[i + 1 :]
            part = rest[: rest.index(",")] if "," in rest else rest
            if AUXILIARIES & set(part):
                return True
    return False


def is_denied(tokens: tuple[str, ...]) -> bool:
    """True for "It is not true that …"."""
    return bool(DENIAL.match(" ".join(tokens)))


def split_statements(tokens: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The sentence cut before words of contrast and of reason, without the former."""
    parts = cut_tokens(tokens, CONTRASTS | REASONS)
    return [tuple(word for word in part if word not in CONTRASTS) for part in parts]


def cut_tokens(tokens: tuple[str, ...], borders: frozenset[str]) -> list[tuple[str, ...]]:
    """`tokens` cut before each of `borders`; put together again, they are what they were."""
    starts = sorted({0, *(i for i, word in enumerate(tokens) if word in borders)})
    return [tokens[start:end] for start, end in pairwise([*starts, len(tokens)])]
