"""The tokenizer kinds: the one list that options, plans, messages and tokenizers use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """What the plan needs to know about a tokenizer kind.

    Attributes:
        symbol: what one token is, in words.
        characters: about how many characters one token stands for.
        sized: whether its vocabulary is learned up to a size, so that `--vocab-size` applies.
    """

    symbol: str
    characters: float
    sized: bool


LEVELS = {
    "char": Level("a character of the text", 1.0, sized=False),
    "byte": Level("a byte", 1.0, sized=False),
    "bpe": Level("a frequent piece, found by merging pairs", 3.0, sized=True),
    "unigram": Level("a frequent piece, from the likeliest segmentation", 3.0, sized=True),
    "word": Level("a word between spaces", 5.0, sized=True),
}
SMALLEST_VOCABULARY = 260
"""The smallest `--vocab-size`: one piece besides the bytes."""

SIZED = tuple(name for name, level in LEVELS.items() if level.sized)


def listed(names: Iterable[str], word: str = "or") -> str:
    """'a, b or c'."""
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last
