"""The user's own settings do not reach the tests, and those that need Chromium run where it is."""

import os

import pytest
from support.chromium import INSTALL, NEEDED, find_chromium

from helpers.core.settings import NAMES

ours = (name for name in os.environ if name.startswith("COURSE_") and name != NEEDED)
for name in (*NAMES, "STAGES", "FORCE", "METHOD", "REPEATS", *list(ours)):
    os.environ.pop(name, None)
os.environ["ENV_FILE"] = ""


def pytest_runtest_setup(item):
    if item.get_closest_marker("browser") and not find_chromium():
        refuse = pytest.fail if os.environ.get(NEEDED) == "1" else pytest.skip
        refuse(f"there is no Chromium here: {INSTALL}")


@pytest.fixture
def server(tmp_path):
    """A loopback PubMed and arXiv, in a hurry."""
    from support.loopback import hurried, serve

    running = serve()
    with hurried(tmp_path / "locks"):
        yield running
    running.close()
