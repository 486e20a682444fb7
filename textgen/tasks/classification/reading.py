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
from textgen.tasks.classification.ngrams import NGRAMS, NgramTexts, class_weights
from textgen.tasks.classification.options import ClassificationOptions
from textgen.tasks.classification.splits import held_out_texts
from textgen.tasks.data import Encoded, unknown_label

LABEL_COLUMN, TEXT_COLUMN = "label", "text"
LABELS = "labels.json"
"""The file of a model folder that names the labels."""

VOCABULARY = 30_000
"""The default maximum vocabulary size."""

LONG_WORDS = 15
"""Above this average number of characters between spaces, the script does not separate words by spaces."""


Label = str | tuple[str, ...]
"""The label of a text, or its labels if a text may have several."""


@dataclass(frozen=True)
class LabelColumns:
    """The columns of a table with the label of a text and the group it belongs to; None for the default, and for no
    groups. With a `separator`, a cell holds several labels."""

    label: str | None = None
    separator: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Origin:
    """A file to read: a table, or plain text with the label that its folder names."""

    source: Source
    label: str | None = None


class Labelled(NamedTuple):
    """A text, its location, its label or labels, and its group, if any. Its chunks must be read before the next text is
    requested."""

    where: str
    chunks: Iterable[bytes]
    label: Label
    group: str | None = None


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
    origins: Sequence[Origin], reading: SourceOptions, columns: str | LabelColumns | None = None
) -> Iterator[Labelled]:
    """Every text with its label, in order; `columns` may be the name of the label column. Raises TextgenError naming
    row and column of a missing text or label, UsageError for a missing column, or if one is named without a table."""
    columns = columns if isinstance(columns, LabelColumns) else LabelColumns(columns)
    for origin in origins:
        if origin.label is None:
            yield from _rows(origin.source, reading, columns)
        else:
            for name, value in (("label_separator", columns.separator), ("group_column", columns.group)):
                if value is not None:
                    raise UsageError(f"{named(name)} goes with a table; {origin.source.name!r} is plain text.")
            for where, chunks in _documents(origin.source, reading):
                yield Labelled(where, chunks, origin.label)


def _rows(source: Source, reading: SourceOptions, asked: LabelColumns) -> Iterator[Labelled]:
    columns: list[str] = []

    def choose(header: Header) -> list[str]:
        columns[:] = chosen_columns(
            header.columns, header.name, reading.text_column, asked.label, header.texts, asked.group
        )
        if reading.text_column is None and len(header.columns) > len(columns):
            report_choice(header, columns[0])
        return columns

    for where, (text, label, *group) in read_records([source], choose, reading):
        content = cell(text, columns[0], where)
        if not content.strip():
            raise TextgenError(f"{where} has no text (column {columns[0]!r} is empty).")
        groups = [name_in(each, columns[2], where, "group") for each in group]
        yield Labelled(where, [content], labels_of(label, columns[1], where, asked.separator), *groups)


def chosen_columns(
    columns: list[str],
    name: str,
    text: str | None,
    label: str | None,
    texts: Sequence[str] | None = None,
    group: str | None = None,
) -> list[str]:
    """The text column and the label column of a table: those asked for; otherwise the one named `text`, or the only
    other one (among `texts`, the columns that may hold text), and the one named `label`; then that of the groups, if
    there are groups. Raises UsageError naming the columns."""
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
    if group is None:
        others = [column for column in columns if column != label]
        return [choose_column(others, _holding(others, texts), text, name), label]
    if group in (text or TEXT_COLUMN, label):
        raise UsageError(
            f"column {group!r} cannot hold both the group and the {'label' if group == label else 'text'}."
        )
    require_columns(columns, [text or TEXT_COLUMN, group], name)
    return [text or TEXT_COLUMN, label, group]


def _holding(columns: list[str], texts: Sequence[str] | None) -> list[str]:
    """The columns that may hold text: a single column always may, since a text may be a number."""
    return columns if len(columns) == 1 or texts is None else [column for column in columns if column in texts]


def label_of(value: Any, column: str, where: str) -> str:
    """The label in a cell (`textgen.data.tables.name_in`). Raises TextgenError naming row and column if it is empty."""
    return name_in(value, column, where, "label")


def labels_of(value: Any, column: str, where: str, separator: str | None = None) -> Label:
    """The label in a cell, or the labels in one that holds a list, or names between separators; there may be none.
    Raises TextgenError naming row and column."""
    if isinstance(value, (list, tuple)):
        return tuple(dict.fromkeys(label_of(each, column, where) for each in value))
    if separator is None:
        return label_of(value, column, where)
    names = ("" if value is None else str(value)).split(separator)
    return tuple(dict.fromkeys(label_of(each, column, where) for each in names if each.strip()))


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
    """The sorted labels, the index of each text's label (N,), or which labels each text has (N, C), the scan of the
    text itself, its number of characters and of words separated by spaces, and the group of each text, if any."""

    labels: tuple[str, ...]
    numbers: npt.NDArray[np.int64]
    scan: Scan
    characters: int
    words: int
    groups: tuple[str, ...] = ()

    @property
    def several(self) -> bool:
        """Whether a text may have several labels."""
        return self.numbers.ndim == 2


def encoded_label(label: Label, labels: Sequence[str]) -> Any:
    """The index of a label, or for several ones a row (C,) with a 1 for each."""
    if isinstance(label, str):
        return labels.index(label)
    return np.isin(labels, label).astype(np.int64)


def scan_labels(texts: Iterable[Labelled], progress: Progress, known: Sequence[str] | None = None) -> LabelScan:
    """Read labelled texts once; `known` are the allowed labels, None for any.

    Raises TextgenError for a label that is not known, with its row, and if some texts have one label and others a list;
    without `known`, for fewer than two labels and for a label of only one text, unless texts have lists of labels.
    """
    first: dict[str, str] = {}
    given: list[Label] = []
    groups: list[str] = []
    kinds: dict[bool, str] = {}
    characters = words = 0

    def chunks() -> Iterator[tuple[int, bytes]]:
        nonlocal characters, words
        done = 0
        for text in texts:
            names = (text.label,) if isinstance(text.label, str) else text.label
            kinds.setdefault(isinstance(text.label, str), text.where)
            if len(kinds) == 2:
                raise TextgenError(f"{kinds[False]} has a list of labels, but {kinds[True]} has one label.")
            for name in names:
                if known is not None and name not in known:
                    raise unknown_label(text.where, name, known)
                first.setdefault(name, text.where)
            number = len(given)
            given.append(text.label)
            if text.group is not None:
                groups.append(text.group)
            for chunk in text.chunks:
                yield number, chunk
                characters, words = characters + count_characters(chunk), words + len(chunk.split())
                done += len(chunk)
                progress("reading", done, 0)

    scanned = scan(chunks())
    labels = tuple(known) if known is not None else sorted_labels(first)
    numbers = np.array([encoded_label(label, labels) for label in given], np.int64)
    if known is None:
        _refuse_few(first, numbers, labels)
    return LabelScan(labels, numbers, scanned, characters, words, tuple(groups))


def _refuse_few(first: Mapping[str, str], numbers: npt.NDArray[np.int64], labels: Sequence[str]) -> None:
    """Raise TextgenError unless there are at least two labels, each of at least two texts; or if a text may have
    several, at least one."""
    if numbers.ndim == 2:
        if not labels:
            raise TextgenError("no text has a label; at least one label is needed.")
        return
    counts = np.bincount(numbers, minlength=len(labels))
    if len(first) == 1:
        raise TextgenError(f"every text has the label {next(iter(first))!r}; at least two labels are needed.")
    for label, where in first.items():
        if counts[labels.index(label)] == 1:
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
        columns = LabelColumns(column, options.label_separator, options.group_column)
        origins = find_labelled(paths, options.text_column, column)
        found = scan_labels(read_labelled(origins, reading, columns), progress)
        validation, found_validation, share = [], None, options.validation_split
        if options.validation_file is not None:
            validation, share = find_labelled([options.validation_file], options.text_column, column), 0.0
            found_validation = scan_labels(read_labelled(validation, reading, columns), progress, found.labels)
            if found_validation.several != found.several:
                kinds = ("one label for each text", "lists of labels")[:: 1 if found.several else -1]
                raise TextgenError(f"{options.validation_file!r} has {kinds[0]}, but the training part has {kinds[1]}.")
        given = given_tokenizer(options.tokenizer)
        kind = given.kind if given else options.tokenizer or _kind(found)
        size = given.vocab_size if given else options.vocab_size or VOCABULARY
        held_out = held_out_texts(found.numbers, found.groups, found.labels, share, options.seed)
        return cls(origins, validation, options, found, found_validation, held_out, kind, size, given)

    @property
    def depends(self) -> list[object]:
        """Everything that determines the stored texts."""
        scans = [self.found, *([self.found_validation] if self.found_validation else [])]
        read = [[each.scan.digest, each.scan.sizes, each.numbers.tolist()] for each in scans]
        given = list(self.given.files().values()) if self.given else None
        held_out = np.flatnonzero(self.held_out).tolist()
        ngrams = [self.options.class_weights] if self.has_ngrams else []
        return [read, self.found.labels, held_out, self.kind, self.vocab_size, given, *ngrams]

    def texts(self) -> Iterator[tuple[str, Labelled]]:
        """Every text with its part."""
        reading, options = reading_of(self.options), self.options
        columns = LabelColumns(options.label_column, options.label_separator, options.group_column)
        for held, text in zip(self.held_out, read_labelled(self.origins, reading, columns), strict=True):
            yield VALIDATION if held else TRAIN, text
        for text in read_labelled(self.validation, reading, columns) if self.validation else ():
            yield VALIDATION, text

    def encode(self, progress: Progress) -> Encoded:
        """Train the tokenizer on the training part, and encode both parts."""
        total = self.found.scan.total + (self.found_validation.scan.total if self.found_validation else 0)
        progress("learning the tokenizer", 0, total)
        training = (text.chunks for part, text in self.texts() if part == TRAIN)
        tokenizer = self.given or train_tokenizer(self.kind, training, self.vocab_size)
        texts: dict[str, list[npt.NDArray[np.int32]]] = {TRAIN: [], VALIDATION: []}
        labels: dict[str, list[Any]] = {TRAIN: [], VALIDATION: []}
        boundary, learned = np.array([tokenizer.boundary], np.int32), NgramTexts()
        done = 0
        for part, text in self.texts():
            chunks = learned.through(part, text.chunks) if self.has_ngrams else text.chunks
            ids = np.concatenate([boundary, *tokenizer.encode_pieces(chunks)])
            texts[part].append(tokenizer.model_ids(ids))
            labels[part].append(encoded_label(text.label, self.found.labels))
            done += len(ids)
            progress("encoding", done, total)
        shape = (-1, len(self.found.labels)) if self.found.several else (-1,)
        arrays = {part: np.array(labels[part], np.int64).reshape(shape) for part in labels}
        parts = {part: _arrays(texts[part], arrays[part]) for part in texts}
        about = {"labels": list(self.found.labels), "bytes": total, "several": self.found.several}
        if not self.has_ngrams:
            return Encoded(parts, about, tokenizer)
        progress("learning the n-grams", done, total)
        weights = class_weights(self.options.class_weights, arrays[TRAIN], len(self.found.labels)).astype(np.float64)
        content, scores = learned.fit(arrays, weights)
        parts = {part: {**parts[part], "scores": scores[part]} for part in parts}
        return Encoded(parts, about, tokenizer, {NGRAMS: content})

    @property
    def has_ngrams(self) -> bool:
        """Whether a linear model is learned; not for several labels of which rare ones count more."""
        return self.options.ngrams and not (self.found.several and self.options.class_weights != "none")


def _kind(found: LabelScan) -> str:
    """The default tokenizer kind: words, if spaces separate them."""
    return "word" if found.characters <= LONG_WORDS * found.words else "char"


def _arrays(
    texts: Sequence[npt.NDArray[np.int32]], labels: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.generic]]:
    """The concatenated texts, the end of each, and the indices of their labels (N,), or their labels as 0 and 1
    (N, C)."""
    ids = np.concatenate([np.zeros(0, np.int32), *texts])
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    return {"ids": ids, "ends": ends, "labels": labels.astype(np.uint8 if labels.ndim == 2 else np.int64)}
