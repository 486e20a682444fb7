"""A large corpus tokenized in shards: by several processes, and without doing finished shards again after a kill.

A shard is a run of blocks of text that can be encoded separately. Every process reads the whole corpus, which is fast,
and encodes its own shards, which is slow. Finished ones are sealed folders in a folder beside the store; at the end
rank 0 joins them to the same bytes that one process writes, and removes them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from textgen import storage
from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.data.store import COUNTED, COUNTS, dtype_of, tokenizer_of
from textgen.data.tokenization import Block, Encoded, blocks, count_characters, encode, gathered
from textgen.data.tokenizers.base import Tokenizer
from textgen.distributed import World
from textgen.errors import TextgenError
from textgen.storage import filesystem
from textgen.threads import usable_cores

SHARD_BYTES = 64 << 20
"""About how much text is in a shard."""

TOKENIZER, KIND = "tokenizer", "token shard"
PARTS = (TRAIN, VALIDATION)


class PartsWriter:
    """The ids of both parts, written to two files of a folder, with their counts and the frequency of each token of the
    training part."""

    def __init__(self, folder: filesystem.FolderWriter, tokenizer: Tokenizer, lines: bool) -> None:
        self.dtype = dtype_of(tokenizer)
        self.counts = {part: dict.fromkeys(COUNTED, 0) for part in PARTS}
        self.frequencies = np.zeros(tokenizer.vocab_size, dtype="<i8")
        self._tokenizer, self._lines = tokenizer, lines
        self._outputs = {part: folder.create(f"{part}.bin") for part in PARTS}

    def add(self, part: str, begun: int, encoded: Encoded) -> None:
        """Add ids in which `begun` documents begin. The boundary of a line counts as the line end of a line."""
        ids, size, characters = encoded
        self._outputs[part].write(ids.astype(self.dtype).tobytes())
        ends = begun if self._lines else 0
        counted = (len(ids), self._tokenizer.raw_count(ids), size + ends, characters + ends, begun)
        self._count(part, dict(zip(COUNTED, counted, strict=True)))
        if part == TRAIN:
            self.frequencies += np.bincount(ids, minlength=len(self.frequencies))[: len(self.frequencies)]

    def join(self, shard: Path) -> None:
        """Add everything that is in a shard. Raises DamagedError if it does not match its digests."""
        about = storage.read_manifest(shard)
        for part in PARTS:
            name = f"{part}.bin"
            storage.check_file(shard, name, about)
            with storage.opened(shard / name, about["files"][name]["size"]) as file:
                for chunk in iter(partial(file.read, filesystem.CHUNK), b""):
                    self._outputs[part].write(chunk)
            self._count(part, {what: about[what][part] for what in COUNTED})
        self.frequencies += np.frombuffer(storage.verified(shard, COUNTS, about), "<i8")

    def finish(self) -> None:
        """End the held-out part with a boundary if it holds lines: the end of the last line is predicted, too."""
        if self._lines and self.counts[VALIDATION]["documents"]:
            self._outputs[VALIDATION].write(np.array([self._tokenizer.boundary], self.dtype).tobytes())
            self.counts[VALIDATION]["tokens"] += 1

    @property
    def counted(self) -> dict[str, dict[str, int]]:
        """Every count, by part."""
        return {what: {part: self.counts[part][what] for part in PARTS} for what in COUNTED}

    def _count(self, part: str, more: dict[str, int]) -> None:
        for what, number in more.items():
            self.counts[part][what] += number


def encode_shards(corpus: Any, tokenizer: Tokenizer, work: Path, job: World, progress: Progress) -> list[Path]:
    """Encode the shards of this process that are not in the folder `work` yet; returns the folders of all shards."""
    shards: list[Path] = []
    done, processes = 0, job.threads(usable_cores())
    for number, text in _shards(blocks(tokenizer, corpus.documents())):
        shards.append(work / f"shard-{number:05d}")
        own = number % job.size == job.rank and not _is_whole(shards[-1])
        if own:
            with filesystem.new_folder(shards[-1], replace=True) as folder:
                writer = PartsWriter(folder, tokenizer, corpus.reading.lines)
                for part, begun, encoded in gathered(_encoded(tokenizer, text, processes)):
                    writer.add(part, begun, encoded)
                    done += encoded[1]
                    progress("encoding", done, corpus.total // job.size)
                folder.write(COUNTS, writer.frequencies.tobytes())
                folder.about = {"kind": KIND, **writer.counted}
        else:
            for _ in text:  # the next shard begins after it
                pass
    return shards


def _encoded(tokenizer: Tokenizer, text: Iterable[Block], processes: int) -> Iterator[tuple[str, bool, Encoded]]:
    """Each block of a shard, encoded in several processes."""
    for (part, begins, block), ids in encode(tokenizer, text, processes):
        yield part, begins, (ids, len(block), count_characters(block))


def _shards(found: Iterable[Block]) -> Iterator[tuple[int, Iterator[Block]]]:
    """The blocks of each shard, after its number."""

    def numbered() -> Iterator[tuple[int, Block]]:
        number = size = 0
        for block in found:
            if size >= SHARD_BYTES:
                number, size = number + 1, 0
            size += len(block[2])
            yield number, block

    for number, group in groupby(numbered(), key=lambda item: item[0]):
        yield number, (block for _, block in group)


def _is_whole(folder: Path) -> bool:
    """Whether a shard is there, and every file of it as it was written."""
    try:
        return storage.verify(folder).get("kind") == KIND
    except TextgenError:
        return False


def kept_tokenizer(work: Path, learn: Any) -> Tokenizer:
    """The tokenizer that an earlier attempt has learned, else the one that `learn` returns, kept for the next."""
    folder = work / TOKENIZER
    try:
        return tokenizer_of(folder)
    except TextgenError:
        tokenizer: Tokenizer = learn()
    with filesystem.new_folder(folder, replace=True) as new:
        for name, content in tokenizer.files().items():
            new.write(name, content)
    return tokenizer


def discard(work: Path) -> None:
    """Remove a folder of shards."""
    shutil.rmtree(work, ignore_errors=True)
