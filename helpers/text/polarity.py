"""Statements turned into their opposite by one word: what a question with the answer "no" asks."""

import re

from helpers.text.abbreviations import starts_with_vowel

BOTH_WAYS = """
increased=decreased increases=decreases increase=decrease increasing=decreasing higher=lower greater=smaller
improved=worsened improves=worsens improve=worsen positively=negatively upregulated=downregulated better=worse
up-regulated=down-regulated upregulates=downregulates upregulation=downregulation longer=shorter faster=slower
promotes=inhibits promote=inhibit promoted=inhibited superior_to=inferior_to more_likely=less_likely
risk_factor_for=protective_factor_against risk_factors_for=protective_factors_against
is_associated=is_not_associated are_associated=are_not_associated was_associated=was_not_associated
were_associated=were_not_associated
"""
ONE_WAY = """
reduced=increased reduces=increases reduce=increase reduction=increase diminished=increased elevated=reduced
enhanced=reduced enhances=reduces enhance=reduce amplifies=reduces accelerates=slows suppresses=promotes
suppressed=promoted suppress=promote alleviates=aggravates alleviated=aggravated alleviate=aggravate
ameliorates=aggravates ameliorated=aggravated ameliorate=aggravate attenuates=aggravates attenuated=aggravated
attenuate=aggravate aggravates=alleviates aggravated=alleviated exacerbates=alleviates exacerbated=alleviated
deteriorates=improves impairs=improves milder=more_severe fewer=more protective=harmful
protects_against=predisposes_to no_significant_difference=a_significant_difference
no_significant_differences=significant_differences not_significantly_different=significantly_different
no_difference=a_clear_difference did_not_differ=differed
"""
DENIED = """
are_linked=are_not_linked correlated_with=did_not_correlate_with correlates_with=does_not_correlate_with
is_effective=is_not_effective was_effective=was_not_effective are_effective=are_not_effective
were_effective=were_not_effective affects=does_not_affect influences=does_not_influence regulates=does_not_regulate
modulates=does_not_modulate predicts=does_not_predict mediates=does_not_mediate causes=does_not_cause
drives=does_not_drive induces=does_not_induce contributes=does_not_contribute modifies=does_not_modify
restores=does_not_restore participates=does_not_participate confers=does_not_confer activates=does_not_activate
blocks=does_not_block corrects=does_not_correct requires=does_not_require triggers=does_not_trigger
"""
VERB_STEMS = (  # what titles say one thing does to another
    r"(?:increas|decreas|reduc|improv|promot|enhanc|alleviat|ameliorat|attenuat|aggravat|exacerbat|regulat|modulat|mediat"
    r"|activat|impair|protect|inhibit|suppress|worsen|predict|influenc|affect|driv|induc|caus|restor|modif|correlat|associat"
    r"|deteriorat|amplif|accelerat|upregulat|downregulat|contribut|balanc)"
)
HEDGED = re.compile(  # what does not commit itself has no opposite
    r"\b(?:may|might|could|can|whether|if|possibl[ey]|potential(?:ly)?|unclear|unknown|likely to|seems?|appears?"
    r"|hypothes\w+|suggest\w*|should|would|aim\w*|controversial|remains?|trend|tended|tend|no evidence"
    r"|not (?:statistically )?significant)\b",
    re.IGNORECASE,
)
MEASURED = re.compile(
    r"(?: [\w-]+){0,4}? (?:from .{1,60}? to\b|to (?:an? |about |only )?[\d(])"
)  # its numbers tell the direction
CONTRAST = re.compile(r"\b(?:while|whereas|but|although|because)\b(?P<rest>.*)")
NEGATED = re.compile(r"\b(?:not|no|nor|neither|never|without|none|to|cannot|for|by) (?:[\w-]+ ){0,2}$", re.IGNORECASE)


def read_pairs(table: str) -> dict[str, str]:
    """{word: opposite} of one of the tables above."""
    return dict(entry.replace("_", " ").split("=") for entry in table.split())


SYMMETRIC = read_pairs(BOTH_WAYS)
FLIPS = read_pairs(ONE_WAY) | SYMMETRIC | {right: left for left, right in SYMMETRIC.items()} | read_pairs(DENIED)
LAST = frozenset(word for word, turned in FLIPS.items() if "not " in f"{word} {turned}")
UP = frozenset(word for word in SYMMETRIC if word not in LAST) | {"elevated", "enhanced"}
DOWN = frozenset(FLIPS[word] for word in UP)
WORD = re.compile(
    rf"(?<![\w-])(?:{'|'.join(sorted(map(re.escape, FLIPS), key=lambda w: (-len(w), w)))})(?![\w-])", re.IGNORECASE
)


def find_polar_word(statement: str) -> re.Match | None:
    """The word of `statement` that can be turned round; None if it has none, or does not commit itself.

    Of several the first; associations and other verbs only where no direction is named.
    """
    if HEDGED.search(statement) or is_contrasted(statement):
        return None
    free = [
        match
        for match in WORD.finditer(statement)
        if not (NEGATED.search(statement[: match.start()]) or MEASURED.match(statement, match.end()))
    ]
    return min(free, key=lambda match: (match[0].lower() in LAST, match.start()), default=None)


def is_contrasted(statement: str) -> bool:
    """Whether a statement sets one direction against another, or explains it: half of it cannot be turned round."""
    match = CONTRAST.search(statement)
    return bool(match and WORD.search(match["rest"]) and WORD.search(statement[: match.start()]))


def opposite_of(word: str) -> str:
    """The opposite of a telling word, with its capital."""
    turned = FLIPS[word.lower()]
    return turned[0].upper() + turned[1:] if word[0].isupper() else turned


def negate(statement: str) -> str:
    """`statement` with its telling word turned round; "" if it has none."""
    match = find_polar_word(statement)
    if match is None:
        return ""
    turned = opposite_of(match[0])
    before = re.sub(r"\b([Aa])n? $", rf"\1{'n' if starts_with_vowel(turned) else ''} ", statement[: match.start()])
    return before + turned + statement[match.end() :]
