"""Where Chromium is, for the tests that open pages in it."""

import shutil
from functools import cache
from pathlib import Path

NEEDED = "COURSE_NEEDS_BROWSER"  # 1: without Chromium these tests fail; they are skipped otherwise
INSTALL = "apt-get install chromium (Debian), or python -m playwright install --with-deps chromium"


@cache
def find_chromium() -> str:
    """Playwright's own Chromium, or the system's; "" if there is neither."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    names = ("chromium", "chromium-browser", "google-chrome")
    return own if Path(own).exists() else next(filter(None, map(shutil.which, names)), "")
