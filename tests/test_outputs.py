"""Laws of output files: an input stays, a file of someone else stays unless told otherwise, an earlier output goes."""

import io
import os
import re
import shutil
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest
from terminal import refusal, run

from textgen.cli.cowrite import HELP
from textgen.storage import outputs

STORY = "the cat sat on the mat.\nthe dog lay by the door.\n" * 40
SALES = "date,sales\n" + "".join(f"{date(2024, 1, 1) + timedelta(n)},{n % 7}\n" for n in range(280))
REVIEWS = "text,label\n" + "".join(
    f"{'good' if n % 2 else 'bad'} room {n},{'up' if n % 2 else 'down'}\n" for n in range(60)
)
SIZES = ["--max-steps", "12", "--hidden-size", "8", "--threads", "1", "--seed", "1", "-q", "--cell", "gru"]
MODELS = {
    "lm": ["story.txt", "--batch-size", "4", "--seq-length", "16", "--tokenizer", "char"],
    "forecast": ["sales.csv", "--task", "forecast", "--horizon", "3"],
    "classify": ["reviews.csv", "--task", "classify"],
}
FOREIGN = {
    "notes": b"my notes\n",
    "table": b"series,value\na,1\n",
    "picture": b"\x89PNG\r\n\x1a\n" + b"a photograph" * 9,
    "weights": b"\x02\0\0\0\0\0\0\0{}",
    "json": b'{"series": "a", "value": 3}\n',
    "archive": b"PK\x03\x04" + b"zip" * 9,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a corpus of each kind, and a model trained on it."""
    root = tmp_path_factory.mktemp("outputs")
    for name, text in {"story.txt": STORY, "sales.csv": SALES, "reviews.csv": REVIEWS, "prompt.txt": "the "}.items():
        (root / name).write_text(text)
    home = Path.cwd()
    os.chdir(root)
    try:
        for name, typed in MODELS.items():
            done = run("train", *typed, *SIZES, "--output-dir", name)
            assert done.code == 0, done.err
        assert run("compress", "story.txt", "-m", "lm", "-o", "story.tgc", "-q").code == 0
        assert run("sample", "-m", "lm", "-n", "3", "--save-state", "begun.state").code == 0
    finally:
        os.chdir(home)
    return root


@pytest.fixture(autouse=True)
def desk(made, tmp_path, monkeypatch):
    """A copy of that folder to work in."""
    shutil.copytree(made, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    monkeypatch.delenv("TEXTGEN_MODEL", raising=False)


# Every output file of every command: what is typed with {} for the file, what is said on standard input, the files
# that it reads, and whether an earlier output can be told from other files.
FILES = {
    "predict -o": ("predict sales.csv -m forecast -o {}", "", ["sales.csv", "forecast/config.json"], True),
    "predict -o --json": ("predict sales.csv -m forecast --json -o {}", "", ["sales.csv"], True),
    "predict --plot": ("predict sales.csv -m forecast --plot {}", "", ["sales.csv", "forecast/config.json"], True),
    "evaluate --plot": ("evaluate -m forecast --plot {}", "", ["forecast/config.json"], True),
    "evaluate --plot, labels": ("evaluate reviews.csv -m classify --plot {}", "", ["reviews.csv"], True),
    "sample --save-state": (
        "sample -m lm -n 3 -f prompt.txt --load-state begun.state --save-state {}", "",
        ["prompt.txt", "begun.state", "lm/model.safetensors"], True,
    ),
    "sample -i --save-state": ("sample -m lm -n 3 -i --save-state {}", "", ["lm/config.json"], True),
    "/save": ("sample -m lm -n 3 -i --load-state begun.state", "\n/save {}\n", ["begun.state", "lm/config.json"], True),
    "/write": ("sample -m lm -n 3 -i -f prompt.txt", "\n/write {}\n", ["prompt.txt"], False),
    "compress -o": ("compress story.txt -m lm -o {}", "", ["story.txt", "lm/config.json"], True),
    "decompress -o": ("decompress story.tgc -m lm -o {}", "", ["story.tgc", "lm/step.json"], False),
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", FILES)


def write(name, path, *more):
    """Run the command of a row with a path for its output."""
    typed, said, _, _ = FILES[name]
    words = [word.format(path) for word in typed.split()]
    if "plot" in name:
        pytest.importorskip("matplotlib")
    return (
        run(*words, "--seed", "1", *more, stdin=said.format(path).encode())
        if words[0] == "sample"
        else run(*words, *more)
    )


def refused(name, done, path, says):
    """Whether a command said so in a sentence, and at the right time: before it wrote anything."""
    if name.startswith("/"):
        assert done.code == 0 and f"Warning: '{path}' {says}" in done.err, done
    else:
        said, hint = refusal(done, 2 if "input" in says else 1)
        assert said.startswith(f"'{path}' {says}") and hint, said


@EVERY
@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_of_someone_else_is_replaced_only_when_told_to(name, content):
    path = Path("there")
    path.write_bytes(FOREIGN[content])
    refused(name, write(name, path), path, "exists already")
    assert path.read_bytes() == FOREIGN[content]
    if content == "notes":
        done = write(name, path, "--overwrite")
        assert done.code == 0 and "Warning" not in done.err and path.read_bytes() != FOREIGN[content], done


@EVERY
def test_an_input_is_never_replaced(name):
    for number, read in enumerate(FILES[name][2]):
        before = Path(read).read_bytes()
        symbolic, hard = Path(f"symbolic{number}"), Path(f"hard{number}")
        symbolic.symlink_to(read)
        hard.hardlink_to(read)
        for path in (read, Path(read).absolute(), symbolic, hard):
            for more in ([], ["--overwrite"]):
                refused(name, write(name, path, *more), path, "is an input of this command and is never replaced.")
                assert Path(read).read_bytes() == hard.read_bytes() == before and symbolic.is_symlink()


@EVERY
def test_an_earlier_output_is_replaced(name):
    first = write(name, "new")
    assert first.code == 0, first.err
    content = Path("new").read_bytes()
    again = write(name, "new")
    if FILES[name][3]:
        assert again.code == 0 and Path("new").read_bytes() == content, again
    else:
        refused(name, again, "new", "exists already")


@EVERY
def test_an_empty_file_and_a_device_may_be_written_to(name):
    Path("empty").touch()
    assert write(name, "empty").code == 0 and Path("empty").read_bytes()
    Path("link").symlink_to("elsewhere")
    assert write(name, "link").code == 0 and Path("link").is_symlink() and Path("elsewhere").is_file()
    assert write(name, os.devnull).code == 0 and not Path(os.devnull).is_file()


@EVERY
def test_where_nothing_can_be_written_is_said_before_the_work(name):
    if name.startswith("/"):
        done = write(name, "no/such/place")
        assert "Warning: the folder of 'no/such/place' does not exist." in done.err
        return
    said, hint = refusal(write(name, "no/such/place"), 2)
    assert said == "the folder of 'no/such/place' does not exist." and hint == "mkdir -p no/such"
    assert refusal(write(name, "lm"), 2)[0] == "'lm' is a folder, not a file."


@EVERY
def test_an_output_that_appears_during_the_work_stays(name, monkeypatch):
    """The rule is applied again at the end."""
    check = outputs.OutputFile.check
    calls = []

    def check_and_take(self):
        check(self)
        if not calls:
            self.path.write_bytes(b"my notes\n")
        calls.append(self.path)

    monkeypatch.setattr(outputs.OutputFile, "check", check_and_take)
    done = write(name, "new")
    assert Path("new").read_bytes() == b"my notes\n" and "'new' exists already" in done.err


def test_the_table_has_every_output_option():
    import click

    from textgen.cli import COMMANDS, group

    context = click.Context(group)
    named = set()
    for verb in COMMANDS:
        for parameter in group.get_command(context, verb).params:
            if set(parameter.opts) & {"-o", "--output", "--plot", "--save-state"} and parameter.name != "cell_options":
                named.add((verb, max(parameter.opts, key=len)))
    short = {"--output": "-o"}
    covered = {
        tuple(name.split(",")[0].split()[::1])[0:1] + (name.split(",")[0].split()[1],) for name in FILES if " " in name
    }
    assert {(verb, short.get(option, option)) for verb, option in named} <= covered
    assert set(re.findall(r"/(?:save|write)", HELP)) <= FILES.keys()


def test_standard_output_and_open_files_keep_working():
    straight = run("predict", "sales.csv", "-m", "forecast").out
    assert straight.startswith(b"series,time,forecast")
    assert run("predict", "sales.csv", "-m", "forecast", "-o", "-").out == straight
    archive = run("compress", "story.txt", "-m", "lm", "-o", "-", "-q").out
    assert archive == Path("story.tgc").read_bytes()
    assert run("decompress", "story.tgc", "-m", "lm", "-o", "-", "-q").out == STORY.encode()


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="no /dev/stdout here")
def test_an_open_file_is_written_to_where_it_stands():
    command = [sys.executable, "-m", "textgen", "compress", "story.txt", "-m", "lm", "-q", "-o", "/dev/stdout"]
    done = subprocess.run(command, capture_output=True, check=True)
    archive = Path("story.tgc").read_bytes()
    assert done.stdout == archive + b"/dev/stdout\n"
    with Path("log").open("ab") as log:  # as >> does
        log.write(b"what stood there\n")
        log.flush()
        subprocess.run(command, stdout=log, check=True)
    assert Path("log").read_bytes() == b"what stood there\n" + archive + b"/dev/stdout\n"


def test_a_pipe_is_written_to():
    os.mkfifo("pipe")
    reading = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert run("predict", "sales.csv", "-m", "forecast", "-o", "pipe").code == 0
    assert os.read(reading, 99).startswith(b"series,time,forecast")
    os.close(reading)


def test_standard_input_from_a_file_is_an_input(monkeypatch):
    with Path("sales.csv").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        code, err = None, io.StringIO()
        monkeypatch.setattr(sys, "stderr", err)
        from textgen.cli import main

        code = main(["predict", "-", "-m", "forecast", "-o", "sales.csv", "--overwrite"])
    assert code == 2 and "'sales.csv' is an input" in err.getvalue() and Path("sales.csv").read_text() == SALES


def test_inputs_are_found_in_folders_and_patterns_and_among_settings():
    Path("tables").mkdir()
    Path("tables/sales.csv").write_text(SALES)
    for typed in ("tables", "tables/*.csv"):
        said, _ = refusal(run("predict", typed, "-m", "forecast", "-o", "tables/sales.csv", "--overwrite"), 2)
        assert said.startswith("'tables/sales.csv' is an input")
    Path("my.toml").write_text("[predict]\n")
    for name, how in (("my.toml", ["--config", "my.toml"]), ("textgen.toml", [])):
        Path("my.toml").exists() and shutil.copy("my.toml", name) if name != "my.toml" else None
        said, _ = refusal(run(*how, "predict", "sales.csv", "-m", "forecast", "-o", name, "--overwrite"), 2)
        assert said.startswith(f"{name!r} is an input")


def test_two_outputs_of_one_command_are_two_files():
    said, _ = refusal(run("predict", "sales.csv", "-m", "forecast", "-o", "out", "--plot", "./out"), 2)
    assert said == "--output and --plot name the same file, './out'." and not Path("out").exists()


def test_what_an_earlier_output_is_can_be_told():
    """Each kind takes its own files, whatever the options, and no file of another kind."""
    pytest.importorskip("matplotlib")
    for name in FILES:
        assert write(name, re.sub(r"\W", "", name)).code == 0
    kinds = {
        outputs.FORECASTS: ["predicto", "predictojson"],
        outputs.PLOT: ["predictplot", "evaluateplot", "evaluateplotlabels"],
        outputs.STATE: ["samplesavestate", "sampleisavestate", "save", "begun.state"],
        outputs.ARCHIVE: ["compresso", "story.tgc"],
        outputs.ANYTHING: [],
    }
    everything = {each.name for each in Path.cwd().iterdir() if each.is_file()} | {"lm/model.safetensors"}
    for kind, own in kinds.items():
        told = {each for each in everything if kind.matches(Path(each).read_bytes()[: outputs.HEAD_BYTES])}
        assert told == set(own), kind


# --- folders ---

FOLDERS = {
    "quantize": "quantize lm {}",
    "tokenize": "tokenize story.txt --output-dir {} -q",
    "train": "train story.txt --max-steps 2 --hidden-size 8 --threads 1 -q --output-dir {}",
    "plugins new": "plugins new mycell --output-dir {}",
}


def tree(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in Path(folder).rglob("*")}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_replaced_only_when_told_to_and_only_if_all_in_it_is_ours(name):
    words = FOLDERS[name].split()
    make = [word.format("made") for word in words]
    can_replace = name != "plugins new"
    assert run(*make).code == 0
    before = tree("made")
    assert refusal(run(*make), 1)[0] == "'made' exists already."
    assert tree("made") == before
    if not can_replace:
        return
    assert run(*make, "--overwrite").code == 0 and tree("made").keys() == before.keys()
    Path("made/notes.txt").write_text("mine")
    before = tree("made")
    said, _ = refusal(run(*make, "--overwrite"), 1)
    assert "'notes.txt'" in said and tree("made") == before
    for other in ("lm", "."):  # the input itself, or the folder that it lies in
        before = tree(other)
        done = run(*[word.format(other) for word in words], "--overwrite")
        assert done.code in (1, 2) or (name, other) == ("train", "lm"), done
        assert tree(other) == before or (name, other) == ("train", "lm")


def test_training_never_replaces_a_run_that_holds_its_corpus():
    before = tree("lm")
    for corpus in ("lm/README.md", "lm"):
        done = run("train", corpus, *SIZES, "--output-dir", "lm", "--overwrite")
        assert done.code in (1, 2) and tree("lm") == before, done
    said, _ = refusal(run("train", "lm/README.md", *SIZES, "--output-dir", "lm", "--overwrite-output-dir"), 1)
    assert said == "'lm' holds an input of this run and is never replaced."


def test_a_file_named_latest_that_names_no_run_stays():
    Path("runs").mkdir()
    for content in ("my notes\non two lines\n", "../elsewhere"):
        Path("runs/latest").write_text(content)
        assert run("train", "story.txt", *SIZES).code == 0
        assert Path("runs/latest").read_text() == content
    Path("runs/latest").write_text("gru-story-1\n")
    assert run("train", "story.txt", *SIZES).code == 0
    assert Path("runs/latest").read_text() == "gru-story-3\n"
