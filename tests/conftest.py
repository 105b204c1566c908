"""The user's own settings do not reach the tests."""

import os

from helpers.settings import NAMES

for name in (*NAMES, "STAGES", "FORCE", "REPEATS", *(n for n in os.environ if n.startswith("COURSE_"))):
    os.environ.pop(name, None)
os.environ["ENV_FILE"] = ""
