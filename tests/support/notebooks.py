"""The notebooks as text: their cells, prose, sections and solutions."""

import json
import re


def cells_of(stage) -> list[dict]:
    return json.loads(stage.notebook.read_text())["cells"]


def source_of(cell) -> str:
    return "".join(cell["source"])


def prose_of(stage) -> str:
    return "\n\n".join(source_of(cell) for cell in cells_of(stage) if cell["cell_type"] == "markdown")


def section(stage, heading) -> str:
    """The text under a heading, up to the next one."""
    return prose_of(stage).split(f"{heading}\n", 1)[1].split("\n## ", 1)[0]


def solutions(stage) -> list[str]:
    """The Python of the exercises' solutions."""
    return re.findall(r"^```python\n(.*?)^```", section(stage, "## Exercises"), re.MULTILINE | re.DOTALL)
