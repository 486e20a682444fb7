"""Laws of explanations: a contribution is the probability with a word less that without it, the parts are the text, and
whatever a text holds is shown as text."""

import html
import json
import re

import numpy as np
import pytest
from faults import Quick
from hypothesis import given
from hypothesis import strategies as st
from sayings import TINY, csv_of, run, sayings

import textgen
from textgen.screen import Output
from textgen.storage import filesystem
from textgen.tasks.classification import explain as module
from textgen.tasks.classification.explain import LEVELS, Explanation, explain, page_of, parts_of, printed
from textgen.tasks.classification.model import Prediction


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(filesystem, "system", Quick())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("explain")
    return textgen.train(csv_of(sayings(120), root / "x.csv"), output_dir=str(root / "run"), **TINY)


def made(parts, label="pos"):
    return Explanation(Prediction.of({"neg": 0.25, "pos": 0.75}), label, tuple(parts))


@given(st.text(alphabet="ab \n\t好", max_size=60))
def test_the_parts_are_the_text(text):
    parts = parts_of(text)
    assert "".join(parts) == (text if text.strip() else "")
    assert all(part.strip() for part in parts) or len(max(text.split(), key=len)) > 15


def test_a_long_text_is_explained_in_blocks():
    parts = parts_of("word " * 2500)
    assert len(parts) <= module.MOST_PARTS and "".join(parts) == "word " * 2500


def test_a_script_without_spaces_is_explained_by_its_characters():
    assert parts_of("这部电影很好我们都好极了今天晚上一起去看吧朋友们大家都说很好看的真的") == [
        *"这部电影很好我们都好极了今天晚上一起去看吧朋友们大家都说很好看的真的"
    ]


def test_a_contribution_is_what_a_word_adds(folder):
    model = textgen.load(folder)
    text = "w1 dull w2  w3 fine"
    (found,) = explain(model, [text])
    whole = model.classify([text])[0].probabilities[found.label]
    for number, (part, value) in enumerate(found.parts):
        words = text.split()
        assert part.strip() == words.pop(number)
        without = model.classify([" ".join(words)])[0].probabilities[found.label]
        assert value == pytest.approx(whole - without, abs=1e-6)


def test_the_word_that_says_the_label_counts_most(folder):
    model, right = textgen.load(folder), []
    for text, label in sayings(30, seed=3):
        if len(text.split()) > 1:
            (found,) = explain(model, [text])
            strongest = max(found.parts, key=lambda each: each[1])[0].strip()
            right.append((found.label == label and not strongest.startswith("w")) or strongest == "warm")
    assert np.mean(right) > 0.9


def test_of_an_only_word_nothing_is_left(folder):
    (found,) = explain(textgen.load(folder), ["fine"])
    assert found.parts == (("fine", pytest.approx(found.probability - 0.5)),)


def test_predict_prints_a_line_for_each_word(folder, tmp_path):
    (tmp_path / "a.txt").write_text("w1 dull w2\n\nfine\n")
    result = run("predict", "-m", folder, tmp_path / "a.txt", "--explain")
    blocks = result.stdout.split("\n\n")
    (found,) = explain(textgen.load(folder), ["w1 dull w2"])
    lines = blocks[0].splitlines()
    assert lines[0].split("\t")[:2] == ["neg", f"{found.probability:.4f}"] and "line 1 of" in lines[0]
    assert lines[1:] == [f"{value:+.4f}\t{part.strip()}" for part, value in found.parts]
    assert "line 2 of" in blocks[1] and "no text" in blocks[1] and len(blocks) == 4
    assert "1 text without content got no label" in result.stderr
    objects = run("predict", "-m", folder, tmp_path / "a.txt", "--explain", "--json").stdout.splitlines()
    rows = [json.loads(line) for line in objects]
    assert [each["token"] for each in rows[0]["contributions"]] == ["w1", "dull", "w2"]
    assert rows[0]["label"] == rows[0]["explained"] == "neg" and rows[1]["contributions"] == []
    unsure = run("predict", "-m", folder, tmp_path / "a.txt", "--explain", "--json", "--threshold", "1").stdout
    assert json.loads(unsure.splitlines()[0])["label"] is None


def test_the_page_holds_every_text_and_its_words(folder, tmp_path):
    (tmp_path / "a.txt").write_text("w1 dull w2\nfine <b>&amp;\n")
    target = tmp_path / "why.html"
    result = run("predict", "-m", folder, tmp_path / "a.txt", "--explain-html", target)
    assert result.stdout.startswith("label\tneg\tpos\n") and "2 texts explained" in result.stderr
    page = target.read_text()
    texts = re.findall(r"<p>(.*?)</p>", page, flags=re.DOTALL)
    assert [html.unescape(re.sub(r"<[^>]*>", "", text)) for text in texts] == ["w1 dull w2", "fine <b>&amp;"]
    assert "<script" not in page and "http" not in page.replace("http-equiv", "") and "style=" not in page
    assert run("predict", "-m", folder, tmp_path / "a.txt", "--explain-html", target).exit_code == 0
    (tmp_path / "mine.html").write_text("mine")
    refused = run("predict", "-m", folder, tmp_path / "a.txt", "--explain-html", tmp_path / "mine.html")
    assert refused.exception is not None and (tmp_path / "mine.html").read_text() == "mine"


@given(st.lists(st.tuples(st.text(min_size=1, max_size=5), st.floats(-1, 1)), max_size=6))
def test_whatever_a_text_holds_is_shown_as_text(parts):
    page = page_of([("<i>'a'", made(parts))]).decode()
    (shown,) = re.findall(r"<p>(.*?)</p>\n?</article>", page, flags=re.DOTALL)
    tags = re.findall(r"<[^>]*>", shown)
    assert all(re.fullmatch(r'<span( class="[pn][1-5]")? title="[+-]\d\.\d{4}">|</span>', tag) for tag in tags)
    assert html.unescape(re.sub(r"<[^>]*>", "", shown)) == "".join(part for part, _ in parts)
    assert "<i>" not in page


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=9))
def test_the_largest_contribution_has_the_strongest_shade(values):
    levels = [level for _, level in made([("a ", value) for value in values]).levels()]
    assert max(map(abs, levels)) == (LEVELS if any(values) else 0)
    assert all(level * value >= 0 for level, value in zip(levels, values, strict=True))


def test_a_terminal_shows_colors_and_no_text_moves_its_cursor(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    output = Output(raw=True)
    output.terminal = True
    shown = printed("line 1", made([("fine\x1b[2J ", 0.5), ("dull ", -0.2), ("so", 0.0)]), output, False)
    colors = re.findall(r"\x1b\[[0-9;]*m", shown)
    assert "\x1b[48;5;39m" in colors and re.sub(r"\x1b\[[0-9;]*m", "", shown).count("\x1b") == 0
    assert "+0.500 fine\\x1b[2J" in shown
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in printed("line 1", made([("fine ", 0.5)]), output, False)
