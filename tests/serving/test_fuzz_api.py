"""Requests made from the API's own description, by the thousand: nothing breaks it, and it keeps its word."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import tiny
from support.serving import Watched, served
from support.sweeps import times

TOKEN = "a token that nobody guesses"


@pytest.mark.slow
def test_the_api_is_what_it_says(tmp_path):
    """No 5xx, no status or header or body that is not in the description, no field out of bounds accepted.

    Nearly every second word ends an answer here, so that thousands of them can be asked for.
    """
    wanted, engine = times(60, 10_000), Watched(tiny.write_model(tmp_path / "model"), ends=range(0, 259, 2))
    with served(engine, token=TOKEN) as (url, _):
        call = [
            Path(sys.executable).with_name("schemathesis"),
            "run",
            f"{url}/openapi.json",
            f"--max-examples={wanted}",
        ]
        options = [f"--header=Authorization: Bearer {TOKEN}", "--generation-deterministic", "--continue-on-failure"]
        done = subprocess.run([*call, *options], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert int(re.search(r"([\d,]+) generated", done.stdout)[1].replace(",", "")) >= wanted, done.stdout
