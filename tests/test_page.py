"""The page for co-writing, driven in Chromium as a person would: by the keyboard, in the dark, and on a phone."""

import os
import re
import shutil
from pathlib import Path

import pytest
from test_serving import served

import textgen
from textgen.serve import create_app
from textgen.serve.page import FILE, headers

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
TEXT = "The kitchen was warm, and the ducks came in. The hen sat by the fire, and the rain fell on the roof.\n" * 60
SHOTS = os.environ.get("TEXTGEN_SHOTS")
"""A folder for pictures of the page, if they are wanted: docs/page.png is one of them."""


def test_the_page_loads_nothing_and_runs_only_its_own_script():
    page = FILE.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=|@import|url\(|\son\w+\s*=\s*["']|style\s*=\s*["']|https?:""", page)
    policy = headers()["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    (root / "notes.txt").write_text(TEXT)
    small = {"hidden_size": 48, "max_steps": 150, "threads": 1, "sample_steps": 0, "tokenizer": "bpe", "seed": 1}
    return textgen.train(root / "notes.txt", vocab_size=330, output_dir=str(root / "run"), **small)


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
def opened(browser, folder):
    """Opens the page of a server of its own: the page, and what its console and its network saw."""
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


def suggestion(page, before=None):
    """Wait for a suggestion that has been written to its end."""
    page.wait_for_function(
        "(before) => { const ghost = document.querySelector('.ghost');"
        " return ghost && ghost.textContent !== before && document.querySelector('#stop').disabled; }",
        arg=before,
        timeout=20_000,
    )
    return page.text_content(".ghost")


def text_of(page):
    return page.input_value("#text")


@pytest.mark.slow
def test_a_text_is_written_with_suggestions(opened, folder):
    app = create_app(folder)
    with served(app) as client:
        page, seen = opened(str(client.base_url))
        page.click("#text")
        page.keyboard.type("The kitch")
        ghost = suggestion(page)
        assert ghost.startswith("en"), "an unfinished word is finished"
        shot(page, "page-suggestion")
        page.keyboard.press("Tab")
        written = text_of(page)
        assert written == "The kitch" + ghost
        second = suggestion(page)
        page.keyboard.press("Alt+ArrowRight")
        assert text_of(page) == written + re.match(r"^\s*\S+|^\s+", second)[0]
        page.keyboard.press("Control+z")
        page.keyboard.press("Control+z")
        assert text_of(page) == "The kitch", "undo goes back by what was accepted"
        assert suggestion(page).startswith("en")
        page.keyboard.press("Escape")
        assert page.query_selector(".ghost") is None
        page.keyboard.type("en ")
        suggestion(page)
        page.keyboard.press("Alt+ArrowDown")
        page.wait_for_selector("#choices:not([hidden])")
        assert 1 <= len(page.query_selector_all("#choices li")) <= 5
        shot(page, "page-alternatives")
        page.keyboard.press("ArrowDown")
        chosen = page.get_attribute("#choices li[aria-selected=true]", "data-text")
        page.keyboard.press("Enter")
        assert text_of(page) == "The kitchen " + chosen
        page.keyboard.type(" xylophone and ")
        suggestion(page)
        assert page.query_selector_all("#mirror .s3, #mirror .s4"), "surprising words are shaded"
        page.keyboard.press("Alt+ArrowUp")
        page.wait_for_selector("#token:not([hidden])")
        shot(page, "page")
        assert "bits" in page.text_content("#token")
        page.hover("#mirror [data-span='1']", force=True)
        assert "bits" in page.text_content("#token")
        kept = text_of(page)
        page.reload()
        assert text_of(page) == kept, "a reload keeps the text"
        assert suggestion(page)
        assert seen["errors"] == [] and seen["hosts"] == {client.base_url.netloc.decode()}


@pytest.mark.slow
def test_settings_are_used_and_kept(opened, folder):
    with served(create_app(folder)) as client:
        page, seen = opened(str(client.base_url), color_scheme="dark", viewport={"width": 360, "height": 740})
        sent = []
        page.on("request", lambda request: sent.append(request.post_data_json) if request.post_data else None)
        page.click("summary")
        page.fill("#temperature", "0")
        page.fill("#max_tokens", "8")
        assert page.text_content("label:has(#temperature) output") == "0"
        shot(page, "page-settings")
        page.click("summary")
        page.click("#text")
        page.keyboard.type("The hen")
        suggestion(page)
        assert sent[-1]["temperature"] == 0 and sent[-1]["max_tokens"] == 8
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than a phone"
        shot(page, "page-phone")
        page.reload()
        assert page.input_value("#temperature") == "0"
        assert seen["errors"] == []


@pytest.mark.slow
def test_a_long_text_is_read_once(opened, folder):
    app = create_app(folder, max_prompt_bytes=10_000)
    with served(app) as client:
        page, seen = opened(str(client.base_url))
        page.evaluate("(text) => localStorage.setItem('textgen', JSON.stringify({ text }))", TEXT * 3)
        page.reload()
        suggestion(page)
        sent = []
        page.on("request", lambda request: sent.append(request.post_data_json) if request.post_data else None)
        page.click("#text")
        page.keyboard.press("Control+End")
        page.keyboard.type("The hen sat")
        suggestion(page)
        assert sent and sum(len(body["prompt"]) for body in sent) < 200, "only what is new is read"
        assert seen["errors"] == []


@pytest.mark.slow
def test_the_key_is_asked_for(opened, folder, tmp_path):
    (tmp_path / "keys").write_text("ann ann-ann-ann-ann-ann-ann\n")
    app = create_app(folder, api_key_file=str(tmp_path / "keys"))
    with served(app) as client:
        page, seen = opened(str(client.base_url))
        page.wait_for_selector("dialog[open]")
        page.fill("#key", "ann-ann-ann-ann-ann-ann")
        page.keyboard.press("Enter")
        page.click("#text")
        page.keyboard.type("The ducks")
        assert suggestion(page)
        assert [error for error in seen["errors"] if "401" not in error] == []
