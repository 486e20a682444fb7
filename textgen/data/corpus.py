"""A corpus from its sources to tokens on disk: found, scanned, divided, encoded once, memory-mapped ever after.

A store's name is a digest of everything it depends on, so an edited corpus never meets old tokens. Memory does not
grow with the corpus. A long text is encoded in several processes, in blocks that can be encoded separately, with the
same ids. Processes are started plainly and connected by pipes: no fork (which threads do not survive) and no second
import of the user's program.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import numpy as np

from textgen.data import TOKENIZER_KINDS, CorpusOptions, Reading, check_reading, choose_tokenizer, recipes
from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.data.sources import Source, SourceOptions, find_sources, hold_items, plain_texts, read
from textgen.data.splits import WHOLE, Split, choose_split, settle
from textgen.data.store import (
    COUNTED,
    COUNTS,
    KIND,
    Scan,
    TokenStore,
    no_progress,
    open_store,
    scan,
    tokenizer_of,
)
from textgen.data.tokenizers import train_tokenizer
from textgen.data.tokenizers.base import Ids, Tokenizer
from textgen.errors import TextgenError, UsageError
from textgen.options import named
from textgen.storage import filesystem
from textgen.threads import usable_cores

BATCH_BYTES = 1 << 20
MAX_PARTS = 10_000
GATHERED_IDS = 1 << 16
MOST_NAMES = 1000  # of held-out documents, recorded with the tokens
WORTHWHILE_BYTES = 32 << 20  # below this, starting processes takes as long as it saves
Block = tuple[str, bool, bytes]
"""The part of the corpus that a block belongs to, whether a document begins with it, and its text."""

Encoded = tuple[Ids, int, int]
"""Ids, and how many bytes and characters were read for them."""

REMEMBERED = ("encoding", "document_separator", "text_column", "lines")
"""The reading options that a language model remembers."""


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
            [sys.executable, "-c", "from textgen.data import corpus; corpus.work()"],
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


@dataclass(frozen=True)
class Corpus:
    """Text sources, and how they are read, split and tokenized; `tokenize` turns them into a store."""

    sources: list[Source]
    validation: list[Source]
    reading: SourceOptions
    scan: Scan
    validation_scan: Scan | None
    kind: str
    vocab_size: int
    split: Split
    given: Tokenizer | None = None
    names: Sequence[str] = ()
    """The name of each document, if each is a file."""

    @property
    def total(self) -> int:
        return self.scan.total + (self.validation_scan.total if self.validation_scan else 0)

    @property
    def remembered(self) -> dict[str, str | bool]:
        """The reading options that a model trained on this text remembers."""
        return {name: value for name in REMEMBERED if (value := getattr(self.reading, name))}

    def key(self) -> str:
        """A digest of everything that the tokens depend on."""
        digests = [self.scan.digest, self.validation_scan.digest if self.validation_scan else None]
        split = [sorted(self.split.cuts.items()), self.held_out]
        given = self.given.files() if self.given else {}
        return filesystem.cache_key(digests, split, self.kind, self.vocab_size, given, self.remembered)

    @property
    def held_out(self) -> dict[str, Any]:
        """The kind of the held-out part, and the names of the files that are held out whole, if it consists of such; of
        many the first ones."""
        if self.validation:
            names = [] if any(source.span for source in self.validation) else names_of(self.validation)
            return {"kind": WHOLE, "names": names[:MOST_NAMES]}
        whole = sorted(self.split.cuts) if self.split.kind == WHOLE and self.names else []
        return {"kind": self.split.kind, "names": [self.names[document] for document in whole[:MOST_NAMES]]}

    def parts(self) -> Iterator[tuple[str, int, bytes]]:
        """(part, document, chunk); a separate validation file comes after the training part."""
        yield from self.split.divide(read(self.sources, self.reading))
        for document, chunk in read(self.validation, self.reading) if self.validation else ():
            yield VALIDATION, document + len(self.scan.sizes), chunk

    def documents(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """The part and the chunks of each document; consume the chunks before the next document."""
        for (part, _), group in groupby(self.parts(), key=lambda item: item[:2]):
            yield part, (chunk for _, _, chunk in group)


def scan_corpus(paths: Sequence[str], options: CorpusOptions, seed: int, progress: Progress = no_progress) -> Corpus:
    """Find and scan a corpus and choose its tokenizer kind, vocabulary size and split, without storing anything.

    `paths` are files, folders, globs, `hub:` names and `-`, or the name of one recipe, whose options are the defaults.
    Raises TextgenError or UsageError naming the file and offset of what cannot be read.
    """
    check_reading(options)
    sources, validation, options = _found(paths, options, progress)
    given = given_tokenizer(options.tokenizer)
    kind = given.kind if given else options.tokenizer
    raw = kind == "byte" and options.encoding is None
    separator, column = options.document_separator or None, options.text_column
    reading = SourceOptions(options.encoding, separator, raw, True, column, options.delimiter)
    detectable = recipes.find(paths) is None and not (validation or separator or kind == "word")
    reading = replace(reading, lines=reads_lines(sources, options.lines, reading if detectable else None))
    documents: list[int] = []
    scanned = scan(read(sources, reading, documents), progress)
    validation_scan = scan(read(validation, reading)) if validation else None
    share = 0.0 if validation else options.validation_split
    kind, vocab_size = (given.kind, given.vocab_size) if given else choose_tokenizer(options, scanned)
    split = choose_split(scanned.sizes, share, seed, whole=reading.lines)
    split = settle(split, scanned.sizes, read(sources, reading))
    files = zip(names_of(sources), documents, strict=True)
    names = [name for name, number in files if number] if max(documents) == 1 and not reading.lines else ()
    return Corpus(sources, validation, reading, scanned, validation_scan, kind, vocab_size, split, given, names)


def names_of(sources: Sequence[Source]) -> list[str]:
    """A name for each source that stays the same from whatever folder it is named: its path below the folder that holds
    all of them."""
    paths = [source.path.absolute() if str(source.path) == source.name else None for source in sources]
    try:
        folder = os.path.commonpath([path.parent for path in paths if path] or [Path()])
        return [
            Path(os.path.relpath(path, folder)).as_posix() if path else source.name
            for path, source in zip(paths, sources, strict=True)
        ]
    except ValueError:  # on different drives
        return [Path(source.name).name for source in sources]


def _found(
    paths: Sequence[str], options: CorpusOptions, progress: Progress
) -> tuple[list[Source], list[Source], CorpusOptions]:
    """The training sources, separate validation sources, and the options, completed by those of a recipe."""
    recipe = recipes.find(paths)
    column = options.text_column
    if recipe is None:
        held_out = [] if options.validation_file is None else [options.validation_file]
        return find_sources(paths, text_column=column), find_sources(held_out, text_column=column), options
    if recipe.holds_out:
        for name, default in (("validation_file", None), ("validation_split", CorpusOptions.validation_split)):
            if getattr(options, name) != default:
                raise UsageError(
                    f"{named(name)} does not go with {recipe.name!r}, which has a validation part.",
                    hint="name the text file itself instead.",
                )
    parts = recipe.find_parts(progress)
    validation = _of_recipe(parts.get(VALIDATION, []))
    if options.validation_file is not None:
        validation = find_sources([options.validation_file], text_column=column)
    return _of_recipe(parts[TRAIN]), validation, recipe.fill(options)


def _of_recipe(part: Iterable[recipes.Part]) -> list[Source]:
    return [
        source
        for path, span in part
        for source in (find_sources([str(path)]) if span is None else [Source(path, str(path), span)])
    ]


def text_of(
    paths: Sequence[str], reading: Reading, progress: Progress = no_progress
) -> tuple[list[Source], SourceOptions]:
    """The sources of a text to evaluate on, and how to read them. Of a recipe, its test part, else its validation part,
    read with its options unless others were asked for. Raises TextgenError or UsageError as `scan_corpus` does."""
    recipe = recipes.find(paths)
    if recipe is None:
        sources, options = find_sources(paths, text_column=reading.text_column), reading.options
        asked_lines = reads_lines(sources, reading.asked("lines") or False, None)
        return sources, replace(options, lines=asked_lines or (options.lines and bool(plain_texts(sources))))
    parts = recipe.find_parts(progress)
    part = next(parts[name] for name in (recipes.TEST, VALIDATION, TRAIN) if name in parts)
    asked = {name: reading.asked(name) for name in REMEMBERED}
    return _of_recipe(part), Reading.of(recipe.options, asked).options


def reads_lines(sources: Sequence[Source], asked: bool | None, detect: SourceOptions | None) -> bool:
    """Whether each line is a document: if that is asked for, or if nothing is, if files that are read in this way
    (None: never) hold one item per line. Raises UsageError if there are only tables, whose rows are documents."""
    if asked is None:
        return detect is not None and hold_items(sources, detect)
    if asked and not plain_texts(sources):
        tables = repr(sources[0].name) if len(sources) == 1 else f"{len(sources)} tables"
        raise UsageError(f"{named('lines')} goes with plain text; each row of {tables} is a document already.")
    return asked


def given_tokenizer(name: str | None) -> Tokenizer | None:
    """The tokenizer of a model folder or token store, if the option names one; None if it names a tokenizer kind."""
    if name is None or name in TOKENIZER_KINDS:
        return None
    folder = Path(name)
    if not name or not folder.is_dir():
        raise UsageError(
            f"{named('tokenizer')} must be {', '.join(TOKENIZER_KINDS)} or a folder that holds a tokenizer, "
            f"not {name!r}."
        )
    return tokenizer_of(folder)


def tokenize(
    corpus: Corpus, folder: Path, progress: Progress = no_progress, replace_folder: bool = False
) -> TokenStore:
    """Learn the tokenizer from the training part, encode both parts, write the store, and open it."""
    write_store(corpus, folder, progress, replace_folder)
    return open_store(folder)


def write_store(corpus: Corpus, folder: Path, progress: Progress, replace_folder: bool = False) -> None:
    """Write the store of a corpus, as `tokenize` does."""
    training = (chunks for part, chunks in corpus.documents() if part == TRAIN)
    progress("learning the tokenizer", 0, corpus.total)
    tokenizer = corpus.given or train_tokenizer(corpus.kind, training, corpus.vocab_size)
    dtype = "<u2" if tokenizer.vocab_size + 256 <= 1 << 16 else "<u4"
    counts = {part: dict.fromkeys(COUNTED, 0) for part in (TRAIN, VALIDATION)}
    frequencies = np.zeros(tokenizer.vocab_size, dtype="<i8")
    with filesystem.new_folder(folder, replace_folder) as store:
        for name, content in tokenizer.files().items():
            store.write(name, content)
        outputs = {part: store.create(f"{part}.bin") for part in (TRAIN, VALIDATION)}
        done, total = 0, corpus.total
        for part, begun, (ids, size, characters) in gathered(encode_parts(tokenizer, corpus.documents(), total)):
            outputs[part].write(ids.astype(dtype).tobytes())
            if part == TRAIN:
                frequencies += np.bincount(ids, minlength=len(frequencies))[: len(frequencies)]
            ends = begun if corpus.reading.lines else 0  # the boundary of a line counts as the line end of a line
            read_here = (size + ends, characters + ends, begun)
            for what, more in zip(COUNTED, (len(ids), tokenizer.raw_count(ids), *read_here), strict=True):
                counts[part][what] += more
            done += size
            progress("encoding", done, total)
        if corpus.reading.lines and counts[VALIDATION]["documents"]:  # the end of the last line is predicted, too
            outputs[VALIDATION].write(np.array([tokenizer.boundary], dtype).tobytes())
            counts[VALIDATION]["tokens"] += 1
        store.write(COUNTS, frequencies.tobytes())
        store.about = {
            "kind": KIND,
            "key": corpus.key(),
            "dtype": dtype,
            "tokenizer": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "corpus_documents": len(corpus.scan.sizes),
            "reading": corpus.remembered,
            "held_out": corpus.held_out,
            **{what: {part: counts[part][what] for part in counts} for what in COUNTED},
        }


def cached_store(corpus: Corpus, cache: Path, progress: Progress = no_progress) -> TokenStore:
    """The store of a corpus in a folder of stores, written if it is missing or damaged."""
    folder = cache / corpus.key()
    return filesystem.cached(folder, open_store, lambda: write_store(corpus, folder, progress))
