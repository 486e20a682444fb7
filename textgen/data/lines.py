"""Texts with one item per line, such as titles, names and one-liners: detected, and divided into items.

Such a text is read so that each line is a document. Detection looks at the beginning of a text and is careful: prose,
verse, plays, source code, tables, logs and chats have lines, too, but no items. Each has a sign (`SIGNS`) that lists
of items lack; one sign is enough to read the text as a whole.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

HEAD_BYTES = 1 << 20
"""How much of a text, in UTF-8, decides whether it holds items."""

FEWEST = 100
"""The fewest lines that show what a text is."""

BLANK_BYTES = 1 << 20
"""White space that begins a line is held back up to this size, until something else shows that the line is not
blank."""

LINE_END = re.compile("\r\n?|\n")
_END_BYTE = re.compile(b"[\r\n]")
_CONTINUED = tuple(",;-\u2013\u2014\uff0c\u3001\uff1b")
_FINISHED = tuple(".!?:;\u2026\"'\u201d\u2019\u00bb)]\u3002\uff01\uff1f\u300d")
_CODE = re.compile(
    r"""[{};=\\]$ | ^[<{}/|\\] | ^\.[A-Z]{2}\b | ^\#(?:include|define|if|!) | ^"[\w\ ]+"\s*:
    | ^\w[\w.\[\]]*\s?[-+|]?=(?!=) | ^\w[\w.]*\(.*\)$""",
    re.VERBOSE,
)
_TIME = re.compile(r"\b\d{1,2}:\d\d\b|\b\d{4}[-/]\d\d[-/]\d\d|\b\d{1,2}/\d{1,2}/\d{2,4}")
_TIME_WITHIN = 32  # characters
_DIGITS = re.compile("[0-9]+")
_SPEAKER = re.compile(r"<?[\w .'-]{1,24}[:>](?:\s|$)")
_SENTENCES = re.compile(r"[.!?\u2026][\"'\u201d\u2019)]? +[\"'\u201c\u2018]?[^\W\d_a-z]")
_CELLS = (re.compile(r",(?! )"), re.compile(";"), re.compile("\t"), re.compile(r"\|"))
_WIDE = re.compile("[\u1100-\u11ff\u2e80-\ufaff\uff01-\uff60]")

SHORT, LONG, HUGE = 140, 280, 1000
"""Characters: half of all items are at most as long as the first (a short sentence), nearly all as the second (a
post)."""

NARROW = 25
"""Characters: shorter lines may all have the same length without being wrapped, as words of five letters do."""


def items(blocks: Iterable[bytes]) -> Iterator[bytes | None]:
    r"""The same bytes without line ends (`\n`, `\r\n` or `\r`), with None after each line; a blank line gives no bytes.

    Of a `\r\n` both bytes end a line, and the second line is blank, wherever the two are cut apart.
    """
    held, begun = b"", False
    for block in blocks:
        for number, part in enumerate(_END_BYTE.split(block)):
            if number:
                yield None
                held, begun = b"", False
            part = held + part
            begun = begun or bool(part.strip()) or len(part) > BLANK_BYTES
            held = b"" if begun else part
            if begun and part:
                yield part


@dataclass(frozen=True)
class Lines:
    """The lines of a text that are not blank, without white space at both ends, and what counts as a sign."""

    text: str

    @cached_property
    def all(self) -> list[str]:
        """Every line, but for blank ones at the end."""
        return LINE_END.split(self.text.rstrip())

    @cached_property
    def lines(self) -> list[str]:
        return [line.strip() for line in self.all if line.strip()]

    @cached_property
    def lengths(self) -> list[int]:
        """Characters of each line, sorted. Those of Chinese, Japanese and Korean count double: they say as much."""
        wide = 2 * len(_WIDE.findall(self.text)) > len(self.text)
        return sorted((1 + wide) * len(line) for line in self.lines)

    @cached_property
    def widest(self) -> int:
        """The length that 95 % of the lines do not exceed."""
        return self.lengths[int(0.95 * len(self.lengths))]

    def share(self, has: Callable[[str], object]) -> float:
        """The share of lines with a property."""
        return sum(bool(has(line)) for line in self.lines) / len(self.lines)

    def longer(self, limit: int) -> float:
        """The share of lines of more than so many characters."""
        return sum(length > limit for length in self.lengths) / len(self.lengths)

    def blank(self) -> float:
        """Between paragraphs, stanzas and speeches."""
        return 1 - len(self.lines) / len(self.all)

    def indented(self) -> float:
        """In code, in verse, and at the beginning of paragraphs."""
        return sum(line[0].isspace() for line in self.all if line.strip()) / len(self.lines)

    def wrapped(self) -> float:
        """Lines nearly as long as the longest: wrapped lines pile up there. They count double if many lines, but not
        all, go on with the sentence of the line before."""
        if self.widest < NARROW:
            return 0.0
        piled = sum(0.85 * self.widest <= length <= 1.05 * self.widest for length in self.lengths) / len(self.lengths)
        going_on = sum(after[0].islower() and not line.endswith(_FINISHED) for line, after in pairwise(self.lines))
        return piled * (2 if 0.2 < going_on / len(self.lines) < 0.9 else 1)

    def sentences(self) -> float:
        """Lines of several sentences: paragraphs, unless all lines are short."""
        return 0.0 if self.widest <= SHORT else self.share(_SENTENCES.search)

    def speakers(self) -> float:
        """Lines that begin with the same few names and a colon, as in chats and plays."""
        names = Counter(found[0] for line in self.lines if (found := _SPEAKER.match(line)))
        return sum(number for number in names.values() if number > 2) / len(self.lines)

    def repeated(self) -> float:
        """Lines that occur earlier, as refrains do."""
        return 1 - len(set(self.lines)) / len(self.lines)

    def templates(self) -> float:
        """Lines that begin with one of several stock phrases, as in logs."""
        begun = Counter(_DIGITS.sub("", " ".join(line.split(None, 2)[:2])) for line in self.lines)
        common = [number for number in begun.values() if number > 0.03 * len(self.lines)]
        return sum(common) / len(self.lines) if len(common) > 2 else 0.0

    def table(self) -> float:
        """Lines that a delimiter divides into the same number of cells."""
        counts = [Counter(len(cell.findall(line)) for line in self.lines) for cell in _CELLS]
        alike = (number for count in counts for cells, number in count.items() if cells)
        return max(alike, default=0) / len(self.lines)


def _few_letters(line: str) -> bool:
    return 2 * sum(map(str.isalpha, line)) < len(line) - line.count(" ")


SIGNS: dict[str, tuple[Callable[[Lines], float], float]] = {
    "blank lines": (Lines.blank, 0.02),
    "indented lines": (Lines.indented, 0.05),
    "lines too long for an item": (lambda text: text.longer(SHORT), 0.5),
    "lines too long for a post": (lambda text: text.longer(LONG), 0.05),
    "huge lines": (lambda text: text.longer(HUGE), 0.002),
    "wrapped lines": (Lines.wrapped, 0.45),
    "several sentences": (Lines.sentences, 0.5),
    "comma at the end": (lambda text: text.share(lambda line: line.endswith(_CONTINUED)), 0.08),
    "code": (lambda text: text.share(_CODE.search), 0.1),
    "times": (lambda text: text.share(lambda line: _TIME.search(line[:_TIME_WITHIN])), 0.3),
    "speakers": (Lines.speakers, 0.3),
    "repeated lines": (Lines.repeated, 0.5),
    "stock phrases": (Lines.templates, 0.6),
    "few letters": (lambda text: text.share(_few_letters), 0.5),
    "cells": (Lines.table, 0.8),
}
"""Signs that a text holds no items, each with the share of lines that may have it."""


def signs(text: str) -> list[str]:
    """The signs that a text does not hold one item per line; empty for a list of items."""
    lines = Lines(text)
    if len(lines.lines) < FEWEST:
        return ["few lines"]
    return [name for name, (share, most) in SIGNS.items() if share(lines) > most]


def are_items(blocks: Iterable[bytes]) -> bool:
    """Whether a text, of which no more than the beginning is read, holds one item per line. Bytes that are not UTF-8
    are no items, and neither is text with NUL characters."""
    head = b""
    for block in blocks:
        head += block
        if len(head) > HEAD_BYTES:
            head = head[:HEAD_BYTES]
            head = head[: max(head.rfind(b"\n"), head.rfind(b"\r")) + 1]
            break
    try:
        text = head.decode()
    except UnicodeDecodeError:
        return False
    return "\0" not in text and not signs(text)
