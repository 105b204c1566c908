"""Training in several processes: `accelerate launch --config_file … -m helpers train STAGES=4`.

Same stages, settings and results as the notebooks: notebook 4 or 6, run afterwards, finds the training done.
"""

import os
import sys
from collections.abc import Iterable
from contextlib import nullcontext

from helpers.core import CourseError, Run, stage_of
from helpers.evaluation import preregister
from helpers.pipeline.notebook import Execution
from helpers.pipeline.order import read_order
from helpers.pipeline.runner import hold_run_lock
from helpers.pipeline.session import begin
from helpers.pipeline.stages import parameters_of
from helpers.training import (
    Ranks,
    adapter_config,
    add_adapter,
    load_frozen,
    load_trainable,
    planned_rows,
    prepare_finetuning,
    run_finetuning,
)

METHODS = {(4,): "qlora", (6,): "full"}


def main(words: list[str]) -> int:
    """Train as the command line says; the process's exit status. An error of the user's ends in two lines."""
    try:
        train(words)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(stop, file=sys.stderr)
        return 130
    return 0


def train(words: Iterable[str]) -> None:
    """Train as stage 4 or 6 would with these `NAME=value` words.

    Raises CourseError for any other stage, and where the training is declined.
    """
    asked = read_order(words, os.environ)
    if asked.stages not in METHODS:
        raise CourseError("one training at a time", "say STAGES=4 for the adapter or STAGES=6 for all weights")
    ranks = Ranks()  # gives each process a GPU of its own, before anything is loaded
    stage = stage_of(asked.stages[0])
    execution = Execution(force=bool(asked.forced), command_line=dict(asked.values))
    opened = begin(stage.name, parameters_of(stage), execution)
    with hold_run_lock(opened.folders) if ranks.main else nullcontext():
        train_model(opened.run, METHODS[asked.stages], ranks)


def train_model(run: Run, method: str, ranks: Ranks) -> None:
    job = prepare_finetuning(run, method)
    if job.declined:
        raise CourseError(
            job.declined,
            "several GPUs share the weights among them: say FULL_FINETUNE=on",
            "full-fine-tuning-is-skipped",
        )
    if method == "full":
        model = load_trainable(job)
    else:
        knobs = job.run.settings
        model = add_adapter(load_frozen(job), adapter_config(knobs), knobs.SEED)
    run_finetuning(job, model, declared=preregister(job.run, planned_rows(job))["hash"])
    ranks.part()
