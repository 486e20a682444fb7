"""Killed at any moment: what is newest is whole, and the run ends with the bits of one that was never stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

from faults import Dying, Quick, Watched

from torture.rows import Outcome, Row
from torture.tools import (
    STEPS,
    Board,
    apart,
    begin,
    copy,
    draws,
    fork,
    go_on,
    newest,
    outcome,
    scratch,
    some,
    wait,
    wait_until,
)
from torture.tools import whole_run as undisturbed

STEP, SAVING, SAVED = 0, 1, 2


def watch(board):
    """From now on tell the board the step at hand, whether it is being saved, and what was said to be saved."""
    from textgen.training.runs import Run
    from textgen.training.trainer import Trainer

    step, save = Trainer._step, Run.save

    def watched_step(self, number):
        board[STEP] = number + 1
        return step(self, number)

    def watched_save(self, checkpoint, keep):
        board[SAVING] = 1
        folder = save(self, checkpoint, keep)
        board[SAVING], board[SAVED] = 0, checkpoint.step
        return folder

    Trainer._step, Run.save = watched_step, watched_save


def random_kills(times, compiled):
    """SIGKILL at random instants, over and over, through whole runs."""

    def run(seed):
        draw, board, wished = draws(seed, f"kills {compiled}"), Board(), some(times)
        with scratch() as root:
            wanted = undisturbed(root, compile=compiled)
            begin(root, "begun", compile=compiled)
            watch(board)
            began = time.monotonic()
            assert wait(fork(lambda: go_on(copy(root / "begun", root / "timed")) and 0)) == 0
            longest = (time.monotonic() - began) / 2
            kills = inside = runs = 0
            folder = copy(root / "begun", root / "run")
            board[SAVED] = 0
            while True:
                board[SAVING], patience = 0, draw.uniform(0, longest) if kills < wished else 60
                child = fork(lambda folder=folder: go_on(folder) and 0)
                code = wait_until(child, patience)
                if code is None and draw.random() < 0.3:  # so that enough of them fall into a save
                    while not board[SAVING] and code is None:
                        code = wait_until(child, 0.0005)
                    time.sleep(draw.uniform(0, 0.002))
                if code is None:
                    os.kill(child, signal.SIGKILL)
                    code = wait(child)
                place = f"seed {seed}, run {runs + 1}, kill {kills + 1}"
                assert code in (0, -signal.SIGKILL), f"{place}: exit code {code}"
                if code:
                    kills, inside = kills + 1, inside + board[SAVING]
                    newest(folder, (board[SAVED], board[STEP]) if board[SAVING] else (board[SAVED],))
                    found = newest(folder, range(STEPS + 1))
                    board[SAVED] = found.step if found else 0
                    continue
                runs += 1
                assert outcome(folder) == wanted, f"{place}: other bits"
                if kills >= wished:
                    break
                folder, board[SAVED] = copy(root / "begun", root / "run"), 0
        enough = inside >= min(25, wished // 8)
        return Outcome(f"{kills} kills, {inside} inside a save, {runs} runs of {runs} with the same bits", enough)

    return run


def at_every_call(seed):
    """A kill before and after each call of the disk between two checkpoints, publishing and pruning included."""
    from textgen.storage import filesystem
    from textgen.training import Saved

    with scratch() as root:
        filesystem.system = Quick()
        wanted = undisturbed(root, max_steps=9)
        begin(root, "begun", max_steps=9)

        def train(folder, system, until):
            filesystem.system = system
            go_on(folder, lambda event: isinstance(event, Saved) and event.step == until)
            return system.count

        apart(lambda: train(root / "begun", Watched(), 6))
        calls = apart(lambda: train(copy(root / "begun", root / "counted"), Watched(), 9))
        for at in draws(seed, "calls").sample(range(1, calls + 1), some(calls)):
            for done in (False, True):
                folder = copy(root / "begun", root / "run")
                code = wait(fork(lambda f=folder, a=at, d=done: train(f, Dying(a, d), 9) and 0))
                assert code == -signal.SIGKILL, f"call {at}, {done}: exit code {code}"
                newest(folder, (6, 9))
                assert wait(fork(lambda f=folder: 0 if go_on(f) and outcome(f) == wanted else 3)) == 0, f"call {at}"
    return Outcome(f"{2 * some(calls)} kills at {some(calls)} calls: whole, and the same bits", calls >= 30)


def command(*arguments, cwd):
    """The installed command in a process of its own, in a group that can be killed whole."""
    given = [sys.executable, "-m", "textgen", *map(str, arguments)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(given, cwd=cwd, start_new_session=True, **quiet)


def kill_after(process, seconds):
    """Let a command run for so long at most; its exit code, minus 9 if it had to be killed."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def command_kills(seed):
    """The command killed while it trains, and while it learns a tokenizer and stores tokens."""
    draw = draws(seed, "command")
    with scratch() as root:
        wanted = undisturbed(root, max_steps=200, save_steps=5)
        begin(root, "begun", max_steps=200, save_steps=5)
        begun = time.monotonic()
        folder = copy(root / "begun", root / "run")
        assert command("train", "--resume", folder, cwd=root).wait() == 0
        longest, kills, runs = time.monotonic() - begun, 0, 0
        folder = copy(root / "begun", root / "run")
        while kills < some(20) or not runs:
            patience = longest * draw.uniform(0.4, 0.9) if kills < some(20) else 600
            code = kill_after(command("train", "--resume", folder, cwd=root), patience)
            assert code in (0, -signal.SIGKILL), f"seed {seed}, kill {kills}: exit code {code}"
            newest(folder, range(201))
            kills += code != 0
            if code == 0:
                runs += 1
                assert outcome(folder) == wanted, f"seed {seed}, kill {kills}: other bits"
                folder = copy(root / "begun", root / "run")
        stored = tokenizer_kills(root, draw, some(20))
    return Outcome(f"{kills} kills of training, {runs} whole runs; {stored} of tokenizing: equal or absent", True)


def tokenizer_kills(root, draw, times):
    """Kills of `textgen tokenize`, which learns pieces first; the store is the same or not there."""
    words = [f"{draw.choice('bcdfgklmnprst')}{draw.choice('aeiou')}{draw.choice('lmnrst')}" for _ in range(2000)]
    (root / "long.txt").write_text("\n".join(" ".join(draw.choices(words, k=12)) for _ in range(30_000)))
    arguments = ("tokenize", root / "long.txt", "--tokenizer", "bpe", "--vocab-size", "1500", "--output-dir")
    begun = time.monotonic()
    assert command(*arguments, root / "wanted", cwd=root).wait() == 0
    longest, wanted = time.monotonic() - begun, bytes_of(root / "wanted")
    kills = 0
    while kills < times:
        code = kill_after(command(*arguments, root / "store", cwd=root), longest * draw.uniform(0.05, 1.0))
        assert code in (0, -signal.SIGKILL), f"tokenizing, kill {kills}: exit code {code}"
        kills += code != 0
        assert not (root / "store").exists() or bytes_of(root / "store") == wanted, f"tokenizing, kill {kills}"
        shutil.rmtree(root / "store", ignore_errors=True)
    return kills


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}


WHOLE = "bits of a run never stopped; the newest checkpoint always whole"
ROWS = [
    Row(
        "R1", "SIGKILL at 200 random instants of training", f"25 inside a save; {WHOLE}", random_kills(200, False), "ci"
    ),
    Row("R1c", "the same, compiled", f"as R1, 40 kills; {WHOLE}", random_kills(40, True), "ci"),
    Row("R1d", "the same, compiled, 200 times", f"as R1; {WHOLE}", random_kills(200, True), "torture"),
    Row("R1b", "the command killed 40 times", f"{WHOLE}; a token store equal or absent", command_kills, "torture"),
    Row("R2", "a kill before and after every call of the disk", WHOLE, at_every_call, "ci"),
]
