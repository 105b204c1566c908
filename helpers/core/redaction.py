"""What is not shown as it is: secrets, and what a terminal or Markdown would obey."""

import json
import re
from base64 import b64encode
from collections.abc import Iterable
from functools import cache
from html import escape
from urllib.parse import quote, quote_plus

HIDDEN = "(hidden)"
ACTING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
TOO_SHORT = 8  # characters; parts of anything shorter in base64 stand in ordinary text by chance


@cache
def spellings_of(secret: str) -> tuple[str, ...]:
    """The ways a secret may be written, the longest first: as it is, in JSON, HTML, a URL, and in base64.

    In base64 the letters at either end depend on what stands beside the secret, so they are left off.
    """
    in_json, in_urls = json.dumps(secret)[1:-1], {quote(secret), quote(secret, safe=""), quote_plus(secret)}
    found = {secret, in_json, in_json.replace("/", r"\/"), escape(secret), *in_urls}
    found |= {re.sub("%..", lambda hit: hit[0].lower(), form) for form in in_urls}
    for before in range(3) if len(secret) >= TOO_SHORT else ():
        data = bytes(before) + secret.encode()
        whole = b64encode(data).decode()[-(-before * 8 // 6) : len(data) * 8 // 6]
        found |= {whole, whole.translate(str.maketrans("+/", "-_"))}
    return tuple(sorted(found, key=len, reverse=True))


def hide_secrets(text: str, secrets: Iterable[str]) -> str:
    """`text` with HIDDEN in place of every form of these secrets."""
    for form in (form for secret in filter(None, secrets) for form in spellings_of(secret)):
        text = text.replace(form, HIDDEN)
    return text


def make_visible(text: str) -> str:
    """`text` with control characters and those that turn its direction spelled out; tabs and line ends stay."""
    return ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def escape_markdown(text: str) -> str:
    """`text` on one line, so that Markdown shows it as it is written."""
    return re.sub(r"([\\`*_{}\[\]#|~!:])", r"\\\1", escape(make_visible(" ".join(text.split()))))
