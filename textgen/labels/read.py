"""Reads texts with labels, from tables with a column for each or from one folder per label, and texts without labels.

Texts come in chunks, so that a file of any length is read in bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from textgen.errors import TextgenError, UsageError
from textgen.parameters import named
from textgen.text import hub
from textgen.text.cells import cell, name_in
from textgen.text.corpus_settings import ReadingOptions
from textgen.text.header import Header, choose_column, report_choice, text_column_of
from textgen.text.records import read_records, require_columns
from textgen.text.sources import Source, SourceOptions, find_sources, read, table_form

LABEL_COLUMN = "label"


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
        if path.startswith(hub.PREFIX):
            origins.append(Origin(Source(hub.spool(path, text_column, [label_column or LABEL_COLUMN]), path)))
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
    """The label in a cell (`textgen.text.cells.name_in`). Raises TextgenError naming row and column if it is empty."""
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
    """The files that `paths` name. Raises like `textgen.text.sources.find_sources`."""
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
