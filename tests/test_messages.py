"""Messages: true defaults, what to type instead, and one message per line."""

import json
import os
import pty
import re
import subprocess
import sys
import zipfile
from contextlib import redirect_stderr, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminal import Terminal, refusal, run

import textgen
from textgen import errors, screen
from textgen.cli import group, main
from textgen.cli.cowrite import CoWriting
from textgen.data import archives, encodings
from textgen.errors import TextgenError
from textgen.generation import SampleOptions
from textgen.options import declared, flag
from textgen.tasks.language.objective import DOCUMENT_BREAK

NAMES = (
    "".join(f"{first}{last}\n" for first in ("An", "Bel", "Cor", "Dor") for last in ("na", "la", "do", "ra", "vin")) * 6
)
TINY = [
    "--hidden-size",
    "8",
    "--batch-size",
    "4",
    "--seq-length",
    "16",
    "--threads",
    "1",
    "--cell",
    "gru",
    "--seed",
    "1",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of names, each a document and a line of its own."""
    folder = tmp_path_factory.mktemp("messages")
    (folder / "names.txt").write_text(NAMES)
    typed = [
        "train",
        folder / "names.txt",
        "--max-steps",
        "60",
        "--learning-rate",
        "0.02",
        "--tokenizer",
        "char",
        *TINY,
    ]
    done = run(*typed, "--output-dir", folder / "runs" / "names", "-q")
    assert done.code == 0, done.err
    return folder / "runs" / "names"


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TEXTGEN_MODEL", raising=False)
    (tmp_path / "names.txt").write_text(NAMES)


# --- what the help says of defaults ---


def help_of(verb, name):
    import click

    command = group.get_command(click.Context(group), verb)
    return next(p.help for p in command.params if p.name == name)


def test_the_help_says_that_the_model_has_defaults_of_its_own():
    """Every option that generation_config.json may set, and its own value where the model says nothing."""
    for field, declaration in declared(SampleOptions):
        if not declaration.per_call:
            assert "[default: the model's own, else " in help_of("sample", field.name), field.name
    assert help_of("sample", "temperature").endswith("[default: the model's own, else 0.8]")
    assert help_of("sample", "min_p").endswith("[default: the model's own, else 0.0]")


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0.3), ("min_p", 0.2), ("max_new_tokens", 7), ("top_k", 1), ("greedy", True), ("stop", ["n"])],
)
def test_what_the_help_calls_the_models_own_applies(model, tmp_path, name, value):
    import shutil

    from textgen.storage import filesystem

    shutil.copytree(model, "copy")
    path = Path("copy/generation_config.json")
    content = {**json.loads(path.read_text()), "sampling": {name: value}}
    filesystem.replace_in_folder(Path("copy"), path.name, filesystem.to_json(content))
    typed = [word for each in (value if isinstance(value, list) else [value]) for word in (flag(name), str(each))]
    typed = typed[:1] if value is True else typed
    applied = run("sample", "-m", "copy", "--seed", "3").out
    assert applied == run("sample", "-m", model, "--seed", "3", *typed).out
    assert "[default: the model's own, else " in help_of("sample", name)


# --- files that are not text ---


def zipped(*names):
    def write(path):
        with zipfile.ZipFile(path, "w") as file:
            for name, content in names:
                file.writestr(name, content)

    return write


BINARY = {
    "letter.docx": (zipped(("[Content_Types].xml", "<x/>"), ("_rels/.rels", "<x/>"), ("word/document.xml", "<w/>")),
                    "a Word document"),
    "sheet.xlsx": (zipped(("[Content_Types].xml", "<x/>"), ("xl/workbook.xml", "<w/>")), "an Excel workbook"),
    "sheet.csv": (zipped(("[Content_Types].xml", "<x/>"), ("xl/workbook.xml", "<w/>")), "an Excel workbook"),
    "talk.pptx": (zipped(("ppt/presentation.xml", "<w/>")), "a PowerPoint presentation"),
    "book.epub": (zipped(("mimetype", "application/epub+zip"), ("a.xhtml", "<p/>")), "an EPUB book"),
    "text.odt": (zipped(("mimetype", "application/vnd.oasis.opendocument.text")), "an OpenDocument file"),
    "sheet.ods": (zipped(("mimetype", "application/vnd.oasis.opendocument.spreadsheet")), "a spreadsheet (ODS)"),
    "notes.zip": (zipped(("notes.txt", "text")), "a zip archive"),
    "paper.pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "a PDF document"),
    "no-ending": (b"%PDF-1.4\n1 0 obj", "a PDF document"),
    "letter.rtf": (b"{\\rtf1\\ansi Dear}", "a rich-text document (RTF)"),
    "old.doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 500, "a Word document"),
    "scan.png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "an image"),
    "photo.txt": (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "an image"),
    "song.mp3": (b"ID3\x04\0\0\0\0", "a sound or video file"),
    "film.mp4": (b"\0\0\0\x20ftypisom", "a sound or video file"),
    "all.tar": (b"notes.txt".ljust(257, b"\0") + b"ustar\0" + b"\0" * 250, "a tar archive"),
    "data.db": (b"SQLite format 3\0" + b"\0" * 90, "an SQLite database"),
    "a.out": (b"\x7fELF\x02\x01\x01" + b"\0" * 90, "a program"),
}  # fmt: skip


@pytest.mark.parametrize("name", BINARY)
def test_a_file_of_another_format_is_called_by_its_name(name):
    content, noun = BINARY[name]
    content(name) if callable(content) else Path(name).write_bytes(content)
    said, hint = refusal(run("train", name, *TINY, "--max-steps", "1"), 1)
    assert said == f"{name!r} is {noun}, not text." and hint and "--encoding" not in hint


def test_raw_bytes_of_any_format_can_be_learned():
    Path("paper.pdf").write_bytes(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj" * 20)
    _, hint = refusal(run("train", "paper.pdf", *TINY, "--max-steps", "1"), 1)
    assert hint.endswith("--tokenizer byte reads its raw bytes.")
    assert run("train", "paper.pdf", *TINY, "--max-steps", "1", "--tokenizer", "byte", "-q").code == 0


@pytest.mark.parametrize(
    "text",
    [
        "PK is a name.",
        "%PD",
        "{\\r",
        "BM is text, MZ too, II* as well.",
        "Rar! cried he.",
        "%PDF- is how it begins",
        "PAR1 and GIF89a",
    ],
)
def test_text_that_begins_as_a_format_nearly_does_is_text(text):
    assert archives.format_of(text.encode()) is None
    assert b"".join(encodings.to_utf8(iter([text.encode()]), text.encode(), "x", encodings.Decoding())) == text.encode()


def test_bytes_that_are_no_text_in_any_encoding_get_no_encoding_to_try():
    for content in (bytes(range(256)) * 8, b"\x01\x02\x03\xff" * 50):
        with pytest.raises(TextgenError) as caught:
            list(encodings.to_utf8(iter([content]), content, "x.bin", encodings.Decoding(may_be_raw=True)))
        assert "binary file" in caught.value.hint and "--encoding" not in caught.value.hint
    older = "Étienne a bien mangé. ".encode("latin-1") * 9
    with pytest.raises(TextgenError) as caught:
        list(encodings.to_utf8(iter([older]), older, "x.txt", encodings.Decoding()))
    assert caught.value.hint == "encoding=auto detects the encoding of 'x.txt'."


# --- too little text ---


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 20, 60])
@pytest.mark.parametrize("window", [[], ["--batch-size", "8", "--seq-length", "32"], ["--batch-size", "64"]])
def test_a_hint_for_little_text_never_suggests_what_teaches_nothing(size, window):
    Path("short.txt").write_text(NAMES[:size])
    done = run("train", "short.txt", "--max-steps", "1", "--hidden-size", "4", "--validation-split", "0", "-q", *window)
    if not done.code:
        return
    said, hint = refusal(done, 1)
    assert re.match(r"the training part has \d+ tokens; one batch of \d+ x \d+ needs \d+\.$", said), said
    suggested = re.search(r"--seq-length (\d+) fits\.$", hint)
    assert int(suggested[1]) >= 8 if suggested else hint.startswith("use a longer text"), hint


# --- words in the wrong place ---

WRONG = [
    ("sample Dear", "textgen sample does not take 'Dear'.", 'textgen sample --prompt "Dear"'),
    ("sample Dear Sir", "textgen sample does not take 'Dear Sir'.", 'textgen sample --prompt "Dear Sir"'),
    (
        "sample -n 9 'It costs $5'",
        "textgen sample does not take 'It costs $5'.",
        "textgen sample --prompt 'It costs $5'",
    ),
    ("sample names.txt", "textgen sample does not take 'names.txt'.", "textgen sample --file names.txt"),
    ("names.txt", "No such command 'names.txt'.", "textgen train names.txt"),
    (".", "No such command '.'.", "textgen train ."),
    ("stories", "No such command 'stories'.", "textgen train stories"),
    ("'Once upon a time'", "No such command 'Once upon a time'.", 'textgen sample --prompt "Once upon a time"'),
    ("cells lstm", "No such command 'lstm'.", "textgen cells show lstm"),
    ("env all", "textgen env does not take 'all'.", "textgen env; textgen env --help lists"),
    ("runs list a b", "textgen runs list does not take 'b'.", "textgen runs list [FOLDER]; "),
    ("compress", "Missing argument 'FILE'.", "textgen compress FILE; "),
    ("quantize lm", "Missing argument 'OUTPUT'.", "textgen quantize MODEL OUTPUT; "),
    (
        "predict 'the room is fine'",
        "there is no file 'the room is fine'.",
        'echo "the room is fine" | textgen predict -',
    ),
]


@pytest.mark.parametrize(("typed", "says", "instead"), WRONG, ids=[row[0] for row in WRONG])
def test_a_word_in_the_wrong_place_gets_the_command_that_was_meant(typed, says, instead):
    import shlex

    said, hint = refusal(run(*shlex.split(typed)), 2)
    assert said.startswith(says) and hint.startswith(instead), (said, hint)


def test_a_model_in_the_wrong_place_gets_its_option(model, monkeypatch):
    monkeypatch.chdir(model.parents[1])
    for typed, instead in {
        "sample runs/names": "textgen sample -m runs/names",
        "sample names": "textgen sample -m names",
        "names": "textgen sample -m names",
        "runs names": "textgen runs show names",
        "evaluate runs/names": "textgen evaluate -m runs/names",
        "predict runs/names": "textgen predict -m runs/names",
        "train runs/names": "--resume runs/names continues that run, --init-from runs/names starts from its weights.",
    }.items():
        assert refusal(run(*typed.split()), 2)[1] == instead
    said, hint = refusal(run("sample", "-m", "name"), 1)
    assert said == "there is no model folder 'name'. Did you mean 'names'?" and hint
    for verb in ("predict", "evaluate"):
        assert refusal(run(verb, "-m", "nosuch", "names.txt"), 1)[0] == "there is no model folder 'nosuch'."


# --- on a terminal, one thing a line ---


def lines_of(shown):
    """What stands on each line of a terminal in the end, or stood there when it was left or erased."""
    lines, line, column = [], [], 0
    for part in re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]|\r|\n|[^\x1b\r\n]", shown):
        if part == "\r":
            column = 0
        elif part == "\n" or part in ("\x1b[2K", "\x1b[K"):
            lines.append("".join(line))
            line, column = [], 0 if part == "\n" else column
        elif len(part) == 1:
            line[column : column + 1] = [part]
            column += 1
    return [text for text in [*lines, "".join(line)] if text.strip()]


SLOW = """
import sys
from textgen.cli import main, training_display
def watch(self, session):
    self._planned, self._slow = 1e12, 0
training_display._SpeedWatch.__init__ = watch
sys.exit(main(sys.argv[1:]))
"""


def on_a_terminal(code, *arguments):
    """What a program shows on a terminal that is its standard output and error, and how it ends."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "200", "TERM": "xterm"}
    command = [sys.executable, "-c", code, *arguments]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the other end is closed
        while piece := os.read(ours, 4096):
            shown += piece
    os.close(ours)
    return child.wait(), shown.decode().replace("\r\n", "\n")


def test_a_warning_stands_above_the_bar():
    typed = ["train", "names.txt", "--max-steps", "30", "--logging-steps", "2", *TINY, "--progress", "rich"]
    code, shown = on_a_terminal(SLOW, *typed)
    assert code == 0, shown
    (warning,) = [line for line in lines_of(shown) if "Slower than planned" in line]
    assert warning.startswith("Slower than planned (") and warning.endswith("may take.") and "loss" not in warning


def shown_by(function):
    """What a function shows on a terminal."""
    with redirect_stderr(Terminal(True)) as err:
        function()
        err.flush()
        return err.buffer.getvalue().decode()


@pytest.mark.parametrize("say", [screen.say, screen.warn])
def test_what_is_said_does_not_stand_behind_a_line_that_moves(say):
    def both():
        screen.rewrite_line("reading 12.0 of 99.0 MB")
        say("all wrong.")
        say("indeed.")

    _, first, second = lines_of(shown_by(both))
    assert "reading" not in first + second and first.endswith("all wrong.") and second.endswith("indeed.")


def test_a_mistake_while_a_corpus_is_read_stands_on_a_line_of_its_own(monkeypatch):
    def reading(*arguments, **more):
        screen.rewrite_line("reading 12.0 of 99.0 megabytes of text")
        raise TextgenError("it is damaged.")

    monkeypatch.setattr("textgen.data.corpus.scan_corpus", reading)
    shown = shown_by(lambda: main(["tokenize", "names.txt", "--output-dir", "tokens"]))
    assert lines_of(shown)[1:] == ["Error: it is damaged."]


def test_the_sample_in_training_shows_where_documents_end(model, monkeypatch):
    Path("docs").mkdir()
    for number, name in enumerate(NAMES.split()[:20]):
        Path(f"docs/{number}.txt").write_text(name)
    typed = [
        "train",
        "docs",
        "--max-steps",
        "80",
        "--learning-rate",
        "0.03",
        "--sample-steps",
        "80",
        "--tokenizer",
        "char",
    ]
    done = run(*typed, *TINY, "--validation-split", "0", "--progress", "plain")
    (shown,) = re.findall(r"^step=80 sample: (.*)$", done.err, re.M)
    documents = shown.split(DOCUMENT_BREAK.strip())
    assert len(documents) > 3 and max(map(len, documents)) < 20, shown
    assert run(*typed, *TINY, "--validation-split", "0", "--progress", "plain").err.count(shown) == 1  # the same seed


# --- stop strings and other texts in options ---


@pytest.mark.parametrize("typed", [r"\n", "\n", r"n\n"])
def test_a_stop_string_takes_the_escapes_of_other_options(model, typed):
    straight = run("sample", "-m", model, "--seed", "5", "-n", "60").text
    stopped = run("sample", "-m", model, "--seed", "5", "-n", "60", "--stop", typed).text
    meant = typed.replace(r"\n", "\n")
    assert stopped == (straight.split(meant)[0] + "\n" if meant in straight else straight) and "\n" in straight[:-1]


def test_an_escaped_backslash_is_a_backslash_and_python_takes_text_as_it_is(model):
    straight = run("sample", "-m", model, "--seed", "5", "-n", "60").text
    assert run("sample", "-m", model, "--seed", "5", "-n", "60", "--stop", r"\\n").text == straight
    loaded = textgen.load(model)
    assert textgen.generate(loaded, seed=5, max_new_tokens=60, stop=r"\n") + "\n" == straight
    assert textgen.generate(loaded, seed=5, max_new_tokens=60, stop="\n") == straight.split("\n")[0]


@given(st.text())
def test_any_text_can_be_typed(text):
    typed = text.translate({ord(c): e for c, e in zip("\n\t\r\0\\", (r"\n", r"\t", r"\r", r"\0", r"\\"), strict=True)})
    assert errors.unescape(typed) == text


def test_every_option_with_escapes_reads_them_alike(model):
    from textgen.data.sources import separator
    from textgen.generation.sampling import bias_of_ids

    tokenizer = textgen.load(model).tokenizer
    for typed, meant in {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\0": "\0", r"\\": "\\", r"\x": r"\x"}.items():
        assert errors.unescape(typed) == meant and separator(typed) == meant.encode()
    assert bias_of_ids({r"\n": 2.0}, tokenizer) == bias_of_ids({"\n": 2.0}, tokenizer)


# --- several samples ---


def test_several_samples_in_a_pipe_are_texts_alone(model):
    several = ["sample", "-m", model, "-n", "12", "--seed", "5", "--num-samples", "3"]
    alone = [run("sample", "-m", model, "-n", "12", "--seed", seed).text for seed in (5, 6, 7)]
    assert run(*several).text == "\n".join(alone)
    assert run(*several, "-0").text == "".join(text[:-1] + "\0" for text in alone)
    assert run(*several, terminal=True).text.count("— 2 of 3 —\n") == 1
    many = run("sample", "-m", model, "-n", "3", "--seed", "5", "--num-samples", "12").text
    assert "—" not in many and "of 12" not in many


# --- characters on a terminal ---

SHOWN = [
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # the flag of England
    "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",  # of Scotland
    *("👩\u200d🚀", "❤\ufe0f", "می\u200cخواهم", "שלום\u200f!", "ภาษา\u200bไทย", "Dampf\u00adschiff", "a\u00a0b\u3000c"),
]
HIDDEN = {
    "\u202e": r"\u202e",
    "\u2066": r"\u2066",
    "\ufeff": r"\ufeff",
    "\x1b": r"\x1b",
    "\x07": r"\x07",
    "\x9b": r"\x9b",
    "\U000e0067": r"\U000e0067",
    "a\U000e007f": r"a\U000e007f",
    "\U0001f3f4\U000e007f": "\U0001f3f4\\U000e007f",
}


@pytest.mark.parametrize("text", SHOWN)
def test_text_shows_as_it_is_on_a_terminal(model, text):
    assert errors.visible(text) == text
    escaper = errors.Escaper()
    assert "".join(map(escaper, text)) == text
    shown = run("sample", "-m", model, "-n", "0", "--echo", "-p", text, terminal=True).text
    assert shown == text + "\n"
    assert str(TextgenError(f"{text} is wrong.")) == f"{text} is wrong."


@pytest.mark.parametrize("text", HIDDEN)
def test_what_moves_the_cursor_or_hides_is_an_escape(text):
    assert errors.visible(text) == HIDDEN[text] and str(TextgenError(f"{text}.")) == f"{HIDDEN[text]}."
    escaper = errors.Escaper()
    assert "".join(map(escaper, text)) == HIDDEN[text]


@given(st.text(st.sampled_from("a\U0001f3f4\U000e0067\U000e0062\U000e007f\u202e\x1b"), max_size=12), st.data())
def test_how_a_text_is_cut_does_not_show(text, data):
    at = data.draw(st.integers(0, len(text)))
    escaper = errors.Escaper()
    assert escaper(text[:at]) + escaper(text[at:]) == errors.visible(text)


# --- writing together ---


def talk(model, *lines, more=()):
    typed = ["sample", "-m", model, "-i", "--seed", "3", "-n", "20", *more]
    done = run(*typed, stdin="".join(f"{line}\n" for line in lines).encode())
    assert done.code == 0, done
    return done


def test_the_text_so_far_can_be_written_and_shown(model):
    done = talk(model, "An", "", "/show", "/write story.txt", more=["-p", "Bel"])
    first, second = done.text.splitlines()[:2]
    text = Path("story.txt").read_text()
    assert text.startswith(f"BelAn\n{first}") and text in done.text and second in text
    assert re.search(r"^wrote \d+ characters: story\.txt$", done.err, re.M)
    again = talk(model, "An", "/write a.txt", "/keep", "Cor", "/undo", "/write b.txt", "/again", "/write a.txt")
    assert Path("a.txt").read_text() == Path("b.txt").read_text() and "exists already" not in again.err
    talk(model, "An", "Cor", "/undo", "/alternatives 2", "2", "/write c.txt", more=["--temp", "2"])
    assert Path("c.txt").read_text().startswith("An\n") and "Cor" not in Path("c.txt").read_text()


def test_the_text_that_was_written_is_the_text_that_the_state_has_read(model):
    talk(model, "An", "Bel\\", "", "/save s.state", "/write s.txt", more=["-p", "Cor"])
    loaded = textgen.load(model)
    from textgen.generation.session import Session

    session = Session.load(loaded, "s.state")
    assert session.open.tail.rstrip("\n") == Path("s.txt").read_text().rstrip("\n")


def test_a_text_that_someone_changed_meanwhile_is_not_written_over(model, monkeypatch):
    show = CoWriting._show

    def change_and_show(self, argument):
        Path("story.txt").write_text("mine")
        show(self, argument)

    monkeypatch.setattr(CoWriting, "_show", change_and_show)
    done = talk(model, "An", "/write story.txt", "/show", "/write story.txt")
    assert "Warning: 'story.txt' exists already." in done.err and Path("story.txt").read_text() == "mine"
    assert "Hint: --overwrite replaces it, or choose another file for /write." in done.err


def test_a_state_is_not_saved_under_the_name_of_a_text(model):
    done = talk(model, "An", "/save story.txt", "/write", "/wirte x")
    assert not Path("story.txt").exists()
    assert "Hint: /write story.txt writes the text, /save story.state the state." in done.err
    assert "/write needs the name of a file." in done.err and "Did you mean 'write'?" in done.err
    for name in ("/show", "/write FILE", "/save FILE"):
        assert f"  {name}  " in talk(model, "/help").err


def test_a_model_folder_among_the_inputs_moves_to_its_option_and_the_rest_stays():
    Path("a model").mkdir()
    for name in ("manifest.json", "config.json"):
        Path("a model", name).write_text("{}")
    Path("notes.txt").write_text("words")
    for verb in ("evaluate", "predict"):
        said, hint = refusal(run(verb, "a model", "notes.txt"), 2)
        assert said.startswith("'a model' is a model folder, not a ")
        assert hint == f"textgen {verb} -m 'a model' notes.txt"
