"""What rows share: a run that is over in a second, children forked ready to train, and a board that outlives them."""

from __future__ import annotations

import json
import mmap
import os
import random
import shutil
import struct
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import process

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
    from textgen.options import from_mapping
    from textgen.settings import TrainOptions
    from textgen.training.train import start

    text = root / "text.txt"
    if not text.exists():
        text.write_text(TEXT * 3)
    options = from_mapping(TrainOptions, {**TINY, "output_dir": str(root / name), **options})
    return start([str(text)], options, time.monotonic())


def go_on(folder, until=None):
    """Resume a run and train to its end, or until `until(event)` is true."""
    from textgen.training.train import resume

    session = resume(folder, {})
    for event in session.events():
        if until is not None and until(event):
            break
    return session


def outcome(folder):
    """The bits at the end of a run: published weights, the last checkpoint (weights, optimizer, carried state,
    counters), and the metrics without their speed."""
    from textgen import sealed
    from textgen.training.checkpoint import Run

    sealed.verify(folder)
    last = folder / f"checkpoint-{Run(folder).checkpoints()[-1]}"
    paths = [folder / CHECKPOINT[0], *(last / name for name in CHECKPOINT)]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in lines]
    return last.name, [path.read_bytes() for path in paths], logged


def whole_run(root, **options):
    """A run that nothing disturbs, as `outcome` gives it."""
    session = begin(root, "whole", **options)
    for _ in session.events():
        pass
    return outcome(root / "whole")


def newest(folder, steps):
    """The newest checkpoint, which must be whole without falling back, and one that `steps` allows; the model that the
    folder holds must be whole too."""
    from textgen import sealed
    from textgen.training.checkpoint import Run

    sealed.verify(folder)
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


def fork(function, errors=None):
    """As `process.fork`; `errors` is a file for standard error."""

    def child():
        if errors is not None:
            handle = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(handle, 2)
            sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        return function()

    return process.fork(child)


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
    """Pay once for what every forked child would pay: torch, one thread, one training."""
    import torch

    torch.set_num_threads(1)
    with scratch() as root:
        whole_run(root, max_steps=2)
