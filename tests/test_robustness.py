"""What the command promises to whoever types it: a code, one sentence, no traceback, nothing lost, nothing left behind.

Signals at every stage, outputs that nobody reads, full or odd terminals, folders that vanish or refuse, and the record
of what a run depends on. Random moments are tried by `tests/torture/stops.py`.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from unittest import mock

import pytest
from process import as_nobody, begin, process, sentence, unfinished, wait
from terminal import refusal, run

import textgen
from textgen import plugins, signals, storage
from textgen.data import corpus
from textgen.errors import TextgenError
from textgen.storage import filesystem
from textgen.tasks import options_for
from textgen.training.start import resume, start
from textgen.training.trainer import Trainer

STORY = "".join(f"{who} saw a {what}, and said: good day!\n" for who in ("Tom", "Lily") * 9 for what in ("fox", "kite"))
SMALL = ["--hidden-size", "8", "--batch-size", "4", "--seq-length", "16", "--threads", "1"]
TRAIN = ["train", "story.txt", *SMALL, "--max-steps", "6", "--save-steps", "2", "--eval-steps", "3"]
TINY = {
    "cell": "gru",
    "hidden_size": 8,
    "batch_size": 4,
    "seq_length": 16,
    "threads": 1,
    "max_steps": 2,
    "sample_steps": 0,
}
fcntl, pty, termios = map(pytest.importorskip, ("fcntl", "pty", "termios"))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with a story, one run and an archive."""
    root = tmp_path_factory.mktemp("made")
    (root / "story.txt").write_text(STORY)
    before = Path.cwd()
    os.chdir(root)
    try:
        assert run(*TRAIN, "--output-dir", "runs/a", "-q").code == 0
        assert run("compress", "story.txt", "-m", "a", "-q").code == 0
    finally:
        os.chdir(before)
    return root


@pytest.fixture(autouse=True)
def desk(made, tmp_path, monkeypatch):
    """A copy of it to work in."""
    monkeypatch.delenv("TEXTGEN_MODEL", raising=False)
    shutil.copytree(made, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    return tmp_path / "desk"


def damaged():
    """What `textgen runs verify` finds wrong here."""
    done = run("runs", "verify", "--json")
    found = [sentence for line in done.out.splitlines() for sentence in json.loads(line)["damaged"]]
    assert done.code == (1 if found else 0), done
    return found


# --- stopped at any stage ---

STAGES = {  # where in the house, and what was typed
    "reading": ("textgen.data.corpus.scan", TRAIN),
    "storing tokens": ("textgen.data.corpus.write_store", [*TRAIN, "--tokenizer", "byte"]),
    "tokenizing": ("textgen.data.corpus.scan_corpus", ["tokenize", "story.txt", "--output-dir", "tokens"]),
    "measuring": ("textgen.training.planner.ThisMachine.step_seconds", ["train", "story.txt", "--minutes", "0.1"]),
    "keeping the step": ("textgen.training.start.stored_step", TRAIN),
    "loading": ("textgen.storage.verified", ["sample"]),
    "sampling": ("textgen.generation.generate.stream_rows", ["sample"]),
    "evaluating": ("textgen.tasks.language.evaluate.score_encoded", ["evaluate"]),
    "compressing": ("textgen.evaluation.compression.compress", ["compress", "story.txt", "-o", "archive"]),
    "writing": ("textgen.storage.filesystem.FileWriter.finish", ["compress", "story.txt", "-o", "archive"]),
    "verifying": ("textgen.storage.check_file", ["runs", "verify"]),
}


@contextmanager
def signalled(place, *numbers, times=1):
    """Send these signals to this process where a function of the house is called for the `times`-th time."""
    home, _, name = place.rpartition(".")
    try:
        owner = import_module(home)
    except ImportError:
        module, _, kind = home.rpartition(".")
        owner = getattr(import_module(module), kind)
    real, calls = getattr(owner, name), []

    def called(*arguments, **options):
        calls.append(name)
        if len(calls) == times:
            for number in numbers:
                signal.raise_signal(number)
        return real(*arguments, **options)

    with mock.patch.object(owner, name, called):
        yield calls


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("stage", STAGES)
def test_a_command_stops_where_it_is_in_one_line_and_leaves_nothing(desk, stage, number):
    place, typed = STAGES[stage]
    before = {path for path in desk.rglob("*") if ".tokens" not in path.parts}
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert signals.leave not in handlers
    with signalled(place, number) as calls:
        done = run(*typed)
    assert calls and (done.code, done.out) == (130 if number == signal.SIGINT else 143, b""), done
    assert done.err.split("\n")[-2:] == ["Stopped.", ""] and "Traceback" not in done.err
    assert {path for path in desk.rglob("*") if ".tokens" not in path.parts} == before and not unfinished(desk)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    assert damaged() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_training_stopped_saves_says_so_even_if_quiet_and_ends_with_the_same_bits(number):
    with signalled("textgen.training.trainer.Trainer._step", number, times=3):
        done = run(*TRAIN, "--output-dir", "runs/b", "-q")
    assert (done.code, done.out) == (130 if number == signal.SIGINT else 143, b"")
    assert done.err == "Stopped at step 3; saved.\nContinue: textgen train --resume runs/b\n"
    assert run("train", "--resume", "runs/b", "-q") == (0, b"", "")
    assert Path("runs/a/model.safetensors").read_bytes() == Path("runs/b/model.safetensors").read_bytes()


def test_a_second_ctrl_c_leaves_at_once_with_one_line():
    with signalled("textgen.training.trainer.Trainer._step", signal.SIGINT, signal.SIGINT, times=4):
        done = run(*TRAIN, "--output-dir", "runs/b", "-q")
    assert (done.code, done.err) == (130, "\nStopped without saving; runs/b keeps its last checkpoint.\n")
    assert damaged() == [] and run("train", "--resume", "runs/b", "-q").code == 0


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with signalled("textgen.training.trainer.Trainer._step", signal.SIGHUP, times=3):
            assert run(*TRAIN, "--output-dir", "runs/b", "-q").code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


EARLY = """
import os, signal, sys
def stop(event, arguments):
    if event == "import" and arguments[0] == {0!r} and signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        os.kill(os.getpid(), {1})
sys.addaudithook(stop)
from textgen.__main__ import run
sys.argv = ["textgen", *{2}]
run()
"""


@pytest.mark.parametrize(("module", "number"), [("click", signal.SIGINT), ("textgen.screen", signal.SIGTERM),
                                                ("numpy", signal.SIGTERM)])  # fmt: skip
def test_a_signal_during_an_import_is_one_line(module, number):
    child = [sys.executable, "-c", EARLY.format(module, int(number), ["sample"])]
    done = subprocess.run(child, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130 if number == signal.SIGINT else 143, ""), done
    assert done.stderr.strip() == "Stopped."


def live_slowly_in_a_terminal():
    """Make standard input the terminal that this process is killed with, and take 50 ms a step."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    step = Trainer._step
    Trainer._step = lambda self, number: (time.sleep(0.05), step(self, number))[1]


def test_a_terminal_that_goes_away_ends_training_saved():
    terminal, far_end = pty.openpty()
    typed = [*TRAIN[:-6], "--max-steps", "400", "--output-dir", "runs/b"]
    child = begin(typed, 3 * [far_end], prepare=live_slowly_in_a_terminal)
    os.close(far_end)
    seen = b""
    while b"left" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    wait(child)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not list(Path("runs/b").glob("checkpoint-*")):
        time.sleep(0.05)
    assert damaged() == []
    assert resume(Path("runs/b"), {}).trainer.progress.step > 0


# --- outputs that cannot take what is written ---

SPEAKING = {
    "help": ["--help"],
    "help of a verb": ["train", "--help"],
    "cells": ["cells"],
    "one cell": ["cells", "show", "lstm"],
    "help of plugins": ["plugins", "new", "--help"],
    "env": ["env"],
    "completion": ["completion", "bash"],
    "plugins": ["plugins"],
    "runs": ["runs"],
    "show": ["runs", "show"],
    "verify": ["runs", "verify"],
    "sample": ["sample", "-n", "5", "--seed", "1"],
    "several": ["sample", "-n", "5", "--seed", "1", "--num-samples", "3", "--json"],
    "evaluate": ["evaluate", "story.txt"],
    "per token": ["evaluate", "story.txt", "--per-token"],
    "tokenize": ["tokenize", "story.txt", "--output-dir", "tokens"],
    "compress": ["compress", "story.txt", "-o", "archive"],
    "decompress": ["decompress", "story.txt.tgc", "-o", "back.txt"],
}
RESULTS = {"tokenize": "tokens", "compress": "archive", "decompress": "back.txt"}
speaking = pytest.mark.parametrize("name", SPEAKING)


@speaking
def test_whoever_stops_reading_is_left_in_peace(name):
    reading, writing = os.pipe()
    os.close(reading)
    done = process(*SPEAKING[name], out=writing)
    os.close(writing)
    assert done.code == 1 and "Error" not in done.err and "Traceback" not in done.err, done
    assert name not in RESULTS or Path(RESULTS[name]).exists()


@pytest.mark.slow
def test_whoever_stops_reading_a_comparison_is_left_in_peace_and_its_table_is_kept():
    reading, writing = os.pipe()
    os.close(reading)
    budget = ["--budget", "params=2k", "--budget", "tokens=3k", "--learning-rates", "0.01", "--seeds", "1"]
    done = process("compare", "story.txt", "--cells", "rnn,gru", "--output-dir", "c", *budget, out=writing)
    os.close(writing)
    assert done.code == 1 and "Error" not in done.err and "Traceback" not in done.err, done
    assert Path("c", "results.md").exists() or list(Path("c").glob("*.json"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
@speaking
def test_a_full_disk_below_the_output_is_a_sentence(name):
    with open("/dev/full", "w") as full:
        done = process(*SPEAKING[name], out=full.fileno())
    assert sentence(done) in (
        f"{what}: No space left on device." for what in ("standard output", "the operating system")
    )
    assert name not in RESULTS or Path(RESULTS[name]).exists()


@speaking
def test_without_an_output_the_result_is_refused_not_lost(name):
    assert sentence(process(*SPEAKING[name], out=None)) == "standard output is closed."
    assert damaged() == []


@speaking
def test_an_odd_terminal_changes_no_byte_of_a_result(name):
    typed = SPEAKING[name]
    usual = process(*typed)
    for result in filter(Path.exists, map(Path, RESULTS.values())):
        shutil.rmtree(result) if result.is_dir() else result.unlink()
    for encoding in ("ascii", "latin-1"):
        odd = process(*typed, encoding=encoding)
        assert (odd.code, odd.out) == (0, usual.out), odd
        for result in filter(Path.exists, map(Path, RESULTS.values())):
            shutil.rmtree(result) if result.is_dir() else result.unlink()


@pytest.mark.parametrize("err", ["closed pipe", "full", "none"])
def test_training_goes_on_when_nobody_listens(err):
    reading, writing = os.pipe()
    os.close(reading)
    with open("/dev/full" if Path("/dev/full").exists() else os.devnull, "w") as full:
        handle = {"closed pipe": writing, "full": full.fileno(), "none": None}[err]
        done = process(*TRAIN, "--output-dir", "runs/b", err=handle)
    os.close(writing)
    assert (done.code, done.out) == (0, b"")
    assert Path("runs/a/model.safetensors").read_bytes() == Path("runs/b/model.safetensors").read_bytes()
    assert process("sample", "-n", "5", "-v", err=None).code == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_python_itself_says_nothing_at_the_end_either(unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    for shell, code in (
        ("--help > /dev/full", 1),
        ("env > /dev/full", 1),
        ("cells | head -c 1", 0),
        ("env >&- 2>&-", 1),
    ):
        typed = f"'{sys.executable}' -m textgen {shell}"
        done = subprocess.run(typed, shell=True, capture_output=True, text=True, env=environment)
        assert done.returncode == code and "Exception" not in done.stderr and "Traceback" not in done.stderr, done


def test_a_reader_that_must_not_be_waited_for_loses_nothing():
    typed = ["sample", "-n", "20000", "--seed", "1", "--no-stream"]
    wanted = process(*typed).out
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(AttributeError):  # a small one, where that can be asked for
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    kept = []

    def read():
        while piece := os.read(reading, 1000):
            kept.append(piece)
            time.sleep(0.0005)

    slow = threading.Thread(target=read)
    child = begin(typed, [0, writing, 2])
    os.close(writing)
    slow.start()
    assert wait(child) == 0
    slow.join()
    assert b"".join(kept) == wanted


def test_closed_places_are_not_given_to_files():
    done = process("compress", "story.txt", "-o", "archive", stdin=None, out=None, err=None)
    assert done.code == 1 and Path("archive").read_bytes() == Path("story.txt.tgc").read_bytes()


# --- what is typed, what is shown ---

ODD = {"surrogate": "\udc80", "lone half": "\ud800", "pair of halves": "\ud83d\ude00"}


@pytest.mark.parametrize("prompt", ODD.values(), ids=ODD)
def test_a_prompt_that_is_no_text_is_refused(prompt):
    said, _ = refusal(run("sample", "--prompt", f"Tom {prompt}"), 1)
    assert said == "the prompt is not UTF-8 text (character 4)."


@pytest.mark.parametrize("data", [b"\xff", b"a\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80", b"ok \xe2\x82"])
def test_bytes_that_are_no_text_are_refused_where_they_stand(data):
    Path("prompt.txt").write_bytes(data)
    for how in (["-p", "-"], ["-f", "prompt.txt"]):
        said, _ = refusal(run("sample", *how, stdin=data), 1)
        assert re.search(r"is not UTF-8 text \(byte 0x[0-9a-f]{2} at offset [0-3]\)\.$", said)


CONTROLS = "\x00\x07\x08\x0b\x0c\r\x1b[2J\x1b]0;owned\x07\x7f\x85\x9b31m\u202e\u2066\ufeff"


def test_control_characters_are_escaped_on_a_terminal_and_exact_elsewhere():
    prompt = f"Tom {CONTROLS}é👩\u200d🚀\t\n"
    typed = ["sample", "-n", "4", "--seed", "1", "--echo", "-p", prompt]
    exact, shown, raw = run(*typed), run(*typed, terminal=True), run(*typed, "--raw", terminal=True)
    assert exact.text.startswith(prompt) and raw.out == exact.out
    assert not set(shown.text) & set(CONTROLS) - set("[]0;owned2J31m")
    escaped = r"Tom \x00\x07\x08\x0b\x0c\x0d\x1b[2J\x1b]0;owned\x07\x7f\x85\x9b31m\u202e\u2066\ufeffé"
    assert shown.text.startswith(f"{escaped}👩\u200d🚀\t\n")
    assert json.loads(run(*typed[:-3], "-p", prompt, "--json").out)["prompt"] == prompt


def test_a_real_terminal_gets_escapes():
    seen, terminal = pty.openpty()
    child = begin(["sample", "-n", "3", "--seed", "1", "--echo", "-p", "Tom \x1b[2J"], [0, terminal, 2])
    assert wait(child) == 0
    assert b"Tom \\x1b[2J" in os.read(seen, 4096)
    os.close(seen), os.close(terminal)


def test_names_do_not_move_the_cursor_and_need_not_be_text():
    name = os.fsdecode(b"\x1b[2J\xff.txt")
    Path(name).write_text(STORY)
    trained = process("train", name, *TRAIN[2:], "--output-dir", "runs/b")
    assert trained.code == 0 and "\x1b" not in trained.err, trained
    planned = process("train", name, *TRAIN[2:], "--dry-run", "--output-dir", "runs/\x1b[2Jc")
    assert planned.code == 0 and "runs/\\x1b[2Jc" in planned.err and "\x1b" not in planned.err
    assert process("train", "--resume", "runs/b", "-q").code == 0
    assert run("runs", "show", "b").out.count(b"\x1b[2J\xff.txt") == 1
    assert process("tokenize", name, "--output-dir", os.fsdecode(b"o\xff")).out == b"o\xff\n"
    for typed in (["train", name + "x"], ["sample", "-m", name], ["compress", name + "x"]):
        done = process(*typed)
        assert "\x1b" not in done.err and sentence(done, done.code)


# --- folders ---


def test_two_trainings_do_not_share_a_folder():
    before = {path: path.read_bytes() for path in Path("runs/a").rglob("*.safetensors")}
    with filesystem.lock(Path("runs/a")):
        for typed in (["train", "--resume", "runs/a"], [*TRAIN, "--output-dir", "runs/a", "--overwrite-output-dir"]):
            assert sentence(process(*typed)) == "another process is training into 'runs/a'."
    assert {path: path.read_bytes() for path in Path("runs/a").rglob("*.safetensors")} == before


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_run_folder_that_vanishes_is_named(how):
    def vanish(self, step, real=Trainer._step):
        if step == 4:
            shutil.rmtree("runs/b") if how == "removed" else Path("runs/b").rename("elsewhere")
        return real(self, step)

    with mock.patch.object(Trainer, "_step", vanish):
        done = run(*TRAIN, "--output-dir", "runs/b", "--logging-steps", "5", "-q")
    said, _ = refusal(done, 1)
    assert "runs/b" in said and "No such file or directory" in said
    if how == "moved":
        assert run("train", "--resume", "elsewhere", "-q").code == 0 and damaged() == []


def test_a_model_that_is_removed_while_it_writes_writes_on():
    wanted = run("sample", "-n", "200", "--seed", "1").out
    with signalled("textgen.generation.generate.stream_rows"):
        from textgen.generation import generate

        real = generate.stream_rows
        with mock.patch.object(generate, "stream_rows", lambda *a, **k: (shutil.rmtree("runs/a"), real(*a, **k))[1]):
            assert run("sample", "-n", "200", "--seed", "1").out == wanted


def lose_the_folder():
    Path("gone").mkdir()
    os.chdir("gone")
    Path("../gone").rmdir()


def test_a_place_that_is_gone_is_a_sentence(desk):
    for typed in (["sample", "-m", desk / "runs" / "a"], ["train", "../story.txt"], ["runs"]):
        assert sentence(process(*typed, prepare=lose_the_folder)) == "the current directory no longer exists."


def as_nobody_in(folder):
    """Someone else in a folder, where this is root, whose Python nobody else may be able to import from."""
    if os.geteuid() == 0:
        done = run(*TRAIN, "--output-dir", f"runs/{os.getpid()}", "-q")
        assert done.code == 0, done
        as_nobody()
    os.chdir(folder)


def test_a_folder_that_may_not_be_written_is_named():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(".", root, dirs_exist_ok=True)
        for path in [root, *root.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        prepare = partial(as_nobody_in, root)
        refused = {
            "runs/": ["train", "story.txt", *TRAIN[2:]],
            "runs/a/.lock": ["train", "--resume", "a"],
            "runs/b": [*TRAIN, "--output-dir", "runs/b"],
            "tokens": ["tokenize", "story.txt", "--output-dir", "tokens"],
            "archive": ["compress", "story.txt", "-m", "a", "-o", "archive"],
            "state": ["sample", "-m", "a", "-n", "3", "--save-state", "state"],
        }
        for name, typed in refused.items():
            said = sentence(process(*typed, prepare=prepare))
            assert name in said and "Permission denied" in said, said
        for typed in (["sample", "-m", "a", "-n", "5"], ["runs"], ["runs", "verify"], ["evaluate", "-m", "a"]):
            assert process(*typed, prepare=prepare).code == 0
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755)


def test_only_what_training_wrote_is_replaced():
    again = [*TRAIN, "--output-dir", "runs/a", "--overwrite-output-dir", "-q"]
    for name in ("notes.md", "checkpoint-6/notes.md", "drafts"):
        path = Path("runs/a", name)
        path.mkdir() if name == "drafts" else path.write_text("mine")
        said, hint = refusal(run(*again), 1)
        assert said == f"'runs/a' holds {name!r}, which textgen did not write, so it is not replaced."
        assert name in hint and path.exists()
        path.rmdir() if name == "drafts" else path.unlink()
    Path("runs/a/.checkpoint-9.tmp-0a1b2c3d").mkdir()
    assert run(*again).code == 0 and not unfinished("runs/a")


# --- options that would be passed over ---


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--output-dir", "runs/b"], "--output-dir runs/b cannot change on --resume (the run is in 'runs/a')."),
        (["--overwrite-output-dir"], "--resume and --overwrite-output-dir exclude each other."),
    ],
)
def test_a_resumed_run_stays_where_it_is(typed, said):
    assert refusal(run("train", "--resume", "a", *typed), 2)[0] == said
    assert run("train", "--resume", "a", "--output-dir", "./runs/../runs/a", "-q").code == 0


def test_what_a_tokenized_folder_decided_is_not_asked_again():
    assert run("tokenize", "story.txt", "--output-dir", "tokens").code == 0
    said, _ = refusal(run("train", "tokens", "--validation-split", "0.3"), 2)
    assert said == "--validation-split was decided when 'tokens' was tokenized; omit it here."


def test_a_report_shows_no_secret(monkeypatch):
    monkeypatch.setenv("TEXTGEN_API_KEY", "open sesame")
    monkeypatch.setenv("TEXTGEN_SAMPLE_PROMPT", "a secret")
    for typed in (["env"], ["env", "--json"]):
        told = run(*typed).text
        assert "sesame" not in told and "a secret" not in told and told.count("(set)") == 2
        assert "TEXTGEN_LOAD_PLUGINS" in told


# --- the record of what a run depends on ---


def test_a_run_records_what_its_bits_depend_on():
    shown = json.loads(run("runs", "show", "a", "--json").out)
    made = shown["made_with"]
    wanted = {"textgen", "torch", "numpy", "sentencepiece", "python", "package of lstm", "processor", "threads"}
    assert made.keys() == wanted | {"processes"} and all(made.values())
    assert shown["options"]["seed"] == 1337 and shown["options"]["compile"] is False
    store = storage.read_manifest(Path("runs/.tokens", shown["store"]))["files"]
    assert {"train.bin", "validation.bin", "tokenizer_config.json"} <= shown["digests"].keys()
    assert all(store[name]["sha256"] == digest for name, digest in shown["digests"].items())
    text = run("runs", "show", "a").text
    named = [name for name, value in shown["options"].items() if value is not None]
    assert all(str(value) in text for value in (*made.values(), *shown["digests"].values(), *named))


def test_another_version_of_the_cells_package_is_named():
    owner, newer = plugins.owner, replace(plugins.owner("lstm"), version="99")
    with mock.patch.object(
        plugins, "owner", lambda name, kind="cells": newer if kind == "cells" else owner(name, kind)
    ):
        (warning,) = resume(Path("runs/a"), {}).warnings
    assert "package of lstm is now textgen-lm 99, it was textgen-lm 0.1.0" in warning


def test_a_corpus_that_gives_other_tokens_is_refused():
    arguments = storage.read_json(Path("runs/a/training_args.json"))
    arguments["digests"]["train.bin"] = "0" * 64
    filesystem.replace_in_folder(Path("runs/a"), "training_args.json", filesystem.to_json(arguments))
    said, hint = refusal(run("train", "--resume", "a"), 1)
    assert said.startswith("the corpus gives different tokens than when this run began (train.bin") and hint


def test_every_damaged_file_is_named_and_only_those(desk):
    done = run("runs", "verify")
    assert done.code == 0 and done.err == "" and done.text.count("all intact") == done.text.count("\n") == 4
    everything = [
        p for p in Path("runs").rglob("*") if p.is_file() and p.name not in (".lock", "latest", "metrics.jsonl")
    ]
    assert len(everything) > 15
    for path in everything:
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if whole else b"x")
        (said,) = damaged()
        assert said.startswith(f"{path} "), said
        path.unlink()
        assert [said for said in damaged() if str(path) in said] or path.name == storage.MANIFEST
        path.write_bytes(whole)
    Path("runs/a/metrics.jsonl").write_bytes(b'{"step": 1}\nnonsense\n{"step"')
    assert damaged() == ["runs/a/metrics.jsonl is damaged: line 2 is not a JSON object."]
    config, weights = Path("runs/a/config.json"), Path("runs/a/checkpoint-6/model.safetensors")
    config.write_text("{}"), weights.write_text(""), Path("runs/a/README.md").write_text("")
    done = run("runs", "verify", "a")
    assert (done.code, len(done.text.splitlines())) == (1, 6) and done.err.startswith("Error: 4 files are damaged.")


def test_trainings_begun_together_get_a_folder_each(monkeypatch):
    """Between choosing a number and taking its folder another training may take it."""
    monkeypatch.setattr("textgen.training.start.next_folder", lambda *_: Path("runs/gru-story-1"))
    sessions = [start(["story.txt"], options_for( {**TINY, "seed": seed}), time.monotonic())
                for seed in (1, 2, 3)]  # fmt: skip
    for session in sessions:
        assert list(session.events())[-1].reason == "done"
    for number, session in enumerate(sessions, 1):
        folder = Path(f"runs/gru-story-{number}")
        assert session.run.folder == folder and run("runs", "verify", str(folder)).code == 0
        assert json.loads((folder / "training_args.json").read_text())["options"]["seed"] == number
        alone = textgen.train("story.txt", **TINY, seed=number, output_dir=f"alone/{number}")
        assert (folder / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()


def test_a_run_that_was_replaced_before_it_began_is_not_trained():
    def begun(seed):
        options = {**TINY, "seed": seed, "output_dir": "runs/b", "overwrite_output_dir": True}
        return start(["story.txt"], options_for(options), time.monotonic())

    first, second = begun(1), begun(2)
    with pytest.raises(TextgenError, match="another process has replaced the run in 'runs/b'"):
        next(first.events())
    assert list(second.events())[-1].reason == "done"


def test_two_that_tokenize_one_text_share_its_tokens(monkeypatch):
    write_store = corpus.write_store

    def second(*given):
        write_store(*given)
        write_store(*given)

    monkeypatch.setattr(corpus, "write_store", second)
    Path("other.txt").write_text(STORY * 2)
    assert run("train", "other.txt", *TRAIN[2:], "-q").code == 0


def test_the_latest_run_is_the_one_begun_last():
    for name in ("one", "two", "a name"):
        assert run(*TRAIN, "--output-dir", f"runs/{name}", "-q").code == 0
        assert Path("runs/latest").read_text() == name + "\n"


def test_a_file_called_latest_is_let_alone_outside_runs(desk):
    Path("latest").write_text("precious")
    assert run(*TRAIN, "--output-dir", "model", "-q").code == 0
    assert Path("latest").read_text() == "precious" and Path("runs/latest").read_text() == "a\n"


def test_a_result_goes_where_a_link_or_a_pipe_leads(desk):
    Path("target.tgc").write_bytes(b"")
    Path("link.tgc").symlink_to("target.tgc")
    os.mkfifo("pipe.tgc")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe.tgc").read_bytes()))
    reader.start()
    for name in ("link.tgc", "pipe.tgc"):
        assert run("compress", "story.txt", "-m", "a", "-q", "-f", "-o", name).code == 0
    reader.join(60)
    assert Path("link.tgc").is_symlink() and Path("pipe.tgc").is_fifo()
    assert Path("target.tgc").read_bytes() == read[0] == Path("story.txt.tgc").read_bytes()


def test_what_killed_processes_left_is_swept_once_nobody_can_be_at_work_on_it():
    old, new = Path("runs/.tokens/.a.tmp-0a1b2c3d"), Path("runs/.b.tmp-0a1b2c3d")
    at_work, latest = Path("runs/.tokens/.c.tmp-0a1b2c3d"), Path("runs/.latest.tmp-0a1b2c3d")
    long_ago = time.time() - 90_000
    for path in (old, new, at_work):
        path.mkdir()
        (path / "train.bin").write_bytes(b"x")
    latest.write_text("x")
    (precious := Path("runs/.thesis.tmp-backup")).mkdir()
    for path in (old, old / "train.bin", at_work, latest, precious):
        os.utime(path, (long_ago, long_ago))
    assert run(*TRAIN, "--output-dir", "runs/b", "-q").code == 0
    assert not old.exists() and not latest.exists() and new.exists() and at_work.exists()
    assert precious.exists()
