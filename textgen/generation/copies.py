"""Find spans copied from the training text with a suffix array, and limit their length while generating.

A suffix array (Manber and Myers 1990) sorts all positions of the training text by the text that follows. Positions with
a common prefix are then adjacent, and binary search finds a span in O(log n) comparisons. Spans are measured in
characters, whatever the tokenizer, and never cross from one document into the next.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from textgen.data.tokenizers.base import Tokenizer
from textgen.errors import TextgenError
from textgen.generation.sampling import OUT
from textgen.model.stepper import Logits

LARGEST = 1 << 24
"""Characters of the longest training text that is indexed: sorting takes about 40 bytes for each of them."""
BREAK = "\ud800"
"""Separates documents: a lone surrogate, which no decoded text contains."""
_HELD_TEXTS = 64
_WIDEST = 1 << 22


@dataclass(frozen=True)
class Copy:
    """A span of a text that occurs in the training text, and its first place: document and character, from 0."""

    text: str
    document: int
    character: int


class CopyIndex:
    """An index of the training text for exact search."""

    def __init__(self, documents: list[str]) -> None:
        """Raises TextgenError for more than `LARGEST` characters."""
        size = sum(map(len, documents)) + len(documents)
        if size > LARGEST:
            raise TextgenError(
                f"the training text has {size:,} characters; copies are searched for in at most {LARGEST:,}."
            )
        self._text = "".join(BREAK + document for document in documents)
        self._places = sorted_places(self._text)
        self._begins = np.cumsum([0] + [len(document) + 1 for document in documents])

    def range_of(self, span: str) -> tuple[int, int]:
        """The range of sorted places at which the span occurs, its end excluded."""
        text, places, size = self._text, self._places, len(span)

        def beginning(at: int) -> str:
            place = int(places[at])
            return text[place : place + size]

        first = bisect_left(range(len(places)), span, key=beginning)
        return first, bisect_right(range(len(places)), span, lo=first, key=beginning)

    def __contains__(self, span: str) -> bool:
        first, end = self.range_of(span)
        return first < end and BREAK not in span

    def following(self, span: str, size: int) -> set[str]:
        """The distinct texts of `size` characters that follow the span, over all its occurrences."""
        first, end = self.range_of(span)
        starts = (self._places[first:end] + len(span)).tolist()
        return {found for at in starts if len(found := self._text[at : at + size]) == size}

    def longest_end(self, text: str) -> int:
        """The size of the longest suffix of the text that occurs in the training text."""
        low, high = 0, len(text)
        while low < high:  # every suffix of a span that occurs also occurs
            middle = (low + high + 1) // 2
            low, high = (middle, high) if text[len(text) - middle :] in self else (low, middle - 1)
        return low

    def longest(self, text: str, after: int = 0) -> Copy | None:
        """The longest span of a text that occurs in the training text; the first one, if several are as long.

        Only spans that reach beyond character `after`, the end of a prompt, count. None if no character occurs.
        """
        begin, best = 0, (0, 0)
        for end in range(1, len(text) + 1):
            if text[begin:end] not in self:
                begin = end - self.longest_end(text[begin + 1 : end])
            if end > after and end - begin > best[1] - best[0]:
                best = (begin, end)
        return self.locate(text[best[0] : best[1]]) if best[1] else None

    def locate(self, span: str) -> Copy:
        """A span that occurs, with its first place."""
        first, end = self.range_of(span)
        place = int(self._places[first:end].min())
        document = int(np.searchsorted(self._begins, place, side="right")) - 1
        return Copy(span, document, place - int(self._begins[document]) - 1)


def sorted_places(text: str) -> npt.NDArray[np.int32]:
    """The places of a text, sorted by what follows: by a few characters, then by twice as many, and so on (prefix
    doubling)."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    if not len(codes):
        return np.zeros(0, dtype=np.int32)
    distinct, ranks = np.unique(codes, return_inverse=True)
    bits = max(1, len(distinct).bit_length())
    size = max(1, 62 // bits)
    keys = np.zeros(len(codes), dtype=np.int64)
    for offset in range(min(size, len(codes))):
        keys <<= bits
        keys[: len(codes) - offset] |= ranks[offset:] + 1
    while True:
        places = np.argsort(keys, kind="stable")
        ordered = keys[places]
        ranks = np.empty(len(codes), dtype=np.int64)
        ranks[places] = np.cumsum(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        if ranks[places[-1]] == len(codes):
            return places.astype(np.int32)
        keys = ranks << 32
        keys[: max(0, len(codes) - size)] |= ranks[size:]
        size *= 2


class CopyGuard:
    """Excludes tokens with which a text would copy more than `limit` characters in a row."""

    def __init__(self, index: CopyIndex, tokenizer: Tokenizer, limit: int) -> None:
        self._index, self.limit = index, limit
        self._texts = lru_cache(_HELD_TEXTS)(partial(_Texts, tokenizer, index, limit))

    def steer(self, logits: Logits, before: str, held: bytes) -> tuple[Logits, bool]:
        """The logits (V,) without those tokens, and True. `before` is the text so far; `held` is `Decoder.held`.

        If no token is left, the logits of the tokens with the shortest copies, and False.
        """
        texts = self._texts(held)
        wrong = self._too_long(texts, before)
        steered = logits.copy()
        steered[wrong] = OUT
        if np.isfinite(steered).any():
            return steered, True
        left = np.flatnonzero(np.isfinite(logits))
        sizes = np.array([self._index.longest_end(before[-_WIDEST:] + texts.texts[i]) for i in left.tolist()])
        steered[left[sizes == sizes.min()]] = logits[left[sizes == sizes.min()]]
        return steered, False

    def _too_long(self, texts: _Texts, before: str) -> list[int]:
        """The tokens with which some span of `limit` + 1 characters, across old and new ones, is a copy."""
        wrong = set(texts.copied)
        for size, beginnings in texts.by_beginning.items():
            kept = self.limit + 1 - size
            if kept > 0 and len(before) >= kept:
                for found in self._index.following(before[len(before) - kept :], size):
                    wrong.update(beginnings.get(found, ()))
        return sorted(wrong)


class _Texts:
    """What each token adds to a text: `texts` by id, and the ids by size and content of each prefix."""

    def __init__(self, tokenizer: Tokenizer, index: CopyIndex, limit: int, held: bytes) -> None:
        self.texts: list[str] = []
        self.by_beginning: dict[int, dict[str, list[int]]] = {}
        self.copied: list[int] = []
        for id in range(tokenizer.vocab_size):
            decoder = tokenizer.decoder()
            decoder.restore(held)
            text = decoder.add(id)
            self.texts.append(text)
            for size in range(1, min(len(text), limit) + 1):
                self.by_beginning.setdefault(size, {}).setdefault(text[:size], []).append(id)
            if any(text[at : at + limit + 1] in index for at in range(len(text) - limit)):
                self.copied.append(id)


def index_of(tokenizer: Tokenizer, tokens: npt.NDArray[np.integer]) -> CopyIndex:
    """The index of ids with a boundary before each document. Raises TextgenError if there are too many."""
    if len(tokens) > 4 * LARGEST:
        raise TextgenError(f"the training text has {len(tokens):,} tokens; that is too long to search for copies.")
    begins = np.flatnonzero(tokens == tokenizer.boundary).tolist()
    spans = pairwise([*begins, len(tokens)])
    return CopyIndex([tokenizer.decode(np.asarray(tokens[begin + 1 : end])) for begin, end in spans])
