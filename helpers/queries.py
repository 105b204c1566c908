"""A PubMed query understood well enough to ask it of a file."""

import re
from collections.abc import Callable

from helpers.errors import CourseError
from helpers.papers import Paper

Test = Callable[[Paper], bool]
TOKEN = re.compile(r'\(|\)|"[^"]*"(?:\s*\[[^\]]*\])?|[^\s()"\[\]]+(?:\s*\[[^\]]*\])?')
FIELDS = {
    "title": ("ti", "title"),
    "abstract": ("ab", "abstract"),
    "mesh": ("mesh", "mh", "mesh terms", "majr"),
    "language": ("la", "lang", "language"),
    "types": ("pt", "publication type"),
    "journal": ("ta", "journal"),
    "year": ("dp", "pdat"),
    "text": ("tiab", "tw", "all", "all fields", "text word", ""),
}


def compile_query(query: str) -> Test:
    """A test for papers: phrases with the fields above, AND, OR, NOT from left to right, brackets, `word*`.

    Words side by side are joined by AND. Raises CourseError for a query that does not parse.
    """
    tokens = TOKEN.findall(query)
    if "".join("".join(tokens).split()) != "".join(query.split()) or not tokens:
        raise unreadable(query)
    test = either(tokens, query)
    if tokens:
        raise unreadable(query)
    return test


def unreadable(query: str) -> CourseError:
    return CourseError(
        f"PAPERS_QUERY={query!r} cannot be read", 'an example: "lupus nephritis"[tiab] AND (children OR adolescen*)'
    )


def either(tokens: list[str], query: str) -> Test:
    """Take tokens up to the closing bracket or the end, joined from left to right as PubMed does."""
    test = operand(tokens, query)
    while tokens and tokens[0] != ")":
        word = tokens.pop(0) if tokens[0] in ("AND", "OR", "NOT") else "AND"
        test = joined(test, word, operand(tokens, query))
    return test


def joined(left: Test, word: str, right: Test) -> Test:
    if word == "OR":
        return lambda paper: left(paper) or right(paper)
    wanted = word == "AND"
    return lambda paper: left(paper) and right(paper) == wanted


def operand(tokens: list[str], query: str) -> Test:
    if not tokens or tokens[0] in (")", "AND", "OR", "NOT"):
        raise unreadable(query)
    token = tokens.pop(0)
    if token != "(":
        return phrase(token, query)
    test = either(tokens, query)
    if not tokens:
        raise unreadable(query)
    tokens.pop(0)
    return test


def phrase(token: str, query: str) -> Test:
    """A test for one phrase in its field."""
    words, _, tag = token.partition("[")
    words, tag = words.strip().strip('"').strip(), tag.rstrip("]").strip().lower().removesuffix(":noexp")
    field = next((name for name, tags in FIELDS.items() if tag in tags), None)
    if not words or field is None:
        raise unreadable(query)
    if words == "hasabstract":
        return lambda paper: bool(paper.abstract)
    if field == "year":
        first, _, last = words.partition(":")
        return lambda paper: first[:4] <= str(paper.year or "") <= (last or first)[:4]
    if field == "language":
        return lambda paper: paper.language == words.lower()[:3]
    ending = "" if words.endswith("*") else r"\b"
    pattern = re.compile(r"\b" + re.escape(words.rstrip("*")).replace(r"\ ", r"[\s-]+") + ending, re.IGNORECASE)
    return lambda paper: bool(pattern.search(field_of(paper, field)))


def field_of(paper: Paper, field: str) -> str:
    return {
        "title": paper.title,
        "abstract": paper.text,
        "mesh": "\n".join(paper.mesh),
        "types": "\n".join(paper.publication_types),
        "journal": paper.journal,
        "text": "\n".join([paper.title, paper.text, *paper.mesh]),
    }[field]
