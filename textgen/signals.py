"""Termination signals (SIGTERM, a closed terminal) as exceptions, like Ctrl-C, so that cleanup code always runs.

Imports nothing else from this package, so that it is in force from the start of a command.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes of a command that was stopped by Ctrl-C, and by any other termination signal."""
ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__]


class Terminated(BaseException):
    """A signal asked this process to end. Not an Exception, so that error handlers do not catch it."""


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let a function handle every termination signal, and restore the previous handlers afterwards. An ignored signal
    (as under nohup) stays ignored. Only in the main thread; in others nothing changes."""
    before: dict[int, signal._HANDLER] = {}
    try:
        with suppress(ValueError):  # not the main thread
            for number in ASKING:
                if signal.getsignal(number) != signal.SIG_IGN:
                    before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


@contextmanager
def stopping(work: Any) -> Iterator[list[int]]:
    """Set `work.stop` on a termination signal, so that it saves and ends; the list gets the number of each signal.
    Raises KeyboardInterrupt on a second Ctrl-C."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        work.stop = True

    with handling(stop):
        yield received


def leave(number: int, frame: FrameType | None) -> None:
    """Handle a signal by leaving at once. Raises KeyboardInterrupt or Terminated."""
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def exit_code(number: int) -> int:
    """The exit code of a command that was stopped by a signal."""
    return INTERRUPTED if number == signal.SIGINT else TERMINATED


def hold_places() -> None:
    """Open file descriptors 0 to 2 where they are closed: else the next file that is opened would get one of them, and
    with it whatever a library writes to standard output."""
    handle = os.open(os.devnull, os.O_RDWR)
    while handle <= 2:
        handle = os.open(os.devnull, os.O_RDWR)
    os.close(handle)


def end_process(code: int) -> NoReturn:
    """End the process silently: no traceback for a signal or for output that cannot be written."""
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
