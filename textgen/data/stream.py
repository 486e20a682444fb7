"""Corpora that are never on this disk as a whole: read in shards, tokenized into a cache, shuffled, trained on.

A shard is a file, or a span of a large local one. Shards come in an order that changes with each epoch; the documents
of consecutive shards fill a buffer, which is shuffled and then read like a small corpus. Everything is a function of
the seed and of the files, so a run that is resumed reads on exactly where it has stopped: `buffers.jsonl` in the cache
remembers with which document each buffer begins, and is made again if it is lost.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, replace
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import storage
from textgen.data.remote import RemoteFile, fetch
from textgen.data.sources import Source, SourceOptions, read, table_form
from textgen.data.store import Lanes, Tokens, dtype_of
from textgen.data.tokenization import encode_document
from textgen.data.tokenizers.base import Ids, Tokenizer
from textgen.errors import TextgenError
from textgen.storage import filesystem

SPAN_BYTES = 64 << 20
"""Larger plain files of this disk are divided into spans of this size, which end where a line ends."""

BUFFER_TOKENS = 4 << 20
"""Tokens of a buffer, within which documents are shuffled."""

KIND, BUFFERS = "streamed tokens", "buffers.jsonl"
HASH_RANGE = 1 << 64
FILES = ("ids.bin", "lengths.bin", "hashes.bin")
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Shard:
    """A file, or the bytes from `start` to `stop` of it."""

    address: str
    size: int | None
    start: int = 0
    stop: int | None = None

    @property
    def file(self) -> RemoteFile:
        return RemoteFile(self.address, self.size)

    @property
    def bytes(self) -> int:
        """Its size, 0 if that is unknown."""
        return (self.size or 0 if self.stop is None else self.stop) - self.start


@dataclass(frozen=True)
class Filters:
    """Which documents are trained on: those of at least `min_length` characters, of equal ones the first only, and not
    those whose hash falls into the held-out share."""

    min_length: int = 0
    deduplicate: bool = False
    max_documents: int | None = None
    held_out: float = 0.0
    also_held_out: int | None = None
    """The hash of a document that is held out, too, if the beginning of the stream has no other."""

    def holds_out(self, digest: int) -> bool:
        """Whether a document is held out, by its hash."""
        return digest < self.held_out * HASH_RANGE or digest == self.also_held_out


@dataclass(frozen=True)
class StreamPlan:
    """What a stream is: its shards, how they are read, what is left out, and the seed of its order. It is stored with
    the tokens of its beginning."""

    shards: tuple[Shard, ...]
    reading: SourceOptions
    filters: Filters
    seed: int

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> StreamPlan:
        """The inverse of `to_json`."""
        shards = tuple(Shard(**shard) for shard in content["shards"])
        return cls(shards, SourceOptions(**content["reading"]), Filters(**content["filters"]), content["seed"])

    def shard_at(self, position: int) -> int:
        """The shard at a position of the endless sequence of shards: each epoch has them all, in another order."""
        epoch, within = divmod(position, len(self.shards))
        return int(np.random.default_rng([self.seed, epoch, 5]).permutation(len(self.shards))[within])

    def place_of(self, shard: int) -> int:
        """The position of a shard in the first epoch."""
        return int(np.flatnonzero(np.random.default_rng([self.seed, 0, 5]).permutation(len(self.shards)) == shard)[0])


def shards_of(files: Sequence[RemoteFile]) -> list[Shard]:
    """The shards of some files."""
    found: list[Shard] = []
    for file in files:
        whole = Shard(file.address, file.size)
        path = Path(file.address)
        divisible = file.is_local and file.size is not None and file.size > SPAN_BYTES
        if not divisible or path.suffix.lower() not in (".txt", ".md", ".text", ".jsonl", ".ndjson"):
            found.append(whole)
            continue
        edges = [0, *_line_ends(path, file.size or 0), file.size or 0]
        found += [replace(whole, start=a, stop=b) for a, b in pairwise(edges) if b > a]
    return found


def _line_ends(path: Path, size: int) -> Iterator[int]:
    """Where lines end, about once in a span."""
    with path.open("rb") as file:
        for near in range(SPAN_BYTES, size, SPAN_BYTES):
            file.seek(near)
            line = file.readline(SPAN_BYTES // 2)
            yield min(size, near + len(line))


def digest_of(document: bytes) -> int:
    """The hash of a document, the same everywhere."""
    return int.from_bytes(hashlib.blake2b(document, digest_size=8).digest(), "little")


def documents(shard: Shard, reading: SourceOptions, folder: Path) -> Iterator[bytes]:
    """The documents of a shard, each as a whole, from a copy in a folder. Raises TextgenError naming the address."""
    name = Path(shard.address.partition("?")[0]).name
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f".{threading.get_ident()}-{name}"
    try:
        if shard.file.is_local and shard.stop is None:
            source = Source(Path(shard.address), shard.address)
        else:
            fetch(shard.file, copy, shard.start, shard.stop)
            source = Source(copy, shard.address)
        with suppress(_Empty):
            for _, chunks in groupby(_read(source, reading), key=lambda item: item[0]):
                yield b"".join(chunk for _, chunk in chunks)
    finally:
        with suppress(OSError):
            copy.unlink()


class _Empty(Exception):
    """A shard without text: another may have some."""


def _read(source: Source, reading: SourceOptions) -> Iterator[tuple[int, bytes]]:
    if source.path.stat().st_size == 0:
        raise _Empty
    reading = replace(reading, lines=reading.lines and not table_form(source))
    yield from read([source], reading)


@dataclass(frozen=True)
class TokenShard:
    """The documents of a shard that may be trained on: all ids, with a boundary before each document, how many belong
    to each, and the hash of each."""

    ids: Tokens
    lengths: npt.NDArray[np.int64]
    hashes: Hashes

    def document(self, number: int) -> Tokens:
        """The ids of a document."""
        return self.ids[self._ends[number] - self.lengths[number] : self._ends[number]]

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        ends: npt.NDArray[np.int64] = np.cumsum(self.lengths)
        return ends


class ShardCache:
    """Token shards in a folder of limited size, made when they are needed. Processes that share it wait for each other
    instead of doing the same work; the least recently used ones make room."""

    def __init__(self, folder: Path, plan: StreamPlan, tokenizer: Tokenizer, most_bytes: int) -> None:
        self._folder, self._plan, self._tokenizer = folder, plan, tokenizer
        self._most_bytes = most_bytes
        self._dtype = dtype_of(tokenizer)

    def shard(self, number: int) -> TokenShard:
        """The tokens of a shard. Raises TextgenError naming the address of one that cannot be read."""
        folder = self._folder / f"shard-{number:06d}"
        with filesystem.lock(self._locks(number), patience=float("inf")):
            try:
                return self._opened(folder)
            except (TextgenError, OSError):  # it is missing, or another process has just removed it
                self._make(number, folder)
                self._make_room(folder)
                return self._opened(folder)

    def _locks(self, number: int) -> Path:
        folder = self._folder / "locks" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _opened(self, folder: Path) -> TokenShard:
        manifest = storage.verify(folder)
        folder.touch()
        ids, lengths, hashes = (folder / name for name in FILES)
        kept = np.memmap(ids, self._dtype, "r").view(np.ndarray) if manifest["tokens"] else np.zeros(0, self._dtype)
        return TokenShard(kept, np.frombuffer(lengths.read_bytes(), "<i8"), np.frombuffer(hashes.read_bytes(), "<u8"))

    def _make(self, number: int, folder: Path) -> None:
        plan = self._plan
        lengths: list[int] = []
        hashes: list[int] = []
        with filesystem.new_folder(folder, replace=True) as new:
            ids = new.create(FILES[0])
            for document in documents(plan.shards[number], plan.reading, self._folder / "copies"):
                digest = digest_of(document)
                if plan.filters.holds_out(digest) or is_short(document, plan.filters.min_length):
                    continue
                encoded = [part for part, _, _ in encode_document(self._tokenizer, [document])]
                own = self._tokenizer.model_ids(np.concatenate(encoded))
                ids.write(own.astype(self._dtype).tobytes())
                lengths.append(len(own))
                hashes.append(digest)
            new.write(FILES[1], np.array(lengths, "<i8").tobytes())
            new.write(FILES[2], np.array(hashes, "<u8").tobytes())
            new.about = {"kind": KIND, "tokens": sum(lengths)}

    def _make_room(self, newest: Path) -> None:
        """Remove the least recently used shards until the rest fit."""
        found: list[tuple[float, int, Path]] = []
        for folder in self._folder.glob("shard-*"):
            with suppress(OSError):  # another process has just removed it
                found.append((folder.stat().st_mtime, sum(file.stat().st_size for file in folder.iterdir()), folder))
        total = 0
        for _, size, folder in sorted(found, reverse=True):
            total += size
            if total > self._most_bytes and folder != newest:
                with suppress(OSError):
                    filesystem.remove_folder(folder)

    def hashes(self, number: int) -> Hashes:
        """The hashes of the documents of a shard, kept when its tokens have made room."""
        path = self._folder / "hashes" / f"{number:06d}.bin"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            filesystem.write_file(path, self.shard(number).hashes.tobytes())
        return np.frombuffer(path.read_bytes(), "<u8")


def is_short(document: bytes, least: int) -> bool:
    """Whether a document has fewer characters."""
    return least > 0 and len(document) < 4 * least and len(document.decode("utf-8", "replace")) < least


class Kept:
    """Which documents of each shard are trained on, in the order of the first epoch: the first of equal ones, at most
    `max_documents` in all. The answers are kept on the disk."""

    def __init__(self, cache: ShardCache, plan: StreamPlan, folder: Path) -> None:
        self._cache, self._plan, self._folder = cache, plan, folder
        self._seen: Hashes = np.zeros(0, np.uint64)
        self._places = self._documents = 0

    def of(self, shard: int) -> npt.NDArray[np.bool_]:
        """For each document of a shard whether it is trained on."""
        filters, path = self._plan.filters, self._path(shard)
        if not filters.deduplicate and filters.max_documents is None:
            return np.ones(len(self._cache.hashes(shard)), dtype=bool)
        if not path.exists():
            last = self._plan.place_of(shard)
            if last < self._places:  # the folder was emptied meanwhile: decide again from the start
                self._seen, self._places, self._documents = np.zeros(0, np.uint64), 0, 0
            for place in range(self._places, last + 1):
                self._decide(self._plan.shard_at(place), filters)
        return np.frombuffer(path.read_bytes(), np.bool_)

    def _path(self, shard: int) -> Path:
        return self._folder / f"kept-{shard:06d}.bin"

    def _decide(self, shard: int, filters: Filters) -> None:
        hashes = self._cache.hashes(shard)
        kept = np.ones(len(hashes), dtype=bool)
        if filters.deduplicate:
            kept[:] = False
            kept[np.unique(hashes, return_index=True)[1]] = True
            kept &= ~np.isin(hashes, self._seen)
            self._seen = np.union1d(self._seen, hashes)
        if filters.max_documents is not None:
            kept &= np.cumsum(kept) + self._documents <= filters.max_documents
        self._places, self._documents = self._places + 1, self._documents + int(kept.sum())
        filesystem.write_file(self._path(shard), kept.tobytes())


@dataclass(frozen=True)
class Buffer:
    """A buffer: where in the endless sequence of shards it begins, with which document, its number of tokens, and
    where the next one begins."""

    position: int
    document: int
    tokens: int
    next_position: int
    next_document: int


class StreamLanes:
    """Windows of a stream, as `Lanes` has of a corpus. A buffer is read like one epoch of a small corpus, from the
    initial state on, while the next one is prepared in another thread."""

    def __init__(
        self,
        cache: ShardCache,
        plan: StreamPlan,
        folder: Path,
        window: tuple[int, int],
        starts: tuple[int, int],
        epoch_tokens: float,
    ) -> None:
        """`window` is the batch size and the sequence length, `starts` the tokens for a boundary and a line end."""
        self.batch_size, self.seq_length = window
        self.steps_per_epoch = max(1, int(epoch_tokens / (self.batch_size * self.seq_length)))
        self._cache, self._plan, self._folder, self._starts = cache, plan, folder, starts
        self._kept = Kept(cache, plan, folder)
        self._lock = threading.Lock()
        self._buffers: list[Buffer] = []
        self._at = (0, 0)
        self._current: tuple[int, Lanes] | None = None
        self._ahead: _Ahead | None = None

    def fresh(self, step: int) -> npt.NDArray[np.bool_]:
        """As `Lanes.fresh`."""
        lanes, within = self._place(step)
        return lanes.fresh(within)

    def window(self, step: int) -> tuple[Ids, Ids]:
        """As `Lanes.window`."""
        lanes, within = self._place(step)
        return lanes.window(within)

    def _place(self, step: int) -> tuple[Lanes, int]:
        """The buffer of a step, and the step within it."""
        number, first = self._at if step >= self._at[1] else (0, 0)
        while step >= first + (steps := self._steps(self.buffer(number))):
            number, first = number + 1, first + steps
        self._at = number, first
        return self._lanes_of(number), step - first

    def _steps(self, begun: Buffer) -> int:
        return begun.tokens // self.batch_size // self.seq_length

    def _lanes_of(self, number: int) -> Lanes:
        """A buffer, ready to read."""
        if self._current is None or self._current[0] != number:
            prepared = self._ahead.result() if self._ahead and self._ahead.number == number else None
            self._current = number, prepared or self.prepared(number)
            self._ahead = _Ahead(number + 1, self)
        return self._current[1]

    def wait(self) -> None:
        """Wait until nothing is prepared in another thread."""
        if self._ahead is not None:
            self._ahead.wait()

    def prepared(self, number: int) -> Lanes:
        """The tokens of a buffer, as a small corpus."""
        begun = self.buffer(number)
        tokens = np.concatenate([own for _, _, own in self._read(begun.position, begun.document)])
        seed = int(np.random.default_rng([self._plan.seed, number, 6]).integers(1 << 62))
        return Lanes(tokens, self.batch_size, self.seq_length, seed, None, *self._starts)

    def buffer(self, number: int) -> Buffer:
        """Where a buffer begins."""
        with self._lock:
            if not self._buffers:
                self._buffers = self._remembered()
            while number >= len(self._buffers):
                last = self._buffers[-1] if self._buffers else Buffer(0, 0, 0, 0, 0)
                self._buffers.append(self._after(last))
                line = json.dumps([len(self._buffers) - 1, *astuple(self._buffers[-1])])
                filesystem.append(self._folder / BUFFERS, line.encode() + b"\n")
            return self._buffers[number]

    def _remembered(self) -> list[Buffer]:
        """The buffers that the file lists, up to the first that it does not: several processes write it, the same
        lines, and one that was killed may have left a part of one."""
        known: dict[int, Buffer] = {}
        for line in storage.log_lines(self._folder / BUFFERS):
            with suppress(ValueError, TypeError):
                number, *begun = json.loads(line)
                known[number] = Buffer(*begun)
        return [known[number] for number in range(len(known)) if number in known]

    def _after(self, last: Buffer) -> Buffer:
        """The buffer after another."""
        position, document, tokens = last.next_position, last.next_document, 0
        after = position, document
        for place, number, own in self._read(position, document):
            tokens, after = tokens + len(own), (place, number + 1)
        return Buffer(position, document, tokens, *after)

    def _read(self, position: int, document: int) -> Iterator[tuple[int, int, Tokens]]:
        """The documents of the buffer that begins with one: its position, number and ids."""
        need, tokens, empty = max(BUFFER_TOKENS, self.batch_size * self.seq_length + 1), 0, 0
        while tokens < need:
            number = self._plan.shard_at(position)
            shard, kept = self._cache.shard(number), self._kept.of(number)
            for each in np.flatnonzero(kept[document:]).tolist():
                own = shard.document(document + each)
                tokens += len(own)
                yield position, document + each, own
                if tokens >= need:
                    return
            empty = 0 if kept.any() else empty + 1
            if empty >= len(self._plan.shards):
                raise TextgenError("the stream has no document to train on.")
            position, document = position + 1, 0


class _Ahead:
    """A buffer that is prepared in another thread."""

    def __init__(self, number: int, lanes: StreamLanes) -> None:
        self.number = number
        self._found: list[Lanes | BaseException] = []
        self._thread = threading.Thread(target=self._work, args=(lanes,), daemon=True)
        self._thread.start()

    def _work(self, lanes: StreamLanes) -> None:
        try:
            self._found.append(lanes.prepared(self.number))
        except Exception as error:
            self._found.append(error)

    def wait(self) -> None:
        """Wait until the buffer is there, or has failed."""
        self._thread.join()

    def result(self) -> Lanes:
        """The buffer. Raises what its preparation has raised."""
        self.wait()
        (found,) = self._found
        if isinstance(found, BaseException):
            raise found
        return found
