"""A corpus from its sources to tokens on disk: found, scanned, divided, encoded once, memory-mapped ever after.

A store's name is a digest of everything it depends on, so an edited corpus never meets old tokens. Memory does not
grow with the corpus.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from textgen.data import TOKENIZER_KINDS, CorpusOptions, Reading, check_reading, choose_tokenizer, recipes, shards
from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.data.sources import Source, SourceOptions, find_sources, hold_items, plain_texts, read
from textgen.data.splits import WHOLE, Split, choose_split, settle
from textgen.data.store import (
    COUNTS,
    KIND,
    Scan,
    TokenStore,
    no_progress,
    open_store,
    scan,
    tokenizer_of,
)
from textgen.data.tokenization import encode_parts, gathered
from textgen.data.tokenizers import train_tokenizer
from textgen.data.tokenizers.base import Tokenizer
from textgen.distributed import ALONE, World
from textgen.errors import UsageError
from textgen.options import named
from textgen.storage import filesystem

SHARDED_BYTES = 4 * shards.SHARD_BYTES
"""From so much text on, a store is written in shards also by one process, so that a killed one is continued."""

MOST_NAMES = 1000  # of held-out documents, recorded with the tokens
REMEMBERED = ("encoding", "document_separator", "text_column", "lines")
"""The reading options that a language model remembers."""


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
        return remembered_in(self.reading)

    def key(self) -> str:
        """A digest of everything that the tokens depend on."""
        digests = [self.scan.digest, self.validation_scan.digest if self.validation_scan else None]
        cuts = self.split.cuts
        split = [array("q", cuts), array("q", cuts.values()), self.held_out]
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
    reading = reading_of(options, kind)
    detectable = recipes.find(paths) is None and not (validation or reading.document_separator or kind == "word")
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


def remembered_in(reading: SourceOptions) -> dict[str, str | bool]:
    """The options of reading that a model remembers."""
    return {name: value for name in REMEMBERED if (value := getattr(reading, name))}


def beginning(paths: Sequence[str], options: CorpusOptions, size: int, progress: Progress = no_progress) -> bytes:
    """The first `size` bytes of a corpus in UTF-8; none of a `hub:` name. Raises as `scan_corpus` does."""
    check_reading(options)
    if any(path.startswith(recipes.PREFIX) for path in paths):
        return b""  # streaming it twice would cost more than a sample is worth
    sources, _, options = _found(paths, options, progress)
    text = b""
    for _, chunk in read(sources, reading_of(options, options.tokenizer)):
        text += chunk[: size - len(text)] + b"\n"
        if len(text) >= size:
            break
    return text


def reading_of(options: CorpusOptions, kind: str | None) -> SourceOptions:
    """How the sources are read for this kind of tokenizer, before lines are detected."""
    raw = kind == "byte" and options.encoding is None
    separator = options.document_separator or None
    return SourceOptions(options.encoding, separator, raw, True, options.text_column, options.delimiter)


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
    corpus: Corpus,
    folder: Path,
    progress: Progress = no_progress,
    replace_folder: bool = False,
    job: World = ALONE,
) -> TokenStore:
    """Learn the tokenizer from the training part, encode both parts, write the store, and open it. Several processes
    divide a corpus among them, and a killed attempt is continued."""
    if corpus.total < SHARDED_BYTES and job.size == 1:
        write_store(corpus, folder, progress, replace_folder)
        return open_store(folder)
    work = folder.with_name(f".{folder.name}.shards-{corpus.key()}")
    if job.leads:
        filesystem.make_parents(work)
        shards.kept_tokenizer(work, lambda: _learned(corpus, progress))
    job.exchange("tokenizer")
    found = shards.encode_shards(corpus, tokenizer_of(work / shards.TOKENIZER), work, job, progress)
    job.exchange("shards")
    if job.leads:
        _join(corpus, folder, work, found, replace_folder)
        shards.discard(work)
    job.exchange("store")
    return open_store(folder)


def _join(corpus: Corpus, folder: Path, work: Path, found: Sequence[Path], replace_folder: bool) -> None:
    """Write the store of a corpus from its shards."""
    tokenizer = tokenizer_of(work / shards.TOKENIZER)
    with filesystem.new_folder(folder, replace_folder) as store:
        writer = _begun(store, corpus, tokenizer)
        for shard in found:
            writer.join(shard)
        _finish(store, corpus, tokenizer, writer)


def write_store(corpus: Corpus, folder: Path, progress: Progress, replace_folder: bool = False) -> None:
    """Write the store of a corpus, as `tokenize` does."""
    tokenizer = _learned(corpus, progress)
    with filesystem.new_folder(folder, replace_folder) as store:
        writer = _begun(store, corpus, tokenizer)
        done, total = 0, corpus.total
        for part, begun, encoded in gathered(encode_parts(tokenizer, corpus.documents(), total)):
            writer.add(part, begun, encoded)
            done += encoded[1]
            progress("encoding", done, total)
        _finish(store, corpus, tokenizer, writer)


def _learned(corpus: Corpus, progress: Progress) -> Tokenizer:
    """The tokenizer of a corpus: the given one, or one that is learned from its training part."""
    training = (chunks for part, chunks in corpus.documents() if part == TRAIN)
    progress("learning the tokenizer", 0, corpus.total)
    return corpus.given or train_tokenizer(corpus.kind, training, corpus.vocab_size)


def _begun(store: filesystem.FolderWriter, corpus: Corpus, tokenizer: Tokenizer) -> shards.PartsWriter:
    """A store with the files of its tokenizer."""
    for name, content in tokenizer.files().items():
        store.write(name, content)
    return shards.PartsWriter(store, tokenizer, corpus.reading.lines)


def _finish(store: filesystem.FolderWriter, corpus: Corpus, tokenizer: Tokenizer, writer: shards.PartsWriter) -> None:
    """Complete a store that holds all ids."""
    writer.finish()
    store.write(COUNTS, writer.frequencies.tobytes())
    store.about = {
        "kind": KIND,
        "key": corpus.key(),
        "dtype": writer.dtype,
        "tokenizer": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "corpus_documents": len(corpus.scan.sizes),
        "reading": corpus.remembered,
        "held_out": corpus.held_out,
        **writer.counted,
    }


def cached_store(corpus: Corpus, cache: Path, progress: Progress = no_progress) -> TokenStore:
    """The store of a corpus in a folder of stores, written if it is missing or damaged."""
    folder = cache / corpus.key()
    return filesystem.cached(folder, open_store, lambda: write_store(corpus, folder, progress))
