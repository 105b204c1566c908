"""The course's own package. What is set here must be set before torch and the tokenizers load."""

import logging
import os
import warnings

# Threads that wait for each other sleep instead of spinning: on two cores that something else uses too, that made
# generation several times faster.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

# bitsandbytes would like a package with faster kernels; peft asks transformers by a name that will go.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
