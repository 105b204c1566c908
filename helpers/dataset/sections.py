"""What each part of an abstract is for: background, methods, results, conclusions, labelled by the authors or not."""

import re
from itertools import zip_longest
from typing import NamedTuple

from helpers.papers import Paper, Section
from helpers.text import split_sentences

TITLE, ABSTRACT = -1, -2  # section numbers of the title, and of the whole abstract

INLINE = re.compile(
    r"(?:^|(?<=[.!?)]\s)|(?<=[.!?)]))(?P<label>Background(?: and (?:aims?|purpose|objectives?))?|Introduction"
    r"|Objectives?|Aims?|Purpose|Rationale|(?:(?:Patients|Materials?|Subjects) and )?[Mm]ethods?|Design|Results?"
    r"|Discussion|(?:Main )?[Ff]indings?|Conclusions?|Interpretation|Case (?:[Pp]resentation|[Rr]eport|[Dd]escription"
    r"|[Ss]ummary))(?:: ?| [-–—] )(?=\S)"
)
WE = r"(?:[Ww]e|[Tt]he authors)"
PURPOSE = re.compile(
    r"\b(?:aims?|objectives?|purpose|goal) (?:of|was|is|were|are)\b"
    r"|\b(?:aims?|aimed|sought|set out|intend(?:s|ed)?) to\b"
)
AIM = re.compile(
    rf"{PURPOSE.pattern}|\b{WE} (?:\w+ )?(?:aimed|sought|investigat|examin|evaluat|assess|compare|stud(?:y|ied)"
    r"|explor|hypothesi|test"
    r"|determin|analy[sz]e|describe|report(?! that)|review|present|discuss|focus|summari[sz]e|highlight(?! that)"
    r"|provide|performed|conducted|used|hereby|have focused)"
    r"|\b(?:study|review|article|paper|work) (?:\w+ )?(?:aim|investigat|examin|evaluat|assess|compare[sd]|explor"
    r"|describes|reports(?! that)|summari[sz]|discuss|was (?:designed|conducted|undertaken|performed|to))"
)
FOUND = re.compile(
    rf"\b(?:{WE}|results|data|analys[ie]s|experiments?|findings) (?:\w+ )?(?:found|observed|showed?n?|demonstrated?"
    r"|revealed?|identified|detected|noted|indicated?|confirmed)"
    r"|\b(?:significantly|markedly|respectively)\b|\b[Pp] ?[<=>≤] ?0?\.\d|\d ?%|\b(?:OR|HR|RR|CI)\b"
    r"|\b(?:increased|decreased|reduced|upregulated|downregulated|up-regulated|down-regulated|elevated|enhanced"
    r"|inhibited|suppressed|attenuated|alleviated|ameliorated|promoted|correlated|associated with|higher|lower"
    r"|improved|impaired)\b"
)
DONE = re.compile(
    r"\b(?:was|were) (?:\w+ ){0,2}(?:enrolled|included|recruited|measured|assessed|performed|collected|analy[sz]ed"
    r"|randomi[sz]ed|used|evaluated|conducted|obtained|examined|treated|selected|searched|administered|divided|scored"
    r"|determined|calculated|recorded|estimated|extracted|reviewed|retrieved|investigated|compared|studied|tested"
    r"|induced|immuni[sz]ed|given|carried out|injected|employed|constructed"
    r"|established|generated|isolated|incubated|transfected|cultured|sequenced|genotyped)\b|\busing\b"
    rf"|\b{WE} (?:\w+ )?(?:enrolled|included|recruited|measured|performed|collected|analy[sz]ed|used|conducted"
    rf"|searched"
    r"|reviewed|developed|generated|established|co-?cultured|constructed|transfected|isolated)\b"
)
CASE = re.compile(r"\b(?:report|present|describe)(?:s|ed)? (?:\w+ ){0,4}(?:case|patient)s?\b|\b\d+-year-old\b")
CONCLUDES = re.compile(
    r"(?:In (?:conclusion|summary)|To (?:conclude|summari[sz]e)|Taken together|Collectively|Altogether|[Ww]e conclude"
    r"|Thus|Therefore|Hence|Together|Conclusively|In short|Overall, (?:our|these|this|the))\b"
    r"|(?:Our|These|The present|This|The)(?: \w+)? (?:findings?|results?|data|study|work|evidence|observations?|case"
    r"|report)(?: \w+){0,2}? (?:suggest|indicate|demonstrate|support|highlight|provide|reveal|show|confirm|imply"
    r"|underline|underscore|illustrate|emphasi[sz]e)(?:s|ed)?\b"
)


class Span(NamedTuple):
    """Part of a section, [start, end) in its text."""

    number: int
    start: int
    end: int


def section_text(paper: Paper, number: int) -> str:
    """The text of a section, of the title (TITLE), or of all sections, one a line (ABSTRACT).

    Raises IndexError if the paper has no such section.
    """
    if number == TITLE:
        return paper.title
    if number == ABSTRACT:
        return "\n".join(section.text for section in paper.abstract)
    return paper.abstract[number].text


def section_label(paper: Paper, number: int) -> str:
    """What the authors call a section; "title" and "abstract" for those."""
    return {TITLE: "title", ABSTRACT: "abstract"}.get(number) or paper.abstract[number].label


def find_sections(paper: Paper) -> dict[str, Span]:
    """{role: passage}: the sections by their labels, or the parts of a single one where its wording tells them."""
    found = labelled_sections(paper.abstract)
    if found or len(paper.abstract) != 1:
        return found
    return headed_sections(paper.abstract[0].text) or worded_sections(paper.abstract[0].text)


def labelled_sections(sections: tuple[Section, ...]) -> dict[str, Span]:
    """Of several sections with one role the longest; what was measured is a method, limitations have no role.

    Nor have the treatment and the outcome of one patient.
    """
    found: dict[str, Span] = {}
    one = any(re.search("PATIENT CONCERN|DIAGNOS[EI]S$", section.label.upper()) for section in sections)
    for number, section in enumerate(sections):
        label = section.label.upper()
        role = (
            "methods"
            if "MEASURE" in label
            else ""
            if "LIMITATION" in label or (one and "INTERVENTION" in label)
            else section.role
        )
        if role and (role not in found or len(section.text) > found[role].end):
            found[role] = Span(number, 0, len(section.text))
    return found


def headed_sections(text: str) -> dict[str, Span]:
    """Parts of a text that names them itself ("Background: … Results: …"), if it names two or more."""
    marks = list(INLINE.finditer(text))
    found: dict[str, Span] = {}
    for mark, after in zip_longest(marks, marks[1:]):
        role = Section(label=mark["label"], text="").role
        if role and role not in found:
            found[role] = Span(0, mark.end(), len(text[: after.start() if after else None].rstrip()))
    return found if len(found) > 1 else {}


def worded_sections(text: str) -> dict[str, Span]:
    """Parts of an unlabelled text, told by the wording of its sentences; {} where it does not say enough.

    Background ends with the aim, or before it where it tells what was done; results begin with the first finding
    after it, conclusions with a phrase such as
    "These findings suggest" among the last sentences. What lies between aim and results is the methods if every
    sentence of it says what was done.
    """
    spans = split_sentences(text)
    said = [text[start:end] for start, end in spans]
    found: dict[str, Span] = {}
    aim = next((n for n, s in enumerate(said[: len(said) * 3 // 5 + 1]) if AIM.search(s)), len(said))
    least = max(len(said) - 4, (len(said) + 1) // 2, 1)
    last = next((n for n in range(least, len(said)) if CONCLUDES.match(said[n])), len(said))
    first = next((n for n in range(aim + 1, last) if FOUND.search(said[n]) and not AIM.search(said[n])), last)
    end = aim + (not says_what_was_done(said[aim])) if aim < last else 0
    if end:
        found["background"] = Span(0, spans[0][0], spans[end - 1][1])
    if any(PURPOSE.search(s) or CASE.search(s) for s in said[last:]):
        return found
    if last < len(said):
        found["conclusions"] = Span(0, spans[last][0], spans[-1][1])
    if first < last < len(said):
        found["results"] = Span(0, spans[first][0], spans[last - 1][1])
        if aim + 1 < first and all(DONE.search(s) for s in said[aim + 1 : first]):
            found["methods"] = Span(0, spans[aim + 1][0], spans[first - 1][1])
    return found


def says_what_was_done(sentence: str) -> bool:
    """Whether a sentence that reads like an aim says what was done, or whose case it is."""
    done = DONE.search(sentence) and (not PURPOSE.search(sentence) or sentence.startswith("With the aim"))
    return bool(CASE.search(sentence) or done)
