"""A repository in miniature, eight toy notebooks, that the real runner works on."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat

from helpers.core import STAGES

SETUP = """import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "helpers").is_dir())))"""
PARAMETERS = """SEED = None
MAX_PAPERS = None"""
BEGIN = """from helpers.pipeline import begin
from helpers.pipeline import artefact_path
from helpers.pipeline.stages import FOLDERS, outputs_of

stage = begin("{name}", globals())"""
WORK = """for name in outputs_of(stage.stage, stage.resolved):
    path = artefact_path(name, stage.resolved, stage.folders)
    path = path / "file" if name.partition("_")[0] in FOLDERS else path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{name} {stage.settings.MAX_PAPERS if name == 'papers' else ''}")"""
WORK_CELL = 4
LINE = re.compile(r"^stage (\d) · .*? · (done|skipped|running|failed|stopped|not needed)", re.MULTILINE)


class Tree:
    """A repository in miniature that the real runner works on."""

    def __init__(self, root: Path):
        self.root = root
        self.reports = root / "reports"

    def notebook(self, number: int) -> Path:
        return self.root / "notebooks" / f"{STAGES[number - 1].name}.ipynb"

    def write(self, number: int, work: str = WORK, parameters: str | None = None) -> None:
        """A stage's notebook; only 3 reads MAX_PAPERS, and only into `papers`, which only 5 reads."""
        name = STAGES[number - 1].name
        parameters = parameters or (PARAMETERS if number == 3 else PARAMETERS.splitlines()[0])
        cells = [nbformat.v4.new_markdown_cell(f"# {number} · toy $x^2$")]
        for tag, source in (
            ("setup", SETUP),
            ("parameters", parameters),
            ("begin", BEGIN.format(name=name)),
            ("work", work),
            ("receipt", "stage.finish()"),
        ):
            cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": [tag]}))
        nbformat.write(nbformat.v4.new_notebook(cells=cells), self.notebook(number))

    def start(self, *words: str, python: tuple[str, ...] = (), **environment: str) -> subprocess.Popen:
        environment = {**os.environ, "PROFILE": "smoke", **environment}
        return subprocess.Popen(
            [sys.executable, *python, "-m", "helpers", "pipeline", *words],
            cwd=self.root,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *words: str, **more: object) -> "Outcome":
        process = self.start(*words, **more)
        text, _ = process.communicate(timeout=900)
        return Outcome(process.returncode, text)

    def receipt(self, number: int) -> dict:
        return json.loads((self.reports / "receipts" / f"{STAGES[number - 1].name}.json").read_text())

    def wait_for(self, text: str) -> None:
        """Until the running notebook has said `text` through the progress file."""
        said = self.reports / ".progress.json"
        for _ in range(1200):
            if said.exists() and text in said.read_text():
                return
            time.sleep(0.1)
        raise AssertionError(f"nothing said {text!r}")


class Outcome:
    """What a runner left: its exit status, its text, and {stage: last state}."""

    def __init__(self, status: int, text: str):
        self.status, self.text = status, text
        self.states = {int(number): state for number, state in LINE.findall(text)}
        self.ran = {number for number, state in self.states.items() if state == "done"}
