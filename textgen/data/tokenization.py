"""Text to ids: documents encoded piece by piece, a long text in several processes.

A long text is encoded in blocks that can be encoded separately, with the same ids. Processes are started plainly and
connected by pipes: no fork (which threads do not survive) and no second import of the user's program.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from typing import IO

import numpy as np

from textgen.data.tokenizers.base import Ids, Tokenizer
from textgen.errors import TextgenError
from textgen.threads import usable_cores

BATCH_BYTES = 1 << 20
MAX_PARTS = 10_000
GATHERED_IDS = 1 << 16
WORTHWHILE_BYTES = 32 << 20  # below this, starting processes takes as long as it saves
Block = tuple[str, bool, bytes]
"""The part of the corpus that a block belongs to, whether a document begins with it, and its text."""

Encoded = tuple[Ids, int, int]
"""Ids, and how many bytes and characters were read for them."""


def blocks(tokenizer: Tokenizer, documents: Iterable[tuple[str, Iterable[bytes]]]) -> Iterator[Block]:
    """Documents in blocks of about `BATCH_BYTES` that can be encoded separately."""
    for part, chunks in documents:
        rest, begins = b"", True
        for chunk in chunks:
            rest += chunk
            if len(rest) >= BATCH_BYTES and (end := tokenizer.cut(rest)):
                yield part, begins, rest[:end]
                rest, begins = rest[end:], False
        if rest or begins:
            yield part, begins, rest


def encode(tokenizer: Tokenizer, blocks: Iterable[Block], processes: int) -> Iterator[tuple[Block, Ids]]:
    """Each block with its ids, in order; where a document begins, the boundary comes first."""
    with _workers(tokenizer, processes) as ask, ThreadPoolExecutor(processes) as threads:
        waiting: deque[tuple[list[Block], Future[list[bytes]]]] = deque()
        for batch in _batches(blocks):
            waiting.append((batch, threads.submit(ask, [text for _, _, text in batch])))
            if len(waiting) > 2 * processes:
                yield from _answers(tokenizer, *waiting.popleft())
        while waiting:
            yield from _answers(tokenizer, *waiting.popleft())


def _answers(tokenizer: Tokenizer, batch: list[Block], answer: Future[list[bytes]]) -> Iterator[tuple[Block, Ids]]:
    boundary = np.array([tokenizer.boundary], dtype=np.int32)
    for block, data in zip(batch, answer.result(), strict=True):
        ids = np.frombuffer(data, dtype=np.int32)
        yield block, np.concatenate([boundary, ids]) if block[1] else ids


def _batches(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    batch: list[Block] = []
    size = 0
    for block in blocks:
        batch.append(block)
        size += len(block[2])
        if size >= BATCH_BYTES or len(batch) >= MAX_PARTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Worker:
    """A process that encodes texts until its input ends."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from textgen.data import tokenization; tokenization.work()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C reaches only this process, which then ends the worker
        )
        self.ask([part for name, content in tokenizer.files().items() for part in (name.encode(), content)])

    def ask(self, parts: list[bytes]) -> list[bytes]:
        assert self.process.stdin and self.process.stdout
        try:
            _send(self.process.stdin, parts)
            answer = _receive(self.process.stdout)
        except OSError:
            answer = None
        if answer is None:
            raise TextgenError("a process that encodes text has ended.", hint="was it out of memory?")
        return answer

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def _workers(tokenizer: Tokenizer, count: int) -> Iterator[Callable[[list[bytes]], list[bytes]]]:
    free: SimpleQueue[_Worker] = SimpleQueue()

    def ask(texts: list[bytes]) -> list[bytes]:
        worker = free.get()
        try:
            return worker.ask(texts)
        finally:
            free.put(worker)

    with ExitStack() as stack:
        for _ in range(count):
            worker = _Worker(tokenizer)
            stack.callback(worker.end)
            free.put(worker)
        yield ask


def work() -> None:
    """The main function of a worker: receives a tokenizer's files, then encodes texts until the input ends."""
    from textgen.data.tokenizers import load_tokenizer

    source, target = sys.stdin.buffer, sys.stdout.buffer
    parts = _receive(source)
    if parts is None:
        return
    tokenizer = load_tokenizer({name.decode(): content for name, content in zip(parts[::2], parts[1::2], strict=True)})
    _send(target, [])
    while (texts := _receive(source)) is not None:
        _send(target, [b"".join(ids.tobytes() for ids in tokenizer.encode_pieces([text])) for text in texts])


def _send(stream: IO[bytes], parts: list[bytes]) -> None:
    stream.write(struct.pack(f"<{len(parts) + 1}Q", len(parts), *map(len, parts)))
    stream.writelines(parts)
    stream.flush()


def _receive(stream: IO[bytes]) -> list[bytes] | None:
    """The parts of a message; None at the end of the stream."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    (number,) = struct.unpack("<Q", head)
    sizes = struct.unpack(f"<{number}Q", stream.read(8 * number))
    parts = [stream.read(size) for size in sizes]
    return parts if [len(part) for part in parts] == list(sizes) else None


def encode_parts(
    tokenizer: Tokenizer, documents: Iterable[tuple[str, Iterator[bytes]]], total: int
) -> Iterator[tuple[str, bool, Encoded]]:
    """For each array of ids: the part of its document, whether the document begins there, and the ids.

    A long text (`total` bytes) is encoded in several processes if the tokenizer is slow. The ids and their order are
    the same.
    """
    processes = usable_cores()
    if tokenizer.in_bulk and total >= WORTHWHILE_BYTES and processes > 1:
        for (part, begins, text), ids in encode(tokenizer, blocks(tokenizer, documents), processes):
            yield part, begins, (ids, len(text), count_characters(text))
        return
    for part, pieces in documents:
        for number, encoded in enumerate(encode_document(tokenizer, pieces)):
            yield part, number == 0, encoded


def gathered(encoded: Iterable[tuple[str, bool, Encoded]]) -> Iterator[tuple[str, int, Encoded]]:
    """The same ids of each part, in longer arrays, since there may be many short documents. With each array, the number
    of documents that begin in it."""
    waiting: dict[str, list[tuple[bool, Encoded]]] = {}
    held: Counter[str] = Counter()
    for part, begins, each in encoded:
        waiting.setdefault(part, []).append((begins, each))
        held[part] += len(each[0]) + 1
        if held[part] >= GATHERED_IDS:
            held[part] = 0
            yield part, *_together(waiting.pop(part))
    for part, rest in waiting.items():
        yield part, *_together(rest)


def _together(encoded: list[tuple[bool, Encoded]]) -> tuple[int, Encoded]:
    ids, sizes, characters = zip(*(each for _, each in encoded), strict=True)
    return sum(begins for begins, _ in encoded), (np.concatenate(ids), sum(sizes), sum(characters))


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


def encode_documents(tokenizer: Tokenizer, pieces: Iterable[tuple[int, bytes]], lines: bool = False) -> Encoded:
    """All ids of a text, with a boundary before each document, and how many bytes and characters it has. If documents
    are `lines`, the boundary that ends each, the last one too, counts as its line end. Raises TextgenError if there is
    no document."""
    documents = [
        encoded
        for _, group in groupby(pieces, key=lambda item: item[0])
        for encoded in encode_document(tokenizer, (piece for _, piece in group))
    ]
    if not documents:
        raise TextgenError("there is no text to evaluate: every line is blank.")
    ids, sizes, characters = zip(*documents, strict=True)
    whole = np.concatenate([*ids, np.array([tokenizer.boundary] * lines, dtype=np.int32)])
    ends = int(np.count_nonzero(whole == tokenizer.boundary)) - 1 if lines else 0
    return whole, sum(sizes) + ends, sum(characters) + ends


def count_characters(text: bytes) -> int:
    """The number of characters in UTF-8: the bytes that are not continuation bytes."""
    if text.isascii():
        return len(text)
    return int(np.count_nonzero((np.frombuffer(text, dtype=np.uint8) & 0xC0) != 0x80))
