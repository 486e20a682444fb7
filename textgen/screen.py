"""Terminal output. Results go to standard output; progress, hints and warnings to standard error."""

from __future__ import annotations

import io
import os
import select
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, BinaryIO

import click

from textgen.errors import Escaper, TextgenError, TextgenNote, TextgenWarning, visible

_CHUNK = 4096  # less than the buffer of the stream, which then keeps what cannot be written yet


class _Screen:
    """What standard error currently shows: a line that is rewritten, or a live display with lines above it."""

    above: Callable[[str], None] | None = None
    silent = False
    has_moving_line = False


_screen = _Screen()


def say(text: str = "") -> None:
    """Print a line on standard error, above any live display, with control characters escaped. Write errors are
    ignored: the work continues without a reader."""
    if _screen.silent:
        return
    show = _screen.above or _print
    with suppress(OSError):
        show(visible(text))


def _print(text: str) -> None:
    clear = "\r\x1b[K" if _screen.has_moving_line else ""
    _screen.has_moving_line = False
    click.echo(clear + text, err=True)


@contextmanager
def silence() -> Iterator[None]:
    """A block in which nothing is printed, neither results nor messages: another process prints them."""
    before, _screen.silent = _screen.silent, True
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        _screen.silent = before


@contextmanager
def spoken() -> Iterator[None]:
    """A block in which messages are printed even where there is silence."""
    before, _screen.silent = _screen.silent, False
    try:
        yield
    finally:
        _screen.silent = before


def warn(text: str) -> None:
    """Print a warning on standard error."""
    say(f"Warning: {text}")


@contextmanager
def lines_above(show: Callable[[str], None]) -> Iterator[None]:
    """Within this block, let `say` print lines above a live display with this function."""
    before, _screen.above = _screen.above, show
    try:
        yield
    finally:
        _screen.above = before


@contextmanager
def notices() -> Iterator[None]:
    """Show warnings and notes of the library, each message once."""
    seen: set[str] = set()
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if not issubclass(category, TextgenWarning):
            before(message, category, *place)
        elif str(message) not in seen:
            seen.add(str(message))
            say(f"{'Note' if issubclass(category, TextgenNote) else 'Warning'}: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", TextgenWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def hush_notes() -> None:
    """Show only warnings, no notes, until `notices` ends."""
    warnings.simplefilter("ignore", TextgenNote)


def rewrite_line(text: str) -> None:
    """Replace the current line of standard error on a terminal."""
    with suppress(OSError):
        click.echo(f"\r\x1b[K{visible(text)}", nl=False, err=True)
        _screen.has_moving_line = bool(text)


class ClosedOutput(io.TextIOBase):
    """Standard output of a command without one: writing to it fails instead of losing the text."""

    def write(self, text: str) -> int:
        raise TextgenError("standard output is closed.")


class Output:
    """Standard output as UTF-8, whatever the terminal's encoding. On a terminal, control characters are escaped unless
    `raw`: a model must not move the cursor."""

    def __init__(self, raw: bool = False) -> None:
        self.terminal = sys.stdout.isatty()
        self._escape = Escaper() if self.terminal and not raw else None
        self._bytes = getattr(sys.stdout, "buffer", None)

    def write(self, text: str) -> None:
        if self._escape is not None:
            text = self._escape(text)
        if self._bytes is None:  # replaced by a test or notebook
            sys.stdout.write(text)
            return
        self.write_bytes(encoded(text))

    def write_bytes(self, content: bytes) -> None:
        """Write bytes to standard output unchanged."""
        if self._bytes is None:
            raise TextgenError("standard output takes text only.")
        left = memoryview(content)
        try:
            while left:
                taken = self._bytes.write(left[:_CHUNK])  # an unbuffered file may write only a part, or nothing
                if not taken:
                    select.select([], [self._bytes], [])
                left = left[taken or 0 :]
                self._flush(self._bytes)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from error

    def _flush(self, stream: BinaryIO) -> None:
        """Write everything, even to a slow reader whose end is non-blocking."""
        while True:
            try:
                stream.flush()
                return
            except BlockingIOError:
                select.select([], [stream], [])


def encoded(text: str) -> bytes:
    """The text as UTF-8; an undecodable file name as its original bytes."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


@contextmanager
def encodings_said(shown: bool = True) -> Iterator[None]:
    """Report at the end which encodings `--encoding auto` detected in this block."""
    from textgen.data.encodings import choosing

    with choosing() as choices:
        yield
    for phrase in choices.described() if shown else ():
        say(phrase)


@contextmanager
def reading_said(sentence: str | None) -> Iterator[None]:
    """Report at the end, unless the block fails, which reading options came from training."""
    yield
    if sentence is not None:
        say(sentence)


class ReadingProgress:
    """A progress line for reading and encoding a corpus, on a terminal only."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._last = -1.0

    def __call__(self, what: str, done: int, total: int) -> None:
        megabytes = done / 1e6
        if self._shown and (megabytes - self._last >= 1 or done < self._last * 1e6):
            self._last = megabytes
            of = f" of {total / 1e6:,.1f}" if total else ""
            rewrite_line(f"{what} {megabytes:,.1f}{of} MB")

    def finish(self) -> None:
        if self._shown and self._last >= 0:
            rewrite_line("")
