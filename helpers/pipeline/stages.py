"""What each stage reads and leaves behind, and the parameters of its notebook."""

import ast
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path, PurePosixPath

from helpers.core import (
    AMBIENT,
    BENCHMARK,
    EXAMS,
    GENERAL,
    METHOD_STAGES,
    SECRETS,
    CourseError,
    Folders,
    Settings,
    Stage,
    base_model_folder,
    check_names,
    read_json,
    relative_path,
    stage_of,
    topic_file,
    trainings_of,
    variants_asked,
    variants_measured,
)

EXAM_ROOMS = ("core/experiment", "models", "evaluation", "grading/questions", "dataset/seen_rows")
ROOMS = {  # the code that a stage's result depends on: rooms of helpers, or single files in them
    1: ("models",),
    2: EXAM_ROOMS,
    3: ("papers", "text", "dataset"),
    4: ("models", "training", "dataset/general_text"),
    5: EXAM_ROOMS,
    6: ("models", "training", "dataset/general_text"),
    7: EXAM_ROOMS,
    8: ("core/experiment", "evaluation", "grading", "report"),
}
UNKEYED = ("PROFILE", "RUN")  # they choose values and folders, which are keyed themselves
FOLDERS = ("base", "model", "cards")  # the artefacts that are folders of files

TRAINS = {notebook: method for method, notebook in METHOD_STAGES.items()}
FIXED_INPUTS = {  # the artefacts that a stage reads in every run
    1: (),
    2: ("base", "questions", "guard", "cloze"),
    3: ("topic", "questions", "ids", "exclude", "archive"),
    4: ("base", "replay", "guard", "held_out", "questions", "probes"),
    5: ("base", "questions", "guard", "cloze", "held_out", "probes", "papers", "rows", "placebo_data"),
    6: ("base", "replay", "guard", "held_out", "questions", "probes"),
    7: ("base", "questions", "guard", "cloze", "held_out", "probes", "rows", "placebo_data"),
    8: ("questions", "probes", "rows", "topic", "control"),
}
FIXED_OUTPUTS = {
    1: ("base",),
    3: ("papers", "dropped", "training_data", "placebo_data", "held_out", "probes"),
    8: ("scores", "index", "cards"),
}


def parameters_of(stage: Stage) -> dict[str, object]:
    """The names and literal values of the notebook's parameters cell."""
    return read_parameters(stage.notebook)


def knobs_of(stage: Stage) -> tuple[str, ...]:
    """The settings this stage may read, and that its key is made of."""
    return tuple(parameters_of(stage))


def inputs_of(stage: Stage, settings: Settings) -> tuple[str, ...]:
    """The names of all artefacts that a stage reads under these settings."""
    fixed = FIXED_INPUTS[stage.number]
    if stage.number in TRAINS:
        return (*fixed, *dict.fromkeys(arm.rows for arm in trainings_of(TRAINS[stage.number], settings)))
    if stage.number in (5, 7):
        return (*fixed, *models_left(EXAMS[stage.number], settings))
    if stage.number == 8:
        return (*fixed, *chain.from_iterable(outputs_of(stage_of(n), settings) for n in EXAMS))
    return fixed


def outputs_of(stage: Stage, settings: Settings) -> tuple[str, ...]:
    """The names of all artefacts that a stage leaves behind under these settings."""
    if stage.number in TRAINS:
        return models_left(TRAINS[stage.number], settings)
    if stage.number in EXAMS:
        which = EXAMS[stage.number]
        answers = (f"results_{row}" for row in variants_asked(which, settings))
        return (*answers, *(f"items_{row}" for row in variants_measured(which, settings)))
    return FIXED_OUTPUTS[stage.number]


def models_left(method: str, settings: Settings) -> tuple[str, ...]:
    return tuple(f"model_{arm.row}" for arm in trainings_of(method, settings))


def artefact_path(name: str, settings: Settings, folders: Folders) -> Path | None:
    """Where the named artefact of a run lies; None for one that these settings do not use."""
    kind, _, row = name.partition("_")
    of_a_row = {"results": folders.results, "items": folders.items_of, "model": folders.model}
    if kind in of_a_row:
        return of_a_row[kind](row)
    places = {
        "base": base_model_folder(settings.MODEL_NAME),
        "questions": settings.QUESTIONS_FILE or BENCHMARK / "questions.json",
        "topic": topic_file(settings.TOPIC),
        "ids": settings.PAPERS_IDS,
        "exclude": settings.PAPERS_EXCLUDE,
        "archive": settings.PAPERS_ARCHIVE,
        "rows": settings.TRAINING_DATA or folders.training_data,
        "replay": GENERAL / "replay.txt" if settings.REPLAY_RATIO else None,
        "guard": GENERAL / "guard.txt",
        "cloze": GENERAL / "cloze.json",
        "control": folders.control,
    }
    return places[name] if name in places else getattr(folders, name)


def is_left_by(stage: Stage, settings: Settings, folders: Folders, name: str) -> bool:
    """Whether `name`, a path as receipts write it, is of what this stage of this run leaves behind.

    Receipts may come from others: a path that leaves its folder, or another run's, is none.
    """
    path = PurePosixPath(name)
    if path.as_posix() != name or ".." in path.parts or not name.isprintable():
        return False
    for artefact in outputs_of(stage, settings):
        place = PurePosixPath(relative_path(artefact_path(artefact, settings, folders)))
        if place in path.parents if artefact.partition("_")[0] in FOLDERS else path == place:
            return True
    return False


@cache
def notebook_json(path: Path) -> dict:
    try:
        return read_json(path, dict)
    except CourseError as error:
        raise CourseError(error.problem, "restore it: git checkout notebooks") from error


def code_cells(path: Path) -> Iterator[tuple[list[str], str]]:
    """(tags, source) of every code cell of a notebook."""
    for cell in notebook_json(path)["cells"]:
        if cell["cell_type"] == "code":
            yield cell["metadata"].get("tags", []), "".join(cell["source"])


def read_parameters(path: Path) -> dict[str, object]:
    """{name: literal} of the cell tagged `parameters`.

    Raises CourseError for a value that is not a literal or a name that is not a setting.
    """
    source = next((source for tags, source in code_cells(path) if "parameters" in tags), "")
    found = {}
    for statement in ast.parse(source).body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        try:
            found[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError) as error:
            raise CourseError(
                f"{path.name}: the parameters cell has a line that is no plain value: {ast.unparse(statement)}",
                "write NAME = a number, a text or None",
            ) from error
    check_names(found, f"the parameters cell of {path.name}")
    if ambient := sorted(set(found) & {*AMBIENT, *SECRETS}):
        raise CourseError(
            f"{ambient[0]} stands in the parameters cell of {path.name}, where reports would show it",
            "take it out of the notebook and put it into .env or the environment",
            "a-setting-is-refused",
        )
    return found
