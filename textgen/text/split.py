"""Scanning a corpus, and choosing the part that is held out."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from textgen.text.recipes import TRAIN as TRAIN
from textgen.text.recipes import VALIDATION as VALIDATION
from textgen.text.recipes import Progress as Progress

BATCH_BYTES = 1 << 20
_ASCII = bytes(range(128))


def no_progress(what: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Scan:
    """The result of one pass over a corpus: document sizes in UTF-8 bytes, a digest, the number of characters used."""

    sizes: list[int]
    digest: str
    distinct: int

    @property
    def total(self) -> int:
        return sum(self.sizes)


def scan(chunks: Iterable[tuple[int, bytes]]) -> Scan:
    """Read a corpus once. The digest covers the text and the starts of documents."""
    sizes: list[int] = []
    digest = hashlib.sha256()
    alphabet = _Alphabet()
    batch: list[bytes] = []  # there may be many small documents; they are processed together
    waiting = 0
    for document, chunk in chunks:
        if document == len(sizes):
            sizes.append(0)
            batch.append(b"\xff")  # a byte that never occurs in UTF-8
        sizes[document] += len(chunk)
        batch.append(chunk)
        waiting += len(chunk)
        if waiting >= BATCH_BYTES:
            _take(batch, digest, alphabet)
            waiting = 0
    _take(batch, digest, alphabet)
    return Scan(sizes, digest.hexdigest(), alphabet.size)


def _take(batch: list[bytes], digest: hashlib._Hash, alphabet: _Alphabet) -> None:
    joined = b"".join(batch)
    digest.update(joined)
    alphabet.add(joined)
    batch.clear()


class _Alphabet:
    """The distinct characters so far. ASCII is deleted from a text first, so that only the rest is decoded."""

    def __init__(self) -> None:
        self._ascii = b""
        self._wide = np.zeros(0x110000, dtype=bool)

    def add(self, text: bytes) -> None:
        new = text.translate(None, self._ascii) if self._ascii else text
        self._ascii += bytes(set(new) & set(_ASCII))
        if wide := text.translate(None, _ASCII):
            decoded = wide.decode("utf-8", "ignore")
            self._wide[np.frombuffer(decoded.encode("utf-32-le"), dtype="<u4")] = True

    @property
    def size(self) -> int:
        return len(self._ascii) + int(self._wide.sum())


@dataclass(frozen=True)
class Split:
    """The held-out part: whole documents, or everything after an offset in one of the last documents."""

    held_out: frozenset[int] = frozenset()
    tail_document: int | None = None
    tail_offset: int = 0

    def divide(self, chunks: Iterable[tuple[int, bytes]]) -> Iterator[tuple[str, int, bytes]]:
        """Each chunk with its part; the chunk in which the tail begins is cut at a character boundary."""
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
        in_tail = self.tail_document is not None and document > self.tail_document
        if document in self.held_out or in_tail:
            return [(VALIDATION, chunk)]
        if document != self.tail_document:
            return [(TRAIN, chunk)]
        cut = min(max(self.tail_offset - offset, 0), len(chunk))
        while 0 < cut < len(chunk) and chunk[cut] & 0xC0 == 0x80:
            cut += 1
        return [(TRAIN, chunk[:cut]), (VALIDATION, chunk[cut:])]


def choose_split(sizes: Sequence[int], share: float, seed: int) -> Split:
    """Hold out `share` of the bytes: whole documents chosen by seed if some set comes close to it, else the tail."""
    total = sum(sizes)
    if share == 0 or total == 1:  # a single byte cannot be split: train on it
        return Split()
    wanted = share * total
    order = list(range(len(sizes)))
    random.Random(f"{seed}/held out").shuffle(order)
    chosen: list[int] = []
    held = 0
    for document in order:
        if held + sizes[document] <= 1.05 * wanted:
            chosen.append(document)
            held += sizes[document]
        if held >= 0.95 * wanted:
            return Split(held_out=frozenset(chosen))
    start = total - int(wanted) if len(sizes) > 1 else int(sizes[0] * (1 - share))
    start = min(max(start, 1), total - 1)
    for document, size in enumerate(sizes):
        if start < size:
            return Split(tail_document=document, tail_offset=start)
        start -= size
    raise AssertionError("the tail begins inside the corpus")
