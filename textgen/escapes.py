r"""Escapes, both ways: `\n` as typed in an option, and control characters as shown on a terminal."""

from __future__ import annotations

import re
import unicodedata

_TYPED = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "\\": "\\"}

_TEXT_FORMATS = frozenset(
    "\u00ad\u061c\u06dd\u070f\u0890\u0891\u08e2\u200b\u200c\u200d\u200e\u200f\u2060\U000110bd\U000110cd"
    "\u0600\u0601\u0602\u0603\u0604\u0605"
)
"""Format characters (Cf) that occur in normal text: joiners, direction marks, soft hyphens, Arabic and Kaithi signs.
Direction overrides and embeddings, which can disguise a line, are not among them."""

_BLACK_FLAG, _CANCEL_TAG = "\U0001f3f4", "\U000e007f"
_TAGS = frozenset(map(chr, (*range(0xE0030, 0xE003A), *range(0xE0061, 0xE007B))))
_MOST_TAGS = 6
"""The maximum length of a region code, such as gbeng, in a flag."""


def unescape(typed: str) -> str:
    r"""Replace `\n`, `\t`, `\r`, `\0` and `\\` in an option's value; any other backslash stays."""
    return re.sub(r"\\([ntr0\\])", lambda escape: _TYPED[escape[1]], typed)


class Escaper:
    """Escapes characters that could move the cursor or reorder a line, as in `\\x1b`.

    Text may come in pieces; a region's flag (a black flag, then invisible tag characters) may be split anywhere.
    """

    def __init__(self) -> None:
        self._tags: int | None = None
        """The number of tag characters since a black flag; None elsewhere."""

    def __call__(self, text: str) -> str:
        """The next piece, escaped."""
        return "".join(self._escaped(character) for character in text)

    def _escaped(self, character: str) -> str:
        tags, self._tags = self._tags, None
        if character == _BLACK_FLAG:
            self._tags = 0
        elif tags is not None and tags < _MOST_TAGS and character in _TAGS:
            self._tags = tags + 1
        elif (tags and character == _CANCEL_TAG) or character in "\n\t" or character in _TEXT_FORMATS:
            return character
        elif unicodedata.category(character) in ("Cc", "Cf"):
            return escape(character)
        return character


def escape(character: str) -> str:
    """A character as Python writes it in a string literal: x1b, u202e or U000e0067, after a backslash."""
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible(text: str) -> str:
    """A whole text, escaped."""
    return Escaper()(text)


def on_one_line(text: str) -> str:
    """The text with all nonprintable characters escaped, line ends included; spaces of any width stay."""
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) in ("Zs", "Cf")
        else ascii(character)[1:-1]
        for character in visible(text)
    )
