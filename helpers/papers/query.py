"""A PubMed query understood well enough to ask it of a file."""

import re
from collections.abc import Callable

from helpers.core import CourseError
from helpers.papers.paper import Paper

Test = Callable[[Paper], bool]
DEEPEST = 100  # brackets; each is a call within a call
WORD = r'[^\s()"\[\]]+'
TAG = r"\s*\[[^\]]*\]"
NO_OPERATOR = r"(?!(?:AND|OR|NOT)\b)"
# a bracket, a quoted phrase, words before a tag (a year stands alone), a word
TOKEN = re.compile(
    rf'\(|\)|"[^"]*"(?:{TAG})?|{NO_OPERATOR}{WORD}(?:\s+{NO_OPERATOR}(?!\d){WORD})*{TAG}|{WORD}(?:{TAG})?'
)
FIELDS = {
    "title": ("ti", "title"),
    "abstract": ("ab", "abstract"),
    "mesh": ("mesh", "mh", "mesh terms", "majr", "mesh major topic"),
    "language": ("la", "lang", "language"),
    "types": ("pt", "publication type"),
    "journal": ("ta", "journal"),
    "year": ("dp", "pdat", "date - publication"),
    "text": ("tiab", "title/abstract", "tw", "text word", "all", "all fields", ""),
}


def compile_query(query: str) -> Test:
    """A test for papers: phrases with the fields above, AND, OR, NOT from left to right, brackets, `word*`.

    Words side by side are joined by AND. Raises CourseError for a query that does not parse.
    """
    tokens = TOKEN.findall(query)
    if query.count("(") > DEEPEST:
        raise explain_unreadable(query, f"more than {DEEPEST} brackets")
    if "".join("".join(tokens).split()) != "".join(query.split()) or not tokens:
        raise explain_unreadable(query)
    test = parse_alternatives(tokens, query)
    if tokens:
        raise explain_unreadable(query)
    return test


def explain_unreadable(query: str, why: str = "") -> CourseError:
    return CourseError(
        f"the query {query[:200]!r} cannot be read{why and f': {why}'}",
        'PAPERS_QUERY may look like this: "lupus nephritis"[tiab] AND (children OR adolescen*) AND 2020:2022[dp]',
        "a-query-cannot-be-read",
    )


def parse_alternatives(tokens: list[str], query: str) -> Test:
    """Take tokens up to the closing bracket or the end, joined from left to right as PubMed does."""
    test = parse_operand(tokens, query)
    while tokens and tokens[0] != ")":
        word = tokens.pop(0) if tokens[0] in ("AND", "OR", "NOT") else "AND"
        test = join_tests(test, word, parse_operand(tokens, query))
    return test


def join_tests(left: Test, word: str, right: Test) -> Test:
    if word == "OR":
        return lambda paper: left(paper) or right(paper)
    wanted = word == "AND"
    return lambda paper: left(paper) and right(paper) == wanted


def parse_operand(tokens: list[str], query: str) -> Test:
    if not tokens or tokens[0] in (")", "AND", "OR", "NOT"):
        raise explain_unreadable(query)
    token = tokens.pop(0)
    if token != "(":
        return phrase_test(token, query)
    test = parse_alternatives(tokens, query)
    if not tokens:
        raise explain_unreadable(query)
    tokens.pop(0)
    return test


def phrase_test(token: str, query: str) -> Test:
    """A test for one phrase in its field."""
    words, _, tag = token.partition("[")
    words, tag = words.strip().strip('"').strip(), tag.rstrip("]").strip().lower().removesuffix(":noexp")
    field = next((name for name, tags in FIELDS.items() if tag in tags), None)
    if field is None:
        known = ", ".join(tag for tags in FIELDS.values() for tag in tags if tag)
        raise explain_unreadable(query, f"a file has no field [{tag}]; it has {known}")
    if words.lower() in ("and", "or", "not"):
        raise explain_unreadable(query, "AND, OR and NOT are written in capitals")
    if not re.search(r"\w", words):
        raise explain_unreadable(query, f"{token!r} is no word")
    if words == "hasabstract":
        return lambda paper: bool(paper.abstract)
    if field == "year":
        first, _, last = words.partition(":")
        return lambda paper: first.strip()[:4] <= str(paper.year or "") <= (last.strip() or first)[:4]
    if field == "language":
        return lambda paper: paper.language == words.lower()[:3]
    ending = "" if words.endswith("*") else r"(?!\w)"
    pattern = re.compile(r"(?<!\w)" + re.escape(words.rstrip("*")).replace(r"\ ", r"[\s-]+") + ending, re.IGNORECASE)
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
