"""Sentences of an abstract: where they begin and end, which stand alone, and small repairs of their wording."""

import re
from functools import lru_cache

END = re.compile(
    r"[.!?][)\]”\"’']*\s+(?=[A-Z0-9“\"(\[Α-Ω]|[a-z]{1,6}[A-Z0-9-])"
    r"|(?<=[a-z)\]%])\.(?=[A-Z][a-z]* [a-z])"  # a lost space: "in mice.These results"
    r"|\n+"
)
ABBREVIATED = re.compile(
    r"\b(?:vs|e\.g|i\.e|al|cf|approx|figs?|dr|prof|st|resp|ca|spp|subsp|var|viz|incl|inc|ltd"
    r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|(?:[a-z]\.)+[a-z])\.$",
    re.IGNORECASE,
)
NUMBERED = re.compile(r"\b(?:no|nos|vol)\.$", re.IGNORECASE)
INITIAL = re.compile(r"(?:^|[\s(])[A-Z]\.$")
OPENER = re.compile(r"(?:The|We|In|This|These|Our|There|However|It|Here|After|For|To|An?|Of|At|As|On|All|Both|No)\b")

FURNITURE = re.compile(
    r"©|\(c\) ?20\d\d|Copyright\b|Trial registration|Clinical ?Trials?\.gov|\bNCT ?\d{6}|\bISRCTN|\bEudraCT|PROSPERO"
    r"|Supplement(?:ary|al) (?:data|information|material|digital)|This article is protected|\bLEVEL OF EVIDENCE\b"
    r"|ABSTRACT TRUNCATED|All rights reserved|https?:|www\.|\bkey ?(?:words|messages?|points)\b|\bdoi\b"
    r"|ly registered\b|registration (?:number|no\b)|funded by|trials? regist(?:ry|er)",
    re.IGNORECASE,
)
FINITE = re.compile(
    r"\b(?:is|are|was|were|has|have|had|can|could|may|might|will|would|should|must|do|does|did|found|led|leads?|gave"
    r"|rose|fell|underwent|shows?|plays?|seems?|appears?|remains?|becomes?|became|occurs?|provides?|contributes?"
    r"|represents?|suggests?|indicates?|reveals?|demonstrates?|supports?|highlights?|confirms?|increases?|decreases?"
    r"|reduces?|improves?|affects?|includes?|promotes?|inhibits?|suppress(?:es)?|induces?|involves?|requires?|causes?"
    r"|results? in"
    r"|(?!based|related|associated|induced|approved|treated|mediated|derived|controlled|randomi[sz]ed|adjusted"
    r"|matched|impaired|unexplained|combined)\w{3,}ed)\b"
)
HEADING = re.compile(
    r"(?:Background|Introduction|Objectives?|Aims?|Purpose|(?:(?:Patients|Materials?) and )?Methods?"
    r"|(?:Recent )?Findings|Results?|Conclusions?|Interpretation|Discussion|Design|Setting|Future Directions?"
    r"|Case (?:Presentation|Report|Description|Summary)"
    r"|Innovation|Significance|Summary)"
    r"(?: and [a-z]+)?(?::|\s[-–—])\s*|(?:Background|Objectives?|Methods|Results"
    r"|Conclusions) (?-i:(?=[A-Z][a-z-]+ [a-z]))",
    re.IGNORECASE,
)
STUDY = (
    r"(?:study|studies|trial|review|report|article|paper|work|analysis|meta-analysis|survey|research|investigation"
    r"|findings?|results|data|observations?|evidence|experiments?)"
)
OWN = re.compile(
    rf"\b(?:This|These|Our|The (?:present|current))(?= (?!previous|earlier|recent|first|second|largest)"
    rf"(?:[\w-]+ ){{0,2}}{STUDY}\b)",
    re.IGNORECASE,
)
CONNECTIVE = re.compile(
    r"(?:(?:Moreover|Furthermore|Additionally|In addition|Also|As well|Besides|Finally|Lastly|Interestingly|Notably"
    r"|(?:More |Most )?[Ii]mportantly|(?:More )?[Ss]pecifically|Of (?:note|interest)|Remarkably|Surprisingly"
    r"|Strikingly|Intriguingly|Unexpectedly|In particular|Overall|Taken together|Collectively|Altogether|Together"
    r"|In (?:conclusion|summary|sum|short|fact)|Conclusively|To (?:conclude|summari[sz]e)|Thus|Therefore|Hence"
    r"|Consequently|As a result|Indeed|Mechanistically|First(?:ly)?|Second(?:ly)?|Third(?:ly)?|Here(?:in|by)?|Further"
    r"|Again|All in all|On the whole|Nevertheless|Nonetheless|However|Meanwhile),\s+)+"
    r"|(?:Thus|Therefore|Hence|Furthermore|Also|Here(?:in|by)?|Moreover|Overall)\s+(?=(?:[Ww]e|the|our|[Tt]his)\b)"
)
BACKWARD = re.compile(  # a beginning that leans on an earlier sentence
    r"(?:In contrast|By contrast|Conversely|On the (?:contrary|other hand|one hand)|Similarly|Likewise|Instead"
    r"|Otherwise|Accordingly|Subsequently|Then|Yet|But|Still|Or|Nor|And|So|Rather|Alternatively|Such|Alongside"
    r"|Whereas|They|Their|Its|He|She|His|Her|Those|Other|Neither|Either|Another|Others|Same|Similar|Unlike"
    r"|As (?:such|expected)|In turn|Thereafter|Thereby|Equally|Each of|One of (?:them|which)|Some|Most of them"
    r"|All of them|None of them|Of (?:them|which|whom)|Consistent with|In line with|In agreement|To this end"
    r"|Since then|At the same)\b|(?:Despite|Because of|Due to) th"
    r"|The (?:latter|former|same|others?|rest|remaining|above|reasons?|differences?|associations?|effects?|increase"
    r"|decrease|reduction|changes?|correlations?|relationships?|values?|scores?|rates?|levels?|mechanisms?)"
    r" (?:was|were|is|are|has|have|had|remained|did)\b"
    r"|(?:[\w-]+ ){1,3}(?:days|weeks|months|years) later\b"
    r"|It\b(?! (?:is|was|has been|can be|may be|seems|appears)(?: \w+){0,2} (?:that|to|whether)\b)"
)
NTH = (
    r"(?:two|three|four|five|six|other|same|remaining|combined|respective|corresponding|intervention|treatment"
    r"|comparison|study|exposed)"
)
POINTING = re.compile(  # a word that means something said elsewhere
    r"\b(?:this|these|such|former|latter|aforementioned|he|she|his|her|him|they|them|ourselves|thereof|respectively"
    r"|it (?:is|was|has) (?:also )?\w+ed|the (?:above|following)|as follows|below"
    r"|(?<!than )(?<!to )(?<!with )(?<!from )(?<!as )those(?! (?:with|without|who|of|in|from|not)\b))\b"
    rf"|\b(?:the|both|all|each|either|other|between|among|{NTH}) (?:{NTH} )?(?:groups?|cohorts?|arms?|subgroups?)\b"
    r"|\b[Bb]oth (?!sexes|genders|men|women|patients|children|adults)[a-z]+(?:s|ies)\b(?! and)"
    r"|\b[Gg]roups? (?:[A-Z0-9]\b|I+\b)|\b[A-Z0-9] groups?\b|\b[Cc]lusters? [A-Z0-9]\b|\b[Ff]ig(?:ures?|\.)"
    r"|\b[Tt]able \d|previously (?:described|mentioned)|\w \+ [A-Z]\w*|\b[Tt]he (?:two|three|four|five) "
    r"|\b[Aa]ll (?:three|four|five|six|seven|eight|nine|ten|\d+) "
)
IMPERATIVE = re.compile(
    r"(?:Evaluate|Assess|Determine|Investigate|Compare|Describe|Explore|Examine|Identify|Analy[sz]e|Review|Report) "
)
TEST = r"(?:[Pp]\s?[-=<>≤≥]|[Pp](?:-| )values?|CI\b|confidence interval|[χx]²|χ2|[tFrz]\s?=|SD\b)"
NESTED = r"(?:[^()]|\([^()]*\))*"
STATISTICS = re.compile(rf"\s?(?:\({NESTED}?{TEST}{NESTED}\)|\[[^\[\]]*?{TEST}[^\[\]]*\])")
ESTIMATE = re.compile(r"\s?\([-−]?\d[\d.,·]*%?,? \[[-−–\d.,·%; to]+\]\)")
GENE_LIKE = re.compile(r"(?!(?:anti|non|pre|post|co|pro|sub|re|un|in|inter)-)[a-z]{0,6}-?[A-Z0-9]|[αβγκ]")


def split_sentences(text: str) -> list[tuple[int, int]]:
    """[start, end) of each sentence of `text`; a line break always ends one."""
    spans, start = [], 0
    for match in END.finditer(text):
        mark = match[0].rstrip()  # "" at a line break
        stop = match.start() + len(mark)
        if mark and is_unfinished(text[max(start, stop - 12) : stop], text[match.end() : match.end() + 12]):
            continue
        if start < stop:
            spans.append((start, stop))
        start = match.end()
    return [*spans, (start, len(text))] if text[start:].strip() else spans


def is_unfinished(piece: str, rest: str) -> bool:
    """Whether the full stop that ends `piece` belongs to an abbreviation; `rest` is what comes after."""
    if NUMBERED.search(piece):
        return rest[:1].isdigit()
    if INITIAL.search(piece):
        return not OPENER.match(rest)
    return bool(ABBREVIATED.search(piece))


@lru_cache(4096)
def tidy_sentence(sentence: str, alone: bool = True) -> str:
    """`sentence` as somebody else would report it: without a heading, the authors in the third person.

    A sentence that stands `alone` also loses what ties it to the one before ("Moreover, ").
    """
    text = sentence
    for lead in (HEADING, CONNECTIVE) if alone else (HEADING,):
        if match := lead.match(text):
            text = text[match.end() :]
    text = OWN.sub(lambda match: "The" if match[0][0].isupper() else "the", text)
    text = re.sub(r"\b[Ww]e\b", "the authors", text)
    text = re.sub(r"\bus\b", "them", text)
    text = re.sub(r"\b[Oo]ur\b", lambda m: "their" if "the authors" in text[: m.start()] else "the authors'", text)
    return capitalise(text)


def capitalise(text: str) -> str:
    """`text` with a capital first, unless it begins with a name such as miR-155 or p53."""
    return text if GENE_LIKE.match(text) else text[:1].upper() + text[1:]


def drop_statistics(sentence: str) -> str:
    """`sentence` without the brackets that hold test statistics: p-values, confidence intervals.

    Where one of them goes, a bare "(1.4 [1.1-1.8])" goes too: what it estimates stood in the first.
    """
    left = STATISTICS.sub("", sentence)
    return re.sub(r"\s+([.,;])", r"\1", left if left == sentence else ESTIMATE.sub("", left))


@lru_cache(4096)
def is_complete(sentence: str) -> bool:
    """Whether `sentence` is whole: begins and ends as one, brackets closed, no copyright line or trial number."""
    return (
        bool(re.match(r"[A-Z0-9“\"(\[Α-Ω≥≤~]|[a-z]{0,6}-?[A-Z0-9]", sentence))
        and sentence.endswith((".", "!", "?", ".)", ".”", '."'))
        and not FURNITURE.search(sentence)
        and all(sentence.count(a) == sentence.count(b) for a, b in ("()", "[]", "“”"))
        and sentence.count('"') % 2 == 0
    )


def can_open(sentence: str) -> bool:
    """Whether a tidy `sentence` can come first: it does not lean on one before it."""
    first = " ".join(sentence.split()[:4])
    return not BACKWARD.match(sentence) and not POINTING.search(first[:1].lower() + first[1:])


def stands_alone(sentence: str, shortest: int = 6, longest: int = 45) -> bool:
    """Whether a tidy `sentence` says by itself what it means to somebody who knows the paper's title.

    `shortest` and `longest` are words.
    """
    if not shortest <= len(sentence.split()) <= longest or not is_complete(sentence) or not can_open(sentence):
        return False
    lists = len(re.findall(r" and | versus | vs\.? ", sentence))
    told = sentence.replace("respectively", "") if lists >= 2 else sentence
    return (
        not POINTING.search(told) and bool(FINITE.search(sentence, sentence.find(" "))) and not is_fragment(sentence)
    )


def is_fragment(sentence: str) -> bool:
    """Whether `sentence` is an aim without a subject ("To assess …", "Evaluate …") or half of a comparison."""
    if sentence.startswith("To "):
        return not re.match(r"To [^,]+, (?:the|an?|\d+) (?=.*\b(?:was|were|is|are|did|\w+ed)\b)", sentence)
    if sentence.startswith(("While ", "Whereas ", "Although ")):
        return "," not in sentence
    return bool(IMPERATIVE.match(sentence))
