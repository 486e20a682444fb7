"""The page for co-writing, driven in Chromium as a person would: by the keyboard, in the dark, and on a phone."""

import re

import pytest
from chromium import browser, opened, shot
from served import served

import textgen
from textgen.serve import create_app
from textgen.serve.page import FILE, headers

__all__ = ["browser", "opened"]  # fixtures
TEXT = "The kitchen was warm, and the ducks came in. The hen sat by the fire, and the rain fell on the roof.\n" * 60


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


def suggestion(page):
    """Wait for a suggestion that has been written to its end."""
    page.wait_for_function(
        "() => document.querySelector('.ghost') && document.querySelector('#stop').disabled", timeout=20_000
    )
    return page.evaluate("[...document.querySelectorAll('.ghost')].map((each) => each.textContent).join('\\n')")


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


def opened_with(opened, client, **kept):
    """The page with a text that it kept, and the bodies of what it asks for from then on."""
    page, seen = opened(str(client.base_url))
    page.evaluate(
        "(kept) => addEventListener('pagehide', () => localStorage.setItem('textgen', JSON.stringify(kept)))", kept
    )
    page.reload()
    sent = []
    page.on("request", lambda request: sent.append(request.post_data_json) if request.post_data else None)
    return page, seen, sent


@pytest.mark.slow
def test_a_long_text_is_read_once(opened, folder):
    app = create_app(folder, max_prompt_bytes=10_000)
    with served(app) as client:
        page, seen, sent = opened_with(opened, client, text=TEXT * 3)
        suggestion(page)
        page.click("#text")
        page.keyboard.press("Control+End")
        sent.clear()
        page.keyboard.type("The hen sat")
        suggestion(page)
        assert sent and sum(len(body["prompt"]) for body in sent) < 200, "only what is new is read"
        sent.clear()
        page.reload()
        suggestion(page)
        assert sum(len(body["prompt"]) for body in sent) < 13_000, "a reload reads only the end, which is shaded"
        assert seen["errors"] == []


@pytest.mark.slow
def test_typing_in_a_long_text_draws_only_the_line(opened, folder):
    with served(create_app(folder)) as client:
        page, seen, _ = opened_with(opened, client, text=TEXT * 90, shade=False)
        page.evaluate("for (const line of document.querySelectorAll('#mirror div')) line.old = true")
        page.click("#text")
        page.keyboard.press("Control+End")
        page.keyboard.type("The hen sat")
        made = page.evaluate("[...document.querySelectorAll('#mirror div')].filter((line) => !line.old).length")
        assert 1 <= made <= 2, "of 5,401 lines"
        page.keyboard.press("Control+Home")
        page.keyboard.type("Once\n")
        assert page.evaluate("[...document.querySelectorAll('#mirror div')].filter((line) => line.old).length") >= 5399
        mirrored = "[...document.querySelectorAll('#mirror div')].map((line) => line.textContent).join('\\n')"
        assert page.evaluate(mirrored) == text_of(page) == "Once\n" + TEXT * 90 + "The hen sat"
        assert page.evaluate("document.querySelector('#mirror').scrollHeight") == page.evaluate(
            "document.querySelector('#text').scrollHeight"
        ), "the mirror is as high as the text"
        assert seen["errors"] == []


@pytest.mark.slow
def test_a_text_without_spaces_is_read_in_parts(opened, folder):
    with served(create_app(folder, max_prompt_bytes=20_000)) as client:
        page, seen, sent = opened_with(opened, client, text="kitchen" * 5000 + " the")
        assert suggestion(page) is not None
        assert "".join(body["prompt"] for body in sent if body.get("echo")) == "kitchen" * 5000
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
