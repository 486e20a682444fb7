"""The exported page in Chromium, opened from a disk without a network: by the keyboard, in the dark, and on a phone."""

import re

import pytest
from chromium import browser, opened, shot
from served import trained

import textgen
from textgen.cli import main
from textgen.export import bundle, export
from textgen.export.html import PAGE, html

__all__ = ["browser", "opened"]  # fixtures
pytestmark = pytest.mark.slow
TEXT = "The kitchen was warm, and the ducks came in. The hen sat by the fire, and the rain fell on the roof.\n" * 60


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    (root / "notes.txt").write_text(TEXT)
    small = {"hidden_size": 48, "max_steps": 150, "threads": 1, "sample_steps": 0, "tokenizer": "bpe", "seed": 1}
    textgen.train(root / "notes.txt", vocab_size=330, output_dir=str(root / "notes"), **small)
    trained(root, "pairs", "labels")
    for name in ("notes", "pairs", "labels"):
        (content,) = export(root / name, root / f"{name}.html").values()
        (root / f"{name}.html").write_bytes(content)
    return root


def ready(page):
    page.wait_for_function("() => !document.querySelector('#write').disabled", timeout=20_000)


def offline(opened, path, **options):
    """A page from a disk; it asks for nothing."""
    page, seen = opened(path.as_uri(), offline=True, **options)
    ready(page)
    return page, seen


def checked(seen):
    assert seen["errors"] == [] and all(host.startswith(("file:", "blob:", "data:")) for host in seen["hosts"]), seen


def test_a_text_is_written_by_the_keyboard(opened, place):
    page, seen = offline(opened, place / "notes.html")
    wanted = textgen.generate(textgen.load(place / "notes"), "The kitch", seed=5, max_new_tokens=60)
    page.focus("#prompt")
    page.keyboard.type("The kitch")
    page.click("#settings summary")
    page.fill("#seed", "5")
    page.fill("#max_new_tokens", "60")
    page.focus("#prompt")
    page.keyboard.press("Control+Enter")
    page.wait_for_function("() => document.querySelector('#text').textContent.length > 20")
    ready(page)
    assert page.text_content("#text") == "The kitch" + wanted, "the text is the one that Python writes"
    assert "seed 5" in page.text_content("#status")
    shot(page, "export")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "notes.txt"
    checked(seen)


def test_a_long_text_can_be_stopped(opened, place):
    page, seen = offline(opened, place / "notes.html")
    page.evaluate("document.querySelector('#max_new_tokens').value = 100000")
    page.focus("#write")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('#text').textContent.length > 200")
    page.keyboard.press("Escape")
    ready(page)
    assert len(page.text_content("#text")) < 100_000
    checked(seen)


def test_a_completion_and_a_label(opened, place):
    page, seen = offline(opened, place / "pairs.html")
    assert page.text_content("#asks") == "Prompt"
    page.fill("#prompt", "say hen")
    page.fill("#seed", "1") if page.is_visible("#seed") else page.evaluate("document.querySelector('#seed').value = 1")
    page.click("#write")
    page.wait_for_function("() => document.querySelector('#status').textContent.includes('seed 1')")
    ready(page)
    assert page.text_content("#text") == textgen.generate(textgen.load(place / "pairs"), "say hen", seed=1)
    checked(seen)
    page, seen = offline(opened, place / "labels.html")
    page.fill("#prompt", "a fine day")
    page.click("#write")
    page.wait_for_selector(".bar")
    best = textgen.load(place / "labels").classify(["a fine day"])[0]
    assert page.text_content("#status") == f"{best.label}: {100 * best.probability:.1f} %"
    shot(page, "export-labels")
    page.fill("#prompt", " ")
    page.click("#write")
    page.wait_for_function("() => document.querySelector('#status').textContent === 'the text is empty.'")
    checked(seen)


def test_a_forecast_is_drawn(opened, place):
    rows = "".join(f"2026-01-{d:02},{20 + d / 5 + 3 * (d % 7)}\n" for d in range(1, 31))
    (place / "sales.csv").write_text("day,sales\n" + rows)
    words = ["train", str(place / "sales.csv"), "--target-column", "sales", "--horizon", "5", "--max-steps", "20"]
    assert main([*words, "--threads", "1", "--sample-steps", "0", "--output-dir", str(place / "sales")]) == 0
    (content,) = export(place / "sales", place / "sales.html").values()
    (place / "sales.html").write_bytes(content)
    page, seen = offline(opened, place / "sales.html")
    page.click("#write")
    page.wait_for_selector("#plot svg .ahead")
    assert page.query_selector_all("#plot tr")[1].inner_text().startswith("2026-01-31")
    page.fill("#prompt", "26,5 29,5")
    page.click("#write")
    page.wait_for_function("() => document.querySelectorAll('#plot tr')[1].innerText.startsWith('2026-02-02')")
    shot(page, "export-forecast")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "sales.csv"
    page.fill("#prompt", "1 two")
    page.click("#write")
    page.wait_for_function("() => document.querySelector('#status').textContent === 'two is not a number.'")
    checked(seen)


def test_it_fits_a_phone_and_the_dark(opened, place):
    page, seen = offline(opened, place / "notes.html", color_scheme="dark", viewport={"width": 360, "height": 740})
    page.click("#settings summary")
    page.click("#write")
    page.wait_for_function("() => document.querySelector('#text').textContent.length > 20")
    ready(page)
    page.click("footer summary")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than a phone"
    assert re.search(r"lstm . [0-9.]+ M parameters", page.text_content("#about"))
    shot(page, "export-phone")
    checked(seen)


def test_a_hostile_model_cannot_change_the_page(opened, place):
    evil = "</script><img src=x onerror=\"document.title='gone'\"><b>bold</b>"
    made = bundle.bundle(place / "labels")
    made.description.update(name=evil, card=evil, cell=evil)
    made.description["facts"]["labels"] = [evil, f"{evil}2"]
    (place / "evil.html").write_bytes(html(made))
    page, seen = offline(opened, place / "evil.html")
    page.fill("#prompt", "a fine day")
    page.click("#write")
    page.wait_for_selector(".bar")
    assert page.text_content("#name") == page.text_content("#card") == page.title() == evil
    assert page.query_selector("img") is None and page.query_selector("b") is None
    checked(seen)


def test_a_mistake_is_a_sentence(opened, place):
    page, seen = offline(opened, place / "notes.html")
    page.evaluate("document.querySelector('#temperature').value = -1")
    page.click("#write")
    page.wait_for_function(
        "() => document.querySelector('#status').textContent.startsWith('temperature must be a number')"
    )
    checked(seen)


def test_the_runtime_is_small():
    assert len((PAGE / "runtime.js").read_text(encoding="utf-8").splitlines()) < 950
