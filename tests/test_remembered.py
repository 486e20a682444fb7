"""A model remembers how its training text was read: `evaluate`, `predict` and `sample` read the same way."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from terminal import refusal, run

import textgen
from textgen.data import Reading
from textgen.errors import TextgenError, UsageError
from textgen.model import read_config
from textgen.runtime import quantize
from textgen.tasks.classification.reading import lines

CASES = Path(__file__).parent / "cases"
TINY = ["--max-steps", 30, "--hidden-size", 8, "--threads", 1, "--seed", 1, "--sample-steps", 0]
SEPARATOR = "<|endoftext|>"
STORY = "the old fox saw a small café by the river, and the café was closed.\n" * 40
REVIEWS = [(f"{word} {thing}", label) for label, words in (("good", "fine warm"), ("poor", "dull cold"))
           for word in words.split() for thing in ["soup", "song", "room", "show"]]  # fmt: skip


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(folder, corpus, *options):
    done = run("train", corpus, *TINY, "--output-dir", folder, *options)
    assert done.code == 0, done.err
    return folder


def score(model, *arguments):
    done = run("evaluate", "-m", model, *arguments, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def sampled(model, *arguments, stdin=b""):
    done = run("sample", "-m", model, "--greedy", "-n", 40, *arguments, stdin=stdin)
    assert done.code == 0, done.err
    return done.text


def prompt_of(model, *arguments, stdin=b""):
    done = run("sample", "-m", model, "-n", 1, "--json", *arguments, stdin=stdin)
    assert done.code == 0, done.err
    return json.loads(done.out)["prompt"]


def labels_of(model, *arguments, stdin=b""):
    done = run("predict", "-m", model, "--json", *arguments, stdin=stdin)
    assert done.code == 0, done.err
    return [json.loads(line)["label"] for line in done.out.splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def divided(home):
    """A model of short documents."""
    return train(home / "divided", CASES / "sep_train.txt", "--document-separator", SEPARATOR)


@pytest.fixture(scope="module")
def latin(home):
    """A model of a Latin-1 text."""
    (home / "story.txt").write_bytes(STORY.encode("latin-1"))
    return train(home / "latin", home / "story.txt", "--encoding", "latin-1", "--tokenizer", "char")


@pytest.fixture(scope="module")
def asked(home):
    """A model that completes prompts."""
    options = ["--prompt-column", "q", "--completion-column", "a"]
    return train(home / "asked", CASES / "pairs2.jsonl", *options, "--learning-rate", 0.02)


@pytest.fixture(scope="module")
def judge(home):
    """A classifier of a table whose columns have names of their own."""
    rows = [{"body": text, "title": "x", "stars": label} for text, label in REVIEWS * 3]
    (home / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--text-column", "body", "--label-column", "stars", "--max-steps", 60, "--learning-rate", 0.05]
    return train(home / "judge", home / "reviews.jsonl", *options)


# --- document separator ---


def test_the_separator_stays_with_the_model(divided):
    remembered = score(divided, CASES / "sep_test.txt")
    assert remembered == score(divided, CASES / "sep_test.txt", "--document-separator", SEPARATOR)
    plain = score(divided, CASES / "sep_test.txt", "--document-separator", "")
    assert plain["characters"] > remembered["characters"] and plain["perplexity"] > remembered["perplexity"]
    said = run("evaluate", "-m", divided, CASES / "sep_test.txt").err
    assert said.startswith(f"Read as in training: --document-separator '{SEPARATOR}'") and len(said.splitlines()) == 1
    assert run("evaluate", "-m", divided, CASES / "sep_test.txt", "--document-separator", "").err == ""
    assert run("evaluate", "-m", divided).err == ""  # what was held out is divided already


def test_python_reads_as_the_command_does(divided):
    model, path = textgen.load(divided), CASES / "sep_test.txt"
    expected = score(divided, path)["nats"]
    for text in (path, path.read_text(), path.read_bytes()):
        assert textgen.evaluate(model, text).nats == pytest.approx(expected, rel=1e-9)
    apart = score(divided, path, "--document-separator", "")["nats"]
    assert textgen.evaluate(model, path.read_text(), document_separator="").nats == pytest.approx(apart, rel=1e-9)
    with pytest.raises(UsageError, match="unknown reading option 'separator'"):
        textgen.evaluate(model, "x", separator="y")


def test_a_separator_with_escapes_is_remembered_as_it_was_typed(desk):
    Path("poems.txt").write_text("a fox saw a fox\n\na hen saw a hen\n\n" * 30)
    model = train("run", "poems.txt", "--document-separator", r"\n\n")
    assert score(model, "poems.txt") == score(model, "poems.txt", "--document-separator", r"\n\n")
    assert score(model, "poems.txt")["characters"] == 30 * 30
    assert r"'\n\n'" in run("evaluate", "-m", model, "poems.txt").err


def test_tokens_and_quantized_models_remember_too(divided, desk):
    tokenized = run("tokenize", CASES / "sep_train.txt", "--output-dir", "tokens", "--document-separator", SEPARATOR)
    assert tokenized.code == 0
    model = train("run", "tokens")
    assert read_config(Path(model)).reading == read_config(divided).reading == {"document_separator": SEPARATOR}
    quantize(divided, Path("small"))
    assert score("small", CASES / "sep_test.txt")["characters"] == score(divided, CASES / "sep_test.txt")["characters"]


def test_a_corpus_by_name_gives_its_own_separator(desk, monkeypatch):
    monkeypatch.setenv("TEXTGEN_DATA", str(desk))
    from textgen.data import CorpusOptions, record_of
    from textgen.data.recipes import load

    options = CorpusOptions()
    own = load("tinystories").options.get("document_separator")
    assert own and record_of(["tinystories"], options) == {"document_separator": own}
    with_none = CorpusOptions(document_separator="")
    assert record_of(["tinystories"], with_none) == {}


def test_a_corpus_by_name_is_read_as_its_recipe_says(latin):
    by_name = run("evaluate", "-m", latin, "stories", "--json")
    assert by_name.code == 0 and by_name.err == ""
    assert json.loads(by_name.out) == score(latin, "stories", "--encoding", "utf-8")


def test_a_data_set_of_the_hub_is_read_as_it_was_written(desk, monkeypatch):
    from textgen.data import recipes, sources

    monkeypatch.setattr(recipes, "_load", lambda *_: iter([{"text": "un café"}]))
    for encoding in ("utf-16", "auto", None):
        found = sources.read(sources.find_sources(["hub:a/b"]), sources.SourceOptions(encoding=encoding))
        assert list(found) == [(0, "un café".encode())]


def test_training_takes_an_empty_separator_for_none(desk):
    Path("x.txt").write_text("a fox saw a hen\n" * 60)
    assert "reading" in json.loads(Path(train("run", "x.txt", "--document-separator", ""), "config.json").read_text())
    assert read_config(Path("run")).reading == {}


# --- encoding ---


def test_the_encoding_stays_with_the_model_and_a_mark_overrules_it(latin, desk):
    for name, encoding in (("l.txt", "latin-1"), ("b.txt", "utf-8-sig"), ("w.txt", "utf-16")):
        Path(name).write_bytes(STORY.encode(encoding))
    expected = score(latin, "l.txt")
    assert expected["characters"] == len(STORY) and expected == score(latin, "b.txt") == score(latin, "w.txt")
    Path("u.txt").write_bytes(STORY.encode())
    assert score(latin, "u.txt", "--encoding", "utf-8") == expected
    assert score(latin, "u.txt")["characters"] > len(STORY)  # and the note says why
    assert "--encoding latin-1" in run("evaluate", "-m", latin, "u.txt").err
    content = json.loads((latin / "config.json").read_text())
    shutil.copytree(latin, "other")
    content["reading"] = {"encoding": "ascii"}
    textgen.storage.filesystem.replace_in_folder(Path("other"), "config.json", json.dumps(content).encode())
    said, hint = refusal(run("evaluate", "-m", "other", "u.txt"), 1)
    assert said.startswith("'u.txt' is not ascii text") and "encoding of the training text" in hint
    assert score(latin, "b.txt", "--encoding", "latin-1") != expected  # asked for in so many words
    assert textgen.evaluate(textgen.load(latin), STORY.encode("latin-1")).nats == pytest.approx(expected["nats"])


def test_auto_is_remembered_as_auto(desk):
    text = "Le garçon a mangé des crêpes à la crème près de la forêt.\n" * 20
    Path("a.txt").write_bytes(text.encode("cp1252"))
    model = train("run", "a.txt", "--encoding", "auto")
    assert read_config(Path(model)).reading == {"encoding": "auto"}
    Path("u.txt").write_bytes(text.encode())
    assert score(model, "a.txt") == score(model, "u.txt")
    assert sampled(model, "-p", "-", stdin="Le garçon".encode("cp1252")) == sampled(model, "-p", "Le garçon")


# --- prompts ---


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_final_line_end_of_a_prompt_that_is_read_is_no_part_of_it(latin, end):
    Path("p.txt").write_bytes(f"the old fox{end}".encode())
    assert prompt_of(latin, "-p", "-", stdin=f"the old fox{end}".encode()) == "the old fox"
    assert prompt_of(latin, "-f", "p.txt") == "the old fox"
    assert prompt_of(latin, "-p", "-", stdin=f"the old fox{end}{end}".encode()) == f"the old fox{end}"
    assert prompt_of(latin, "-p", f"the old fox{end}") == f"the old fox{end}"


def test_a_completion_of_a_pipe_is_that_of_the_argument(asked):
    prompts = [json.loads(line)["q"] for line in (CASES / "pairs2.jsonl").read_text().splitlines()[:8]]
    for prompt in prompts:
        assert sampled(asked, "-p", "-", stdin=f"{prompt}\n".encode()) == sampled(asked, "-p", prompt)


def test_a_state_that_is_gone_on_from_takes_prompts_the_same_way(latin, desk):
    sampled(latin, "-p", "the old", "--save-state", "state")
    shown = prompt_of(latin, "--load-state", "state", "-p", " fox saw")
    assert prompt_of(latin, "--load-state", "state", "-p", "-", stdin=b" fox saw\n") == shown
    assert shown.endswith(" fox saw")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_prompt_with_a_byte_order_mark_is_decoded(divided, encoding):
    data = "the old fox".encode(encoding)
    Path("p.txt").write_bytes(data)
    assert prompt_of(divided, "-f", "p.txt") == "the old fox" == prompt_of(divided, "-p", "-", stdin=data)


def test_a_prompt_is_read_in_the_encoding_of_the_model_unless_told_otherwise(latin):
    expected = sampled(latin, "-p", "the café")
    done = run("sample", "-m", latin, "--greedy", "-n", 40, "-p", "-", stdin="the café\n".encode("latin-1"))
    assert done.text == expected and "--encoding latin-1" in done.err
    assert sampled(latin, "-p", "-", "--encoding", "utf-8", stdin="the café".encode()) == expected
    assert sampled(latin, "-p", "-", stdin="the café".encode("utf-8-sig")) == expected
    assert run("sample", "-m", latin, "-n", 1, "-p", "-", stdin=b"the fox").err == ""
    said, _ = refusal(run("sample", "-m", latin, "-p", "x", "--encoding", "utf-8"), 2)
    assert said.startswith("--encoding utf-8 applies to a prompt that is read")


# --- columns ---


def test_a_classifier_remembers_its_columns(judge, home):
    table = home / "reviews.jsonl"
    assert set(labels_of(judge, table)) == {"good", "poor"}
    told = score(judge, table)
    assert told == score(judge, table, "--text-column", "body", "--label-column", "stars")
    own = textgen.load(judge).evaluate(table).to_json()
    assert own == {name: told[name] for name in own}
    assert "--text-column body" in run("predict", "-m", judge, table).err
    Path("lines.txt").write_text("a fine soup\n")
    assert run("predict", "-m", judge, "lines.txt").err == ""  # columns do not matter there


def test_columns_that_are_not_there_are_said_to_come_from_training(judge):
    Path("new.csv").write_text("text,label\na fine soup,good\na dull room,poor\n")
    said, hint = refusal(run("evaluate", "-m", judge, "new.csv", "--text-column", "text"), 2)
    assert "has no column 'stars'" in said and said.endswith("The model was trained with --label-column stars.")
    assert hint == "--label-column X names the column of this table."
    found = score(judge, "new.csv", "--text-column", "text", "--label-column", "label")
    assert found["texts"] == 2
    done = run("predict", "-m", judge, "new.csv")
    assert done.code == 2 and "The model was trained with --text-column body." in done.err
    typed = run("predict", "-m", judge, "new.csv", "--text-column", "words")
    assert "trained with" not in typed.err


def test_the_label_column_of_training_is_not_taken_for_the_text(home):
    Path("r.csv").write_text("body,stars\n" + "".join(f"{text},{label}\n" for text, label in REVIEWS * 3))
    model = train("run", "r.csv", "--label-column", "stars")
    assert len(labels_of(model, "r.csv")) == len(REVIEWS) * 3


def test_a_language_model_remembers_its_text_column():
    Path("a.jsonl").write_text("".join(json.dumps({"id": "x", "body": f"a fox saw {n}"}) + "\n" for n in range(60)))
    model = train("run", "a.jsonl", "--text-column", "body")
    assert score(model, "a.jsonl") == score(model, "a.jsonl", "--text-column", "body")
    Path("b.jsonl").write_text(json.dumps({"id": "x", "text": "a fox"}) + "\n")
    said, hint = refusal(run("evaluate", "-m", model, "b.jsonl"), 2)
    assert (
        said.endswith("The model was trained with --text-column body.")
        and hint == "--text-column X names the column of this table."
    )
    with pytest.raises(UsageError, match="trained with text_column=body"):
        textgen.evaluate(textgen.load(model), Path("b.jsonl"))
    assert score(model, "b.jsonl", "--text-column", "text")["characters"] == 5


def test_pairs_with_renamed_columns(asked, desk):
    rows = [json.loads(line) for line in (CASES / "pairs2.jsonl").read_text().splitlines()[:20]]
    Path("same.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("other.jsonl").write_text("".join(json.dumps({"in": r["q"], "out": r["a"]}) + "\n" for r in rows))
    renamed = ["--prompt-column", "in", "--completion-column", "out"]
    assert score(asked, "same.jsonl") == score(asked, "other.jsonl", *renamed)
    said, _ = refusal(run("evaluate", "-m", asked, "other.jsonl", "--prompt-column", "in"), 2)
    assert said.endswith("The model was trained with --completion-column a.")
    quantize(asked, Path("small"))
    assert score("small", "same.jsonl")["pairs"] == 20


def test_a_forecaster_remembers_its_encoding_and_names_a_column_of_training():
    days = [f"20{10 + n // 12}-{n % 12 + 1:02}-01,{n % 12}" for n in range(96)]
    Path("t.csv").write_bytes(("date,käufe\n" + "\n".join(days) + "\n").encode("latin-1"))
    model = train("run", "t.csv", "--task", "forecast", "--cell", "gru", "--encoding", "latin-1")
    assert run("predict", "-m", model, "t.csv").code == 0
    assert textgen.load(model).predict("t.csv")[0].series == "käufe"
    Path("u.csv").write_bytes(("date,käufe\n" + "\n".join(days) + "\n").encode())
    assert run("predict", "-m", model, "u.csv", "--encoding", "utf-8").code == 0
    Path("v.csv").write_text("date,sales\n" + "\n".join(days) + "\n")
    done = run("predict", "-m", model, "v.csv")
    assert done.code == 2 and "has no column 'käufe'" in done.err and "was trained on" in done.err


def test_a_delimiter_is_remembered_and_named_where_it_does_not_fit():
    Path("a.csv").write_text("body~stars\n" + "".join(f"{text}~{label}\n" for text, label in REVIEWS * 3))
    model = train("run", "a.csv", "--delimiter", "~", "--text-column", "body", "--label-column", "stars")
    assert read_config(Path(model)).reading["delimiter"] == "~" and score(model, "a.csv")["texts"] == len(REVIEWS) * 3
    Path("b.csv").write_text(Path("a.csv").read_text().replace("~", ","))
    assert run("evaluate", "-m", model, "b.csv").code != 0
    assert score(model, "b.csv", "--delimiter", ",")["texts"] == len(REVIEWS) * 3


# --- lines and files ---


def test_old_line_ends_are_line_ends(judge):
    count = (CASES / "cr.txt").read_bytes().count(b"\r")
    assert len(labels_of(judge, CASES / "cr.txt")) == count > 100


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_pipe_has_the_lines_of_a_file(judge, end):
    data = end.join(["a fine soup", "", "a dull\u2028room\x0c", "cold"]).encode("utf-8-sig")
    Path("x.txt").write_bytes(data)
    command = [sys.executable, "-m", "textgen", "predict", "-m", str(judge), "--json", "--threads", "1", "-"]
    environment = {**os.environ, "TEXTGEN_LOAD_PLUGINS": ""}
    piped = subprocess.run(command, input=data, capture_output=True, check=True, env=environment).stdout
    labels = [json.loads(line)["label"] for line in piped.splitlines()]
    assert labels == labels_of(judge, "x.txt") and len(labels) == 4 and labels[1] is None


@settings(deadline=None, max_examples=200)
@given(text=st.text("ab\r\n\u2028é", max_size=12), size=st.sampled_from([1, 2, 3, 50]))
def test_lines_are_those_of_universal_newlines(text, size):
    data = text.encode()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    expected = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert [line.decode() for line in lines(pieces)] == (expected if expected[-1] else expected[:-1])


def test_a_classifier_of_files_predicts_files(desk):
    for text, label in REVIEWS * 2:
        place = desk / "texts" / label / f"{len(list(desk.glob('texts/*/*')))}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{text}\nand so on\n")
    model = train("run", "texts", "--task", "classify")
    assert read_config(Path(model)).reading == {"whole_files": True}
    assert len(labels_of(model, "texts")) == len(REVIEWS) * 2 == score(model, "texts")["texts"]
    one = next(desk.glob("texts/good/*"))
    assert len(labels_of(model, one)) == 1 and len(labels_of(model, one, "--lines")) == 2
    assert "--whole-files" in run("predict", "-m", model, one).err


# --- the record ---


def test_what_is_asked_for_comes_first_and_nonsense_is_refused():
    record = {"encoding": "latin-1", "document_separator": "|", "unknown": 1}
    reading = Reading.of(record, {"document_separator": "", "text_column": None})
    assert (reading.encoding, reading.options.document_separator) == ("latin-1", None)
    assert reading.trained == {"encoding"} and reading.asked("encoding") is None
    assert Reading.of(record, {"encoding": "utf-8"}).asked("encoding") == "utf-8"
    with pytest.raises(TextgenError, match=r"config\.json is damaged"):
        Reading.of({"encoding": 5}, {})
    with pytest.raises(UsageError, match="unknown encoding"):
        Reading.of({}, {"encoding": "nope"})


def test_a_model_from_before_the_record_reads_as_asked(divided, desk):
    copy = shutil.copytree(divided, desk / "copy")
    content = json.loads((copy / "config.json").read_text())
    del content["reading"]
    textgen.storage.filesystem.replace_in_folder(copy, "config.json", json.dumps(content).encode())
    assert run("evaluate", "-m", copy, CASES / "sep_test.txt").err == ""
