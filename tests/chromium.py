"""Pages in Chromium, driven by playwright: fixtures for tests that open one, and pictures of them."""

import os
import re
import shutil
from pathlib import Path

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SHOTS = os.environ.get("TEXTGEN_SHOTS")
"""A folder for pictures of the pages, if they are wanted: docs/page.png is one of them."""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here.")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser):
    """Opens a page: the page, and what its console and its network saw."""
    contexts = []

    def open_page(url, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page, seen = context.new_page(), {"errors": [], "hosts": set()}
        page.on("console", lambda message: seen["errors"].append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: seen["errors"].append(str(error)))
        page.on("request", lambda request: seen["hosts"].add(re.sub(r"^\w+://([^/]+).*", r"\1", request.url)))
        page.goto(url)
        return page, seen

    yield open_page
    for context in contexts:
        context.close()


def shot(page, name):
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))
