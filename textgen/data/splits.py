"""The held-out part of a corpus, a pure function of its content, the share and the seed.

Of many documents, whole ones are held out, chosen by seed. Of a few, one could be unlike all others and would judge
them; so the end of each is held out, cut where a paragraph or line ends. A single document is cut at the byte.
"""

from __future__ import annotations

import random
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from textgen.data.recipes import TRAIN, VALIDATION

FEWEST = 5
"""The fewest whole documents to hold out."""

SHORTEST_END = 32
"""Bytes: if the ends of documents would be shorter on average, they say little."""

MOST_REACH = 1 << 16
"""Bytes around a cut that are searched for the end of a paragraph or line, at most."""

WHOLE, TAIL, TAILS = "documents", "tail", "tails"
"""Kinds of splits: whole documents, the end of the only document, the end of each document."""

_PARAGRAPH_END = re.compile(rb"(?:\r\n?|\n)(?:[ \t]*(?:\r\n?|\n))+")
_LINE_END = re.compile(rb"\r\n?|\n")


class WholeDocuments(Mapping[int, int]):
    """Cuts at offset 0 of some documents. There may be millions; eight bytes are kept for each."""

    def __init__(self, documents: Iterable[int]) -> None:
        self._documents = array("q", sorted(documents))

    def __getitem__(self, document: int) -> int:
        if document in self:
            return 0
        raise KeyError(document)

    def __contains__(self, document: object) -> bool:
        assert isinstance(document, int)
        at = bisect_left(self._documents, document)
        return at < len(self._documents) and self._documents[at] == document

    def __iter__(self) -> Iterator[int]:
        return iter(self._documents)

    def __len__(self) -> int:
        return len(self._documents)


@dataclass(frozen=True)
class Split:
    """The held-out part: of each document in `cuts`, everything from that offset in bytes on; all of it from 0."""

    kind: str = WHOLE
    cuts: Mapping[int, int] = field(default_factory=dict)

    def divide(self, chunks: Iterable[tuple[int, bytes]]) -> Iterator[tuple[str, int, bytes]]:
        """Each chunk with its part; a chunk in which a held-out part begins is cut at a character boundary."""
        at = -1
        offset = 0
        for document, chunk in chunks:
            offset = 0 if document != at else offset
            at = document
            for part, own in self._parts(document, offset, chunk):
                if own:
                    yield part, document, own
            offset += len(chunk)

    def _parts(self, document: int, offset: int, chunk: bytes) -> list[tuple[str, bytes]]:
        if document not in self.cuts:
            return [(TRAIN, chunk)]
        begin = self.cuts[document]
        cut = min(max(begin - offset, 0), len(chunk))
        while 0 < cut < len(chunk) and chunk[cut] & 0xC0 == 0x80:
            cut += 1
        return [(TRAIN, chunk[:cut]), (VALIDATION, chunk[cut:])]


def choose_split(sizes: Sequence[int], share: float, seed: int, whole: bool = False) -> Split:
    """Hold out `share` of the bytes of documents of these sizes: whole documents chosen by seed, or the end of each.

    The ends are held out if fewer than `FEWEST` documents would be, or if no set comes close to the share, but not of
    short documents, and never if documents must stay `whole`.
    """
    total = sum(sizes)
    if share == 0 or total == 1:  # a single byte cannot be split: train on it
        return Split()
    if len(sizes) == 1:
        return Split(TAIL, {0: min(max(int(total * (1 - share)), 1), total - 1)})
    chosen, close = _choose(sizes, share * total, seed)
    short = share * total < SHORTEST_END * len(sizes)
    if whole or (close and (len(chosen) >= FEWEST or short)):
        return Split(WHOLE, WholeDocuments(chosen))
    cuts = {document: int(size * (1 - share)) for document, size in enumerate(sizes)}
    inside = {document: cut for document, cut in cuts.items() if 0 < cut < sizes[document] - 3}  # before a character
    return Split(TAILS, inside) if inside else Split(WHOLE, WholeDocuments(chosen))


def _choose(sizes: Sequence[int], wanted: float, seed: int) -> tuple[Sequence[int], bool]:
    """Documents in random order that have about so many bytes together, at least one, and whether they come close."""
    order = array("q", range(len(sizes)))
    random.Random(f"{seed}/held out").shuffle(order)
    chosen = array("q")
    held = 0
    for document in order:
        if held + sizes[document] <= 1.05 * wanted:
            chosen.append(document)
            held += sizes[document]
        if held >= 0.95 * wanted:
            return chosen, True
    return chosen or order[:1], False


def settle(split: Split, sizes: Sequence[int], chunks: Iterable[tuple[int, bytes]]) -> Split:
    """The split with each of several ends moved to the nearest end of a paragraph, or else of a line, if there is one
    near. `chunks` are all documents; they are not read if nothing can move."""
    if split.kind != TAILS:
        return split
    cuts = dict(split.cuts)
    for document, group in groupby(chunks, key=lambda item: item[0]):
        if document in cuts:
            cuts[document] = _near(cuts[document], sizes[document], (chunk for _, chunk in group))
    return replace(split, cuts=cuts)


def _near(cut: int, size: int, chunks: Iterable[bytes]) -> int:
    """The end of a paragraph or line nearest to a cut, at most half of the held-out part away; the cut if there is
    none."""
    reach = min((size - cut) // 2, cut - 1, MOST_REACH)
    first, last = cut - reach, cut + reach
    at, window = 0, b""
    for chunk in chunks:
        window += chunk[max(first - at, 0) : max(last + 1 - at, 0)]  # one more byte: it may complete a line end
        at += len(chunk)
    for end in (_PARAGRAPH_END, _LINE_END):
        places = [first + found.end() for found in end.finditer(window) if first + found.end() <= last]
        if places:
            return min(places, key=lambda place: abs(place - cut))
    return cut
