"""A corpus from what was typed to tokens on disk: found, scanned, divided, encoded once, memory-mapped ever after.

A store's name is a digest of all it depends on, so an edited corpus never meets old tokens. Memory does not grow with
the corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from textgen import files
from textgen.errors import UsageError
from textgen.parameters import named
from textgen.text import recipes
from textgen.text.corpus_settings import CorpusOptions, ReadingOptions, check_reading, choose_tokenizer
from textgen.text.encoding import encode_parts
from textgen.text.levels import LEVELS
from textgen.text.reading import Reading
from textgen.text.sources import Source, SourceOptions, find_sources, read
from textgen.text.split import TRAIN, VALIDATION, Progress, Scan, Split, choose_split, no_progress, scan
from textgen.text.store import COUNTS, FORMAT_VERSION, KIND, TokenStore, count, open_store, tokenizer_of
from textgen.text.tokenizer import Tokenizer, train_tokenizer

REMEMBERED = ("encoding", "document_separator", "text_column")
"""What a model of text remembers of reading it."""


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

    @property
    def remembered(self) -> dict[str, str]:
        """How the text is read, as a model trained on it remembers."""
        return {name: value for name in REMEMBERED if (value := getattr(self.reading, name))}

    def key(self) -> str:
        """A digest of everything that the tokens depend on."""
        digests = [self.scan.digest, self.validation_scan.digest if self.validation_scan else None]
        split = [sorted(self.split.held_out), self.split.tail_document, self.split.tail_offset]
        given = self.given.files() if self.given else {}
        return files.cache_key(FORMAT_VERSION, digests, split, self.level, self.vocab_size, given, self.remembered)

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

    `paths` are files, folders, globs, `hub:` names and `-`, or the name of one recipe, whose own options hold where
    none were given. Raises TextgenError or UsageError for what cannot be read, naming file and offset.
    """
    check_reading(options)
    sources, validation, options = _found(paths, options, progress)
    given = given_tokenizer(options.tokenizer)
    level = given.level if given else options.tokenizer
    reading = replace(_reading(options, raw=level == "byte"), may_be_raw=True)
    scanned = scan(_counted(read(sources, reading), "reading", 0, progress))
    validation_scan = scan(read(validation, reading)) if validation else None
    share = 0.0 if validation else options.validation_split
    level, vocab_size = (given.level, given.vocab_size) if given else choose_tokenizer(options, scanned)
    split = choose_split(scanned.sizes, share, seed)
    return Corpus(sources, validation, reading, scanned, validation_scan, level, vocab_size, split, given)


def _found(
    paths: Sequence[str], options: CorpusOptions, progress: Progress
) -> tuple[list[Source], list[Source], CorpusOptions]:
    """What to train on, what to hold out apart from it, and the options with those of a recipe."""
    recipe = recipes.find(paths)
    column = options.text_column
    if recipe is None:
        held_out = [] if options.validation_file is None else [options.validation_file]
        return find_sources(paths, text_column=column), find_sources(held_out, text_column=column), options
    if recipe.holds_out:
        for name, default in (("validation_file", None), ("validation_split", CorpusOptions.validation_split)):
            if getattr(options, name) != default:
                raise UsageError(
                    f"{named(name)} does not go with {recipe.name!r}, which says what is held out.",
                    hint="name the text's own file instead.",
                )
    parts = recipe.find_parts(progress)
    validation = _of_recipe(parts.get(recipes.VALIDATION, []))
    if options.validation_file is not None:
        validation = find_sources([options.validation_file], text_column=column)
    return _of_recipe(parts[recipes.TRAIN]), validation, recipe.fill(options)


def _of_recipe(part: Iterable[recipes.Part]) -> list[Source]:
    return [
        source
        for path, span in part
        for source in (find_sources([str(path)]) if span is None else [Source(path, str(path), span)])
    ]


def _reading(options: ReadingOptions, raw: bool = False) -> SourceOptions:
    return SourceOptions(
        encoding=options.encoding,
        document_separator=options.document_separator or None,
        raw=raw and options.encoding is None,
        text_column=options.text_column,
        delimiter=options.delimiter,
    )


def text_of(
    paths: Sequence[str], reading: Reading, progress: Progress = no_progress
) -> tuple[list[Source], SourceOptions]:
    """A text that is read as it is, for evaluating, and how to read it; of a recipe, its test part or what it holds
    out, read as the recipe says unless asked otherwise. Raises TextgenError or UsageError as `survey` does."""
    recipe = recipes.find(paths)
    if recipe is None:
        return find_sources(paths, text_column=reading.text_column), reading.options
    parts = recipe.find_parts(progress)
    part = next(parts[name] for name in (recipes.TEST, recipes.VALIDATION, recipes.TRAIN) if name in parts)
    asked = {name: reading.asked(name) for name in REMEMBERED}
    return _of_recipe(part), Reading.of(recipe.options, asked).options


def given_tokenizer(name: str | None) -> Tokenizer | None:
    """The tokenizer of a model folder or token store, where the option names one instead of a level."""
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
    """Train the tokenizer on the training part, encode both parts, write the store, and open it."""
    write_store(corpus, folder, progress, replace_folder)
    return open_store(folder)


def write_store(corpus: Corpus, folder: Path, progress: Progress, replace_folder: bool = False) -> None:
    """Write the store of a corpus, as `tokenize` does."""
    training = (pieces for part, pieces in corpus.documents() if part == TRAIN)
    progress("learning the tokenizer", 0, corpus.total)
    tokenizer = corpus.given or train_tokenizer(corpus.level, training, corpus.vocab_size)
    dtype = "<u2" if tokenizer.vocab_size + 256 <= 1 << 16 else "<u4"
    counted = ("tokens", "raw", "bytes", "characters", "documents")
    counts = {part: dict.fromkeys(counted, 0) for part in (TRAIN, VALIDATION)}
    frequencies = np.zeros(tokenizer.vocab_size, dtype="<i8")
    with files.new_folder(folder, replace_folder) as store:
        for name, content in tokenizer.files().items():
            store.write(name, content)
        outputs = {part: store.create(f"{part}.bin") for part in (TRAIN, VALIDATION)}
        done = 0
        for part, begins, (ids, size, characters) in encode_parts(tokenizer, corpus.documents(), corpus.total):
            outputs[part].write(ids.astype(dtype).tobytes())
            frequencies += count(ids, len(frequencies)) if part == TRAIN else 0
            for what, more in zip(counted, (len(ids), tokenizer.raw_count(ids), size, characters, begins), strict=True):
                counts[part][what] += more
            done += size
            progress("encoding", done, corpus.total)
        store.write(COUNTS, frequencies.tobytes())
        store.about = {
            "kind": KIND,
            "store_version": FORMAT_VERSION,
            "key": corpus.key(),
            "dtype": dtype,
            "level": tokenizer.level,
            "vocab_size": tokenizer.vocab_size,
            "corpus_documents": len(corpus.scan.sizes),
            "reading": corpus.remembered,
            **{what: {part: counts[part][what] for part in counts} for what in counted},
        }


def _counted(
    pieces: Iterable[tuple[int, bytes]], what: str, total: int, progress: Progress
) -> Iterator[tuple[int, bytes]]:
    done = 0
    for document, piece in pieces:
        done += len(piece)
        progress(what, done, total)
        yield document, piece


def cached_store(corpus: Corpus, cache: Path, progress: Progress = no_progress) -> TokenStore:
    """The store of a corpus in a folder of stores, written if it is missing or damaged."""
    folder = cache / corpus.key()
    return files.cached(folder, open_store, lambda: write_store(corpus, folder, progress))
