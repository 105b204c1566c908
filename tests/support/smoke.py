"""Loaded by pytest -p support.smoke: the notebooks run in profile smoke, and nothing of the user's leaks in.

Every secret is set to one that is searched for afterwards.
"""

import os

from helpers.core.settings import NAMES
from support.canaries import CANARIES
from support.chromium import NEEDED

ours = (name for name in os.environ if name.startswith("COURSE_") and name != NEEDED)
for name in (*NAMES, "STAGES", "FORCE", *list(ours)):
    os.environ.pop(name, None)
os.environ.update(PROFILE="smoke", RUN="smoke", ENV_FILE="", **CANARIES)
