"""What one of several processes runs for test_distributed.py: a training of the tiny model, perhaps cut short."""

import json
import os
import sys
from pathlib import Path

from helpers.training import loop
from helpers.training.distributed import Ranks
from support import tiny


def main(method, folder, place, end_after):
    def end(history, total):
        if end_after and len(history.updates) == end_after:
            os._exit(3)

    tiny.LORA["lora_dropout"] = 0.0  # each process drops out for itself
    loop.SECONDS_BETWEEN_CHECKPOINTS = -1
    history = tiny.fit(method, folder, place, show=end, epochs=4)
    ranks = Ranks()
    if ranks.main:
        (place / "history.json").write_text(json.dumps(history.lasting()))
    ranks.part()  # a process that just ends may abort while another still speaks to it


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
