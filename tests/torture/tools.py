"""What rows share: a run that is over in a second, children forked ready to train, and a board that outlives them.

A process that has computed a gradient may hold threads of autograd, which a fork does not copy, so it is not forked:
what a row trains before it forks, it trains `apart`.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import pickle
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

STEPS = 40
TEXT = "".join(f"{who} sat on the {what}. " for who in ("the cat", "a dog", "my fox") for what in ("mat", "log", "sea"))
TINY = {
    "cell": "gru", "tokenizer": "char", "hidden_size": 10, "embedding_size": 8, "num_layers": 2, "batch_size": 4,
    "seq_length": 7, "max_steps": STEPS, "learning_rate": 0.02, "dropout": 0.2, "eval_steps": 6, "save_steps": 3,
    "logging_steps": 4, "threads": 1, "device": "cpu", "compile": False,
}  # fmt: skip
CHECKPOINT = ("model.safetensors", "optimizer.safetensors", "trainer_state.json")


@contextmanager
def scratch():
    """A folder for one row."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        yield Path(folder)


def begin(root, name="run", **options):
    """A session of a new run at root/name, on a text beside it."""
    from textgen.tasks import options_for
    from textgen.training.start import start

    text = root / "text.txt"
    if not text.exists():
        text.write_text(TEXT * 3)
    options = options_for({**TINY, "output_dir": str(root / name), **options})
    return start([str(text)], options, time.monotonic())


def go_on(folder, until=None):
    """Resume a run and train to its end, or until `until(event)` is true."""
    from textgen.training.start import resume

    session = resume(folder, {})
    for event in session.events():
        if until is not None and until(event):
            break
    return session


def go_on_to(folder, step):
    """Resume a run and train until this step is saved; the steps of its checkpoints."""
    from textgen.training import Saved

    return go_on(folder, lambda event: isinstance(event, Saved) and event.step == step).run.checkpoints()


def outcome(folder):
    """The bits at the end of a run: published weights, the last checkpoint (weights, optimizer, carried state,
    counters), and the metrics without their speed."""
    from textgen import storage
    from textgen.training.runs import Run

    storage.verify(folder)
    last = folder / f"checkpoint-{Run(folder).checkpoints()[-1]}"
    paths = [folder / CHECKPOINT[0], *(last / name for name in CHECKPOINT)]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in lines]
    return last.name, [path.read_bytes() for path in paths], logged


def whole_run(root, **options):
    """A run that nothing disturbs, in a process of its own, as `outcome` gives it."""

    def train():
        for _ in begin(root, "whole", **options).events():
            pass
        return outcome(root / "whole")

    return apart(train)


def newest(folder, steps):
    """The newest checkpoint, which must be whole without falling back, and one that `steps` allows; the model that the
    folder holds must be whole too."""
    from textgen import storage
    from textgen.training.runs import Run

    storage.verify(folder)
    found, wrong = Run(folder).latest()
    assert not wrong, f"{folder} falls back: {wrong[0]}"
    assert (found.step if found else 0) in steps, f"{folder} is at {found and found.step}, not in {list(steps)}"
    return found


def copy(source, target):
    """A copy of a folder, replacing what is there."""
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(source, target)


class Board:
    """Numbers that a child writes and its parent reads, whatever became of the child."""

    def __init__(self, size=8):
        self._map, self._size = mmap.mmap(-1, 8 * size), size

    def __getitem__(self, place):
        return struct.unpack_from("q", self._map, 8 * place)[0]

    def __setitem__(self, place, value):
        struct.pack_into("q", self._map, 8 * place, value)


class Gradients:
    """Whether this process has computed one, from `watch` on."""

    computed = False

    @classmethod
    def watch(cls):
        import torch

        def noting(real):
            def called(*given, **options):
                cls.computed = True
                return real(*given, **options)

            return called

        torch.autograd.backward, torch.autograd.grad = map(noting, (torch.autograd.backward, torch.autograd.grad))


def fork(function, errors=None):
    """A child that calls a function and ends with what it returns (None counts as 0), or with 70; its number. `errors`
    is a file for standard error."""
    assert not Gradients.computed, "a process that has computed gradients is not forked; train `apart`"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside the idle threads of a BLAS
        child = os.fork()
    if child:
        return child
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if errors is not None:
            handle = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(handle, 2)
            sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        code = function() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, AttributeError):
            sys.stderr.flush()
        os._exit(code)


def wait(child):
    """The exit code of a child, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def apart(function):
    """What a function returns, which a child calls, so that this process may still be forked."""
    with tempfile.TemporaryFile() as answer:
        code = wait(fork(lambda: pickle.dump(function(), answer) or answer.flush()))
        assert code == 0, f"exit code {code}"
        answer.seek(0)
        return pickle.load(answer)


def wait_until(child, seconds):
    """As `wait`, for at most that long; None if it still runs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    return None


def some(number):
    """That many cases, or the part of them that TORTURE_SHARE asks for."""
    return max(1, round(number * float(os.environ.get("TORTURE_SHARE", "1"))))


def draws(seed, name):
    """Random numbers of a row: the same ones for the same seed."""
    return random.Random(f"{seed} {name}")


def ready():
    """Pay once for what every forked child would pay: torch, one thread, and all that a training imports."""
    import torch

    torch.set_num_threads(1)
    Gradients.watch()
    with scratch() as root:
        for name in apart(lambda: whole_run(root, max_steps=2) and sorted(sys.modules)):
            with suppress(Exception):  # a module that only its own library imports
                importlib.import_module(name)
