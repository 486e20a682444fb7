"""The command `textgen` as a process of its own (`python -m textgen` is the same)."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import NoReturn

from textgen import signals


def run() -> NoReturn:
    """Run the command that was typed, and end the process with its exit code."""
    signals.hold_places()
    try:
        with signals.handling(signals.leave):
            from textgen.cli import main

            code = main()
    except (KeyboardInterrupt, signals.Terminated) as asked:  # before the command could say so itself, or after it
        code = signals.INTERRUPTED if isinstance(asked, KeyboardInterrupt) else signals.TERMINATED
        with suppress(OSError):
            os.write(2, b"Stopped.\n")
    signals.end_process(code)


if __name__ == "__main__":
    run()
