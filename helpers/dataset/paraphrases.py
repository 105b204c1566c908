"""Sentences said again in other words, by fixed rules: to measure what a search for word runs does not see."""

import re

SYNONYMS = """
must=have_to should=ought_to treated=managed given=administered measured=determined found=detected typical=usual
cause=reason common=frequent increased=raised drug=medicine drugs=medicines disease=illness diseases=illnesses
patients=people test=assay total=sum lower=cut first=initial start=beginning started=begun quickly=fast soon=early
needed=required confirmed=verified usually=mostly persistent=lasting rare=uncommon danger=hazard
blocked=inhibited because=since main=chief leading=chief symptoms=complaints seen=observed lesions=damage
recovery=healing recommended=advised reduced=brought_down specific=telling possible=feasible about=roughly
genetic=inherited many=numerous some=certain part=portion called=termed strict=rigorous whereas=while
affect=involve avoided=left_out driver=engine kept=held strongest=most_powerful suppress=restrain similar=alike
trigger=release brakes=curbs against=directed_at
"""
VERBS = """
treated=treat measured=measure found=find given=give blocked=block needed=need confirmed=confirm seen=see added=add
recommended=recommend reduced=reduce started=start avoided=avoid removed=remove imaged=image investigated=investigate
destroyed=destroy relieved=relieve recognised=recognise tapered=taper attacked=attack asked=ask withdrawn=withdraw
followed=follow disseminated=disseminate kept=keep mediated=mediate deleted=delete limited=limit
"""
WORD_FOR = {old: new.replace("_", " ") for old, _, new in (entry.partition("=") for entry in SYNONYMS.split())}
BASE = dict(entry.split("=") for entry in VERBS.split())
PASSIVE = re.compile(
    r"(?P<joint>^|(?:, )?\b(?:and|so|whereas|but) |, )(?P<what>[^,;]+?) (?:(?P<modal>must|should|can|may) be|is|are)"
    rf" (?:\w+ly )?(?P<verb>{'|'.join(BASE)})\b"
)
HINGE = re.compile(r",? (?P<word>when|because|whereas|so that|as soon as|if|unless) ")


def other_words(sentence: str) -> str:
    """Every word that has a synonym here replaced."""
    return re.sub(r"[A-Za-z]+", lambda match: WORD_FOR.get(match[0].lower(), match[0]), sentence)


def turned_round(sentence: str) -> str:
    """The clauses in another order: after "when" or "because" first, else the second half of "…, and …"."""
    body = sentence.rstrip(".")
    if hinge := HINGE.search(body):
        return f"{hinge['word'].capitalize()} {body[hinge.end() :]}, {body[: hinge.start()]}."
    first, joint, second = body.rpartition(", and ")
    return f"{second}, and {first}." if joint else sentence


def make_active(sentence: str) -> str:
    """Passive clauses with somebody who acts: "X is treated with Y" as "doctors treat X with Y"."""

    def told(match: re.Match) -> str:
        first, space, rest = match["what"].partition(" ")
        what = f"{first.lower() if first.istitle() else first}{space}{rest}"
        return " ".join([f"{match['joint']}doctors", *filter(None, [match["modal"]]), BASE[match["verb"]], what])

    return PASSIVE.sub(told, sentence)


WORD_FOR_WORD = "it stands"
REWRITES = {
    WORD_FOR_WORD: lambda sentence: sentence,
    "capitals without punctuation": lambda sentence: re.sub(r"[^\w\s]", " ", sentence).upper(),
    "clauses turned round": turned_round,
    "active for passive": make_active,
    "synonyms": other_words,
    "all three": lambda sentence: other_words(turned_round(make_active(sentence))),
}
