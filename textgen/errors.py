"""What goes wrong for reasons a person can mend: one sentence, and a hint at what to type."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from textgen.escapes import on_one_line

LONGEST_BEGIN, LONGEST_END = 1200, 300
"""Characters of a message that are shown of a longer one: what a file holds may be of any length."""


class TextgenError(ValueError):
    """An error in one sentence that names the value; `hint`, if any, says what to do.

    Both are made safe to show: what a terminal could take for a command is escaped, and what is endless is cut.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(showable(message))
        self.hint = None if hint is None else showable(hint)


class UsageError(TextgenError):
    """The request itself is wrong: a name that does not exist, options that exclude each other."""

    exit_code = 2
    column: str | None = None
    """The column that a table lacks, if that is what is wrong."""


class CompilerError(TextgenError):
    """There is no C++ compiler, or it does not work; without one a run is slower, and otherwise the same."""


class TextgenWarning(UserWarning):
    """Something about the data that whoever gave it should know; the command line shows it as a warning."""


class TextgenNote(TextgenWarning):
    """Something that was detected and decided; the command line shows it as a note."""


def missing_column(message: str, column: str) -> UsageError:
    """The error of a table that lacks a column."""
    error = UsageError(message)
    error.column = column
    return error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' Did you mean 'x'?' for the nearest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def showable(message: str) -> str:
    """A message on one line of printable characters, its middle left out if it is very long."""
    if len(message) > LONGEST_BEGIN + LONGEST_END:
        message = f"{message[:LONGEST_BEGIN]} ... {message[-LONGEST_END:]}"
    return message if message.isprintable() else on_one_line(message)
