"""Loaded by `make test` (pytest -p smoke): the notebooks run in profile smoke, and nothing of the user's leaks in.

Every secret is set to one that is searched for afterwards.
"""

import os

from helpers.core.settings import NAMES
from support.canaries import CANARIES

for name in (*NAMES, "STAGES", "FORCE", *(n for n in os.environ if n.startswith("COURSE_"))):
    os.environ.pop(name, None)
os.environ.update(PROFILE="smoke", RUN="smoke", ENV_FILE="", **CANARIES)
