"""Wrong options that look like the right one: numbers of the same form and size, names of the same kind."""

import re
from collections.abc import Iterable
from decimal import Decimal
from hashlib import sha256

NUMBER = re.compile(r"(?P<value>\d{1,3}(?:,\d{3})+|\d+(?:(?P<point>[.·])(?P<decimals>\d+))?)(?P<unit>\s?%|-fold)?")
NEAREST, FARTHEST = 0.08, 0.9  # how far a wrong number is from the right one, as a share of it
APART = 0.05  # how far two options are from each other, as a share of the larger


def other_numbers(right: str, text: str, salt: str) -> list[str]:
    """Three numbers with the form of `right` and about its size that do not occur in `text`; [] if there are none.

    How many of them are smaller than `right` is drawn too, so that its rank says nothing.
    """
    form = NUMBER.fullmatch(right)
    value = Decimal(form["value"].replace(",", "").replace("·", "."))
    smaller, larger = [], []
    for draw in range(80):
        share = 1 + Decimal(hash_fraction(salt, draw)) * Decimal(2 * FARTHEST) - Decimal(FARTHEST)
        wrong = round_like(value * share, value, form)
        said = write_number(wrong, form)
        if abs(wrong - value) < Decimal(NEAREST) * value or not look_alike(said, right) or number_occurs(said, text):
            continue
        side = smaller if wrong < value else larger
        if all(abs(wrong - other) >= Decimal(APART) * max(wrong, other) for other, _ in side):
            side.append((wrong, said))
    rank = int(hash_fraction(salt, "rank") * 4)
    for n in sorted(range(4), key=lambda n: (abs(n - rank), n)):
        if len(smaller) >= n and len(larger) >= 3 - n:
            return [said for _, said in [*smaller[:n], *larger[: 3 - n]]]
    return []


def round_like(wrong: Decimal, right: Decimal, form: re.Match) -> Decimal:
    """`wrong` with as many decimals as `right`, and as round: 140 goes with 200, 35 with 40 or 45."""
    if form["decimals"]:
        return wrong.quantize(Decimal(1).scaleb(-len(form["decimals"])))
    zeros = len(str(int(right))) - len(str(int(right)).rstrip("0"))
    step = Decimal(10) ** zeros if zeros else Decimal(5) if right % 5 == 0 and right > 20 else Decimal(1)
    return (wrong / step).to_integral_value() * step


def write_number(value: Decimal, form: re.Match) -> str:
    """`value` in the form of the right answer: its decimal point, its thousands, its unit."""
    text = f"{value:,}" if "," in form["value"] else f"{value}"
    return text.replace(".", form["point"] or ".") + (form["unit"] or "")


def look_alike(wrong: str, right: str) -> bool:
    """Whether both have as many digits, a last zero or none, and a possible share of 100."""
    if len(wrong) != len(right) or wrong.startswith("0") != right.startswith("0") or wrong == "1":
        return False
    digits = [re.sub(r"\D+$", "", option) for option in (wrong, right)]
    share = not right.endswith("%") or float(digits[0].replace("·", ".")) <= 100
    return share and digits[0].endswith("0") == digits[1].endswith("0")


def other_names(right: str, kind: str, pool: Iterable[tuple[str, str]], text: str, salt: str) -> list[str]:
    """Three names of the same kind and shape as `right` from `pool` ((kind, name) pairs) that are not in `text`."""
    seen, fitting = {bare_number(right)}, []
    for name in sorted({name for of, name in pool if of == kind}):
        if bare_number(name) not in seen and same_shape(name, right) and not is_mentioned(name, text):
            seen.add(bare_number(name))
            fitting.append(name)
    return sorted(fitting, key=lambda name: hash_fraction(salt, name))[:3] if len(fitting) >= 3 else []


def same_shape(name: str, right: str) -> bool:
    """Whether both are singular or plural, begin with a capital, hold a digit, begin with a vowel; similar length."""
    shapes = [
        (option.endswith("s"), option[0].isupper(), any(map(str.isdigit, option)), option[0].lower() in "aeiou")
        for option in (name, right)
    ]
    return shapes[0] == shapes[1] and 0.6 <= len(name) / len(right) <= 1.6


def is_mentioned(name: str, text: str) -> bool:
    """Whether a text has the name, in the singular or the plural, with or without its hyphens."""
    return bare_number(name) in bare_number(text)


def bare_number(name: str) -> str:
    """A name as its letters and digits, in the singular."""
    return re.sub(r"[\W_]", "", name.lower()).removesuffix("s")


def number_occurs(number: str, text: str) -> bool:
    """Whether a text has the number, with its unit or without."""
    value = NUMBER.fullmatch(number)["value"]
    return re.search(rf"(?<![\d.,·]){re.escape(value)}(?![\d]|[.,·]\d)", text) is not None


def hash_fraction(*salt: object) -> float:
    """A number in [0, 1) that depends on `salt` alone."""
    return int(sha256(":".join(map(str, salt)).encode()).hexdigest()[:12], 16) / 16**12
