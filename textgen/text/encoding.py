"""Documents to ids, with the bytes and characters that they had."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

import numpy as np

from textgen.text import bulk
from textgen.text.symbols import Ids, Tokenizer

Encoded = tuple[Ids, int, int]
"""Ids, and the bytes and characters that were read for them."""


def encode_parts(
    tokenizer: Tokenizer, documents: Iterable[tuple[str, Iterator[bytes]]], total: int
) -> Iterator[tuple[str, bool, Encoded]]:
    """The part of each document, whether it begins, and its ids as they come; `total` is the bytes in all.

    A long text is encoded in several processes where the tokenizer is worth it: with the same ids, in the same order.
    """
    processes = bulk.usable_cores()
    if tokenizer.in_bulk and total >= bulk.WORTHWHILE_BYTES and processes > 1:
        for (part, begins, text), ids in bulk.encode(tokenizer, bulk.blocks(tokenizer, documents), processes):
            yield part, begins, (ids, len(text), count_characters(text))
        return
    for part, pieces in documents:
        for number, encoded in enumerate(encode_document(tokenizer, pieces)):
            yield part, number == 0, encoded


def encode_document(tokenizer: Tokenizer, pieces: Iterable[bytes]) -> Iterator[Encoded]:
    """A document's ids, its boundary first, in arrays; with each, the bytes and characters read since the last."""
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
    """All ids of a text (a boundary before each document), its bytes and its characters."""
    documents = [
        encoded
        for _, group in groupby(pieces, key=lambda item: item[0])
        for encoded in encode_document(tokenizer, (piece for _, piece in group))
    ]
    ids, sizes, characters = zip(*documents, strict=True)
    return np.concatenate(ids), sum(sizes), sum(characters)


def count_characters(text: bytes) -> int:
    """Characters of UTF-8: the bytes that do not continue one."""
    if text.isascii():
        return len(text)
    return int(np.count_nonzero((np.frombuffer(text, dtype=np.uint8) & 0xC0) != 0x80))
