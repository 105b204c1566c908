"""What a command line asks of the pipeline: settings, which stages, and which of them to redo."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from helpers.core import STAGES, CourseError, Settings, load_settings, parse_words
from helpers.pipeline.stages import parameters_of

OPTIONS = ("STAGES", "FORCE")  # what the command line takes besides settings
ALL = tuple(stage.number for stage in STAGES)


@dataclass(frozen=True)
class Order:
    """What the command line asks for: values of settings, the stages to run and those to redo."""

    values: Mapping[str, str]
    stages: tuple[int, ...]
    forced: tuple[int, ...]


def read_order(words: Iterable[str], environment: Mapping[str, str]) -> Order:
    """The order in `NAME=value` words; STAGES and FORCE may stand in the environment too.

    Raises CourseError for an unknown name, with the nearest one, and for a stage that does not exist.
    """
    values = parse_words(words, "make pipeline PROFILE=cpu", OPTIONS)
    if "WHICH" in values:
        raise CourseError(
            "WHICH belongs to the notebooks: 2 asks the base model, 5 the adapter, 7 the fully tuned model",
            "choose notebooks instead: make pipeline STAGES=5",
        )
    options = {name: values.pop(name, environment.get(name, "")) for name in OPTIONS}
    stages = parse_stage_numbers("STAGES", options["STAGES"]) or ALL
    forced = stages if options["FORCE"] == "all" else parse_stage_numbers("FORCE", options["FORCE"])
    if left_out := set(forced) - set(stages):
        raise CourseError(
            f"FORCE={options['FORCE']} names stage {min(left_out)}, which STAGES={options['STAGES']} leaves out",
            "name it in both",
        )
    return Order(values, stages, forced)


def parse_stage_numbers(name: str, text: str) -> tuple[int, ...]:
    """The stage numbers in "3-5" or "1,4", sorted; () for "".

    Raises CourseError naming `name` for anything else.
    """
    found = set()
    for part in filter(None, text.replace(" ", "").split(",")):
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            raise CourseError(f"{name}={text!r} has no stage numbers", f"write {name}=4, {name}=1,4 or {name}=3-5")
        first, last = int(first), int(last or first)
        if not ALL[0] <= first <= last <= ALL[-1]:
            raise CourseError(f"{name}={text!r}: there is no stage {part}", f"stages are {ALL[0]} to {ALL[-1]}")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def resolve_settings(order: Order) -> dict[int, Settings]:
    """The settings of every stage, selected or not, checked before anything runs.

    Raises CourseError for a wrong value, and if the notebooks do not agree on the RUN.
    """
    resolved = {}
    for stage in STAGES:
        resolved[stage.number], _ = load_settings(parameters_of(stage), command_line=order.values)
    if len(runs := {s.RUN for s in resolved.values()}) > 1:
        raise CourseError(f"the notebooks name different runs: {sorted(runs)}", "set RUN to None in all of them")
    return resolved
