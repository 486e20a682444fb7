"""Every verb stopped at a random moment, from its first import to its last line: a code, a sentence, no leftovers.

The verbs are real processes. The moments before the command's own first line, when Python itself is starting, are not
ours to handle, and are left out.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time

from torture.rows import Outcome, Row
from torture.tools import draws, scratch, some

BEGUN = """
import os, sys
from textgen.__main__ import run
os.write({0}, b".")
run()
"""
SMALL = "--hidden-size 12 --num-layers 1 --batch-size 4 --seq-length 16 --threads 1"
VERBS = {
    "train": f"train text.txt --max-steps 40 --save-steps 5 {SMALL} --output-dir runs/new",
    "plan": "train text.txt --minutes 0.3 --dry-run --threads 1",
    "resume": "train --resume runs/begun --progress rich",
    "tokenize": "tokenize text.txt --tokenizer bpe --vocab-size 700 --output-dir tokens",
    "sample": "sample -m runs/model -n 4000 --seed 1",
    "evaluate": "evaluate text.txt -m runs/model --threads 1",
    "compress": "compress text.txt -m runs/model -o archive --force",
    "runs": "runs verify",
    "cells": "cells show gru",
}
HARMLESS = ("Stopped", "Continue: ")
MOST_SECONDS = 20


def start(line, root):
    """A verb in a process of its own, from the moment when its own code begins."""
    heard, told = os.pipe()
    given = [sys.executable, "-c", BEGUN.format(told), *shlex.split(line)]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(given, cwd=root, pass_fds=[told], start_new_session=True, **quiet)
    os.close(told)
    os.read(heard, 1)
    os.close(heard)
    return process


def timed(line, root):
    """How long a verb takes that nobody stops."""
    process, began = start(line, root), time.monotonic()
    _, said = process.communicate()
    assert process.returncode == 0, f"{line}: {said.decode()}"
    return time.monotonic() - began


def tidy(root, lasting):
    """Put a folder back to what it was, and tell what a stop has left in it: files under names for the unfinished."""
    left = [path.name for path in root.rglob(".*.tmp-*")]
    for path in set(root.iterdir()) - lasting:
        subprocess.run(["rm", "-rf", path], check=True)
    subprocess.run(["rm", "-rf", root / "runs", root / "archive"], check=True)
    subprocess.run(["cp", "-r", root / "kept", root / "runs"], check=True)
    return left


def stopped_verbs(seed):
    """Some ten signals for each verb, spread over the time that it takes."""
    draw, times = draws(seed, "stops"), some(10)
    with scratch() as root:
        words = [f"{draw.choice('bcdfglmnprst')}{draw.choice('aeiou')}{draw.choice('lmnrst')}" for _ in range(300)]
        (root / "text.txt").write_text("\n".join(" ".join(draw.choices(words, k=12)) for _ in range(2000)))
        timed(f"train text.txt --max-steps 20 {SMALL} --output-dir kept/model", root)
        timed(f"train text.txt --max-steps 60 --max-time 0.00001 {SMALL} --output-dir kept/begun", root)
        tidy(root, lasting := {root / "text.txt", root / "kept"})
        codes, slowest, over = [], 0.0, 0
        for name, line in VERBS.items():
            longest = timed(line, root)
            tidy(root, lasting)
            for number in range(times):
                kind = draw.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
                case = f"seed {seed}, {name} {number + 1} of {times}, {kind.name}"
                process = start(line, root)
                time.sleep(draw.uniform(0, longest))
                sent = time.monotonic()
                if process.poll() is None:
                    os.killpg(process.pid, kind)
                said = process.communicate()[1].decode()
                slowest, over = max(slowest, time.monotonic() - sent), over + (process.returncode == 0)
                wanted = (0, 130 if kind == signal.SIGINT else 143)
                assert process.returncode in wanted, f"{case}: exit code {process.returncode}: {said}"
                assert "Traceback" not in said and "ignored" not in said, f"{case}: {said}"
                last = said.strip().splitlines()[-1] if said.strip() else ""
                assert process.returncode == 0 or last.startswith(HARMLESS), f"{case}: {last!r}"
                left = tidy(root, lasting)
                assert not left, f"{case}: {left}"
                codes.append(process.returncode)
    told = f"{len(codes)} stops of {len(VERBS)} verbs ({over} had ended), {slowest:.1f} s at most, nothing left behind"
    return Outcome(told, slowest < MOST_SECONDS and over < len(codes) / 2)


ROWS = [
    Row("R6b", "Ctrl-C, SIGTERM, SIGHUP at random moments of every verb", "130 or 143, one sentence, no traceback, no "
        "unfinished file left", stopped_verbs, "torture"),
]  # fmt: skip
