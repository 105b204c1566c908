"""The course's own package. What is set here must be set before torch and the tokenizers load."""

import logging
import os
import warnings

# Threads that wait for each other spin for microseconds, then sleep. Spinning for long, as OpenMP does by itself,
# made generation up to ten times slower whenever something else used the two cores.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

# bitsandbytes would like a package with faster kernels; peft asks transformers by a name that will go.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", r"`(is_)?gradient_checkpointing(_enable)?` is deprecated", FutureWarning)
