"""The rubric grader: what an answer asserts, found by rules a person can check, without a judge model.

What counts, in the order it is checked:

1. The unit is a *sentence* (or a line: a heading or a bullet ends one). A question asserts nothing.
2. A sentence must read like one: at least four words, one in fifteen a structural word (`is`, `of`, `the`…) that
   belongs to no alias; or at most twelve words without a comma, one of them a common verb
   ("Pyridostigmine improves symptoms"). Impossible word order ("the of", "is are") is no sentence. So lists of
   keywords and shuffled words say nothing.
3. A criterion is met when *one* sentence holds an alias of every group of its `any_of`, and at least one of them
   is not in the question itself. So an echo says nothing.
4. A match is *negated* by a negation in the ten words before it in its clause, or as the verb after it ("X and Y
   are not"). A negation that is part of a matched alias ("do not stop") does not count, nor does "not only".
5. A criterion with negative points is a wrong claim. It is met only if it is asserted: any negation, warning or
   condition ("never", "is dangerous", "if") in the same statement clears it. A contrast ("whereas", "but") ends
   the statement.

An alias is matched on whole words, without regard to case, accents, hyphens, Greek letters and plural s; a final
`*` matches any ending (`demyelinat*`).
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from helpers.files import sha256_of

WINDOW = 10
GREEK = str.maketrans({"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "κ": "kappa", "µ": "mu", "μ": "mu"})
CONSONANTS = "bcdfgjklpqstvwz"


def listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


AUXILIARIES = listed("is are was were be been has have had do does did can could may might must should will would")
DETERMINERS = listed("a an the")
PREPOSITIONS = listed("of in at by for from with into during between among")
PRONOUNS = listed("that which who it they this these those its their there")
CONTRASTS = listed("but however whereas although while though")
RELATIVES = listed("who which that if when unless because until as")
STRUCTURAL = (
    AUXILIARIES | DETERMINERS | PREPOSITIONS | PRONOUNS | RELATIVES | CONTRASTS | listed("to on than before after")
)

NEVER_AFTER_A_DETERMINER = AUXILIARIES | DETERMINERS | PREPOSITIONS | listed("and or to as than that which , .")
NEVER_AFTER_A_PREPOSITION = AUXILIARIES - {"have"} | listed("of in with by for and or than , .")
NEVER_AFTER_AN_AUXILIARY = AUXILIARIES - listed("be been have had do") | listed("and or .")
NEVER_AFTER_A_CONJUNCTION = listed("of and or than .")

COMMON_VERBS = tuple(  # by how they begin
    listed(
        "caus improv reduc increas suppress inhibit block target treat prevent help affect attack destroy show "
        "includ involv requir need lead worsen relie stimulat activat trigger develop receiv"
    )
)

NEGATIONS = listed(
    "not no never none neither nor without cannot lack absence false untrue wrong incorrect myth contraindicated "
    "avoid avoided avoiding unlike refuse deny unnecessary unsafe"
)
WARNINGS = NEGATIONS | listed(
    "dangerous harmful fatal error mistake instead rather caution worsen exacerbate aggravate trigger if"
)
VERBS_THAT_NEGATE = listed("cannot never lack")
NEW_SUBJECTS = AUXILIARIES | listed("it they this these there the")
HARMLESS = (
    "not only",
    "not just",
    "not merely",
    "not limited to",
    "unless contraindicated",
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


@dataclass(frozen=True)
class Match:
    """Words `start` to `end` (exclusive) of a sentence are an alias."""

    start: int
    end: int


def grade(answer: str | None, question: dict) -> Graded:
    """Which of the question's criteria the answer meets, and the score.

    score = Σ points of met criteria / Σ positive points: HealthBench, `calculate_score` in openai/simple-evals
    healthbench_eval.py (Arora et al. 2025). One answer may score below 0; only a mean is clipped (`mean_score`).
    """
    criteria = question.get("criteria")
    if not criteria:
        return Graded(None)
    asked = words(question["question"])
    wanted = (criterion for criterion in criteria if criterion["points"] > 0)
    aliases = {alias for criterion in wanted for group in criterion["any_of"] for alias in group}
    readable = [(text, words(text)) for text in sentences(answer or "")]
    if sum(faults(tokens) for _, tokens in readable) > sum(len(tokens) for _, tokens in readable) / 35:
        readable = []
    readable = [(text, tokens) for text, tokens in readable if reads_like_a_sentence(text, tokens, aliases)]
    evidence = {}
    for criterion in criteria:
        said = next((text for text, tokens in readable if asserts(tokens, criterion, asked)), None)
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
    return sha256_of([[q["id"], q["question"], q.get("criteria", [])] for q in questions])


def sentences(text: str) -> list[str]:
    """The sentences, bullets and headings of `text`, cut at line ends and at . ! ? ; before a space."""
    text = text.replace("*", "")  # Markdown's emphasis
    text = re.sub(r"\b(e\.g|i\.e|vs|etc|approx|Dr|cf)\.", lambda m: m.group(0).replace(".", ""), text)
    parts = re.split(r"(?<=[.!?;])[\"')\]]*\s+|\n+", text)
    return [part.strip() for part in parts if part.strip()]


@lru_cache(maxsize=4096)
def words(text: str) -> tuple[str, ...]:
    """Lower-case words without accents and plural s; "1:80" stays one word, hyphens part words, "," is kept."""
    text = unicodedata.normalize("NFKD", text.casefold().translate(GREEK))
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    text = re.sub(r"n['’]t\b", " not", text.replace("can't", "cannot").replace("can’t", "cannot"))
    text = re.sub(r"['’]s?\b", "", text)
    found = re.findall(r"\d+(?:[.:/]\d+)+|[a-z0-9]+\*?|,", text)
    return tuple(singular(word).replace("/", ":") for word in found)


def singular(word: str) -> str:
    """`word` without a plural ending: both the answer's and the alias's words pass through here."""
    if word in STRUCTURAL or len(word) < 4 or word.endswith(("ss", "us", "is", "*")):
        return word
    if word.endswith("ies") and len(word) > 5:
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") else word


@lru_cache(maxsize=100_000)
def matches(tokens: tuple[str, ...], alias: str) -> tuple[Match, ...]:
    """Every place where the words of `alias` stand in `tokens`, one after the other."""
    wanted = words(alias)
    places = range(len(tokens) - len(wanted) + 1)
    return tuple(Match(i, i + len(wanted)) for i in places if all(map(same, tokens[i:], wanted)))


def same(word: str, wanted: str) -> bool:
    return word.startswith(wanted[:-1]) if wanted.endswith("*") else word == wanted


def reads_like_a_sentence(text: str, tokens: tuple[str, ...], aliases: Iterable[str]) -> bool:
    """Rule 2 of the module for one sentence, and no question."""
    spoken = [word for word in tokens if word != ","]
    if text.rstrip("\"')]").endswith("?") or len(spoken) < 3 or faults(tokens) > len(tokens) / 20:
        return False
    if len(spoken) == len(tokens) <= 12 and any(map(common_verb, tokens[1:])):
        return True
    taken = {i for alias in aliases for match in matches(tokens, alias) for i in range(match.start, match.end)}
    structural = [i for i, word in enumerate(tokens) if word in STRUCTURAL and i not in taken]
    return len(spoken) > 3 and len(structural) >= len(spoken) / 15


def common_verb(word: str) -> bool:
    return word.startswith(COMMON_VERBS) and not word.endswith("ing")


def faults(tokens: tuple[str, ...]) -> int:
    """How many words are followed by one that cannot follow them in English."""
    return sum(out_of_order(word, after) for word, after in zip(tokens, [*tokens[1:], "."], strict=True))


def out_of_order(word: str, after: str) -> bool:
    if word in DETERMINERS:
        article = len(after) > 4 and (
            (word == "a" and after[0] in "aio") or (word == "an" and after[0] in CONSONANTS)
        )
        return after in NEVER_AFTER_A_DETERMINER or article
    if word in PREPOSITIONS:
        return after in NEVER_AFTER_A_PREPOSITION
    if word in AUXILIARIES:
        return after in NEVER_AFTER_AN_AUXILIARY
    return word in {"and", "or", "to"} and after in NEVER_AFTER_A_CONJUNCTION


def asserts(tokens: tuple[str, ...], criterion: dict, asked: tuple[str, ...]) -> bool:
    """Rules 3 to 5 of the module for one sentence."""
    if criterion["points"] > 0:
        return not denied(tokens) and holds(tokens, criterion["any_of"], asked, wrong_claim=False)
    return not denied(tokens) and any(
        holds(statement, criterion["any_of"], asked, wrong_claim=True) for statement in statements(tokens)
    )


def holds(tokens: tuple[str, ...], groups: list[list[str]], asked: tuple[str, ...], wrong_claim: bool) -> bool:
    """True if every group has a match that is not negated, one of them an alias that the question does not hold."""
    found = [[(alias, match) for alias in group for match in matches(tokens, alias)] for group in groups]
    inside = {i for group in found for _, match in group for i in range(match.start, match.end)}
    if wrong_claim and any(word in WARNINGS and i not in inside for i, word in enumerate(tokens)):
        return False
    negators = negations(tokens) - inside
    found = [[(alias, match) for alias, match in group if not negated(match, tokens, negators)] for group in found]
    return all(found) and any(not matches(asked, alias) for group in found for alias, _ in group)


def negations(tokens: tuple[str, ...]) -> set[int]:
    """Positions of the words that negate something."""
    exempt = {i for phrase in HARMLESS for match in matches(tokens, phrase) for i in range(match.start, match.end)}
    return {i for i, word in enumerate(tokens) if word in NEGATIONS} - exempt


def negated(match: Match, tokens: tuple[str, ...], negators: set[int]) -> bool:
    """True if a negator stands in the `WINDOW` words before the match in its clause, or after it as the verb of the
    same clause ("X and Y are not", "X cannot") without a contrast that puts it right ("X is not A but B")."""
    for position in negators:
        if 0 <= match.start - position - 1 < WINDOW and not new_clause(tokens, position + 1, match.start):
            return True
        if match.end <= position < match.end + WINDOW and not CONTRASTS & set(tokens[position:]):
            subject = list(tokens[match.end : position])
            verbs = 0
            while subject and subject[-1] in AUXILIARIES:
                subject.pop()
                verbs += 1
            if not (AUXILIARIES | RELATIVES | CONTRASTS) & set(subject) and (
                verbs or tokens[position] in VERBS_THAT_NEGATE
            ):
                return True
    return False


def new_clause(tokens: tuple[str, ...], start: int, end: int) -> bool:
    """True if a clause with a verb of its own begins between `start` and `end`: at a contrast, at "and it" or "and
    is", or at a comma whose part of the sentence holds an auxiliary (the parts of a list hold none)."""
    for i in range(start, end):
        if tokens[i] in CONTRASTS or (tokens[i] in {"and", "so"} and tokens[i + 1] in NEW_SUBJECTS):
            return True
        if tokens[i] == ",":
            rest = tokens[i + 1 :]
            part = rest[: rest.index(",")] if "," in rest else rest
            if AUXILIARIES & set(part):
                return True
    return False


def denied(tokens: tuple[str, ...]) -> bool:
    """True for "It is not true that …"."""
    return bool(DENIAL.match(" ".join(tokens)))


def statements(tokens: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The sentence cut at words of contrast."""
    parts: list[list[str]] = [[]]
    for word in tokens:
        if word in CONTRASTS:
            parts.append([])
        else:
            parts[-1].append(word)
    return [tuple(part) for part in parts if part]
