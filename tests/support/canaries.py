"""Secrets that must be found nowhere, and the search for them."""

from collections.abc import Iterable
from pathlib import Path

from helpers.core.redaction import spellings_of

CANARIES = {
    "HF_TOKEN": "hf_canary+7Qz/31=token",
    "NCBI_API_KEY": "ncbi-canary+9Xk/52=key",
    "NCBI_EMAIL": "canary+ncbi@example.org",
    "JUDGE_API_KEY": "sk-canary+4Wv/83=judge",
    "API_TOKEN": "api-canary+2Rt/64=token",
}
FORMS = tuple(form.encode() for secret in CANARIES.values() for form in spellings_of(secret))


def found_in(content: bytes | str) -> list[bytes]:
    """The forms of the canaries that stand in `content`."""
    content = content.encode() if isinstance(content, str) else content
    return [form for form in FORMS if form in content]


def files_with(*places: Path) -> dict[str, list[bytes]]:
    """{file: forms} of every file below these folders that holds one."""
    below: Iterable[Path] = (path for place in places for path in place.rglob("*") if path.is_file())
    return {str(path): found for path in below if (found := found_in(path.read_bytes()))}
