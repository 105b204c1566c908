"""The course's own package. What is set here must be set before torch and the tokenizers load."""

import os

# Threads that wait for each other sleep instead of spinning: on two cores that something else uses too, that made
# generation several times faster.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
