"""Errors that the user can fix: one sentence, and a hint at what to type."""

from __future__ import annotations

import re
from collections.abc import Iterable

from textgen.escapes import on_one_line

LONGEST_BEGIN, LONGEST_END = 1200, 300
"""Characters of a message that are shown of a longer one: what a file holds may be of any length."""

TYPO_EDITS, TYPO_SHARE = 3, 0.33
"""A typo is at most this many edits, and at most this fraction of the longer name."""


class TextgenError(ValueError):
    """An error in one sentence that names the value; `hint`, if any, says what to do.

    Both are safe to print: control characters are escaped, and a very long message is shortened.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(showable(message))
        self.hint = None if hint is None else showable(hint)


class UsageError(TextgenError):
    """The request itself is wrong: an unknown name, options that exclude each other."""

    exit_code = 2
    column: str | None = None
    """The missing column, if that is what is wrong."""


class CompilerError(TextgenError):
    """The C++ compiler is missing or does not work; a run without one is slower, and otherwise the same."""


class TextgenWarning(UserWarning):
    """Something that the user should know about the data; the command line prints it as a warning."""


class TextgenNote(TextgenWarning):
    """Something that was detected or decided; the command line prints it as a note."""


def missing_column(message: str, column: str) -> UsageError:
    """The error of a table that lacks a column."""
    error = UsageError(message)
    error.column = column
    return error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' Did you mean 'x'?' for the known name that was probably meant, or nothing.

    It differs from `name` in case or separators, or by few edits for its length; or it is the only one with this word.
    """
    typed, plain = _plain(name), {each: other for each in known if (other := _plain(each))}
    near: dict[str, float] = {}
    for each, other in plain.items():
        most = min(TYPO_EDITS, TYPO_SHARE * max(len(typed), len(other)))
        if abs(len(typed) - len(other)) <= most and (edits := _edits(typed, other)) <= most:
            near[each] = edits
    with_word = [each for each, other in plain.items() if len(typed) > 2 and typed in re.split(r"[_.]", other)]
    best = min(near, key=near.__getitem__, default=with_word[0] if len(with_word) == 1 else None)
    return "" if best is None else f" Did you mean {best!r}?"


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


def _edits(a: str, b: str) -> float:
    """The edit distance between two names; a swap of neighbouring letters, the commonest typo, counts half."""
    older: list[float] = []
    old: list[float] = list(range(len(b) + 1))
    for i, letter in enumerate(a):
        new: list[float] = [i + 1]
        for j, other in enumerate(b):
            new.append(min(old[j] + (letter != other), old[j + 1] + 1, new[j] + 1))
            if i and j and (letter, a[i - 1]) == (b[j - 1], other):
                new[-1] = min(new[-1], older[j - 1] + 0.5)
        older, old = old, new
    return old[-1]


def showable(message: str) -> str:
    """A message as one line of printable characters; the middle of a very long one is left out."""
    if len(message) > LONGEST_BEGIN + LONGEST_END:
        message = f"{message[:LONGEST_BEGIN]} ... {message[-LONGEST_END:]}"
    return message if message.isprintable() else on_one_line(message)
