"""Encoding a long text in several processes: in blocks that can be encoded separately, in order, with the same ids.

The processes are started with `subprocess` and use pipes: no fork, which is unsafe with threads, and no second import
of the user's program. A message is the number of its parts, their lengths, and their bytes.
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
MAX_PARTS = 10_000
WORTHWHILE_BYTES = 32 << 20  # below this, starting processes takes as long as it saves
Block = tuple[str, bool, bytes]
"""The part of the corpus that a block belongs to, whether a document begins with it, and its text."""


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
            [sys.executable, "-c", "from textgen.text import bulk; bulk.work()"],
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
    """The parts of a message; None at the end of the stream."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    (number,) = struct.unpack("<Q", head)
    sizes = struct.unpack(f"<{number}Q", stream.read(8 * number))
    parts = [stream.read(size) for size in sizes]
    return parts if [len(part) for part in parts] == list(sizes) else None
