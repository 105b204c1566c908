"""One small training of the embedded model in a process of its own: planned first, then measured, said as JSON."""

import json
import random
import resource
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import psutil
from datasets import Dataset
from peft import LoraConfig

from helpers.core.hardware import compute_dtype
from helpers.models import load
from helpers.training import attention, config, loop, planner
from helpers.training import model as trainable
from support.tiny import BASE, embedded


def main(method, lengths, batch_size, accumulation=1, checkpointing=False, dtype="auto", updates=2, rank=16):
    """Rows of these `lengths` all graded, to every update; {"planned", "measured"} in bytes, and what they are of."""
    rank = rank if method == "qlora" else 0
    recipe = config.TrainConfig(
        *(method, 1, batch_size, accumulation, 1e-4, 10**9, max(lengths), 1, compute_dtype(dtype), checkpointing)
    )
    groups = config.micro_batches_of(list(range(len(lengths))), lengths, recipe)
    largest = max(([lengths[row] for row in group] for group in groups), key=sum)
    tokenizer = load.load_tokenizer(embedded())
    plan = planner.plan_training(embedded(), recipe, rank, lengths=largest, graded=sum(largest) - len(largest))
    choose = random.Random(1)
    rows = [
        {"input_ids": choose.choices(range(9, 40_000), k=n), "answer_from": 1, "paper_id": "1", "number": number}
        for number, n in enumerate(lengths * updates)
    ]
    how = attention.training_attention("auto", recipe.dtype)
    if method == "full":
        model = load.load_model(embedded(), "float32", how).requires_grad_(True)
    else:
        model = load.dequantise(load.load_model(embedded(), "nf4", how, recipe.dtype))
        model = trainable.add_adapter(
            model, LoraConfig(task_type="CAUSAL_LM", r=rank, target_modules="all-linear"), 1
        )
    reading = loop.TrainData(Dataset.from_list(rows), held_out=Dataset.from_list(rows[:1]))
    with tempfile.TemporaryDirectory() as place:
        folders = {"out": Path(place) / "out", "work": Path(place) / "work"}
        history = loop.train_model(model, reading, recipe, tokenizer, identity="measured", base=BASE, **folders)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if psutil.MACOS else 1024)
    speeds = {"tokens_per_second": history.tokens / history.seconds, "foretold": plan.pace.tokens_per_second}
    return {"planned": plan.total, "measured": peak, "parts": plan.parts} | speeds


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        result = main(**json.loads(sys.argv[1]))
    print(json.dumps(result))
