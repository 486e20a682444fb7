"""The command `textgen` as a process of its own (`python -m textgen` is the same)."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import NoReturn

from textgen import stopping


def run() -> NoReturn:
    """Run the command that was typed, and end the process with its exit code."""
    stopping.hold_places()
    try:
        with stopping.handling(stopping.leave):
            from textgen.cli import main

            code = main()
    except (KeyboardInterrupt, stopping.Terminated) as asked:  # before the command could say so itself, or after it
        code = stopping.INTERRUPTED if isinstance(asked, KeyboardInterrupt) else stopping.TERMINATED
        with suppress(OSError):
            os.write(2, b"Stopped.\n")
    stopping.end_process(code)


if __name__ == "__main__":
    run()
