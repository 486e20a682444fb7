"""From the corpus arguments to tokens on disk: files are found, scanned, split and encoded once, then memory-mapped.

The name of a store is a digest of everything it depends on, so an edited corpus never meets old tokens. Memory does not
grow with the corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from textgen import files
from textgen.errors import UsageError
from textgen.parameters import named
from textgen.text import recipes
from textgen.text.corpus_settings import CorpusOptions, check_reading, choose_tokenizer
from textgen.text.encoding import encode_parts
from textgen.text.levels import LEVELS
from textgen.text.reading import Reading
from textgen.text.sources import Source, SourceOptions, find_sources, read
from textgen.text.split import TRAIN, VALIDATION, Progress, Scan, Split, choose_split, no_progress, scan
from textgen.text.store import COUNTED, COUNTS, KIND, TokenStore, open_store, tokenizer_of
from textgen.text.tokenizer import Tokenizer, train_tokenizer

REMEMBERED = ("encoding", "document_separator", "text_column")
"""The reading options that a language model remembers."""


@dataclass(frozen=True)
class Corpus:
    """Text sources, and how they are read, split and tokenized; `tokenize` turns them into a store."""

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

    @property
    def remembered(self) -> dict[str, str]:
        """The reading options that a model trained on this text remembers."""
        return {name: value for name in REMEMBERED if (value := getattr(self.reading, name))}

    def key(self) -> str:
        """A digest of everything that the tokens depend on."""
        digests = [self.scan.digest, self.validation_scan.digest if self.validation_scan else None]
        split = [sorted(self.split.held_out), self.split.tail_document, self.split.tail_offset]
        given = self.given.files() if self.given else {}
        return files.cache_key(digests, split, self.level, self.vocab_size, given, self.remembered)

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
    level = given.level if given else options.tokenizer
    raw = level == "byte" and options.encoding is None
    separator, column = options.document_separator or None, options.text_column
    reading = SourceOptions(options.encoding, separator, raw, True, column, options.delimiter)
    scanned = scan(_counted(read(sources, reading), "reading", 0, progress))
    validation_scan = scan(read(validation, reading)) if validation else None
    share = 0.0 if validation else options.validation_split
    level, vocab_size = (given.level, given.vocab_size) if given else choose_tokenizer(options, scanned)
    split = choose_split(scanned.sizes, share, seed)
    return Corpus(sources, validation, reading, scanned, validation_scan, level, vocab_size, split, given)


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
        return find_sources(paths, text_column=reading.text_column), reading.options
    parts = recipe.find_parts(progress)
    part = next(parts[name] for name in (recipes.TEST, VALIDATION, TRAIN) if name in parts)
    asked = {name: reading.asked(name) for name in REMEMBERED}
    return _of_recipe(part), Reading.of(recipe.options, asked).options


def given_tokenizer(name: str | None) -> Tokenizer | None:
    """The tokenizer of a model folder or token store, if the option names one; None if it names a tokenizer kind."""
    if name is None or name in LEVELS:
        return None
    folder = Path(name)
    if not name or not folder.is_dir():
        raise UsageError(
            f"{named('tokenizer')} must be {', '.join(LEVELS)} or a folder that holds a tokenizer, not {name!r}."
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
    tokenizer = corpus.given or train_tokenizer(corpus.level, training, corpus.vocab_size)
    dtype = "<u2" if tokenizer.vocab_size + 256 <= 1 << 16 else "<u4"
    counts = {part: dict.fromkeys(COUNTED, 0) for part in (TRAIN, VALIDATION)}
    frequencies = np.zeros(tokenizer.vocab_size, dtype="<i8")
    with files.new_folder(folder, replace_folder) as store:
        for name, content in tokenizer.files().items():
            store.write(name, content)
        outputs = {part: store.create(f"{part}.bin") for part in (TRAIN, VALIDATION)}
        done = 0
        for part, begins, (ids, size, characters) in encode_parts(tokenizer, corpus.documents(), corpus.total):
            outputs[part].write(ids.astype(dtype).tobytes())
            if part == TRAIN:
                frequencies += np.bincount(ids, minlength=len(frequencies))[: len(frequencies)]
            for what, more in zip(COUNTED, (len(ids), tokenizer.raw_count(ids), size, characters, begins), strict=True):
                counts[part][what] += more
            done += size
            progress("encoding", done, corpus.total)
        store.write(COUNTS, frequencies.tobytes())
        store.about = {
            "kind": KIND,
            "key": corpus.key(),
            "dtype": dtype,
            "level": tokenizer.level,
            "vocab_size": tokenizer.vocab_size,
            "corpus_documents": len(corpus.scan.sizes),
            "reading": corpus.remembered,
            **{what: {part: counts[part][what] for part in counts} for what in COUNTED},
        }


def _counted(
    chunks: Iterable[tuple[int, bytes]], what: str, total: int, progress: Progress
) -> Iterator[tuple[int, bytes]]:
    done = 0
    for document, chunk in chunks:
        done += len(chunk)
        progress(what, done, total)
        yield document, chunk


def cached_store(corpus: Corpus, cache: Path, progress: Progress = no_progress) -> TokenStore:
    """The store of a corpus in a folder of stores, written if it is missing or damaged."""
    folder = cache / corpus.key()
    return files.cached(folder, open_store, lambda: write_store(corpus, folder, progress))
