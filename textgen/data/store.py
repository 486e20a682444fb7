"""A tokenized corpus on disk: its folder, and the order in which training reads it.

The folder holds the tokenizer, `train.bin`, `validation.bin` and a manifest.

The order is a pure function of (seed, epoch, step). The tokens form a ring, cut into `batch_size` contiguous lanes;
each step takes the next window of every lane, so that the state after one window is the state before the next. Each
epoch turns the ring to another start. One integer is enough to resume.
"""

from __future__ import annotations

import codecs
import hashlib
import random
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import storage
from textgen.data.recipes import TRAIN, VALIDATION
from textgen.data.recipes import Progress as Progress
from textgen.data.splits import TAIL, TAILS
from textgen.data.tokenizers import MODEL_FILE, load_tokenizer
from textgen.data.tokenizers.base import CONFIG_FILE, Ids, Tokenizer, regroup
from textgen.errors import TextgenError
from textgen.formatting import count, listed, plural
from textgen.options import named

_ASCII = bytes(range(128))
COUNTS = "frequencies.bin"  # how often each token occurs in the training part: little-endian int64
CHUNK = 1 << 22
KIND = "token store"
Tokens = npt.NDArray[Any]
DTYPES = ("<u2", "<u4")
SHOWN_NAMES = 2  # of held-out documents
COUNTED = ("tokens", "raw", "bytes", "characters", "documents")
ESCAPE_RATE = 0.001  # share of tokens replaced by the escape, so that a model learns that unknown units occur
SHORTEST = 8  # the shortest window that a hint suggests: a model learns nothing from shorter ones
MORE_TEXT = "use a longer text; 10,000 characters give a model something to learn, 100,000 are better."
FRESH_RATE = 0.01
"""Share of windows that start from a fresh state. A model that has never done so may predict poorly from one
(benchmarks/penn_treebank.txt: perplexity 701 from fresh states, 258 from a warm one, after one epoch)."""

START_RATE = 0.03
"""Share of windows that begin a text: a fresh state, the boundary, then the start of a document, paragraph or line.
This is what a model reads before it generates. Other windows do not teach it: they read the boundary between documents
with the state of the previous one, and a corpus of few documents has few boundaries."""

MANY_DOCUMENTS = 16
MOST_SHUFFLED = 1 << 24
"""From so many documents on, up to so many tokens, the order of the documents changes with each epoch."""

START_REACH = 2048
"""Tokens after a random position that are searched for a start."""


def no_progress(what: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Scan:
    """The result of one pass over a corpus: document sizes in UTF-8 bytes, a digest, the number of characters used."""

    sizes: Sequence[int]
    digest: str
    distinct: int

    @cached_property
    def total(self) -> int:
        return sum(self.sizes)


def scan(chunks: Iterable[tuple[int, bytes]], progress: Progress = no_progress) -> Scan:
    """Read a corpus once. The digest covers the text and the starts of documents."""
    sizes = array("q")  # there may be millions of documents
    digest, ascii = hashlib.sha256(), b""
    seen, utf8 = np.zeros(0x110000, dtype=bool), codecs.getincrementaldecoder("utf-8")("ignore")

    def marked() -> Iterator[bytes]:
        done = 0
        for document, chunk in chunks:
            if document == len(sizes):
                sizes.append(0)
                yield b"\xff"  # a byte that never occurs in UTF-8
            sizes[document] += len(chunk)
            done += len(chunk)
            progress("reading", done, 0)
            yield chunk

    for block in regroup(marked()):  # there may be many small documents; they are processed together
        digest.update(block)
        new = block.translate(None, ascii)  # ASCII is deleted, so that only the rest is decoded
        ascii += bytes(set(new) & set(_ASCII))
        seen[np.frombuffer(utf8.decode(new.translate(None, _ASCII)).encode("utf-32-le"), dtype="<u4")] = True
    return Scan(sizes, digest.hexdigest(), len(ascii) + int(seen.sum()))


_ABOUT = dict.fromkeys(COUNTED, dict) | {
    "key": str,
    "dtype": str,
    "tokenizer": str,
    "vocab_size": int,
    "corpus_documents": int,
    "reading": dict,
    "held_out": dict,
}
"""The entries of a store's manifest besides its files, and their types."""


@dataclass(frozen=True)
class TokenStore:
    """A tokenized corpus on disk."""

    folder: Path
    about: dict[str, Any]
    tokenizer: Tokenizer

    @property
    def key(self) -> str:
        return str(self.about["key"])

    @property
    def lines(self) -> bool:
        """Whether its documents are lines."""
        return bool(self.about["reading"].get("lines"))

    def documents_shown(self) -> str:
        """How many documents the corpus has, in words, and how else it could be read."""
        number = self.about["corpus_documents"]
        if not self.lines:
            return plural(number, "document")
        return f"{count(number)} short lines: each is a document; {named('no_lines')} reads them as one text"

    def held_out_shown(self) -> str:
        """What is held out, in words."""
        about, held_out = self.about, self.about["held_out"]
        documents, total = about["documents"][VALIDATION], sum(about["bytes"].values())
        tail = f"the last {100 * about['bytes'][VALIDATION] / max(1, total):.0f} %"
        if not documents:
            return "nothing"
        if held_out["kind"] in (TAIL, TAILS):
            return tail if held_out["kind"] == TAIL else f"{tail} of each document"
        names = [str(name) for name in held_out["names"]]
        if not names:
            return plural(documents, "line" if self.lines else "document")
        more = max(documents, len(names)) - SHOWN_NAMES
        return listed(names, "and") if more <= 1 else f"{', '.join(names[:SHOWN_NAMES])} and {count(more)} more"

    @cached_property
    def frequencies(self) -> npt.NDArray[np.int64]:
        """How often each token (V,) occurs in the training part. Raises DamagedError."""
        size = self.tokenizer.vocab_size
        content = storage.verified(self.folder, COUNTS, self.about, 8 * size)
        if len(content) != 8 * size:
            raise storage.DamagedError(f"{self.folder / COUNTS} is damaged: it does not hold {size:,} counts.")
        return np.frombuffer(content, "<i8").astype(np.int64)

    @cached_property
    def holds_text(self) -> bool:
        """Whether every document of the training part is UTF-8, as all are but those read as raw bytes."""
        tokenizer = self.tokenizer
        if tokenizer.kind != "byte":
            return True
        tokens, utf8 = self.tokens(TRAIN), codecs.getincrementaldecoder("utf-8")()
        try:
            for start in range(0, len(tokens), CHUNK):
                chunk = np.asarray(tokens[start : start + CHUNK])
                utf8.decode(np.where(chunk == tokenizer.boundary, ord("\n"), chunk).astype(np.uint8).tobytes())
            utf8.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
        return True

    def tokens(self, part: str) -> Tokens:
        """All ids of a part, memory-mapped, including the raw bytes of unseen characters."""
        if not self.about["tokens"][part]:
            return np.zeros(0, dtype=self.about["dtype"])
        return np.memmap(self.folder / f"{part}.bin", dtype=self.about["dtype"], mode="r").view(np.ndarray)

    def model_tokens(self, part: str) -> Tokens:
        """The ids that a model reads. Memory-mapped, unless raw bytes of unseen characters have to be left out."""
        tokens = self.tokens(part)
        return tokens if not self.about["raw"][part] else self.tokenizer.model_ids(np.asarray(tokens))


def dtype_of(tokenizer: Tokenizer) -> str:
    """The type of stored ids, raw bytes of unseen characters included."""
    return DTYPES[0] if tokenizer.vocab_size + 256 <= 1 << 16 else DTYPES[1]


def is_store(about: Mapping[str, Any]) -> bool:
    """Whether a manifest is that of a token store."""
    return about.get("kind") == KIND


def open_store(folder: Path) -> TokenStore:
    """Open a store written by `tokenize`. Raises TextgenError naming a file that is missing or damaged."""
    manifest = storage.read_manifest(folder)
    if not is_store(manifest):
        raise storage.DamagedError(f"{folder} is not a token store.")
    for name, kind in _ABOUT.items():
        if not isinstance(manifest.get(name), kind):
            raise storage.DamagedError(f"{folder / storage.MANIFEST} is damaged: {name} is missing.")
    tokenizer = tokenizer_of(folder, manifest)
    binary = [name for name in manifest["files"] if name.endswith(".bin")]
    for name in dict.fromkeys([f"{TRAIN}.bin", f"{VALIDATION}.bin", COUNTS, *binary]):
        storage.check_file(folder, name, manifest)
    store = TokenStore(folder, manifest, tokenizer)
    _check(store)
    return store


def _check(store: TokenStore) -> None:
    """Raise DamagedError if the type, number or range of the tokens contradicts the manifest or the tokenizer."""
    about, tokenizer, manifest = store.about, store.tokenizer, store.folder / storage.MANIFEST
    counts = [about[name].get(part) for name in COUNTED for part in (TRAIN, VALIDATION)]
    if about["dtype"] not in DTYPES or any(type(each) is not int or each < 0 for each in counts):
        raise storage.DamagedError(f"{manifest} is damaged: its dtype or its counts are invalid.")
    if (about["vocab_size"], about["tokenizer"]) != (tokenizer.vocab_size, tokenizer.kind):
        raise storage.DamagedError(f"{manifest} is damaged: it describes another tokenizer.")
    highest = tokenizer.vocab_size + tokenizer.raw_tokens - 1
    for part in (TRAIN, VALIDATION):
        path = store.folder / f"{part}.bin"
        if path.stat().st_size != about["tokens"][part] * np.dtype(about["dtype"]).itemsize:
            raise storage.DamagedError(f"{path} is damaged: it does not hold {about['tokens'][part]:,} tokens.")
        if _highest(path, about["dtype"]) > highest:
            raise storage.DamagedError(f"{path} is damaged: it holds an id above {highest:,}.")


def _highest(path: Path, dtype: str) -> int:
    """The highest id in a file, -1 if it is empty. Reading in chunks takes less memory than mapping the file."""
    with path.open("rb") as file:
        chunks = iter(lambda: file.read(CHUNK), b"")
        return max((int(np.frombuffer(chunk, dtype).max()) for chunk in chunks), default=-1)


def tokenizer_of(folder: Path, manifest: Mapping[str, Any] | None = None) -> Tokenizer:
    """The tokenizer of a model folder or a token store. Raises TextgenError naming a damaged file."""
    manifest = manifest or storage.read_manifest(folder)
    names = [name for name in (CONFIG_FILE, MODEL_FILE) if name in manifest["files"]]
    return load_tokenizer({name: storage.verified(folder, name, manifest, storage.JSON_LIMIT) for name in names})


def missing_escape(frequencies: npt.NDArray[np.int64], escape: int | None) -> int | None:
    """The escape if a text with these token frequencies (V,) has too few of it to learn from; None if it has enough, or
    the tokenizer has no escape."""
    return None if escape is None or frequencies[escape] >= ESCAPE_RATE * frequencies.sum() else escape


@dataclass(frozen=True)
class Lanes:
    """Windows of a token array: `batch_size` rows of `seq_length` steps.

    With a `boundary` some windows begin a text: at the start of a document, or else after an empty line or after any
    `line_end`; and many documents are read in another order in each epoch. Raises TextgenError if the tokens do not
    fill one window of every lane, with a hint at sizes that fit.
    """

    tokens: Tokens
    batch_size: int
    seq_length: int
    seed: int
    escape: int | None = None
    boundary: int | None = None
    line_end: int | None = None
    _shuffled: dict[int, Tokens] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        need, have = self.batch_size * self.seq_length + 1, len(self.tokens)
        if have >= need:
            return
        length = min(self.seq_length, max(SHORTEST, (have - 1) // self.batch_size))
        batch = max(0, min(self.batch_size, (have - 1) // length))
        fitting = f"{named('batch_size', batch)} {named('seq_length', length)} fits."
        raise TextgenError(
            f"the training part has {have:,} tokens; one batch of {self.batch_size:,} x {self.seq_length:,} needs "
            f"{need:,}.",
            hint=fitting if batch else MORE_TEXT,
        )

    @property
    def lane_length(self) -> int:
        return len(self.tokens) // self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        return self.lane_length // self.seq_length

    def fresh(self, step: int) -> npt.NDArray[np.bool_]:
        """The lanes, (batch_size,), whose hidden state is reset before this step (counted from 0): all at the start of
        an epoch, those that begin a text or return to their place after one, and some at random."""
        if step % self.steps_per_epoch == 0:
            return np.ones(self.batch_size, dtype=bool)
        at_random = np.random.default_rng([self.seed, step, 1]).random(self.batch_size) < FRESH_RATE
        return at_random | self.starting(step) | self.starting(step - 1)

    def starting(self, step: int) -> npt.NDArray[np.bool_]:
        """The lanes, (batch_size,), whose window of this step begins a text instead of continuing."""
        if self.boundary is None:
            return np.zeros(self.batch_size, dtype=bool)
        return np.random.default_rng([self.seed, step, 2]).random(self.batch_size) < START_RATE

    def window(self, step: int) -> tuple[Ids, Ids]:
        """Inputs and targets of a step, each (seq_length, batch_size); the targets are the inputs one step later."""
        epoch, within = divmod(step, self.steps_per_epoch)
        tokens = self._order(epoch)
        turn = random.Random(f"{self.seed}/{epoch}").randrange(len(tokens)) if epoch else 0
        starts = (turn + within * self.seq_length + np.arange(self.batch_size) * self.lane_length) % len(tokens)
        ids = np.stack([_ring(tokens, int(start), self.seq_length + 1) for start in starts], axis=1).astype(np.int32)
        for lane in np.flatnonzero(self.starting(step)).tolist():
            ids[:, lane] = self._beginning(np.random.default_rng([self.seed, step, 3, lane]))
        if self.escape is not None:
            noise = np.random.default_rng([self.seed, step]).random(ids.shape, dtype=np.float32)
            ids[(noise < ESCAPE_RATE) & (ids > self.escape)] = self.escape
        return ids[:-1], ids[1:]

    def _beginning(self, random: np.random.Generator) -> Tokens:
        """The boundary and the tokens after a start near a random position, seq_length + 1 in all."""
        origin = int(random.integers(len(self.tokens)))
        near = _ring(self.tokens, origin, min(START_REACH, len(self.tokens)))
        ends = near == self.line_end
        blank = ends[:-1] & ends[1:] & np.append(~ends[2:], True)  # two line ends followed by something else
        for after in (np.flatnonzero(near == self.boundary), np.flatnonzero(blank) + 1, np.flatnonzero(ends)):
            if len(after):
                origin += int(after[0]) + 1
                break
        return np.concatenate([[self.boundary], _ring(self.tokens, origin % len(self.tokens), self.seq_length)])

    def _order(self, epoch: int) -> Tokens:
        """The tokens in the order of an epoch."""
        begins = self._documents
        if len(begins) < MANY_DOCUMENTS:
            return self.tokens
        if epoch not in self._shuffled:
            chosen = np.random.default_rng([self.seed, epoch, 4]).permutation(len(begins))
            lengths = np.diff(begins, append=len(self.tokens))[chosen]
            ends = np.cumsum(lengths)
            places = np.repeat(begins[chosen] - (ends - lengths), lengths) + np.arange(len(self.tokens))
            self._shuffled.clear()
            self._shuffled[epoch] = self.tokens[places]
        return self._shuffled[epoch]

    @cached_property
    def _documents(self) -> npt.NDArray[np.intp]:
        """Where the documents that are shuffled begin; none if the tokens are too many to be copied."""
        if self.boundary is None or len(self.tokens) > MOST_SHUFFLED or self.tokens[0] != self.boundary:
            return np.zeros(0, np.intp)
        return np.flatnonzero(self.tokens == self.boundary)


def _ring(tokens: Tokens, start: int, length: int) -> Tokens:
    """So many tokens from a place, which go on at the start after the end."""
    chunk = tokens[start : start + length]
    missing = length - len(chunk)
    return chunk if not missing else np.concatenate([chunk, tokens[:missing]])
