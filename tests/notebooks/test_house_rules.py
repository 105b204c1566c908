"""The house rules of the eight notebooks."""

import ast
import json
import re
from itertools import pairwise
from statistics import median

import pytest
from support.notebooks import cells_of, prose_of, section, solutions, source_of

from helpers.core import AMBIENT, STAGES, stage_of
from helpers.core.paths import NOTEBOOKS, ROOT, Folders
from helpers.core.settings import NAMES, load_settings
from helpers.pipeline.stages import artefact_path, code_cells, inputs_of, outputs_of, read_parameters

MACHINE = re.compile(r"/(?:home|Users|root|work|tmp|mnt)/|[A-Z]:\\\\")
LONGEST_SENTENCE = 45  # words
CLOSING = [
    *("## Check", "## The answer", "## Check yourself", "## Exercises"),
    *("## Limits", "## You can now", "## Further reading"),
]
ONE_METHODS_OWN = {
    *("## Four bits frozen, an adapter on top", "## What was added to one matrix"),
    *("## The same again, on other papers", "## The same again, from other seeds"),
    *("## All weights, in float32", "## What it cost, beside the adapter"),
}
DRAWS = re.compile(r"plot_\w+\(")

per_notebook = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def objectives(stage) -> list[str]:
    (found,) = re.findall(r"^\*\*You will\*\* (.*)$", prose_of(stage), re.MULTILINE)
    return [part.strip().rstrip(".") for part in found.split(" · ")]


def tagged(stage, tag) -> list[str]:
    return [source for tags, source in code_cells(stage.notebook) if tag in tags]


def without_imports(source: str) -> str:
    """A cell's lines without those that import from helpers."""
    found = (node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom))
    imports = [node for node in found if node.module.startswith("helpers")]
    left_out = {line for node in imports for line in range(node.lineno, node.end_lineno + 1)}
    return "\n".join(line for n, line in enumerate(source.splitlines(), 1) if n not in left_out)


def test_there_are_eight_and_no_more():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(stage.name for stage in STAGES)


@per_notebook
def test_it_opens_with_a_question_and_what_you_will_do(stage):
    title = source_of(cells_of(stage)[0])
    assert re.match(rf"(\[!\[[^\n]*\n\n)?# {stage.number} · ", title), "first a badge, if any, then: # number · title"
    assert re.search(r"^> .*\?$", title, re.MULTILINE), (
        "below the title the question: a line that begins with > and ends with ?"
    )
    assert 3 <= len(objectives(stage)) <= 5, "**You will** name · three · to five things"
    for part in ("**Needs**", "**Makes**", "**Takes**"):
        assert part in title, f"the first cell lacks {part}"
    for number in stage.needs:
        assert f"[{number}]({STAGES[number - 1].name}.ipynb)" in title, f"stage {number} is needed: link to it"


@per_notebook
def test_its_sections_end_in_the_same_order(stage):
    found = [line for line in re.findall(r"^## .*$", prose_of(stage), re.MULTILINE) if line in CLOSING]
    assert found == CLOSING, f"the last sections are {', '.join(CLOSING)}"
    text = prose_of(stage)
    last = [line for line in text.splitlines() if line.startswith("#")][-1]
    assert last == CLOSING[-1], f"nothing comes after {CLOSING[-1]}"


@per_notebook
def test_what_was_promised_is_what_the_reader_can_now_do(stage):
    promised = objectives(stage)
    now = [
        line.removeprefix("- ").rstrip(".,")
        for line in section(stage, "## You can now").splitlines()
        if line[:2] == "- "
    ]
    assert now == promised, f"the list under ## You can now is that of **You will**: {promised}"


@per_notebook
def test_the_question_is_answered_by_this_run(stage):
    """The cell after ## The answer computes it; its Markdown has no figure."""
    cells = cells_of(stage)
    place = next(n for n, cell in enumerate(cells) if source_of(cell).split("\n")[0] == "## The answer")
    assert not re.search(r"\d", re.sub(r"notebooks? \d( and \d)?", "", source_of(cells[place]))), (
        "figures come from variables"
    )
    assert cells[place + 1]["cell_type"] == "code", "a code cell says the answer"
    assert "receipt" not in cells[place + 1]["metadata"].get("tags", [])


@per_notebook
def test_three_questions_to_check_yourself_with_hidden_answers(stage):
    text = section(stage, "## Check yourself")
    assert len(re.findall(r"^\*\*\d\. ", text, re.MULTILINE)) == 3, "three questions, **1. …**"
    assert text.count("<details><summary>Answer</summary>\n\n") == text.count("\n\n</details>") == 3


@per_notebook
def test_three_exercises_with_solutions(stage):
    text = section(stage, "## Exercises")
    kinds = re.findall(r"^\*\*(One setting|A few lines|Open)\.\*\* ", text, re.MULTILINE)
    assert kinds == ["One setting", "A few lines", "Open"], "**One setting.** **A few lines.** **Open.**"
    assert text.count("<details><summary>Solution</summary>\n\n") == text.count("\n\n</details>") == 3
    for code in solutions(stage):
        compile(code, stage.name, "exec")
    assert solutions(stage), "at least one solution is Python, to be run in the notebook as it stands at its end"


@per_notebook
def test_further_reading_has_references(stage):
    text = section(stage, "## Further reading")
    assert len(re.findall(r"^- .*\(\d{4}\).*\]\(https://", text, re.MULTILINE)) >= 2, (
        "- Authors (year), [title](https://…)"
    )


@per_notebook
def test_predictions_come_before_results(stage):
    """Each stands in the Markdown right above the cell that shows the result."""
    cells = cells_of(stage)
    asked = [n for n, cell in enumerate(cells) if "**Predict:**" in source_of(cell)]
    assert len(asked) >= 2, "ask for two predictions"
    for n in asked:
        assert cells[n + 1]["cell_type"] == "code", source_of(cells[n])
        assert re.search(r"\*\*Predict:\*\* [^\n]*\?", source_of(cells[n])), "a prediction is a question"


@per_notebook
def test_every_picture_is_read(stage):
    """A sentence after it says what would look different if the claim were wrong."""
    cells = cells_of(stage)
    for n, cell in enumerate(cells):
        if cell["cell_type"] == "code" and DRAWS.match(source_of(cell).strip().splitlines()[-1]):
            following = next((source_of(c) for c in cells[n + 1 : n + 3] if c["cell_type"] == "markdown"), "")
            assert re.search(r"\b([Ii]f|[Hh]ad|[Ww]ere|[Ww]ould|[Uu]nless)\b", following), (
                f"after {source_of(cell).strip().splitlines()[-1]!r}: what would be seen if it were not so?"
            )


@per_notebook
def test_it_reads_like_an_essay(stage):
    """The measures of well-kept notebook courses: many words to a line of code, short cells, short sentences."""
    code = [source for tags, source in code_cells(stage.notebook) if not {"setup", "parameters"} & set(tags)]
    lines = [len([line for line in without_imports(source).splitlines() if line.strip()]) for source in code]
    assert median(lines) <= 5
    words = len(re.sub(r"https?:\S+|<[^>]+>", "", prose_of(stage)).split())
    assert 700 <= words <= 2600, f"{words} words: say more, or less"
    assert words / sum(lines) >= 8, "prose carries a notebook"
    kinds = "".join("c" if cell["cell_type"] == "code" else "m" for cell in cells_of(stage))
    assert "cccc" not in kinds, "no more than three code cells in a row"
    for sentence in re.split(
        r"(?<=[.?!:])\s+", re.sub(r"```.*?```|`[^`]*`|\([^)]*\)", "", prose_of(stage), flags=re.DOTALL)
    ):
        assert len(sentence.split()) <= LONGEST_SENTENCE, sentence


@per_notebook
def test_links_lead_somewhere(stage):
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", prose_of(stage)):
        assert (NOTEBOOKS / link).exists(), link


@per_notebook
def test_setup_and_parameters_come_first(stage):
    first, second, *_ = code_cells(stage.notebook)
    assert first[0] == ["setup"] and second[0] == ["parameters"]
    assert first[1] == tagged(STAGES[0], "setup")[0], "byte for byte the same in all eight"


@per_notebook
def test_parameters_are_literals_of_settings_each_with_a_comment(stage):
    (source,) = tagged(stage, "parameters")
    assert all(re.fullmatch(r"[A-Z_]+ = \S.*  # \S.*", line) for line in source.splitlines())
    names = read_parameters(stage.notebook)
    assert {"PROFILE", "RUN"} <= set(names) <= set(NAMES) - set(AMBIENT)
    fixed = {name: value for name, value in names.items() if value is not None}
    assert set(fixed) <= {"WHICH"}, "None inherits; only WHICH is a notebook's own"


@per_notebook
def test_nothing_of_a_run_is_committed(stage):
    notebook = json.loads(stage.notebook.read_text())
    assert not {"widgets", "papermill"} & set(notebook["metadata"])
    assert not MACHINE.search(stage.notebook.read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            assert "papermill" not in cell["metadata"] and "execution" not in cell["metadata"]


@per_notebook
def test_code_cells_are_plain(stage):
    for tags, source in code_cells(stage.notebook):
        assert not re.search(r"^\s*!|raises-exception", source, re.MULTILINE)
        assert {"raises-exception", "nbval-skip"}.isdisjoint(tags)
        if "setup" not in tags:
            tree = ast.parse(source)
            assert not any(isinstance(node, ast.ClassDef | ast.Try) for node in ast.walk(tree)), source


@per_notebook
def test_it_begins_checks_itself_and_ends_with_its_receipt(stage):
    sources = [source for _, source in code_cells(stage.notebook)]
    assert f'begin("{stage.name}", globals())' in sources[2]
    (check,) = tagged(stage, "check")
    assert check.count("assert ") >= 2
    *_, (tags, last) = code_cells(stage.notebook)
    assert tags == ["receipt"] and "stage.finish(" in last


@per_notebook
def test_only_its_own_settings_are_read(stage):
    """A setting that is read but not in the parameters cell would not be part of the stage's key."""
    readable = {*read_parameters(stage.notebook), *AMBIENT}
    for _, source in code_cells(stage.notebook):
        assert set(re.findall(r"settings\.([A-Z_]+)", source)) <= readable


def test_2_5_and_7_differ_in_who_is_examined():
    parameters = [read_parameters(STAGES[n].notebook) for n in (1, 4, 6)]
    assert [p["WHICH"] for p in parameters] == ["base", "qlora", "full"]
    assert all(p | {"WHICH": None} == parameters[0] | {"WHICH": None} for p in parameters)


def shared_code(stage) -> list[str]:
    """The code of the sections that notebooks 4 and 6 have in common."""
    heading, shared = "", []
    for cell in cells_of(stage):
        if cell["cell_type"] == "markdown":
            heading = [heading, *re.findall(r"^## .*$", source_of(cell), re.MULTILINE)][-1]
        elif heading not in ONE_METHODS_OWN and "parameters" not in cell["metadata"].get("tags", []):
            shared.append(without_imports(source_of(cell)).replace(stage.name, "NAME"))
    return shared


def test_4_and_6_differ_only_where_the_model_is_built():
    """The same code cells in the same order, but for one word and the sections that are one method's own."""
    adapter, every_weight = shared_code(STAGES[3]), shared_code(STAGES[5])
    assert [source.replace('"qlora"', '"full"') for source in adapter] == every_weight
    assert len(adapter) >= 15


def test_neighbours_link_to_each_other():
    for stage, following in pairwise(STAGES):
        assert f"]({following.name}.ipynb)" in prose_of(stage), f"{stage.name} leads on"
        assert f"]({stage.name}.ipynb)" in prose_of(following), f"{following.name} leads back"


def test_every_artefact_has_a_place():

    resolved, _ = load_settings(environment={"PROFILE": "smoke", "ENV_FILE": ""})
    for stage in STAGES:
        assert stage_of(stage.number) is stage_of(stage.name) is stage
        for name in (*inputs_of(stage, resolved), *outputs_of(stage, resolved)):
            path = artefact_path(name, resolved, Folders("x"))
            assert path is None or path.is_relative_to(ROOT)
