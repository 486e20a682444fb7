"""What one pass over a corpus tells, and which part of it is held out."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

TRAIN, VALIDATION = "train", "validation"
BATCH_BYTES = 1 << 20
_ASCII = bytes(range(128))

Progress = Callable[[str, int, int], None]
"""Called with what is done, bytes done and bytes in all."""


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Scan:
    """What one pass over a corpus tells: its documents' sizes in bytes of UTF-8, its digest, its alphabet's size."""

    sizes: list[int]
    digest: str
    distinct: int

    @property
    def total(self) -> int:
        return sum(self.sizes)


def scan(pieces: Iterable[tuple[int, bytes]]) -> Scan:
    """Read a corpus once. The digest covers the text and where documents begin."""
    sizes: list[int] = []
    digest = hashlib.sha256()
    alphabet = _Alphabet()
    batch: list[bytes] = []  # small documents are many: they are looked at together
    waiting = 0
    for document, piece in pieces:
        if document == len(sizes):
            sizes.append(0)
            batch.append(b"\xff")  # a byte that UTF-8 never has
        sizes[document] += len(piece)
        batch.append(piece)
        waiting += len(piece)
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
    """The characters met so far. What is ASCII is deleted from a text at once, so that only the rest is decoded."""

    def __init__(self) -> None:
        self._ascii = b""
        self._wide = np.zeros(0x110000, dtype=bool)

    def add(self, text: bytes) -> None:
        self._ascii += bytes(set(text.translate(None, self._ascii)) & set(_ASCII)) if self._ascii else _own_ascii(text)
        if wide := text.translate(None, _ASCII):
            decoded = wide.decode("utf-8", "ignore")
            self._wide[np.frombuffer(decoded.encode("utf-32-le"), dtype="<u4")] = True

    @property
    def size(self) -> int:
        return len(self._ascii) + int(self._wide.sum())


def _own_ascii(text: bytes) -> bytes:
    return bytes(set(text) & set(_ASCII))


@dataclass(frozen=True)
class Split:
    """What is held out: whole documents, or everything from a place in the last documents on."""

    held_out: frozenset[int] = frozenset()
    tail_document: int | None = None
    tail_offset: int = 0

    def divide(self, pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[str, int, bytes]]:
        """Each piece with the part it belongs to; the piece where the tail begins is cut at a character border."""
        at = -1
        offset = 0
        for document, piece in pieces:
            offset = 0 if document != at else offset
            at = document
            for part, own in self._parts(document, offset, piece):
                if own:
                    yield part, document, own
            offset += len(piece)

    def _parts(self, document: int, offset: int, piece: bytes) -> list[tuple[str, bytes]]:
        if document in self.held_out:
            return [(VALIDATION, piece)]
        if self.tail_document is None or document < self.tail_document:
            return [(TRAIN, piece)]
        if document > self.tail_document:
            return [(VALIDATION, piece)]
        cut = min(max(self.tail_offset - offset, 0), len(piece))
        while 0 < cut < len(piece) and piece[cut] & 0xC0 == 0x80:
            cut += 1
        return [(TRAIN, piece[:cut]), (VALIDATION, piece[cut:])]


def choose_split(sizes: Sequence[int], share: float, seed: int) -> Split:
    """Hold out `share` of the bytes: whole documents spread by seed if such a set comes near it, else the tail."""
    total = sum(sizes)
    if share == 0 or total == 1:  # a byte is not divided: it is trained on
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
