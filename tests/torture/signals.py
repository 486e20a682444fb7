"""Signals and clocks: a run told to stop ends its step, saves and leaves; no clock of the day decides anything."""

from __future__ import annotations

import os
import signal
import time

from torture.kills import SAVING, STEP, watch
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
    go_on_to,
    newest,
    outcome,
    scratch,
    some,
    wait,
    wait_until,
)
from torture.tools import whole_run as undisturbed

READY = 3


def command(folder, board=None):
    """`textgen train --resume` in this process; the board hears when signals are taken in hand."""
    from textgen.cli import main, training_display

    display = training_display.display

    def announced(session, style):
        if board is not None:
            board[STEP], board[READY] = session.trainer.progress.step, 1
        return display(session, style)

    training_display.display = announced
    return main(["train", "--resume", str(folder), "--progress", "plain"])


def stopped_runs(seed):
    """SIGINT and SIGTERM at random instants; a second SIGINT now and then."""
    draw, board, wished = draws(seed, "signals"), Board(), some(30)
    with scratch() as root:
        wanted = undisturbed(root)
        begin(root, "begun")
        watch(board)
        folder, slowest, twice, runs, stopped = copy(root / "begun", root / "run"), 0.0, 0, 0, 0
        while stopped < wished:
            kind, again = draw.choice((signal.SIGINT, signal.SIGTERM)), draw.random() < 0.3
            board[READY] = board[SAVING] = board[STEP] = 0
            (root / "said").write_text("")
            child = fork(lambda folder=folder: command(folder, board), root / "said")
            while not board[READY] and wait_until(child, 0.002) is None:
                pass
            code = wait_until(child, draw.uniform(0.0, 0.15))
            case = f"seed {seed}, signal {stopped + 1} ({kind.name}, twice: {again})"
            if code is None:
                step, sent = board[STEP], time.monotonic()
                os.kill(child, kind)
                if again:
                    time.sleep(draw.uniform(0, 0.01))
                    os.kill(child, signal.SIGINT)
                code = wait_until(child, 60)
                slowest, stopped, twice = max(slowest, time.monotonic() - sent), stopped + 1, twice + again
                said = (root / "said").read_text()
                at_its_end = {0} if "best at step" in said else set()  # nothing was left to be stopped
                wished_codes = at_its_end | ({130, 128 + kind} if again else {128 + kind})
                assert code in wished_codes, f"{case}: exit code {code}: {said}"
                assert board[STEP] <= step + 1, f"{case}: {board[STEP] - step} more steps"
                assert "Traceback" not in said, f"{case}: {said}"
                found = newest(folder, range(STEPS + 1))
                assert again or code == 0 or found.step == board[STEP], f"{case}: step {board[STEP]} is not saved"
            if code == 0:
                runs += 1
                assert outcome(folder) == wanted, f"{case}: other bits"
                folder = copy(root / "begun", root / "run")
        assert wait(fork(lambda: go_on(folder) and 0)) == 0
        assert outcome(folder) == wanted, f"seed {seed}: other bits at the end"
        at_once(copy(root / "begun", root / "run"), board)
    told = f"{stopped} stops ({twice} of them twice), at most one more step and {slowest:.2f} s"
    return Outcome(f"{told}; {runs + 1} runs, same bits", slowest < 60)


def at_once(folder, board):
    """In a step that takes long, the first SIGINT waits for its end and the second does not."""
    from textgen.training.trainer import Trainer

    def train():
        Trainer._step = lambda self, number: time.sleep(60) or (0.0, 0.0)
        return command(folder, board)

    board[READY] = 0
    child = fork(train, folder / "said")
    while not board[READY]:
        time.sleep(0.01)
    time.sleep(0.5)
    os.kill(child, signal.SIGINT)
    assert wait_until(child, 1.0) is None, "one SIGINT cut a step short"
    os.kill(child, signal.SIGINT)
    code = wait_until(child, 20)
    if code is None:
        os.kill(child, signal.SIGKILL)
        wait(child)
    assert code == 130, f"a second SIGINT: exit code {code}"
    newest(folder, (0,))


CLOCKS = {
    "a day back": lambda real, steps: real - 86_400 * (steps > 8),
    "a day on": lambda real, steps: real + 86_400 * (steps > 8),
    "still": lambda real, steps: 1_000_000.0,
    "to and fro": lambda real, steps: real + 86_400 * (-1) ** steps,
}


def strange_clocks(seed):
    """The time of day jumps, stands still or swings while a run goes on under --max-time."""
    from textgen.training.trainer import Trainer

    with scratch() as root:
        wanted = undisturbed(root, max_time=30.0)
        begin(root, "begun", max_time=30.0)

        def train(folder, clock):
            steps, real, step = [0], time.time, Trainer._step

            def counted(self, number):
                steps[0] += 1
                return step(self, number)

            def now():
                return CLOCKS[clock](real(), steps[0])

            Trainer._step, time.time, time.time_ns = counted, now, lambda: int(1e9 * now())
            for path in folder.rglob("*"):
                os.utime(path, (now(), now()))
            return command(folder)

        for clock in CLOCKS:
            folder = copy(root / "begun", root / "run")
            apart(lambda f=folder: go_on_to(f, 21))
            os.utime(folder / "checkpoint-21", (1, 1))  # the newest looks oldest
            (root / "said").write_text("")
            code = wait(fork(lambda f=folder, c=clock: train(f, c), root / "said"))
            assert code == 0, f"{clock}: exit code {code}: {(root / 'said').read_text()}"
            assert outcome(folder) == wanted, f"{clock}: other bits"
            rates = [
                line for line in (folder / "metrics.jsonl").read_text().splitlines() if "tokens_per_second" in line
            ]
            assert all(float(line.split('"tokens_per_second": ')[1].split("}")[0]) > 0 for line in rates), clock
        frozen(root, wanted)
    return Outcome(f"{len(CLOCKS) + 1} clocks: same bits, right newest checkpoint, no early stop, rates above 0", True)


def frozen(root, wanted):
    """Even a monotonic clock that stands still divides nothing by zero."""

    def train(folder):
        time.monotonic = lambda: 5.0
        go_on(folder)

    folder = copy(root / "begun", root / "run")
    assert wait(fork(lambda: train(folder))) == 0 and outcome(folder) == wanted, "a monotonic clock that stands still"


ROWS = [
    Row("R6", "30 SIGINT and SIGTERM at random, some twice", "130 or 143 within one step and one save; a second SIGINT "
        "at once; same bits after", stopped_runs, "ci"),
    Row("R7", "a day back, a day on, frozen, swinging clocks", "same bits, right newest, no negative rate, "
        "no early stop", strange_clocks, "ci"),
]  # fmt: skip
