"""Bytes that come in blocks: divided at a separator wherever it stands, and cut small at character borders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from textgen.errors import UsageError
from textgen.escapes import unescape

PIECE_BYTES = 1 << 20


def split(blocks: Iterable[bytes], typed: str) -> Iterator[bytes | None]:
    """The same bytes with None for each separator, also where one crosses the border of two blocks."""
    sign = separator(typed)
    line_ends = b"" if sign.endswith((b"\n", b"\r")) else b"\r\n"
    rest, dropped = b"", b""
    for block in blocks:
        *ended, rest = (rest + block).split(sign)
        for part in ended:
            yield part.lstrip(dropped)
            yield None
            dropped = line_ends
        sure = max(0, border(rest, len(rest) - len(sign) + 1))  # beyond it a separator may have begun
        begin = rest[:sure].lstrip(dropped)
        yield begin
        rest, dropped = rest[sure:], b"" if begin else dropped
    yield rest.lstrip(dropped)


def separator(typed: str) -> bytes:
    r"""A separator as bytes; escapes such as `\n` count as what they stand for. Raises UsageError for an empty one."""
    try:
        sign = unescape(typed).encode()
    except UnicodeEncodeError:
        raise UsageError(f"the document separator {typed!r} is not Unicode text.") from None
    if not sign:
        raise UsageError("the document separator '' is empty.")
    return sign


def cut(data: bytes) -> Iterator[bytes]:
    """The same bytes in pieces of `PIECE_BYTES` at most, each ending at a character border."""
    start = 0
    while len(data) - start > PIECE_BYTES:
        end = border(data, start + PIECE_BYTES)
        yield data[start:end]
        start = end
    yield data[start:] if start else data


def border(data: bytes, end: int) -> int:
    """The last place at or before `end` where a character of UTF-8 begins; `end` itself in bytes that are not UTF-8."""
    near = range(end, max(end - 4, -1), -1)
    return next((place for place in near if place >= len(data) or data[place] & 0xC0 != 0x80), end)


def span(blocks: Iterable[bytes], start: int, stop: int, whole_characters: bool) -> Iterator[bytes]:
    """The bytes from `start` to `stop`. With whole characters of UTF-8, each place moves on to the next border, so that
    spans that meet neither lose nor share a byte."""
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
