"""A corpus as tokens on disk: divided into a training and a held-out part, encoded once, memory-mapped ever after.

A store is a folder with the tokenizer, `train.bin`, `validation.bin` and a manifest. Its name is a digest of all it
depends on, so an edited corpus never meets old tokens. Memory does not grow with the corpus.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import files
from textgen.errors import TextgenError, UsageError
from textgen.settings import CorpusOptions
from textgen.sources import Source, SourceOptions, find_sources, read
from textgen.tokenizer import Ids, Tokenizer, load_tokenizer, train_tokenizer

TRAIN, VALIDATION = "train", "validation"
FORMAT_VERSION = 1
Tokens = npt.NDArray[Any]
_ABOUT = {"key": str, "dtype": str, "level": str, "vocab_size": int, "corpus_documents": int, "tokens": dict,
          "raw": dict, "bytes": dict, "characters": dict, "documents": dict}  # fmt: skip
"""What the manifest of a store says beyond its files."""

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
    seen = np.zeros(0x110000, dtype=bool)
    for document, piece in pieces:
        if document == len(sizes):
            sizes.append(0)
            digest.update(b"\xff")  # a byte that UTF-8 never has
        sizes[document] += len(piece)
        digest.update(piece)
        codes = np.frombuffer(piece.decode("utf-8", "replace").encode("utf-32-le"), dtype="<u4")
        seen[codes] = True
    return Scan(sizes, digest.hexdigest(), int(seen.sum()))


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
    if share == 0:
        return Split()
    wanted = share * sum(sizes)
    order = list(range(len(sizes)))
    random.Random(f"{seed}/held out").shuffle(order)
    chosen: list[int] = []
    for document in order:
        if sum(sizes[d] for d in chosen) + sizes[document] <= 1.05 * wanted:
            chosen.append(document)
        if sum(sizes[d] for d in chosen) >= 0.95 * wanted:
            return Split(held_out=frozenset(chosen))
    start = sum(sizes) - int(wanted) if len(sizes) > 1 else int(sizes[0] * (1 - share))
    for document, size in enumerate(sizes):
        if start < size:
            return Split(tail_document=document, tail_offset=start)
        start -= size
    raise AssertionError("the tail begins inside the corpus")


@dataclass(frozen=True)
class TokenStore:
    """A tokenized corpus on disk."""

    folder: Path
    about: dict[str, Any]
    tokenizer: Tokenizer

    @property
    def key(self) -> str:
        return str(self.about["key"])

    def tokens(self, part: str) -> Tokens:
        """All ids of a part, memory-mapped, raw bytes of unseen characters included."""
        if not self.about["tokens"][part]:
            return np.zeros(0, dtype=self.about["dtype"])
        return np.memmap(self.folder / f"{part}.bin", dtype=self.about["dtype"], mode="r")

    def model_tokens(self, part: str) -> Tokens:
        """The ids that a model is shown. Memory-mapped, unless characters that the tokenizer never saw are left out."""
        tokens = self.tokens(part)
        return tokens if not self.about["raw"][part] else self.tokenizer.model_ids(np.asarray(tokens))


def open_store(folder: Path) -> TokenStore:
    """Open a store written by `tokenize`. Raises TextgenError for what is missing or damaged, by name."""
    manifest = files.read_manifest(folder)
    if manifest.get("kind") != "token store" or manifest.get("store_version") != FORMAT_VERSION:
        raise files.DamagedError(f"{folder} is not a token store of this version of textgen.")
    for name, kind in _ABOUT.items():
        if not isinstance(manifest.get(name), kind):
            raise files.DamagedError(f"{folder / files.MANIFEST} is damaged: {name} is missing.")
    names = [name for name in manifest["files"] if not name.endswith(".bin")]
    tokenizer = load_tokenizer({name: files.verified(folder, name, manifest) for name in names})
    for part in (TRAIN, VALIDATION):
        files.check_file(folder, f"{part}.bin", manifest)
    return TokenStore(folder, manifest, tokenizer)


@dataclass(frozen=True)
class Corpus:
    """Text sources with everything decided about them; `tokenize` turns it into a store."""

    sources: list[Source]
    validation: list[Source]
    reading: SourceOptions
    scan: Scan
    validation_scan: Scan | None
    level: str
    vocab_size: int
    split: Split
    given: Tokenizer | None = None

    @property
    def total(self) -> int:
        return self.scan.total + (self.validation_scan.total if self.validation_scan else 0)

    def key(self) -> str:
        """A digest of all that the tokens depend on."""
        digests = [self.scan.digest, self.validation_scan.digest if self.validation_scan else None]
        split = [sorted(self.split.held_out), self.split.tail_document, self.split.tail_offset]
        given = [hashlib.sha256(data).hexdigest() for data in (self.given.files() if self.given else {}).values()]
        content = json.dumps([FORMAT_VERSION, digests, split, self.level, self.vocab_size, given])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def parts(self) -> Iterator[tuple[str, int, bytes]]:
        """(part, document, piece), the training part first for a validation file of its own."""
        yield from self.split.divide(read(self.sources, self.reading))
        for document, piece in read(self.validation, self.reading) if self.validation else ():
            yield VALIDATION, document + len(self.scan.sizes), piece

    def documents(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Each document's part and its pieces; take the pieces before the next document."""
        for (part, _), group in groupby(self.parts(), key=lambda item: item[:2]):
            yield part, (piece for _, _, piece in group)


def survey(paths: Sequence[str], options: CorpusOptions, seed: int, progress: Progress = no_progress) -> Corpus:
    """Find and scan a corpus and decide level, vocabulary and split, without storing anything.

    Raises TextgenError or UsageError for what cannot be read, naming file and offset.
    """
    from textgen.plan import choose_tokenizer

    reading = SourceOptions(
        encoding=options.encoding,
        document_separator=options.document_separator,
        raw=options.tokenizer == "byte" and options.encoding is None,
    )
    sources = find_sources(paths)
    scanned = scan(_counted(read(sources, reading), "reading", 0, progress))
    validation = find_sources([options.validation_file]) if options.validation_file else []
    validation_scan = scan(read(validation, reading)) if validation else None
    share = 0.0 if validation else options.validation_split
    given = _given_tokenizer(options.tokenizer)
    level, vocab_size = (given.level, given.vocab_size) if given else choose_tokenizer(options, scanned)
    split = choose_split(scanned.sizes, share, seed)
    return Corpus(sources, validation, reading, scanned, validation_scan, level, vocab_size, split, given)


def _given_tokenizer(name: str | None) -> Tokenizer | None:
    """The tokenizer of a model folder or token store, where the option names one instead of a level."""
    if name is None or name in ("char", "byte", "bpe"):
        return None
    folder = Path(name)
    if not folder.is_dir():
        raise UsageError(f"--tokenizer must be char, byte, bpe or a folder that holds a tokenizer, not {name!r}.")
    return tokenizer_of(folder)


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder or a token store. Raises TextgenError for a damaged file, by name."""
    manifest = files.read_manifest(folder)
    names = [name for name in manifest["files"] if name.startswith("tokenizer")]
    return load_tokenizer({name: files.verified(folder, name, manifest) for name in names})


def tokenize(corpus: Corpus, folder: Path, progress: Progress = no_progress) -> TokenStore:
    """Train the tokenizer on the training part, encode both parts, and write the store."""
    training = (pieces for part, pieces in corpus.documents() if part == TRAIN)
    progress("learning the tokenizer", 0, corpus.total)
    tokenizer = corpus.given or train_tokenizer(corpus.level, training, corpus.vocab_size)
    dtype = "<u2" if tokenizer.vocab_size + 256 <= 1 << 16 else "<u4"
    counts = {
        part: {"tokens": 0, "raw": 0, "bytes": 0, "characters": 0, "documents": 0} for part in (TRAIN, VALIDATION)
    }
    with files.new_folder(folder) as store:
        for name, content in tokenizer.files().items():
            store.write(name, content)
        outputs = {part: store.create(f"{part}.bin") for part in (TRAIN, VALIDATION)}
        done = 0
        for part, pieces in corpus.documents():
            count = counts[part]
            for ids, size, characters in _encoded(tokenizer, pieces):
                outputs[part].write(ids.astype(dtype).tobytes())
                count["tokens"] += len(ids)
                count["raw"] += tokenizer.raw_count(ids)
                count["bytes"] += size
                count["characters"] += characters
                done += size
                progress("encoding", done, corpus.total)
            count["documents"] += 1
        store.about = {
            "kind": "token store",
            "store_version": FORMAT_VERSION,
            "key": corpus.key(),
            "dtype": dtype,
            "level": tokenizer.level,
            "vocab_size": tokenizer.vocab_size,
            "corpus_documents": len(corpus.scan.sizes),
            **{what: {part: counts[part][what] for part in counts} for what in counts[TRAIN]},
        }
    return open_store(folder)


def _encoded(tokenizer: Tokenizer, pieces: Iterator[bytes]) -> Iterator[tuple[Ids, int, int]]:
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


def count_characters(text: bytes) -> int:
    """Characters of UTF-8: the bytes that do not continue one."""
    return int(np.count_nonzero((np.frombuffer(text, dtype=np.uint8) & 0xC0) != 0x80))


def encode_documents(tokenizer: Tokenizer, pieces: Iterable[tuple[int, bytes]]) -> tuple[Ids, int, int]:
    """All ids of a text (a boundary before each document), its bytes and its characters."""
    parts: list[Ids] = []
    size = characters = 0
    for _, group in groupby(pieces, key=lambda item: item[0]):
        for ids, more, more_characters in _encoded(tokenizer, (piece for _, piece in group)):
            parts.append(ids)
            size += more
            characters += more_characters
    return np.concatenate(parts), size, characters


def _counted(
    pieces: Iterable[tuple[int, bytes]], what: str, total: int, progress: Progress
) -> Iterator[tuple[int, bytes]]:
    done = 0
    for document, piece in pieces:
        done += len(piece)
        progress(what, done, total)
        yield document, piece


def cached_store(corpus: Corpus, cache: Path, progress: Progress = no_progress) -> TokenStore:
    """The store of a corpus in a folder of stores, written if it is not there yet or is damaged."""
    folder = cache / corpus.key()
    if folder.is_dir():
        try:
            return open_store(folder)
        except TextgenError:
            files.remove_folder(folder)
    return tokenize(corpus, folder, progress)
