"""The user's own settings do not reach the tests."""

import os

import pytest

from helpers.core.settings import NAMES

for name in (*NAMES, "STAGES", "FORCE", "METHOD", "REPEATS", *(n for n in os.environ if n.startswith("COURSE_"))):
    os.environ.pop(name, None)
os.environ["ENV_FILE"] = ""


@pytest.fixture
def server(tmp_path):
    """A loopback PubMed and arXiv, in a hurry."""
    from support.loopback import hurried, serve

    running = serve()
    with hurried(tmp_path / "locks"):
        yield running
    running.close()
