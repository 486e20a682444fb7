"""The levels at which text is cut into symbols: the one list that options, plans, messages and tokenizers go by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """What the plan needs to know of a level.

    Attributes:
        symbol: what one symbol is, in words.
        characters: how many characters one symbol stands for, about.
        sized: whether its vocabulary is learned to a size, so that `--vocab-size` goes with it.
    """

    symbol: str
    characters: float
    sized: bool


LEVELS = {
    "char": Level("a character of the text", 1.0, sized=False),
    "byte": Level("a byte", 1.0, sized=False),
    "bpe": Level("a frequent piece, found by merging pairs", 3.0, sized=True),
    "unigram": Level("a frequent piece, of the likeliest cut", 3.0, sized=True),
    "word": Level("a word between blanks", 5.0, sized=True),
}
SMALLEST_VOCABULARY = 260
"""The least that `--vocab-size` takes: a piece besides the bytes."""

SIZED = tuple(name for name, level in LEVELS.items() if level.sized)


def listed(names: Iterable[str], word: str = "or") -> str:
    """'a, b or c'."""
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last
