"""The command as a shell sees it, run in this process: exit code, bytes of standard output, standard error."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple
from unittest import mock

from textgen.cli import main


class Result(NamedTuple):
    """What a command leaves behind."""

    code: int
    out: bytes
    err: str

    @property
    def text(self):
        return self.out.decode()


class Terminal(io.TextIOWrapper):
    """A standard output that says it is a terminal, where it is asked to."""

    def __init__(self, is_terminal):
        super().__init__(io.BytesIO(), "utf-8")
        self.isatty = lambda: is_terminal


def run(*arguments, stdin=b"", terminal=False):
    """Run `textgen ARGUMENTS`."""
    out, err = Terminal(terminal), io.StringIO()
    typed = io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    with redirect_stdout(out), redirect_stderr(err), mock.patch.object(sys, "stdin", typed):
        code = main([str(argument) for argument in arguments])
    out.flush()
    return Result(code, out.buffer.getvalue(), err.getvalue())


def refusal(result, code):
    """The one sentence with which a command was refused, and the hint after it (None without one)."""
    lines = result.err.splitlines()
    assert (result.code, result.out) == (code, b""), result
    assert lines and lines[0].startswith("Error: ") and lines[0].endswith((".", "?", ")")), result.err
    assert [line[:6] for line in lines[1:]] in ([], ["Hint: "]), result.err
    return lines[0].removeprefix("Error: "), lines[1].removeprefix("Hint: ") if lines[1:] else None
