"""The course where its readers see it: notebooks run in a real JupyterLab, and the pages, in headless Chromium."""

import importlib.resources
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect
from support.chromium import find_chromium
from support.sweeps import times

from helpers.core import STAGES
from helpers.core.paths import ROOT
from helpers.report import pages

pytestmark = [pytest.mark.browser, pytest.mark.after_notebooks]

PATIENCE = 600  # seconds for one notebook; quiet, it takes some twenty
OPENED = STAGES if times(0, 1) else (STAGES[0], STAGES[1], STAGES[7])
NOISE: tuple[str, ...] = ()  # errors that JupyterLab itself writes to the console, by exact text: none so far
TRACEBACK = re.compile(r"Traceback \(most recent call last\)")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = {"executable_path": find_chromium(), "args": ["--no-sandbox", "--disable-gpu"]}
        running = playwright.chromium.launch(**options)
        yield running
        running.close()


@pytest.fixture(scope="module")
def shots() -> Path:
    """Where the screenshots go; it is kept."""
    folder = Path(tempfile.mkdtemp(prefix="course-screenshots-"))
    print(f"\nscreenshots: {folder}")
    return folder


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A copy of the repository and of what the notebooks left in profile smoke; weights are links."""
    place = tmp_path_factory.mktemp("course")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    for shared in ("models/base", "data/raw"):
        (place / shared).symlink_to(ROOT / shared)
    for folder in ("data", "models", "reports"):
        shutil.copytree(ROOT / folder / "smoke", place / folder / "smoke", copy_function=link_weights)
    return place


def link_weights(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        os.symlink(source, target)
    else:
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def lab(course, tmp_path_factory) -> Iterator[str]:
    """JupyterLab on the copy as a new user has it; yields the address of a path in it, to be formatted."""
    home = tmp_path_factory.mktemp("home")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    names = (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTERLAB_SETTINGS_DIR",
        "JUPYTERLAB_WORKSPACES_DIR",
        "IPYTHONDIR",
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "JUPYTER"))}
    environment |= {name: str(home / name.lower()) for name in names}
    environment |= {"PROFILE": "smoke", "RUN": "smoke", "ENV_FILE": ""}
    words = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    words += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={course}"]
    words += [
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    with (home / "log").open("w+") as log:
        server = subprocess.Popen(
            words, cwd=course, env=environment | {"JUPYTER_TOKEN": token}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            until = time.monotonic() + 120
            while socket.socket().connect_ex(("127.0.0.1", port)):
                if server.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"JupyterLab did not start: {(home / 'log').read_text()[-2000:]}", pytrace=False)
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}"
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


CELLS = """() => jupyterapp.shell.currentWidget.context.model.toJSON().cells"""
READY = """() => {
  const widget = window.jupyterapp?.shell.currentWidget;
  const kernel = widget?.sessionContext?.session?.kernel;
  return widget?.context?.isReady && kernel?.connectionStatus == 'connected' && kernel.status == 'idle';
}"""
DONE = """() => {
  const widget = jupyterapp.shell.currentWidget, cells = widget.context.model.toJSON().cells;
  const code = cells.filter(cell => cell.cell_type == 'code' && cell.source.length);
  const failed = code.some(cell => cell.outputs.some(output => output.output_type == 'error'));
  const idle = widget.sessionContext.session.kernel.status == 'idle';
  return idle && (failed || code.every(cell => cell.execution_count));
}"""
SHOW = """number => {
  const content = jupyterapp.shell.currentWidget.content;
  content.activeCellIndex = number;
  return content.scrollToItem(number, 'start').catch(() => null);
}"""


@pytest.fixture(scope="module")
def opened(browser, lab, course, shots):
    """`opened(stage)`: that notebook in JupyterLab with all its cells run; (page, cells, errors of the console)."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    kept = {}

    def open_one(stage):
        if stage not in kept:
            page, errors = context.new_page(), []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
            page.goto(lab.format(f"notebooks/{stage.name}.ipynb") + "&reset")
            page.wait_for_function(READY, timeout=120_000)
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_text("Run All Cells", exact=True).click()
            page.wait_for_function(DONE, timeout=1000 * PATIENCE, polling=500)
            kept[stage] = page, page.evaluate(CELLS), errors
            photograph(page, shots / f"lab_{stage.number}")
        return kept[stage]

    yield open_one
    context.close()


def photograph(page, path: Path) -> None:
    """Screenshots of an open notebook, cell by cell of those that show something."""
    cells = page.evaluate(CELLS)
    for number in range(0, len(cells), 4):
        page.evaluate(SHOW, number)
        page.wait_for_timeout(250)
        page.screenshot(path=f"{path}_{number:02}.png")


def text_of(output: dict) -> str:
    said = output.get("text", output.get("data", {}).get("text/plain", ""))
    return said if isinstance(said, str) else "".join(said)


@pytest.mark.parametrize("stage", OPENED, ids=lambda stage: stage.name)
def test_a_notebook_runs_in_jupyterlab(opened, stage):
    _, cells, errors = opened(stage)
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    wrong = [f"{output['ename']}: {output['evalue']}" for output in outputs if output["output_type"] == "error"]
    assert not wrong, wrong
    assert not [text_of(output) for output in outputs if TRACEBACK.search(text_of(output))]
    assert "done in" in str(cells) or "**done**" in str(cells), "the receipt was not written"
    assert [error for error in errors if error not in NOISE] == []


def cell_with(cells: list[dict], word: str) -> int:
    return next(n for n, cell in enumerate(cells) if cell["cell_type"] == "code" and word in cell["source"])


def test_a_reader_opens_an_answer(opened, shots):
    page, cells, _ = opened(STAGES[0])
    heading = "## Check yourself"
    page.evaluate(SHOW, next(n for n, cell in enumerate(cells) if cell["source"].startswith(heading)))
    answer = page.locator(".jp-MarkdownCell details").first
    assert answer.get_attribute("open") is None
    answer.locator("summary").click()
    assert answer.get_attribute("open") is not None
    page.screenshot(path=shots / "lab_1_answer.png")


def test_a_reader_asks_the_model(opened, shots):
    page, cells, errors = opened(STAGES[1])
    page.evaluate(SHOW, cell_with(cells, "question_box"))
    typed = page.get_by_placeholder("your question")
    typed.fill("What is lupus?")
    page.get_by_role("button", name="Ask", exact=True).click()
    cell = page.locator(".jp-CodeCell", has=typed)
    answer = cell.get_by_role("table")
    answer.wait_for(timeout=120_000)
    page.screenshot(path=shots / "lab_2_asked.png")
    assert "What is lupus?" in cell.inner_text() and len(answer.inner_text().split()) > 5
    assert [error for error in errors if error not in NOISE] == []


def test_a_reader_browses_the_answers(opened, shots):
    page, cells, errors = opened(STAGES[7])
    page.evaluate(SHOW, cell_with(cells, "answer_browser"))
    cell = page.locator(".jp-CodeCell", has=page.locator("select")).first
    menu, table = cell.locator("select"), cell.get_by_role("table").first
    menu.wait_for(timeout=30_000)
    before = table.text_content()
    menu.select_option(index=2)
    expect(table).not_to_have_text(before, timeout=30_000)
    page.screenshot(path=shots / "lab_8_browsed.png")
    assert [error for error in errors if error not in NOISE] == []


# the pages


@pytest.fixture(scope="module")
def rendered(opened, course, tmp_path_factory) -> Path:
    """The index, the pages of what JupyterLab ran, and the others as far as there are reports of them."""
    folder, ran = tmp_path_factory.mktemp("pages"), course / "reports" / "smoke"
    for stage in OPENED:
        page, *_ = opened(stage)
        page.evaluate("() => jupyterapp.shell.currentWidget.context.save()")
    for stage in STAGES:
        report = ran / f"{stage.name}.ipynb"
        source = report if report.exists() and stage not in OPENED else course / "notebooks" / report.name
        pages.render_page(source, folder / f"{stage.name}.html", stage)
    shutil.copy(ran / "index.html", folder / "index.html")
    return folder


AXE = "async () => (await axe.run(document, {resultTypes: ['violations']})).violations"


def serious(page) -> list[str]:
    """What axe finds serious or critical, each with its first place."""
    page.evaluate(importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8"))
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]} (of {len(one['nodes'])})"
        for one in page.evaluate(AXE)
        if one["impact"] in ("serious", "critical")
    ]


def test_axe_sees_what_is_wrong(browser):
    page = browser.new_page()
    page.set_content("<main><img src='data:,'><p style='color: #ccc; background: #fff'>pale words</p></main>")
    found = " ".join(serious(page))
    assert "image-alt" in found and "color-contrast" in found
    page.close()


@pytest.mark.parametrize("name", ["index", *(stage.name for stage in STAGES)])
def test_a_page_is_accessible(browser, rendered, shots, name):
    """No serious or critical finding of axe, light and wide, dark and narrow; nothing is wider than a phone."""
    found = []
    for scheme, width in (("light", 1280), ("dark", 390)):
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True, offline=True
        )
        page, errors, asked = context.new_page(), [], []
        page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto((rendered / f"{name}.html").as_uri())
        assert not [url for url in asked if not url.startswith(("file:", "data:"))] and not errors
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"too wide for {width} pixels"
        found += [f"{scheme} {width}: {one}" for one in serious(page)]
        page.screenshot(path=shots / f"page_{name}_{scheme}_{width}.png", full_page=True)
        context.close()
    assert not found, "\n".join(found)


def test_a_printed_page_shows_what_is_folded(browser, rendered, shots):
    name = STAGES[0].name
    page = browser.new_page()
    page.goto((rendered / f"{name}.html").as_uri())
    line = page.locator(".input_area").first
    assert not line.is_visible()
    page.emulate_media(media="print")
    assert line.bounding_box()["height"] > 10
    page.pdf(path=shots / f"{name}.pdf")
    page.close()
    assert (rendered / f"{name}.html").stat().st_size < 3_000_000
