"""Inline markup and formulas as one line of text that means the same."""

import re

from lxml import etree

RAISED = str.maketrans("0123456789+-−–=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻⁼⁽⁾ⁿ")
LOWERED = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
OPERATOR = re.compile(r"[\s+−±×·*/=<>≤≥,-]")  # with one of these a formula needs brackets inside another


def local_name(element: etree._Element) -> str:
    """The tag without its namespace; "" for comments, entities and processing instructions."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def inline_text(element: etree._Element) -> str:
    """The text of an element with its inline markup and formulas read as a person would write them."""
    text = element.text or ""
    for child in element:
        name = local_name(child)
        if name in ("sup", "sub"):
            text += mark_moved(name, inline_text(child).strip(), after=text[-1:])
        else:
            text += format_formula(child) if name == "math" else inline_text(child) if name else ""
        text += child.tail or ""
    return text


def mark_moved(name: str, text: str, after: str) -> str:
    """Raised or lowered text. 10<sup>9</sup> joined as plain digits would be another number: it is 10⁹.

    What has no such letters stays as it is, behind ^ or _ where it would run into the number `after` which it stands.
    """
    table = RAISED if name == "sup" else LOWERED
    if all(ord(letter) in table for letter in text):
        return text.translate(table)
    numeric = any(letter.isdigit() for letter in text)
    if after.isdigit() and (numeric or len(text) == 1):
        return f"^{text}" if name == "sup" else f"_{text}"
    return f"^{text}" if name == "sup" and numeric and after.isalpha() else text


def format_formula(element: etree._Element) -> str:
    """Presentation MathML on one line."""
    name = local_name(element)
    parts = [format_formula(child) for child in element if not local_name(child).startswith("annotation")]
    if not parts:
        return " " if name == "mspace" else (element.text or "").strip() if name else ""
    whole = "".join(parts)
    if name == "mfenced":
        marks = element.get("separators", ",").strip()[:1]
        return element.get("open", "(") + (f"{marks} " if marks else "").join(parts) + element.get("close", ")")
    if name == "msqrt":
        return f"√({whole})"
    if name == "mroot" and len(parts) == 2:
        return f"{format_power('', parts[1])}√({parts[0]})"
    if name == "mfrac":
        return "/".join(map(add_brackets, parts))
    if name in ("msup", "mover") and len(parts) == 2:
        return format_power(*parts)
    if name in ("msub", "munder") and len(parts) == 2:
        return parts[0] + mark_moved("sub", parts[1], after="0")
    if name in ("msubsup", "munderover") and len(parts) == 3:
        return format_power(parts[0] + mark_moved("sub", parts[1], after="0"), parts[2])
    return whole


def format_power(base: str, exponent: str) -> str:
    if all(ord(letter) in RAISED for letter in exponent):
        return base + exponent.translate(RAISED)
    return f"{base}^{add_brackets(exponent)}"


def add_brackets(text: str) -> str:
    return f"({text})" if len(text) > 1 and OPERATOR.search(text) else text
