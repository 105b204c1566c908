"""`python -m helpers COMMAND [NAME=value …]`: what the Makefile calls, and what runs where there is no make."""

import os
import sys
from collections.abc import Iterable
from importlib import import_module

COMMANDS = {
    "pipeline": ("helpers.pipeline.runner", "run every notebook that is not done"),
    "control": ("helpers.control.control", "the positive control: teach invented facts and ask for them"),
    "serve": ("helpers.serving.serve", "answer questions over HTTP"),
    "export": ("helpers.sharing.export", "write a folder ready to share"),
    "bench": ("helpers.bench.bench", "time training, answers and log-likelihoods"),
    "train": ("helpers.pipeline.launch", "one training in several processes, under accelerate launch"),
    "badges": ("helpers.pipeline.badges", "write the repository's address into the notebooks"),
}


def main(words: list[str]) -> int:
    """Hand the words over to the command that the first of them names; the process's exit status."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # where a terminal has ASCII only, an arrow is spelled out
    if not words or words[0] not in COMMANDS:
        listed = "\n".join(f"  {name:<10}{about}" for name, (_, about) in COMMANDS.items())
        print(f"python -m helpers COMMAND [NAME=value …]\n\n{listed}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[words[0]]
    return import_module(module).main(take_values(words[1:]))


def take_values(words: Iterable[str]) -> list[str]:
    """The words with NAME=value in place of -eNAME, the value being the environment variable's.

    The Makefile hands values over so: whatever stands in them, no shell and no make reads it.
    """
    return [f"{word[2:]}={os.environ.get(word[2:], '')}" if word.startswith("-e") else word for word in words]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
