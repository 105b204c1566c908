"""Inline markup and formulas as one line of text that means the same."""

import re

from lxml import etree

RAISED = str.maketrans("0123456789+-−–=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻⁼⁽⁾ⁿ")
LOWERED = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
OPERATOR = re.compile(r"[\s+−±×·*/=<>≤≥,-]")  # with one of these a formula needs brackets inside another


def local(element: etree._Element) -> str:
    """The tag without its namespace; "" for comments, entities and processing instructions."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def inline(element: etree._Element) -> str:
    """The text of an element with its inline markup and formulas read as a person would write them."""
    text = element.text or ""
    for child in element:
        name = local(child)
        if name in ("sup", "sub"):
            text += moved(name, inline(child).strip(), after=text[-1:])
        else:
            text += formula(child) if name == "math" else inline(child) if name else ""
        text += child.tail or ""
    return text


def moved(name: str, text: str, after: str) -> str:
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


def formula(element: etree._Element) -> str:
    """Presentation MathML on one line."""
    name = local(element)
    parts = [formula(child) for child in element if not local(child).startswith("annotation")]
    if not parts:
        return " " if name == "mspace" else (element.text or "").strip() if name else ""
    whole = "".join(parts)
    if name == "mfenced":
        marks = element.get("separators", ",").strip()[:1]
        return element.get("open", "(") + (f"{marks} " if marks else "").join(parts) + element.get("close", ")")
    if name == "msqrt":
        return f"√({whole})"
    if name == "mroot" and len(parts) == 2:
        return f"{power('', parts[1])}√({parts[0]})"
    if name == "mfrac":
        return "/".join(map(bracketed, parts))
    if name in ("msup", "mover") and len(parts) == 2:
        return power(*parts)
    if name in ("msub", "munder") and len(parts) == 2:
        return parts[0] + moved("sub", parts[1], after="0")
    if name in ("msubsup", "munderover") and len(parts) == 3:
        return power(parts[0] + moved("sub", parts[1], after="0"), parts[2])
    return whole


def power(base: str, exponent: str) -> str:
    if all(ord(letter) in RAISED for letter in exponent):
        return base + exponent.translate(RAISED)
    return f"{base}^{bracketed(exponent)}"


def bracketed(text: str) -> str:
    return f"({text})" if len(text) > 1 and OPERATOR.search(text) else text
