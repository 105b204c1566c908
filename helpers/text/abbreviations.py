"""Short forms that a paper defines, as in "giant cell arteritis (GCA)", and their long forms put back."""

import re
from collections.abc import Iterable

from helpers.text.sentences import capitalise

DEFINED = re.compile(r"\(([A-Za-z0-9][\w+/α-ωΑ-Ω⁺⁻-]{1,9})(?:[;,] [^()]{1,40})?\)")
SMALL = re.compile(r"(?:of|the|and|in|for|with|an?|to|by|on|or|from|as|at|under)$", re.IGNORECASE)
NEVER = re.compile(
    r"\b(?:is|are|was|were|had|has|have|than|that|which|who|we|our|their|its|not|both|versus|vs)\b|[()\[\]=<>%]",
    re.IGNORECASE,
)
NAMES = re.compile(  # words that keep their capital
    r"(?:Addison|Alzheimer|Andersson|Basedow|Beh[cç]et|Bell|Bonferroni|Castleman|Cox|Crohn|Cushing|Epstein|Felty"
    r"|Graves|Goodpasture|Guillain|Hashimoto|Helicobacter|Henoch|Hodgkin|Kaplan|Kawasaki|Lambert|Mendelian|Meni[eè]re"
    r"|Parkinson|Raynaud|Sj[oöӧ]gren|Still|Susac|Takayasu|Wegener|Wernicke|Japanese|Chinese|European|American|African"
    r"|Asian|Caucasian|German|Korea|India|Ital|French|France|Spain|Spanish|Turk|Brazil|Danish|Denmark|Swed"
    r"|China|Taiwan|Japan|Canad|Australia|Mediterranean|Egypt|Iran|Saudi|Norw|Finland|Finnish|Dutch|Newfoundland)"
)
ADJECTIVE = re.compile(r"(?:\b\w|\w(?:ive|ous|ary|ed|less|like)|(?<!clin)(?<!biot)ic)$")
THING = re.compile(  # a word that makes the plural before it wrong: "glucocorticoids therapy"
    r"\s(?!(?:is|are|was|were|had|has|have|do|did|can|could|may|might|will|would|and|or|but|nor|that|which|who|when"
    r"|while|whereas|if|than|in|of|with|to|by|from|as|at|on|for|after|before|during|without|within|between|among"
    r"|into|via|per|versus|vs|both|not|also|alone|only|\w+ed|\w+ing|\w+ly)\b)[A-Za-z]"
)
SHORT_FOR_ALL = """
DNA RNA mRNA PCR RT-PCR ELISA HIV AIDS CT MRI USA UK US WHO FDA UV CI CIs SD SE SEM IQR BMI COVID-19 SARS-CoV-2
IL Ig OR ORs HR HRs RR AUC ROC miR
"""
NO_NEWS = """
PET TNF IFN TGF VEGF EU EMA ICU ECG EEG CSF CNS HLA MHC NK TUNEL MAPK NSAID DMARD JAK STAT AKT ATP LPS GWAS SNP
ACTH TSH IU PBMC RCT LDL HDL CRP ESR ANA ANCA ICD COVID SARS MEDLINE EMBASE PRISMA UVA UVB PUVA AST ALT NF RAW
BALB NOD MRL DBA ER PD NO ROS DSS TLR CCR CXCR CTLA VAS SF PHQ EULAR ACR NYHA MESH II III IV VI VII VIII XI IIA
IIB microRNA miRNA lncRNA LncRNA circRNA siRNA rRNA dsDNA qPCR PASI EDSS DLQI SLEDAI HADS HAQ DAS ANOVA MTT
HaCaT IVIG SLE IBD MTX CK TNFi OMERACT CINAHL EBSCO CNKI BioNTech PEGylated FAERS APRIL BAFF NZB BXSB LASSO
PubMed SPSS HbA GDM NADPH NAD AMPK PPAR MOG AQP MPO FOXP ISG BCR TCR APC ADP GTP cAMP cGMP
"""
KNOWN = frozenset(SHORT_FOR_ALL.split())  # read more easily short than long
HARMLESS = KNOWN | frozenset(NO_NEWS.split())  # need no long form among people who read papers
FREE = re.compile(  # what may follow a short form that is replaced
    r"s?(?![\w/+⁺])(?!\s?=)(?!-(?!(?:induced|treated|related|associated|derived|mediated|positive|negative|specific"
    r"|like|dependent|deficient|based|na[iï]ve|exposed|stimulated|infected|positivity)\b))"
)
PLURAL = re.compile(r"(?<!diabet)(?<!herp)(?:[^s'eiu]s|[^sx]es)$")
CAPITALS = re.compile(r"(?<![\w⁺])(?=(?:[a-z]*[A-Z]){2})[A-Za-z]{2,}(?![\w⁺])")  # two or more, no digit
CODE = re.compile(
    r"\w\[[-−+\d]|\w \+ [A-Z][a-z]|(?<!\w)(?:[A-Z]{3,}\d+[A-Z]{2,}|CCP\d)(?!\w)"
)  # of a visit, a sample, a kit


def find_definitions(text: str) -> dict[str, str]:
    """{short: long} for every "long form (SHORT)" in `text`.

    After Schwartz and Hearst (Pac Symp Biocomput 2003), but stricter: a doubtful long form is none.
    """
    found: dict[str, str] = {}
    for match in DEFINED.finditer(text):
        short = match[1]
        if short in KNOWN or short in found or short.islower() or short.isdigit() or re.match(r"CD\d", short):
            continue
        before = re.split(r"[.,;:()\[\]/]\s", text[max(0, match.start() - 160) : match.start()].rstrip())[-1]
        if long := long_form(short, before.split()[-min(len(short) + 5, 2 * len(short)) :]):
            found[short] = expand_abbreviations(uncapitalise(long), found)
            if short.endswith("s") and (one := singularise(found[short])):
                found.setdefault(short[:-1], one)
    return found


def long_form(short: str, words: list[str]) -> str:
    """The last of `words` that `short` abbreviates; "" if there are none.

    Words whose initials are the short form, else the shortest stretch that holds its letters in their order.
    """
    letters = [letter for letter in short.removesuffix("s").lower() if letter.isalnum()]
    initials = [part[:1].lower() for word in words for part in word.split("-")]
    if initials[-len(letters) :] == letters:
        for n in range(1, len(words) + 1):
            if sum(len(word.split("-")) for word in words[-n:]) >= len(letters):
                return check_long_form(short, letters, words[-n:])
    for n in range(1, len(words) + 1):
        rest = iter(" ".join(words[-n:]).lower())
        if words[-n][:1].lower() == letters[0] and all(letter in rest for letter in letters):
            return check_long_form(short, letters, words[-n:])
    return ""


def check_long_form(short: str, letters: list[str], words: list[str]) -> str:
    """`words` as a long form, "" where they can hardly be one; "anti-tumor necrosis factor" loses what TNF lacks."""
    while "-" in words[0] and words[0][:1].lower() != letters[0]:
        words = [words[0].partition("-")[2], *words[1:]]
    long = " ".join(words)
    doubtful = (
        SMALL.match(words[0])
        or words[0][:1].lower() != letters[0]
        or len([word for word in words if not SMALL.match(word)]) > len(letters)
        or len(long) < len(short) + 3
        or short in words
        or ADJECTIVE.search(long)
        or NEVER.search(long)
    )
    return "" if doubtful else long


def uncapitalise(name: str) -> str:
    """A name as it reads within a sentence."""
    ordinary = re.match(r"[A-Z][a-z]", name) and name[1:] == name[1:].lower() and not NAMES.match(name)
    return name[0].lower() + name[1:] if ordinary else name


def expand_abbreviations(text: str, known: dict[str, str]) -> str:
    """`text` with each short form, where it comes first, replaced by its long form, unless it is defined before."""
    for short, long in known.items():
        start = first_use(text, short)
        before, after = text[:start], text[start + len(short) :]
        if start < 0 or f"({short}" in before:
            continue
        s, after = ("s", after[1:]) if after.startswith("s") else ("", after)
        whole = pluralise(long) if s else fit_number(long, after)
        if not whole:
            continue
        inside = before.count("(") > before.count(")") or after.startswith("-")
        if short in after and f"({short}" not in after and not inside:
            whole = f"{whole} ({short}{s})"
        whole = capitalise(whole) if re.search(r"(?:^|[.!?]\s|\n)$", before) else whole
        text = re.sub(r"\b([Aa])n? $", rf"\1{'n' if starts_with_vowel(long) else ''} ", before) + whole + after
    return text


def fit_number(long: str, after: str) -> str:
    """A long form as it reads before `after`: in the singular before a noun; "" if that is not known for certain."""
    if not PLURAL.search(long) or not THING.match(after):
        return long
    return singularise(long) if after[1:2].islower() else ""


def first_use(text: str, short: str) -> int:
    """Where a short form is first used as a word by itself; -1 if it is not."""
    start = text.find(short)
    while start >= 0:
        before = text[start - 1 : start]
        if not (before.isalnum() or (before and before in "_/(+-")) and FREE.match(text, start + len(short)):
            return start
        start = text.find(short, start + 1)
    return -1


def pluralise(long: str) -> str:
    """A long form in the plural, unless it is one."""
    if long.endswith("s"):
        return long
    return f"{long[:-1]}ies" if long.endswith("y") else f"{long}s"


def singularise(long: str) -> str:
    """A long form in the singular; "" if it is none in the plural, or an irregular one."""
    if long.endswith("ies"):
        return f"{long[:-3]}y"
    return long[:-1] if PLURAL.search(long) and not long.endswith("ses") else ""


def starts_with_vowel(word: str) -> bool:
    """Whether "an" comes before `word`."""
    return bool(re.match(r"(?!uni|eu|one|us[aeiu]|ur[aeio])[aeiou]", word, re.IGNORECASE))


def numbered_abbreviations(text: str) -> set[str]:
    """The short forms with a digit that stand in brackets, but for names that need no long form."""
    shorts = (match[1] for match in DEFINED.finditer(text))
    return {short for short in shorts if re.match(r"(?=\D*\d)(?!IL|CD\d|TNF|IFN|TGF|HLA|miR)[A-Za-z]", short)}


def has_undefined_abbreviation(text: str, title: str, numbered: Iterable[str] = ()) -> bool:
    """Whether a text holds an abbreviation that neither it (up to there), nor the title, nor common use explains.

    Short forms with digits look like the names of genes: they count if the paper explains them (`numbered`).
    """
    initials = "".join(word[0] for part in title.split() for word in part.split("-") if word).upper()
    digits = [re.search(rf"(?<!\w){re.escape(short)}(?!\w)", text) for short in sorted(numbered)]
    for match in (*CAPITALS.finditer(text), *filter(None, digits)):
        short = match[0].removesuffix("s")
        told = 0 <= text.find(f"({short}") < match.start() or short in title or f"{short} = " in text
        if not told and short not in initials and short not in HARMLESS and not re.match(r"Ig[GAMED]", short):
            return True
    return CODE.search(text) is not None
