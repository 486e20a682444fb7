"""Files with one item per line: detected with care, read so that each line is a document, and counted in bytes."""

import gzip
import json
import random
import re
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from terminal import run

import textgen
from textgen.data import CorpusOptions, Reading, recipes
from textgen.data import sources as reading_files
from textgen.data.corpus import scan_corpus, text_of, tokenize
from textgen.data.lines import BLANK_BYTES, FEWEST, HEAD_BYTES, are_items, items, signs
from textgen.data.recipes import TRAIN, VALIDATION
from textgen.data.sources import SourceOptions, documents_of, find_sources, read
from textgen.data.store import open_store
from textgen.errors import TextgenError, UsageError
from textgen.model import read_config
from textgen.storage import filesystem

WORDS = """the a old small river garden music winter letter without from house green open every night story bread under
blue stone long road never Monday bright window over silver paper song and with""".split()  # noqa: SIM905
LINES = SourceOptions(lines=True)
TINY = ["--max-steps", 4, "--hidden-size", 8, "--threads", 1, "--sample-steps", 0, "--tokenizer", "char"]


def words(rng, least, most):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))


def refusal(call, kind=TextgenError):
    """The message of an error."""
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def sentence(rng, least=4, most=12):
    return words(rng, least, most).capitalize() + rng.choice([".", ".", ".", "?", "!"])


def many(make, number=200, seed=1):
    rng = random.Random(seed)
    return [make(rng) for _ in range(number)]


def paragraphs(rng=None, sentences=(2, 7)):
    rng = rng or random.Random(3)
    return [" ".join(sentence(rng) for _ in range(rng.randint(*sentences))) for _ in range(120)]


def verse(rng):
    return words(rng, 5, 8).capitalize() + rng.choice([",", ",", ";", ".", ""])


def stamped(rng):
    return f"2026-11-{rng.randint(1, 28):02} {rng.randint(0, 23):02}:{rng.randint(0, 59):02}:07 {words(rng, 3, 6)}"


TITLES = many(lambda rng: words(rng, 2, 9).capitalize())
ITEMS = {
    "titles": TITLES,
    "names": many(lambda rng: rng.choice(WORDS) + rng.choice("aeiou") + rng.choice(WORDS)[:2]),
    "words of one length": many(lambda rng: "".join(rng.choice(part) for part in ["rstlb", "aeiou"] * 3)),
    "posts": many(lambda rng: " ".join(sentence(rng, 3, 9) for _ in range(rng.choice([1, 1, 2])))),
    "lower-case queries": many(lambda rng: "how to " + words(rng, 2, 6)),
    "reviews": many(lambda rng: words(rng, 8, 25) + " ."),
    "films": many(lambda rng: f"{words(rng, 1, 4).title()} ({rng.randint(1930, 2020)})"),
    "haiku in a line": many(lambda rng: " / ".join(words(rng, 3, 5) for _ in range(3))),
    "Russian titles": many(lambda rng: words(rng, 2, 7).translate(str.maketrans("aeionrst", "аеионрст"))),
    "Japanese titles": many(lambda rng: "".join(rng.choices("山川空花雪月の海とは春夏秋冬", k=rng.randint(4, 20)))),
}  # fmt: skip
OTHERS = {
    "wrapped prose": [line for text in paragraphs() for line in (*textwrap.wrap(text, 70), "")],
    "wrapped prose without blank lines": textwrap.wrap(" ".join(paragraphs()), 66),
    "one paragraph per line": [line for text in paragraphs() for line in (text, "")],
    "one paragraph per line, no blank line": paragraphs(random.Random(5), (1, 9)),
    "short paragraphs": [line for text in many(sentence) for line in (text, "")],
    "verse": many(verse),
    "indented verse": [("  " if number % 2 else "") + line.rstrip(",;") for number, line in enumerate(many(verse))],
    "stanzas": [line for title in TITLES for line in (title, title[::-1], title.upper(), "")],
    "haiku": [line for _ in range(50) for line in ("an old quiet pond", "a frog leaps in", "silence again", "")],
    "a play": [line for name in ["ROMEO:", "JULIET:"] * 60 for line in (name, *many(verse, 3), "")],
    "a chat": [f"{name}: {text}" for name, text in zip(["anna", "bob"] * 100, many(sentence), strict=True)],
    "a chat with times": [f"[{n % 24}:{n % 60:02}] {text}" for n, text in enumerate(many(sentence))],
    "a log": many(stamped),
    "a log without times": many(lambda rng: rng.choice(["Starting service", "Unpacking package", "Setting up",
                                                       "Started session"]) + f" {words(rng, 1, 3)}"),
    "code": [line for n in range(60) for line in (f"def f{n}(x):", f"    return x + {n}", "")],
    "flat code": [line for n in range(80) for line in (f"x{n} = load({n})", f"print(x{n})", f"# step {n}")],
    "markdown": [line for n in range(60) for line in (f"# Part {n}", "", f"- {TITLES[n]}", f"- {TITLES[n + 1]}", "")],
    "csv": [f"{n},{title},{n % 7}" for n, title in enumerate(TITLES)],
    "tsv": [f"{title}\t{n % 7}" for n, title in enumerate(TITLES)],
    "refrains": TITLES[:90] * 3,
    "numbers": many(lambda rng: f"{rng.random():.4f} {rng.random():.4f}"),
    "json lines": [json.dumps({"text": title}) for title in TITLES],
    "html": [f"<p>{title}</p>" for title in TITLES],
    "settings": [f"{title.split()[0]}_{n}=yes" for n, title in enumerate(TITLES)],
    "subtitles": [line for n, text in enumerate(TITLES) for line in (f"{n}", f"00:{n % 60:02}:01,000", text, "")],
    "tokenized sentences": [f" {title.lower()} " for title in TITLES],
    "a long line": [" ".join(TITLES)],
}  # fmt: skip


@pytest.mark.parametrize("kind", ITEMS)
def test_lists_of_items_are_found(kind):
    assert signs("\n".join(ITEMS[kind])) == []


@pytest.mark.parametrize("kind", OTHERS)
def test_other_texts_have_a_sign(kind):
    assert signs("\n".join(OTHERS[kind])) != []


def test_a_hundred_lines_are_needed_and_little_else():
    assert signs("\n".join(TITLES[: FEWEST - 1])) == ["few lines"] and signs("\n".join(TITLES[:FEWEST])) == []
    assert signs("\n".join([*TITLES, "", "x" * 400, "  last"])) == []  # an exception proves nothing
    for end in ("\r\n", "\r"):
        assert signs(end.join(TITLES)) == []


def test_detection_reads_the_beginning_only():
    lines = [f"{title} {title[::-1]} {k}\n".encode() for k, title in enumerate(TITLES * 200)]
    taken = []

    def blocks():
        for line in lines:
            taken.append(len(line))
            yield line

    assert are_items(blocks()) and len(taken) < len(lines)
    assert HEAD_BYTES < sum(taken) < HEAD_BYTES + 200
    text = b"".join(lines[:200])
    assert are_items([text])
    assert not are_items([text, b"\xff"]) and not are_items([text, b"\0"]) and not are_items([])
    assert are_items([*lines, "é".encode()[:1]])  # cut at a line end


def numbered(data, sizes=(), options=LINES):
    """The documents of bytes cut into blocks of changing sizes."""
    blocks, start, step = [], 0, 0
    while start < len(data):
        size = 1 + sizes[step % len(sizes)] if sizes else len(data)
        blocks.append(data[start : start + size])
        start, step = start + size, step + 1
    found = {}
    for number, chunk in documents_of(blocks, options):
        assert chunk
        found[number] = found.get(number, b"") + chunk
    assert list(found) == list(range(len(found)))
    return list(found.values())


@settings(deadline=None)
@given(text=st.text(st.sampled_from("ab \t\n\r")), sizes=st.lists(st.integers(0, 4), max_size=3))
@example(text="a\r\nb\r\n", sizes=[1])
@example(text="a\r\rb\n\rc", sizes=[0])
@example(text=" \n  a \n\t\r\nb", sizes=[0])
def test_any_line_end_separates_wherever_blocks_are_cut(text, sizes):
    expected = [line.encode() for line in re.split("\r\n|\r|\n", text) if line.strip()]
    assert numbered(text.encode(), sizes) == expected


def test_memory_does_not_grow_with_a_line():
    blocks = [b" " * (BLANK_BYTES // 2)] * 5 + [b"x" * 10] * 5 + [b"\n"] * 3 + [b"y"]
    found = list(items(blocks))
    assert max(len(part) for part in found if part) <= 1.5 * BLANK_BYTES
    assert b"".join(part for part in found if part) == b"".join(block.strip(b"\n") for block in blocks)
    assert list(items([b"   \n", b"\x00"])) == [None, b"\x00"]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scanned(*paths, **options):
    return scan_corpus([str(path) for path in paths], CorpusOptions(**options), 1)


def text_of_items(lines=TITLES, end="\n"):
    return end.join(lines) + end


@pytest.mark.parametrize(
    "name, content, options",
    [
        ("plain.txt", text_of_items().encode(), {}),
        ("windows.txt", b"\xef\xbb\xbf" + text_of_items(end="\r\n").encode(), {}),
        ("mac.txt", text_of_items(end="\r").encode(), {}),
        ("wide.txt", text_of_items(end="\r\n").encode("utf-16"), {}),
        ("old.txt", text_of_items([f"Café {title}" for title in TITLES]).encode("cp1252"), {"encoding": "auto"}),
        ("packed.gz", gzip.compress(text_of_items().encode()), {}),
        ("no extension", text_of_items()[:-1].encode(), {"tokenizer": "byte"}),
    ],
)
def test_files_of_any_form_are_read_by_the_line(desk, name, content, options):
    Path(name).write_bytes(content)
    corpus = scanned(name, **options)
    assert corpus.reading.lines and len(corpus.scan.sizes) == len(TITLES)
    texts = [chunk.decode() for _, chunk in read(corpus.sources, corpus.reading)]
    assert [text.removeprefix("Café ") for text in texts] == TITLES


def test_the_size_is_that_of_the_file_with_plain_line_ends(desk):
    lines = ["Ärger", *TITLES]
    Path("a.txt").write_bytes("\r\n\r\n".join(lines).encode())
    store = tokenize(scanned("a.txt", lines=True), desk / "store")
    about, expected = store.about, text_of_items(lines)
    assert sum(about["bytes"].values()) == len(expected.encode())
    assert sum(about["characters"].values()) == len(expected)
    assert sum(about["documents"].values()) == about["corpus_documents"] == len(lines)
    boundary = store.tokenizer.boundary
    for part, more in ((TRAIN, 0), (VALIDATION, 1)):  # one more boundary ends the last line that is predicted
        tokens = np.asarray(store.tokens(part))
        assert (tokens == boundary).sum() == about["documents"][part] + more
        assert tokens[0] == boundary and (tokens[-1] == boundary) == bool(more)
    assert np.array_equal(
        open_store(store.folder).frequencies, np.bincount(store.tokens(TRAIN), minlength=len(store.frequencies))
    )


def test_detection_is_of_the_whole_corpus_and_only_of_plain_text(desk):
    Path("titles.txt").write_text(text_of_items())
    Path("names.txt").write_text(text_of_items(ITEMS["names"]))
    Path("prose.txt").write_text(text_of_items(OTHERS["wrapped prose"]))
    Path("few.txt").write_text(text_of_items(TITLES[:20]))
    Path("table.csv").write_text("text\nsome text\nmore text\n")
    Path("valid.txt").write_text(text_of_items(TITLES[:150]))
    assert scanned("titles.txt", "names.txt").reading.lines
    assert scanned("titles.txt", "table.csv").reading.lines
    assert len(scanned("titles.txt", "table.csv").scan.sizes) == len(TITLES) + 2
    for beside in ("prose.txt", "few.txt"):
        assert not scanned("titles.txt", beside).reading.lines
        assert scanned("titles.txt", beside, lines=True).reading.lines
    assert not scanned("table.csv").reading.lines
    assert not scanned("titles.txt", lines=False).reading.lines
    assert not scanned("titles.txt", tokenizer="word").reading.lines
    assert not scanned("titles.txt", validation_file="valid.txt").reading.lines
    assert len(scanned("titles.txt", validation_file="valid.txt", lines=True).validation_scan.sizes) == 150
    assert not scanned("titles.txt", document_separator="x").reading.lines


def test_how_a_text_is_read_is_part_of_the_key(desk):
    Path("titles.txt").write_text(text_of_items())
    keys = {scanned("titles.txt", lines=lines).key() for lines in (None, True, False)}
    assert len(keys) == 2


def test_conflicts_are_named(desk):
    Path("titles.txt").write_text(text_of_items())
    Path("table.csv").write_text("text\nsome text\nmore text\n")
    message = refusal(lambda: scanned("titles.txt", lines=True, document_separator="#"), UsageError)
    assert message == "lines and document_separator='#' exclude each other."
    assert scanned("titles.txt", lines=True, document_separator="").reading.lines
    message = refusal(lambda: scanned("table.csv", lines=True), UsageError)
    assert message == "lines goes with plain text; each row of 'table.csv' is a document already."
    ended = run("train", "titles.txt", "--lines", "--document-separator", "\\n")
    assert ended.code == 2 and "--lines and --document-separator '\\n' exclude each other." in ended.err
    ended = run("train", "titles.txt", "--lines", "--task", "classify")
    assert ended.code == 2 and "--lines goes with --task lm, not with classify." in ended.err


def test_a_setting_that_is_asked_for_replaces_the_other_division():
    lines, divided = {"lines": True}, {"document_separator": "#"}
    assert Reading.of(lines, {}).options.lines
    assert not Reading.of(lines, {"lines": False}).options.lines
    asked = Reading.of(lines, divided)
    assert not asked.options.lines and asked.options.document_separator == "#"
    asked = Reading.of(divided, lines)
    assert asked.options.lines and asked.options.document_separator is None
    assert Reading.of(lines, {"document_separator": ""}).options.lines
    refusal(lambda: Reading.of({}, {**lines, **divided}), UsageError)
    refusal(lambda: Reading.of({"lines": "yes"}, {}))
    refusal(lambda: Reading.of({}, {"lines": "yes"}), UsageError)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    (folder / "titles.txt").write_text(text_of_items())
    (folder / "short.txt").write_text("Bread and song\r\n\r\nBlue stone\r\n")
    (folder / "table.csv").write_text("text\nBread and song\nBlue stone\n")
    return folder


@pytest.fixture(scope="module")
def trained(home):
    """A model of titles, and what the command said."""
    ended = run("train", home / "titles.txt", *TINY, "--output-dir", home / "model")
    assert ended.code == 0, ended.err
    return home / "model", ended.err


def test_training_says_and_records_how_the_text_is_read(trained):
    model, said = trained
    assert " 200 short lines: each is a document; --no-lines reads them as one text " in said
    assert read_config(model).reading == {"lines": True}
    assert json.loads((model / "training_args.json").read_text())["asked"]["lines"] is True


def test_evaluation_reads_as_in_training(trained, home):
    model, _ = trained
    text = "Bread and song\nBlue stone\n"
    ended = run("evaluate", "-m", model, home / "short.txt", "--json")
    assert "Read as in training: --lines" in ended.err
    score = json.loads(ended.out)
    assert (score["bytes"], score["characters"], score["tokens"]) == (len(text),) * 3
    whole = json.loads(run("evaluate", "-m", model, home / "short.txt", "--json", "--no-lines").out)
    assert whole["bytes"] == len(text) + 4 and whole["nats"] != score["nats"]
    assert textgen.evaluate(textgen.load(model), home / "short.txt").nats == score["nats"]
    assert textgen.evaluate(textgen.load(model), text).nats == score["nats"]
    assert textgen.evaluate(textgen.load(model), text, lines=False).nats != score["nats"]
    refusal(lambda: textgen.evaluate(textgen.load(model), "\n\n"))
    held = json.loads(run("evaluate", "-m", model, "--json").out)
    store = open_store(next((model.parent / ".tokens").glob("*/manifest.json")).parent)
    assert held["tokens"] == store.about["tokens"][VALIDATION] - 1 == held["bytes"]


def test_rows_of_a_table_stay_documents(trained, home):
    model, _ = trained
    score = json.loads(run("evaluate", "-m", model, home / "table.csv", "--json").out)
    assert score["bytes"] == len("Bread and songBlue stone")
    ended = run("evaluate", "-m", model, home / "table.csv", "--lines")
    assert ended.code == 2 and "--lines goes with plain text; each row of" in ended.err


def test_a_run_is_resumed_as_it_began(desk, monkeypatch):
    Path("titles.txt").write_text(text_of_items())
    folder = textgen.train("titles.txt", max_steps=2, hidden_size=8, threads=1, tokenizer="char", lines=True)
    filesystem.remove_folder(next(Path("runs/.tokens").glob("*/manifest.json")).parent)
    monkeypatch.setattr(reading_files, "are_items", lambda blocks: False)  # a later version may judge otherwise
    ended = run("train", "--resume", folder, "--max-steps", 4)
    assert ended.code == 0, ended.err
    assert "200 short lines" in ended.err
    assert read_config(folder).reading == {"lines": True}


def test_tokenized_lines_train_and_refuse_another_reading(desk):
    Path("titles.txt").write_text(text_of_items())
    ended = run("tokenize", "titles.txt", "--output-dir", "tokens", "--tokenizer", "char")
    assert ended.code == 0 and "200 short lines: each is a document" in ended.err
    assert run("train", "tokens", *TINY[:-2], "--output-dir", "run").code == 0
    assert read_config(Path("run")).reading == {"lines": True}
    ended = run("train", "tokens", "--no-lines")
    assert ended.code == 2 and "--lines was decided when 'tokens' was tokenized" in ended.err
    assert run("train", "--resume", "run", "--max-steps", 6, "--sample-steps", 0).code == 0


def test_standard_input_is_read_by_the_line(desk):
    ended = run("train", "-", *TINY, "--dry-run", stdin=text_of_items().encode())
    assert ended.code == 0 and "200 short lines" in ended.err


def test_a_source_says_how_many_documents_it_has(desk):
    Path("a.txt").write_text("x\n\ny\n")
    Path("b.txt").write_text("\n\n")
    Path("c.txt").write_text("z")
    documents = []
    found = list(read(find_sources(["a.txt", "b.txt", "c.txt"]), LINES, documents))
    assert found == [(0, b"x"), (1, b"y"), (2, b"z")] and documents == [2, 0, 1]


@pytest.fixture(scope="module")
def prose(home):
    """A model of a text with short lines and many blank ones, hardly trained: it often writes blank lines."""
    (home / "prose.txt").write_text("a b\n\n \t\r\n\n" * 200)
    assert run("train", home / "prose.txt", *TINY, "--output-dir", home / "prose").code == 0
    return home / "prose"


def sampled(model, *arguments):
    """The lines that a command prints, and nothing else."""
    ended = run("sample", "-m", model, "--temperature", 1, "--seed", 5, *arguments)
    assert ended.code == 0, ended.err
    assert ended.text.endswith("\n")
    return ended.text.split("\n")[:-1]


@pytest.mark.parametrize("number", [1, 3, 40])  # one by one, and together
def test_a_model_writes_as_many_lines_as_are_asked_for(prose, trained, number):
    for model in (prose, trained[0]):
        lines = sampled(model, "--lines", "--num-samples", number)
        assert len(lines) == number and all(line.strip() and "\r" not in line for line in lines)
        assert all(line.startswith("b a") for line in sampled(model, "--lines", "-p", "b a", "--num-samples", number))
        assert all(
            line.startswith("b a") for line in sampled(model, "--lines", "-p", "x\n\nb a", "--num-samples", number)
        )
        silent = sampled(model, "--lines", "-p", "b a", "--num-samples", number, "--no-echo")
        assert [f"b a{line}" for line in silent] == sampled(model, "--lines", "-p", "b a", "--num-samples", number)


def test_lines_are_the_default_of_a_model_that_was_trained_on_them(trained, prose):
    model, _ = trained
    assert sampled(model, "--num-samples", 5) == sampled(model, "--num-samples", 5, "--lines")
    assert len(sampled(model, "--num-samples", 5, "--no-lines")) == 9  # an empty line after each but the last
    assert len(sampled(prose, "--num-samples", 5)) > 5
    assert textgen.load(model).defaults["lines"] is True
    assert 0 not in json.loads((model / "generation_config.json").read_text())["suppress_tokens"]


def test_other_outputs_hold_one_item_each(trained, prose):
    for model in (trained[0], prose):
        lines = sampled(model, "--lines", "--num-samples", 4)
        found = [json.loads(line)["text"] for line in sampled(model, "--lines", "--num-samples", 4, "--json")]
        assert found == lines
        ended = run("sample", "-m", model, "--temperature", 1, "--seed", 5, "--lines", "--num-samples", 4, "-0")
        assert ended.text.split("\0")[:-1] == lines
        ended = run("sample", "-m", model, "--lines", "--num-beams", 3, "--max-new-tokens", 9)
        assert ended.code == 0 and ended.text.count("\n") == 1


def test_the_library_writes_items_too(prose):
    model = textgen.load(prose)
    for seed in range(30):
        options = {"lines": True, "seed": seed, "temperature": 1.0, "max_new_tokens": 30}
        text = textgen.generate(model, **options)
        assert text.strip() and not set("\r\n") & set(text)
        assert "".join(textgen.stream(model, **options)) == text
        assert textgen.generate(model, "a b\n", **options).strip()
    assert any(not textgen.generate(model, "a", lines=True, seed=seed, temperature=1.0) for seed in range(30))


def test_a_blank_line_is_the_last_resort(prose):
    """Where every token would end a blank line, one of them is drawn."""
    model = textgen.load(prose)
    only = [id for id, token in enumerate(model.tokenizer.token_bytes) if token.strip()]
    none = textgen.generate(model, lines=True, seed=1, logit_bias=dict.fromkeys(only, -100), max_new_tokens=4)
    assert not none.strip()
    blank = replace(model, unsampled=tuple({*model.unsampled, *only, *model.tokenizer.encode(" \t").tolist()}))
    assert textgen.generate(blank, lines=True, seed=1) == ""


def test_a_recipe_is_read_as_it_says(desk, monkeypatch):
    Path("list.txt").write_text(text_of_items())
    about = 'about = "x"\nsource = "x"\nlicence = "x"\n'
    Path("list.toml").write_text(f'{about}[options]\ndocument_separator = "#"\n[[files]]\npath = "list.txt"\n')
    Path("plain.toml").write_text(f'{about}[[files]]\npath = "list.txt"\n')
    monkeypatch.setattr(recipes, "home", lambda: desk)
    assert [scanned(name).reading.lines for name in ("list", "plain", "list.txt")] == [False, False, True]
    asked = scanned("list", lines=True).reading
    assert asked.lines and asked.document_separator is None
    _, how = text_of(["list"], Reading.of({"lines": True}, {}))
    assert not how.lines and how.document_separator == "#"
    assert text_of(["list"], Reading.of({}, {"lines": True}))[1].lines


def test_few_items_end_too(desk):
    Path("five.txt").write_text("one\ntwo\nthree\nfour\nfive\n")
    folder = textgen.train("five.txt", max_steps=1, hidden_size=8, threads=1, lines=True, batch_size=1, seq_length=4)
    model = textgen.load(folder)
    assert model.tokenizer.boundary not in model.unsampled
    assert any(len(textgen.generate(model, seed=seed, temperature=1.0)) < 200 for seed in range(9))
