"""Labeled texts, from tables (a column each) or from one folder a label: read once, divided, encoded, stored.

Some texts of every label are held out. Every text comes in chunks, so that a file of any length is read in bounded
memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from textgen.data import ReadingOptions, recipes
from textgen.data.corpus import given_tokenizer
from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.data.sources import Source, SourceOptions, find_sources, read, read_records, table_form
from textgen.data.store import Scan, scan
from textgen.data.tables import Header, cell, choose_column, name_in, report_choice, require_columns, text_column_of
from textgen.data.tokenization import count_characters
from textgen.data.tokenizers import train_tokenizer
from textgen.data.tokenizers.base import Tokenizer
from textgen.errors import TextgenError, UsageError
from textgen.options import named
from textgen.tasks.classification.ngrams import NGRAMS, NgramTexts
from textgen.tasks.classification.options import ClassificationOptions
from textgen.tasks.data import Encoded, hold_out, unknown_label

LABEL_COLUMN = "label"
LABELS = "labels.json"
"""The file of a model folder that names the labels."""

VOCABULARY = 30_000
"""The default maximum vocabulary size."""

LONG_WORDS = 15
"""Above this average number of characters between spaces, the script does not separate words by spaces."""


@dataclass(frozen=True)
class Origin:
    """A file to read: a table, or plain text with the label that its folder names."""

    source: Source
    label: str | None = None


class Labelled(NamedTuple):
    """A text, its location, and its label. Its chunks must be read before the next text is requested."""

    where: str
    chunks: Iterable[bytes]
    label: str


class Unlabelled(NamedTuple):
    """A text and its location; an empty cell or line has no chunks."""

    where: str
    chunks: Iterable[bytes]


def reading_of(options: ReadingOptions) -> SourceOptions:
    """The reading options for files."""
    return SourceOptions(
        options.encoding,
        options.document_separator or None,
        text_column=options.text_column,
        delimiter=options.delimiter,
    )


def find_labelled(paths: Sequence[str], text_column: str | None, label_column: str | None = None) -> list[Origin]:
    """The files that `paths` name. Plain texts lie in one folder per label: subfolders of the named folder, or several
    named folders. Raises UsageError or TextgenError for a missing file and for text without a label."""
    origins = []
    for path in paths:
        if path.startswith(recipes.PREFIX):
            origins.append(Origin(Source(recipes.spool(path, text_column, [label_column or LABEL_COLUMN]), path)))
            continue
        for source in find_sources([path]):
            label = None if table_form(source) else _folder_label(source, path, len(paths) > 1)
            origins.append(Origin(source, label))
    return origins


def _folder_label(source: Source, path: str, several: bool) -> str:
    """The name of the folder that labels a plain text."""
    folder = Path(path)
    if folder.is_dir():
        below = source.path.relative_to(folder).parts
        if len(below) > 1:
            return below[0]
        if several:
            return folder.resolve().name
    raise UsageError(
        f"{source.name!r} is plain text, but no folder names its label.",
        hint="name a table with a column for labels, or a folder that holds one folder for each label.",
    )


def read_labelled(
    origins: Sequence[Origin], reading: SourceOptions, label_column: str | None = None
) -> Iterator[Labelled]:
    """Every text with its label, in order. Raises TextgenError naming row and column of a missing text or label,
    UsageError for a missing column."""
    for origin in origins:
        if origin.label is None:
            yield from _rows(origin.source, reading, label_column)
        else:
            for where, chunks in _documents(origin.source, reading):
                yield Labelled(where, chunks, origin.label)


def _rows(source: Source, reading: SourceOptions, label_column: str | None) -> Iterator[Labelled]:
    columns: list[str] = []

    def choose(header: Header) -> list[str]:
        columns[:] = chosen_columns(header.columns, header.name, reading.text_column, label_column, header.texts)
        if reading.text_column is None and len(header.columns) > len(columns):
            report_choice(header, columns[0])
        return columns

    for where, (text, label) in read_records([source], choose, reading):
        content = cell(text, columns[0], where)
        if not content.strip():
            raise TextgenError(f"{where} has no text (column {columns[0]!r} is empty).")
        yield Labelled(where, [content], label_of(label, columns[1], where))


def chosen_columns(
    columns: list[str], name: str, text: str | None, label: str | None, texts: Sequence[str] | None = None
) -> list[str]:
    """The text column and the label column of a table: those asked for; otherwise the one named `text`, or the only
    other one (among `texts`, the columns that may hold text), and the one named `label`. Raises UsageError naming the
    columns."""
    if text is not None and text == label:
        raise UsageError(f"column {text!r} cannot hold both the text and the label.")
    if label is None and LABEL_COLUMN not in columns:
        there = ", ".join(map(repr, columns))
        raise UsageError(
            f"{name!r} has no column 'label'; its columns are {there}.",
            hint=f"{named('label_column', 'NAME')} says which one holds the label.",
        )
    label = label or LABEL_COLUMN
    require_columns(columns, [label], name)
    others = [column for column in columns if column != label]
    return [choose_column(others, _holding(others, texts), text, name), label]


def _holding(columns: list[str], texts: Sequence[str] | None) -> list[str]:
    """The columns that may hold text: a single column always may, since a text may be a number."""
    return columns if len(columns) == 1 or texts is None else [column for column in columns if column in texts]


def label_of(value: Any, column: str, where: str) -> str:
    """The label in a cell (`textgen.data.tables.name_in`). Raises TextgenError naming row and column if it is empty."""
    return name_in(value, column, where, "label")


def _documents(source: Source, reading: SourceOptions) -> Iterator[Unlabelled]:
    """The documents of a plain file. Raises TextgenError for one without text."""
    for number, group in groupby(read([source], reading), key=lambda item: item[0]):
        where = repr(source.name) if reading.document_separator is None else f"text {number + 1} of {source.name!r}"
        yield Unlabelled(where, _with_text((chunk for _, chunk in group), where))


def _with_text(chunks: Iterator[bytes], where: str) -> Iterator[bytes]:
    """The chunks. Raises TextgenError at the end if they held only white space."""
    blank = True
    for chunk in chunks:
        blank = blank and chunk.isspace()
        yield chunk
    if blank:
        raise TextgenError(f"{where} has no text (only white space).")


def find_texts(paths: Sequence[str], text_column: str | None) -> list[Source]:
    """The files that `paths` name. Raises like `textgen.data.sources.find_sources`."""
    try:
        return find_sources(paths, text_column=text_column)
    except UsageError as error:
        by_pipe = 'to classify a text itself, pipe it: echo "..." | textgen predict -'
        raise UsageError(str(error), hint=error.hint or by_pipe) from None


def read_texts(
    sources: Sequence[Source], reading: SourceOptions, whole_files: bool = False, label_column: str | None = None
) -> Iterator[Unlabelled]:
    """Texts without labels, in order: rows of tables; of plain files each line, or the whole file."""
    for source in sources:
        if table_form(source):
            yield from _cells(source, reading, label_column or LABEL_COLUMN)
        elif whole_files or reading.document_separator is not None:
            yield from _documents(source, reading)
        else:
            chunks = (chunk for _, chunk in read([source], reading))
            for number, line in enumerate(lines(chunks), 1):
                yield Unlabelled(f"line {number} of {source.name!r}", [line] if line.strip() else [])


def _cells(source: Source, reading: SourceOptions, label_column: str) -> Iterator[Unlabelled]:
    column = ""

    def choose(header: Header) -> list[str]:
        nonlocal column
        columns = [each for each in header.columns if each != label_column]
        texts = _holding(columns, header.texts)
        column = text_column_of(replace(header, columns=columns, texts=texts), reading.text_column)
        return [column]

    for where, (value,) in read_records([source], choose, reading):
        content = cell(value, column, where)
        yield Unlabelled(where, [content] if content.strip() else [])


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a text that comes in chunks, without their line ends (see `Lines`)."""
    split = Lines()
    for chunk in chunks:
        yield from split.add(chunk)
    yield from split.rest()


class Lines:
    r"""Splits a text that comes in chunks at `\n`, `\r\n` and `\r`, and at nothing else (U+2028, form feed).

    A line is returned as soon as its end is read, even if the `\n` after a `\r` is in the next chunk.
    """

    def __init__(self) -> None:
        self._partial: list[bytes] = []
        self._after_return = False

    def add(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that end in this chunk."""
        if not chunk:
            return
        text = chunk[1:] if self._after_return and chunk.startswith(b"\n") else chunk
        self._after_return = chunk.endswith(b"\r")
        for line in text.splitlines(keepends=True):
            self._partial.append(line.rstrip(b"\r\n"))
            if line.endswith((b"\n", b"\r")):
                yield b"".join(self._partial)
                self._partial.clear()

    def rest(self) -> Iterator[bytes]:
        """The last line, if it has no line end."""
        if any(self._partial):
            yield b"".join(self._partial)


@dataclass(frozen=True)
class LabelScan:
    """The sorted labels, the index of each text's label (N,), the scan of the text itself, and its number of characters
    and of words separated by spaces."""

    labels: tuple[str, ...]
    numbers: npt.NDArray[np.int64]
    scan: Scan
    characters: int
    words: int


def scan_labels(texts: Iterable[Labelled], progress: Progress, known: Sequence[str] | None = None) -> LabelScan:
    """Read labelled texts once; `known` are the allowed labels, None for any.

    Raises TextgenError for a label that is not known, with its row; without `known`, for fewer than two labels and for
    a label of only one text.
    """
    first: dict[str, tuple[int, str]] = {}
    numbers: list[int] = []
    characters = words = 0

    def chunks() -> Iterator[tuple[int, bytes]]:
        nonlocal characters, words
        done = 0
        for text in texts:
            if known is not None and text.label not in known:
                raise unknown_label(text.where, text.label, known)
            number = len(numbers)
            numbers.append(first.setdefault(text.label, (len(first), text.where))[0])
            for chunk in text.chunks:
                yield number, chunk
                characters, words = characters + count_characters(chunk), words + len(chunk.split())
                done += len(chunk)
                progress("reading", done, 0)

    scanned = scan(chunks())
    if known is None:
        _refuse_few(first, np.bincount(numbers, minlength=len(first)))
    labels = tuple(known) if known is not None else sorted_labels(first)
    index = np.array([labels.index(label) for label in first], dtype=np.int64)
    return LabelScan(labels, index[np.array(numbers, dtype=np.int64)], scanned, characters, words)


def _refuse_few(first: Mapping[str, tuple[int, str]], counts: npt.NDArray[np.int64]) -> None:
    """Raise TextgenError unless there are at least two labels, each of at least two texts."""
    if len(first) == 1:
        raise TextgenError(f"every text has the label {next(iter(first))!r}; at least two labels are needed.")
    for label, (number, where) in first.items():
        if counts[number] == 1:
            raise TextgenError(
                f"only one text has the label {label!r} ({where}); a label needs one to train on and one to hold out."
            )


def sorted_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels in the order in which they are numbered and shown: integers by value, others by name."""
    names = sorted(labels)
    whole = all(name.removeprefix("-").isascii() and name.removeprefix("-").isdigit() for name in names)
    return tuple(sorted(names, key=int) if whole else names)


@dataclass(frozen=True)
class LabelledCorpus:
    """Labelled texts with all decisions about them, not yet encoded."""

    origins: list[Origin]
    validation: list[Origin]
    options: ClassificationOptions
    found: LabelScan
    found_validation: LabelScan | None
    held_out: npt.NDArray[np.bool_]
    kind: str
    vocab_size: int
    given: Tokenizer | None

    @classmethod
    def read(cls, paths: Sequence[str], options: ClassificationOptions, progress: Progress) -> Self:
        """Find and read labelled texts once, and choose the held-out part and the tokenizer."""
        reading, column = reading_of(options), options.label_column
        origins = find_labelled(paths, options.text_column, column)
        found = scan_labels(read_labelled(origins, reading, column), progress)
        validation, found_validation, share = [], None, options.validation_split
        if options.validation_file is not None:
            validation, share = find_labelled([options.validation_file], options.text_column, column), 0.0
            found_validation = scan_labels(read_labelled(validation, reading, column), progress, found.labels)
        given = given_tokenizer(options.tokenizer)
        kind = given.kind if given else options.tokenizer or _kind(found)
        size = given.vocab_size if given else options.vocab_size or VOCABULARY
        held_out = hold_out(found.numbers, share, options.seed)
        return cls(origins, validation, options, found, found_validation, held_out, kind, size, given)

    @property
    def depends(self) -> list[object]:
        """Everything that determines the stored texts."""
        scans = [self.found, *([self.found_validation] if self.found_validation else [])]
        read = [[each.scan.digest, each.scan.sizes, each.numbers.tolist()] for each in scans]
        given = list(self.given.files().values()) if self.given else None
        held_out = np.flatnonzero(self.held_out).tolist()
        ngrams = [self.options.class_weights] if self.options.ngrams else []
        return [read, self.found.labels, held_out, self.kind, self.vocab_size, given, *ngrams]

    def texts(self) -> Iterator[tuple[str, Labelled]]:
        """Every text with its part."""
        reading, column = reading_of(self.options), self.options.label_column
        for held, text in zip(self.held_out, read_labelled(self.origins, reading, column), strict=True):
            yield VALIDATION if held else TRAIN, text
        for text in read_labelled(self.validation, reading, column) if self.validation else ():
            yield VALIDATION, text

    def encode(self, progress: Progress) -> Encoded:
        """Train the tokenizer on the training part, and encode both parts."""
        total = self.found.scan.total + (self.found_validation.scan.total if self.found_validation else 0)
        progress("learning the tokenizer", 0, total)
        training = (text.chunks for part, text in self.texts() if part == TRAIN)
        tokenizer = self.given or train_tokenizer(self.kind, training, self.vocab_size)
        texts: dict[str, list[npt.NDArray[np.int32]]] = {TRAIN: [], VALIDATION: []}
        labels: dict[str, list[int]] = {TRAIN: [], VALIDATION: []}
        numbers = {label: number for number, label in enumerate(self.found.labels)}
        boundary, learned = np.array([tokenizer.boundary], np.int32), NgramTexts()
        done = 0
        for part, text in self.texts():
            chunks = learned.through(part, text.chunks) if self.options.ngrams else text.chunks
            ids = np.concatenate([boundary, *tokenizer.encode_pieces(chunks)])
            texts[part].append(tokenizer.model_ids(ids))
            labels[part].append(numbers[text.label])
            done += len(ids)
            progress("encoding", done, total)
        parts = {part: _arrays(texts[part], labels[part]) for part in texts}
        about = {"labels": list(self.found.labels), "bytes": total}
        if not self.options.ngrams:
            return Encoded(parts, about, tokenizer)
        progress("learning the n-grams", done, total)
        targets = {part: np.eye(len(numbers))[np.array(labels[part], np.int64)] for part in labels}
        weights = class_weights(self.options.class_weights, np.array(labels[TRAIN]), len(numbers)).astype(np.float64)
        content, scores = learned.fit(targets, weights, refit=not self.validation)
        return Encoded(
            {part: {**parts[part], "scores": scores[part]} for part in parts}, about, tokenizer, {NGRAMS: content}
        )


def class_weights(kind: str, labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.float32]:
    """The weight of a text of each label, (C,): uniform, or inverse to the label's frequency with a mean of 1 over
    texts."""
    if kind == "none":
        return np.ones(classes, np.float32)
    counts = np.bincount(labels, minlength=classes)
    return (len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)


def _kind(found: LabelScan) -> str:
    """The default tokenizer kind: words, if spaces separate them."""
    return "word" if found.characters <= LONG_WORDS * found.words else "char"


def _arrays(texts: Sequence[npt.NDArray[np.int32]], labels: Sequence[int]) -> dict[str, npt.NDArray[np.generic]]:
    """The concatenated texts, the end of each, and the indices of their labels."""
    ids = np.concatenate([np.zeros(0, np.int32), *texts])
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    return {"ids": ids, "ends": ends, "labels": np.array(labels, np.int64)}
