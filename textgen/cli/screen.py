"""What a person sees. Results go to standard output; progress, hints and warnings to standard error."""

from __future__ import annotations

import math
import sys
import unicodedata
from typing import Any

import click

from textgen.errors import TextgenError


def say(text: str = "") -> None:
    """A line on standard error."""
    click.echo(text, err=True)


def warn(text: str) -> None:
    """A warning on standard error."""
    click.echo(f"Warning: {text}", err=True)


class Output:
    """Text to standard output as UTF-8, whatever the terminal's encoding. On a terminal, control characters show as
    escapes: a model must not move the cursor."""

    def __init__(self) -> None:
        if sys.stdout is None:
            raise TextgenError("standard output is closed.")
        self.terminal = sys.stdout.isatty()
        self._bytes = getattr(sys.stdout, "buffer", None)

    def write(self, text: str) -> None:
        if self.terminal:
            text = visible(text)
        if self._bytes is None:  # a test's or notebook's stand-in
            sys.stdout.write(text)
            return
        self._bytes.write(text.encode("utf-8", "replace"))
        self._bytes.flush()


def visible(text: str) -> str:
    """The text with control characters, line ends and tabs apart, as escapes."""
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf"):
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def count(number: float) -> str:
    """1234567 as 1,234,567."""
    return f"{number:,.0f}"


def figure(value: float | None, digits: int = 4) -> str:
    """A figure with so many digits after the point, or "-" for one that does not exist."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def plural(number: int, noun: str) -> str:
    """2 as 2 documents, 1 as 1 document."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def short(number: float) -> str:
    """1234567 as 1.2 M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """95 as 1 min 35 s."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """Rows under their column names, as wide as they need to be."""
    cells = [columns, *[[str(row[column]) for column in columns] for row in rows]]
    widths = [max(len(line[k]) for line in cells) for k in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells)


class ReadingProgress:
    """A line that follows the reading and encoding of a corpus, on a terminal; silent elsewhere."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._last = -1.0

    def __call__(self, what: str, done: int, total: int) -> None:
        megabytes = done / 1e6
        if self._shown and (megabytes - self._last >= 1 or done < self._last * 1e6):
            self._last = megabytes
            of = f" of {total / 1e6:,.1f}" if total else ""
            click.echo(f"\r\x1b[K{what} {megabytes:,.1f}{of} MB", nl=False, err=True)

    def finish(self) -> None:
        if self._shown and self._last >= 0:
            click.echo("\r\x1b[K", nl=False, err=True)
