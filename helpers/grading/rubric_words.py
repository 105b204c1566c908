"""A text as sentences and as words that can be compared: their kinds, and where an alias stands among them."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise

GAP = 6  # words that "..." in an alias may stand for
GREEK = str.maketrans({"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "κ": "kappa", "µ": "mu", "μ": "mu"})


def read_list(text: str) -> frozenset[str]:
    return frozenset(text.split())


AUXILIARIES = read_list("is are was were be been has have had do does did can could may might must should will would")
DETERMINERS = read_list("a an the")
PREPOSITIONS = read_list("of in at by for from with into during between among")
PRONOUNS = read_list("that which who it they this these those its their there")
CONTRASTS = read_list("but however whereas although while though")
REASONS = read_list("so because since")
RELATIVES = read_list("who which that if when unless because until as")
STRUCTURAL = (
    AUXILIARIES | DETERMINERS | PREPOSITIONS | PRONOUNS | RELATIVES | CONTRASTS | read_list("to on than before after")
)
NEGATIONS = read_list(
    "not no never none neither nor nothing nobody without cannot lack absence false untrue wrong incorrect myth "
    "contraindicated avoid avoided avoiding unlike refuse deny unnecessary unsafe unfounded"
)
STOPS = frozenset(",.")
MOST_COMMAS = 10  # of a sentence with fewer than four words to a comma: more of them make a list
CONSONANTS = "bcdfgjklpqstvwz"
NEVER_AFTER_A_DETERMINER = AUXILIARIES | DETERMINERS | PREPOSITIONS | read_list("and or to as than that which , .")
NEVER_AFTER_A_PREPOSITION = AUXILIARIES - {"have"} | read_list("of in with by and or than , .")
NEVER_AFTER_AN_AUXILIARY = AUXILIARIES - read_list("be been have had do") | read_list("and or .")
NEVER_AFTER_A_CONJUNCTION = read_list("of and or than .")
COMMON_VERBS = tuple(  # by how they begin
    read_list(
        "caus improv reduc increas suppress inhibit block target treat prevent help affect attack destroy show "
        "includ involv requir need lead worsen relie stimulat activat trigger develop receiv appear occur rais reach "
        "remain mean begin start stop keep kept protect driv make give take come neutrali feel ask look check "
        "dampen restrain hold lower control support shorten contribut interact measur work fail indicat confirm "
        "suggest point act goe bring lie carry carrie follow prov reveal detect find found cure restor"
    )
)
POINTERS = read_list("it its they their them this these those such both he she")
HEADING = re.compile(r"\s*(#+\s.*|\*\*[^*]+\*\*:?|[^.!?;]{1,60}:(\*\*)?)\s*$")
IMPERATIVES = read_list("ask look check start keep use give take avoid screen test treat measure do")
BREAKS = CONTRASTS | NEGATIONS | read_list(", . and")
SIGNS = str.maketrans({"≥": " at least ", "≤": " at most ", "=": " is ", "→": " causes ", "%": " percent "})
LABEL = re.compile(r"^(\W*(?:[\w'’/()-]+ ){0,4}[\w'’/()-]+):(?= )")


@dataclass(frozen=True)
class Match:
    """Words `start` to `end` (exclusive) of a sentence are an alias."""

    start: int
    end: int


def split_answer(text: str) -> list[str]:
    """The sentences, bullets and headings of `text`, cut at line ends and at . ! ? ; before a space."""
    text = text.replace("*", "")  # Markdown's emphasis
    text = re.sub(r"\b(e\.g|i\.e|vs|etc|approx|Dr|cf)\.", lambda m: m.group(0).replace(".", ""), text)
    parts = re.split(r"(?<=[.!?;])[\"')\]]*\s+|\n+", text)
    return [part.strip() for part in parts if part.strip()]


def find_headings(text: str) -> dict[str, str]:
    """For each sentence under a heading (a line with a colon last, a # first, or in bold), the heading."""
    under, heading = {}, ""
    for line in text.splitlines():
        if HEADING.match(line):
            heading = line.strip(" #*:")
        elif heading:
            under |= dict.fromkeys(split_answer(line), heading)
    return under


def in_context(
    readable: list[tuple[str, tuple[str, ...]]], under: dict[str, str]
) -> list[tuple[str, tuple[str, ...]]]:
    """The sentences, those under a heading with the heading before them; and once more each that points back
    ("It causes…"), with the last that does not before it."""
    headed = [
        (text, (*tokenise(under[text]), ".", *tokens) if text in under else tokens) for text, tokens in readable
    ]
    units, subject = list(headed), None
    for text, tokens in headed:
        if POINTERS & set(tokenise(text)[:3]) and subject:
            units.append((f"{subject[0]} {text}", (*subject[1], ".", *tokens)))
        else:
            subject = text, tokens
    return units


def reads_like_a_sentence(text: str, tokens: tuple[str, ...], aliases: Iterable[str]) -> bool:
    """Rule 2 of the module for one sentence, and no question."""
    spoken = [word for word in tokens if word not in STOPS]
    if text.rstrip("\"')]").endswith("?") or len(spoken) < 3 or count_faults(tokens) > len(tokens) / 20:
        return False
    if tokens.count(",") > max(MOST_COMMAS, len(spoken) / 4):
        return False
    told = any(map(common_verb, tokens[1:])) or (len(spoken) > 4 and tokens[0] in IMPERATIVES)
    if told and len(tokens) <= 14 and tokens.count(",") < 2 and len(set(spoken)) > 0.6 * len(spoken):
        return not any(Match(0, len(tokens)) in find_matches(tokens, alias) for alias in aliases)
    pieces = {piece for alias in aliases for piece in alias.split("...") if set(tokenise(piece)) - STRUCTURAL}
    taken = {i for piece in pieces for match in find_matches(tokens, piece) for i in range(match.start, match.end)}
    structural = [i for i, word in enumerate(tokens) if word in STRUCTURAL and i not in taken]
    return bool(len(spoken) > 3 or AUXILIARIES & set(tokens[1:3])) and len(structural) >= max(1, len(spoken) // 15)


def common_verb(word: str) -> bool:
    return word.startswith(COMMON_VERBS) and not word.endswith("ing")


def count_faults(tokens: tuple[str, ...]) -> int:
    """How many words are followed by one that cannot follow them in English."""
    return sum(out_of_order(word, after) for word, after in pairwise(tokens))


def out_of_order(word: str, after: str) -> bool:
    if word in DETERMINERS:
        article = len(after) > 4 and (
            (word == "a" and after[0] in "aio") or (word == "an" and after[0] in CONSONANTS)
        )
        return after in NEVER_AFTER_A_DETERMINER or article
    if word in PREPOSITIONS - {"for"}:  # "the antibody to ask for is"
        return after in NEVER_AFTER_A_PREPOSITION
    if word in AUXILIARIES:
        return after in NEVER_AFTER_AN_AUXILIARY
    return word in {"and", "or", "to"} and after in NEVER_AFTER_A_CONJUNCTION


@lru_cache(maxsize=4096)
def tokenise(text: str) -> tuple[str, ...]:
    """Lower-case words without accents and plural s. "1:80" stays one word; hyphens part words, save "SS-A" and
    "non-specific"; so do letters and digits ("IL17"). "," is kept, and a dash between words becomes it. A colon
    becomes ".", which parts two clauses; after a label ("First drug: X") it is read as "is"."""
    text = unicodedata.normalize("NFKD", text.casefold().translate(GREEK).translate(SIGNS))
    text = re.sub(r"\s[-–—]+\s|—", " , ", re.sub(r":(?=\s)", " . ", LABEL.sub(r"\1 . is", text)))
    text = re.sub(r"\s[+&]\s", " and ", text)
    text = re.sub(r"(?<=[a-z0-9])[-‐]([a-z])\b|\b(non)[-‐](?=[a-z])", r"\1\2", text)
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    text = re.sub(r"n['’]t\b", " not", text.replace("can't", "cannot").replace("can’t", "cannot"))
    text = re.sub(r"['’]s?\b", "", text)
    text = re.sub(r"(?<=[a-z])(?=\d)", " ", text)
    found = re.findall(r"\d+(?:[.:/]\d+)+|[a-z0-9]+\*?|,|(?<=\s)\.(?=\s)", text)
    return tuple(singular_word(word).replace("/", ":") for word in found)


def singular_word(word: str) -> str:
    """`word` without a plural ending: both the answer's and the alias's words pass through here."""
    if word in STRUCTURAL or len(word) < 4 or word.endswith(("ss", "us", "is", "*")):
        return word
    if word.endswith("ies") and len(word) > 5:
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") else word


@lru_cache(maxsize=100_000)
def find_matches(tokens: tuple[str, ...], alias: str) -> tuple[Match, ...]:
    """Every place where the words of `alias` stand in `tokens`, one after the other."""
    pieces = split_alias(alias)
    starts = (start for start, word in enumerate(tokens) if pieces and same_word(word, pieces[0][0]))
    return tuple(Match(start, end) for start in starts if (end := match_end(tokens, start, pieces)))


@cache
def split_alias(alias: str) -> list[tuple[str, ...]]:
    """The words on each side of the "..." of an alias; none if a side has no words."""
    pieces = [tokenise(piece) for piece in alias.split("...")]
    return pieces if all(pieces) else []


def match_end(tokens: tuple[str, ...], start: int, pieces: list[tuple[str, ...]]) -> int:
    """Where the pieces of an alias that begin at `start` end; 0 if they do not stand there."""
    end = start
    for n, piece in enumerate(pieces):
        places = range(end, end + (GAP + 1 if n else 1))
        found = next((i for i in places if stands_at(tokens, i, piece)), None)
        if found is None or BREAKS & set(tokens[end:found]):
            return 0
        end = found + len(piece)
    return end


def stands_at(tokens: tuple[str, ...], place: int, wanted: tuple[str, ...]) -> bool:
    return len(tokens) >= place + len(wanted) and all(map(same_word, tokens[place:], wanted))


def same_word(word: str, wanted: str) -> bool:
    return word.startswith(wanted[:-1]) if wanted.endswith("*") else word == wanted
