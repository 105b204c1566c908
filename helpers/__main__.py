"""`python -m helpers COMMAND [NAME=value …]`: what the Makefile calls, and what runs where there is no make."""

import sys
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
    if not words or words[0] not in COMMANDS:
        listed = "\n".join(f"  {name:<10}{about}" for name, (_, about) in COMMANDS.items())
        print(f"python -m helpers COMMAND [NAME=value …]\n\n{listed}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[words[0]]
    return import_module(module).main(words[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
