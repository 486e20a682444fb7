"""Encoding a long text in several processes: in blocks that can be encoded apart, in order, with the same ids.

The processes are started plainly and spoken to through pipes: no fork (which threads do not survive) and no second
import of the user's program. What goes through is bytes; each message is a number of parts and their lengths.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import IO

import numpy as np

from textgen.errors import TextgenError
from textgen.text.symbols import Ids, Tokenizer

BATCH_BYTES = 1 << 20
MANY_PARTS = 10_000
WORTHWHILE_BYTES = 32 << 20  # below this, starting processes takes about as long as they save
Piece = tuple[str, bool, bytes]
"""The part of the corpus it belongs to, whether a document begins with it, and its text."""


def usable_cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blocks(tokenizer: Tokenizer, documents: Iterable[tuple[str, Iterable[bytes]]]) -> Iterator[Piece]:
    """Documents cut where their parts can be encoded apart, into blocks of about `BATCH_BYTES`."""
    for part, pieces in documents:
        rest, begins = b"", True
        for piece in pieces:
            rest += piece
            if len(rest) >= BATCH_BYTES and (end := tokenizer.cut(rest)):
                yield part, begins, rest[:end]
                rest, begins = rest[end:], False
        if rest or begins:
            yield part, begins, rest


def encode(tokenizer: Tokenizer, pieces: Iterable[Piece], processes: int) -> Iterator[tuple[Piece, Ids]]:
    """Each piece with its ids, the boundary first where a document begins, in order."""
    with _workers(tokenizer, processes) as ask, ThreadPoolExecutor(processes) as threads:
        waiting: deque[tuple[list[Piece], Future[list[bytes]]]] = deque()
        for batch in _batches(pieces):
            waiting.append((batch, threads.submit(ask, [text for _, _, text in batch])))
            if len(waiting) > 2 * processes:
                yield from _answers(tokenizer, *waiting.popleft())
        while waiting:
            yield from _answers(tokenizer, *waiting.popleft())


def _answers(tokenizer: Tokenizer, batch: list[Piece], answer: Future[list[bytes]]) -> Iterator[tuple[Piece, Ids]]:
    boundary = np.array([tokenizer.boundary], dtype=np.int32)
    for piece, data in zip(batch, answer.result(), strict=True):
        ids = np.frombuffer(data, dtype=np.int32)
        yield piece, np.concatenate([boundary, ids]) if piece[1] else ids


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[2])
        if size >= BATCH_BYTES or len(batch) >= MANY_PARTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Worker:
    """A process that encodes; it ends when its input does."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from textgen.text import bulk; bulk.work()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for us; it ends when we do
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
            raise TextgenError("a process that encodes text has ended.", hint="was there too little memory?")
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
    """What a worker does: read a tokenizer's files, then answer texts with ids until there are no more."""
    from textgen.text.tokenizer import load_tokenizer

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
    """The parts of a message; None at the end."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    (number,) = struct.unpack("<Q", head)
    sizes = struct.unpack(f"<{number}Q", stream.read(8 * number))
    parts = [stream.read(size) for size in sizes]
    return parts if [len(part) for part in parts] == list(sizes) else None
