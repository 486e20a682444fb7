"""What a person sees. Results go to standard output; progress, hints and warnings to standard error."""

from __future__ import annotations

import io
import select
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import click

from textgen.errors import TextgenError, TextgenNote, TextgenWarning
from textgen.escapes import Escaper, visible

_PIECE = 4096  # less than the buffer below, which then holds back what cannot be given away yet


class _Screen:
    """What standard error shows at the moment: a line that is rewritten, or a live display with lines above it."""

    above: Callable[[str], None] | None = None
    has_moving_line = False


_screen = _Screen()


def say(text: str = "") -> None:
    """A line on standard error, above what moves there, with control characters as escapes. Errors of writing are
    ignored: the work goes on where nobody listens."""
    show = _screen.above or _print
    with suppress(OSError):
        show(visible(text))


def _print(text: str) -> None:
    clear = "\r\x1b[K" if _screen.has_moving_line else ""
    _screen.has_moving_line = False
    click.echo(clear + text, err=True)


def warn(text: str) -> None:
    """A warning on standard error."""
    say(f"Warning: {text}")


@contextmanager
def lines_above(show: Callable[[str], None]) -> Iterator[None]:
    """Let `say` use a function that puts a line above a live display, as long as the block lasts."""
    before, _screen.above = _screen.above, show
    try:
        yield
    finally:
        _screen.above = before


@contextmanager
def notices() -> Iterator[None]:
    """Show what the library warns of, and its notes, each sentence once."""
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
    """Show no more notes, only warnings, until `notices` ends."""
    warnings.simplefilter("ignore", TextgenNote)


def rewrite_line(text: str) -> None:
    """Replace the current line on a terminal's standard error."""
    with suppress(OSError):
        click.echo(f"\r\x1b[K{visible(text)}", nl=False, err=True)
        _screen.has_moving_line = bool(text)


class ClosedOutput(io.TextIOBase):
    """Stands where a command has no standard output: what is written to it is refused, not lost."""

    def write(self, text: str) -> int:
        raise TextgenError("standard output is closed.")


class Output:
    """Text to standard output as UTF-8, whatever the terminal's encoding. On a terminal, control characters show as
    escapes: a model must not move the cursor. With `raw` they do not."""

    def __init__(self, raw: bool = False) -> None:
        self.terminal = sys.stdout.isatty()
        self._escape = Escaper() if self.terminal and not raw else None
        self._bytes = getattr(sys.stdout, "buffer", None)

    def write(self, text: str) -> None:
        if self._escape is not None:
            text = self._escape(text)
        if self._bytes is None:  # a test's or notebook's stand-in
            sys.stdout.write(text)
            return
        self.write_bytes(encoded(text))

    def write_bytes(self, content: bytes) -> None:
        """Bytes to standard output, as they are."""
        if self._bytes is None:
            raise TextgenError("standard output takes text only.")
        left = memoryview(content)
        try:
            while left:
                taken = self._bytes.write(left[:_PIECE])  # an unbuffered file takes what it can, and may take nothing
                if not taken:
                    select.select([], [self._bytes], [])
                left = left[taken or 0 :]
                self._flush(self._bytes)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from error

    def _flush(self, stream: BinaryIO) -> None:
        """Give everything away, to a reader too that takes it in its own time and asked not to be waited for."""
        while True:
            try:
                stream.flush()
                return
            except BlockingIOError:
                select.select([], [stream], [])


def encoded(text: str) -> bytes:
    """The text as UTF-8. The name of a file that is none gets its own bytes back."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


@contextmanager
def encodings_said(shown: bool = True) -> Iterator[None]:
    """Say at the end which encodings `--encoding auto` found in what was read meanwhile."""
    from textgen.text.detection import choosing

    with choosing() as choices:
        yield
    for phrase in choices.described() if shown else ():
        say(phrase)


@contextmanager
def reading_said(sentence: str | None) -> Iterator[None]:
    """Say at the end, unless the work fails, what comes from training in how a text was read."""
    yield
    if sentence is not None:
        say(sentence)


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
            rewrite_line(f"{what} {megabytes:,.1f}{of} MB")

    def finish(self) -> None:
        if self._shown and self._last >= 0:
            rewrite_line("")
