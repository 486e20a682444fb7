"""One case in one child process: what it says, how it ends, how long it takes, how much memory it comes to.

The parent imports and warms up what the cases need and then forks, so that a case costs milliseconds.
"""

import gc
import json
import os
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from textgen.errors import TextgenError

MIB = 1 << 20
NOBODY = 65534
LONGEST_MESSAGE = 2000


@dataclass(frozen=True)
class Ending:
    """How a case ended. `said` is what its function returned; `refusal` the sentence of a TextgenError, and `hint` that
    of its remedy; `fault` is what must never be: a signal, a time limit, another exception, an invalid message.
    `busy` is the processor's time."""

    said: object
    refusal: str
    hint: str
    fault: str
    seconds: float
    peak: int
    busy: float


def in_child(function: Callable[[], object], seconds: float) -> Ending:
    """Call a function in a child process; what it returns must be JSON."""
    reader, writer = os.pipe()
    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside the idle threads of torch
        child = os.fork()
    if child == 0:
        os.close(reader)
        _work(function, writer)
    os.close(writer)
    answer = _answer(reader, started + seconds)
    os.close(reader)
    if answer is None:
        os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    took, code = time.monotonic() - started, os.waitstatus_to_exitcode(status)
    peak, busy = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024), used.ru_utime + used.ru_stime
    if answer is None:
        return Ending(None, "", "", f"no end after {seconds:g} s", took, peak, busy)
    if code != 0 or not answer:
        return Ending(None, "", "", f"signal {-code}" if code < 0 else f"exit code {code}", took, peak, busy)
    content = json.loads(answer)
    return Ending(content["said"], content["refusal"], content["hint"], content["fault"], took, peak, busy)


def _answer(reader: int, deadline: float) -> bytes | None:
    """All that comes through a pipe until it is closed; None if that takes too long."""
    parts = []
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        part = os.read(reader, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)


def _work(function: Callable[[], object], writer: int) -> None:
    """What the child does; it does not return."""
    said, refusal, hint, fault = None, "", "", ""
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        said = function()
    except TextgenError as error:
        refusal, hint = str(error), error.hint or ""
        fault = not_a_sentence(refusal)
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-3:]
        places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(last))
        fault = f"{type(error).__name__}: {str(error)[:300]} ({places})"
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(json.dumps({"said": said, "refusal": refusal, "hint": hint, "fault": fault}).encode())
    os._exit(0)


def not_a_sentence(message: str) -> str:
    """What keeps a refusal from being a line that a terminal can show."""
    if not message.isprintable():
        return f"a message that cannot be shown: {message[:200]!r}"
    if len(message) > LONGEST_MESSAGE:
        return f"a message of {len(message):,} characters: {message[:200]!r}"
    return "" if message.endswith((".", "?", ")")) else f"a message that is no sentence: {message[-200:]!r}"


@contextmanager
def quick_folder():
    """A temporary folder, in memory where that is to be had."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="torture-", dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def without_privileges() -> None:
    """Give up root, for which no file is unreadable."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def ready_to_fork() -> None:
    """Keep children from copying what the collector would touch."""
    gc.collect()
    gc.freeze()
