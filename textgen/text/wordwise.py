"""Encoding word by word from a cache: the common words of a text are encoded once.

If no token of a tokenizer extends across the start of a word, the ids of a text are those of its words in order,
whatever their context. The spaces before a word belong to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import numpy as np

from textgen.text.symbols import Ids

LONGEST = 40  # characters; longer words rarely recur
MOST_IDS = 1 << 20  # of all cached words


class WordMemory:
    """Words to ids: `encode_many`, which takes a list of words, is called once for each common word."""

    def __init__(self, encode_many: Callable[[list[str]], Iterable[Sequence[int]]]) -> None:
        self._encode_many = encode_many
        self._forget()

    def _forget(self) -> None:
        self._places: dict[str, int] = {}
        self._ids = np.zeros(0, np.int32)
        self._starts = np.zeros(0, np.intp)
        self._lengths = np.zeros(0, np.intp)

    def encode(self, words: list[str]) -> Ids:
        """The ids of all words, in order."""
        if len(self._ids) > MOST_IDS:
            self._forget()
        new = [word for word in set(words) if word not in self._places]
        if new:
            self._learn(new)
        place = np.fromiter(map(self._places.__getitem__, words), np.intp, len(words))
        lengths = self._lengths[place]
        ends = np.cumsum(lengths)
        shift = np.repeat(self._starts[place] - ends + lengths, lengths)
        for word in new:
            if len(word) > LONGEST:
                del self._places[word]
        return self._ids[shift + np.arange(len(shift))]

    def _learn(self, new: list[str]) -> None:
        rows = list(self._encode_many(new))
        lengths = np.fromiter(map(len, rows), np.intp, len(rows))
        self._places.update(zip(new, range(len(self._lengths), len(self._lengths) + len(new)), strict=True))
        self._starts = np.concatenate([self._starts, len(self._ids) + np.cumsum(lengths) - lengths])
        self._lengths = np.concatenate([self._lengths, lengths])
        self._ids = np.concatenate([self._ids, np.fromiter(chain.from_iterable(rows), np.int32, lengths.sum())])


def crosses_words(symbols: Iterable[bytes]) -> bool:
    """Whether a token has a space after another character."""
    return any(b" " in symbol.lstrip(b" ") for symbol in symbols)
