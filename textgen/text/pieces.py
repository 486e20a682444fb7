"""Splitting blocks of bytes into documents at a separator, and into chunks at character boundaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from textgen.errors import UsageError
from textgen.escapes import unescape

CHUNK_BYTES = 1 << 20


def split(blocks: Iterable[bytes], typed: str) -> Iterator[bytes | None]:
    """The same bytes with None for each separator, even one that spans two blocks."""
    sign = separator(typed)
    line_ends = b"" if sign.endswith((b"\n", b"\r")) else b"\r\n"
    rest, dropped = b"", b""
    for block in blocks:
        *ended, rest = (rest + block).split(sign)
        for part in ended:
            yield part.lstrip(dropped)
            yield None
            dropped = line_ends
        sure = max(0, border(rest, len(rest) - len(sign) + 1))  # a separator may have begun after it
        begin = rest[:sure].lstrip(dropped)
        yield begin
        rest, dropped = rest[sure:], b"" if begin else dropped
    yield rest.lstrip(dropped)


def separator(typed: str) -> bytes:
    r"""A separator as bytes, with escapes such as `\n` interpreted. Raises UsageError for an empty one."""
    try:
        sign = unescape(typed).encode()
    except UnicodeEncodeError:
        raise UsageError(f"the document separator {typed!r} is not Unicode text.") from None
    if not sign:
        raise UsageError("the document separator '' is empty.")
    return sign


def cut(data: bytes) -> Iterator[bytes]:
    """The same bytes in chunks of at most `CHUNK_BYTES`, each ending at a character boundary."""
    start = 0
    while len(data) - start > CHUNK_BYTES:
        end = border(data, start + CHUNK_BYTES)
        yield data[start:end]
        start = end
    yield data[start:] if start else data


def border(data: bytes, end: int) -> int:
    """The last character boundary of UTF-8 at or before `end`; `end` itself in bytes that are not UTF-8."""
    near = range(end, max(end - 4, -1), -1)
    return next((place for place in near if place >= len(data) or data[place] & 0xC0 != 0x80), end)


def span(blocks: Iterable[bytes], start: int, stop: int, whole_characters: bool) -> Iterator[bytes]:
    """The bytes from `start` to `stop`. With whole characters, both move forward to the next character boundary, so
    that adjacent spans neither lose nor share a byte."""
    at = 0
    for block in blocks:
        begin, end = max(start - at, 0), max(stop - at, 0)
        if begin < len(block):
            while whole_characters and 0 < begin + at == start and begin < len(block) and _continues(block[begin]):
                begin, start = begin + 1, start + 1
            while whole_characters and end < len(block) and end + at == stop and _continues(block[end]):
                end, stop = end + 1, stop + 1
            yield block[begin:end]
        at += len(block)
        if at > stop:
            return


def _continues(byte: int) -> bool:
    return byte & 0xC0 == 0x80
