"""What goes wrong for reasons a person can mend: one sentence, and a hint at what to type."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TextgenError(ValueError):
    """An error in one sentence that names the value; `hint`, if any, says what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(TextgenError):
    """The request itself is wrong: a name that does not exist, options that exclude each other."""

    exit_code = 2


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' Did you mean 'x'?' for the nearest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
