"""Being asked to end (SIGTERM, a terminal that has gone) as an exception, as Ctrl-C is one: what was begun is put away
on the way out. Imports nothing else of the house, so that it holds from the first moment of a command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes of a command that was stopped by Ctrl-C, and by everything else that asks a process to end."""
ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__]


class Terminated(BaseException):
    """Someone asked this process to end. No error, so that nothing that handles errors takes it for one."""


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let a function handle every signal that asks a process to end, and give the handlers back afterwards. A signal
    that is ignored (as under nohup) stays so. Only in the main thread; elsewhere nothing changes."""
    before: dict[int, signal._HANDLER] = {}
    try:
        with suppress(ValueError):  # another thread than the main one
            for number in ASKING:
                if signal.getsignal(number) != signal.SIG_IGN:
                    before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


def leave(number: int, frame: FrameType | None) -> None:
    """Handle a signal where the way out is the next thing to do. Raises KeyboardInterrupt or Terminated."""
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def exit_code(number: int) -> int:
    """The exit code of a command that a signal has stopped."""
    return INTERRUPTED if number == signal.SIGINT else TERMINATED


def hold_places() -> None:
    """See that the numbers 0 to 2 belong to something: where one is closed, the next file that is opened would get it,
    and with it what a library writes to its standard output."""
    handle = os.open(os.devnull, os.O_RDWR)
    while handle <= 2:
        handle = os.open(os.devnull, os.O_RDWR)
    os.close(handle)


def end_process(code: int) -> NoReturn:
    """End the process, and say nothing more: neither a signal nor what could not be written is worth a traceback."""
    for number in ASKING:
        with suppress(ValueError):
            signal.signal(number, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)
