"""`--encoding auto`: detecting the encoding of each file.

A byte-order mark decides. Without one, a file of valid UTF-8 is UTF-8; for any other file, the lines that are not ASCII
decide. The whole file is read once, in bounded memory.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from textgen.text import decoding
from textgen.text.charset import charset_of
from textgen.wording import plural

STANDARD_INPUT = "standard input"
SAMPLE_BYTES = 1 << 16
"""How many bytes of lines that are not ASCII charset-normalizer examines."""


@dataclass
class Choices:
    """The encodings chosen so far, and what messages call the files, by absolute path."""

    encodings: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def lasting(self) -> dict[str, str]:
        """What another run needs to read the same text: encodings other than UTF-8, except that of standard input."""
        temporary = {path for path, name in self.names.items() if name == STANDARD_INPUT}
        return {p: encoding for p, encoding in self.encodings.items() if encoding != "utf-8" and p not in temporary}

    def described(self) -> list[str]:
        """A phrase for each chosen encoding; none if every file is UTF-8."""
        read = sorted((decoding.shown(self.encodings[path]), name) for path, name in self.names.items())
        if all(label == "UTF-8" for label, _ in read):
            return []
        groups = [(label, [name for _, name in group]) for label, group in groupby(read, key=lambda each: each[0])]
        return [f"{_listed(names)} read as {label}" for label, names in sorted(groups, key=lambda group: len(group[1]))]


def _listed(names: list[str]) -> str:
    most = 3
    more = f" and {plural(len(names) - most, 'other file')}" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


_choices: ContextVar[Choices | None] = ContextVar("choices", default=None)


@contextmanager
def choosing(known: Mapping[str, str] | None = None) -> Iterator[Choices]:
    """Within this context, detect the encoding of each file only once; `known` files are not detected. A nested context
    shares the outer one."""
    outer = _choices.get()
    if outer is not None:
        outer.encodings.update(known or {})
        yield outer
        return
    choices = Choices(dict(known or {}))
    token = _choices.set(choices)
    try:
        yield choices
    finally:
        _choices.reset(token)


def chosen(path: Path, name: str, blocks: Callable[[], Iterable[bytes]]) -> str:
    """The encoding of a file, from the context or its `blocks`. Raises TextgenError as `detect` does."""
    choices, key = _choices.get(), str(path.absolute())
    found = (choices and choices.encodings.get(key)) or detect(blocks(), name)
    if choices is not None:
        choices.encodings[key], choices.names[key] = found, name
    return found


def detect(blocks: Iterable[bytes], name: str) -> str:
    """The encoding of a text in blocks. Raises TextgenError if no known encoding fits."""
    blocks = iter(blocks)
    head = b""
    while len(head) < decoding.HEAD_BYTES and (block := next(blocks, b"")):
        head += block
    marked = decoding.marked(head)
    if marked is not None:
        return marked
    wide = decoding.likely_wide(head[: decoding.HEAD_BYTES])
    if wide is not None:
        return wide
    sample = _Sample()
    for block in chain([head], blocks):
        sample.add(block)
    if sample.is_utf8() or sample.mostly_utf8():  # reading reports an invalid byte
        return "utf-8"
    return charset_of(b"".join(sample.lines()), name)


class _Sample:
    """Whether a text is UTF-8, and its first lines that are not ASCII."""

    def __init__(self) -> None:
        self._decoder: Any = codecs.getincrementaldecoder("utf-8")()
        self._rest = b""
        self._lines: list[bytes] = []
        self._size = 0

    def add(self, block: bytes) -> None:
        self._decode(block, False)
        if self._size >= SAMPLE_BYTES or (block.isascii() and not self._rest):
            return
        whole, self._rest = _whole_lines(self._rest + block)
        self._take(whole)

    def _decode(self, block: bytes, final: bool) -> None:
        try:
            if self._decoder is not None:
                self._decoder.decode(block, final)
        except UnicodeDecodeError:
            self._decoder = None

    def _take(self, text: bytes) -> None:
        for line in text.splitlines(keepends=True):
            if self._size < SAMPLE_BYTES and not line.isascii():
                self._lines.append(_cut(line, SAMPLE_BYTES - self._size))
                self._size += len(line)

    def is_utf8(self) -> bool:
        self._decode(b"", True)
        return self._decoder is not None

    def mostly_utf8(self) -> bool:
        """Whether most lines are UTF-8: then the others are damaged rather than in another encoding."""
        lines = self.lines()
        return 2 * sum(map(decoding.is_utf8, lines)) > len(lines)

    def lines(self) -> list[bytes]:
        """The first lines that are not ASCII, to be called at the end of the text."""
        self._take(self._rest)
        self._rest = b""
        return self._lines


def _whole_lines(text: bytes) -> tuple[bytes, bytes]:
    """The complete lines of a text, and the rest; a part of a very long line counts as a line."""
    end = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
    if len(text) - end > SAMPLE_BYTES:
        end = _last_border(text, len(text)) or len(text)
    return text[:end], text[end:]


def _cut(line: bytes, size: int) -> bytes:
    """At most `size` bytes of a line, with whole characters if a boundary can be found."""
    if len(line) <= size:
        return line
    return line[: _last_border(line, size) or size]


def _last_border(text: bytes, end: int) -> int:
    """The last position up to `end` after a byte that no multibyte encoding uses within a character; 0 if there is
    none."""
    return next((at for at in range(end, 0, -1) if text[at - 1] < 0x30), 0)
