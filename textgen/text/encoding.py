"""Encoding documents as token ids, and counting their bytes and characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

import numpy as np

from textgen.text import bulk
from textgen.text.symbols import Ids, Tokenizer
from textgen.threads import usable_cores

Encoded = tuple[Ids, int, int]
"""Ids, and how many bytes and characters were read for them."""


def encode_parts(
    tokenizer: Tokenizer, documents: Iterable[tuple[str, Iterator[bytes]]], total: int
) -> Iterator[tuple[str, bool, Encoded]]:
    """For each array of ids: the part of its document, whether the document begins there, and the ids.

    A long text (`total` bytes) is encoded in several processes if the tokenizer is slow. The ids and their order are
    the same.
    """
    processes = usable_cores()
    if tokenizer.in_bulk and total >= bulk.WORTHWHILE_BYTES and processes > 1:
        for (part, begins, text), ids in bulk.encode(tokenizer, bulk.blocks(tokenizer, documents), processes):
            yield part, begins, (ids, len(text), count_characters(text))
        return
    for part, pieces in documents:
        for number, encoded in enumerate(encode_document(tokenizer, pieces)):
            yield part, number == 0, encoded


def encode_document(tokenizer: Tokenizer, pieces: Iterable[bytes]) -> Iterator[Encoded]:
    """A document's ids in arrays, the boundary first; with each, the bytes and characters read since the last one."""
    size = characters = 0

    def counted() -> Iterator[bytes]:
        nonlocal size, characters
        for piece in pieces:
            size += len(piece)
            characters += count_characters(piece)
            yield piece

    yield np.array([tokenizer.boundary], dtype=np.int32), 0, 0
    for ids in tokenizer.encode_pieces(counted()):
        yield ids, size, characters
        size = characters = 0
    yield np.zeros(0, dtype=np.int32), size, characters


def encode_documents(tokenizer: Tokenizer, pieces: Iterable[tuple[int, bytes]]) -> Encoded:
    """All ids of a text, with a boundary before each document, and how many bytes and characters it has."""
    documents = [
        encoded
        for _, group in groupby(pieces, key=lambda item: item[0])
        for encoded in encode_document(tokenizer, (piece for _, piece in group))
    ]
    ids, sizes, characters = zip(*documents, strict=True)
    return np.concatenate(ids), sum(sizes), sum(characters)


def count_characters(text: bytes) -> int:
    """The number of characters in UTF-8: the bytes that are not continuation bytes."""
    if text.isascii():
        return len(text)
    return int(np.count_nonzero((np.frombuffer(text, dtype=np.uint8) & 0xC0) != 0x80))
