"""Tables: csv, tsv, jsonl and parquet, row by row, in bounded memory; as documents, one a row, from one column.

Empty cells and nulls give no document. What is not text is refused with its row, counted from 1 without the header.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from textgen.errors import TextgenError, UsageError, did_you_mean
from textgen.strict_json import refuse_constant, unique_keys
from textgen.text.archives import unpacked_name
from textgen.text.parquet_cells import python_values, require_zone

TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
PARQUET = "parquet"
DEFAULT_COLUMN = "text"
CELL_BYTES = 64 << 20
PARQUET_ROWS = 128  # read at a time: few, since a row may hold a whole book
_FORMS = {"csv": "csv", "tsv": "tsv", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": PARQUET}


def form_of(name: str) -> str:
    """The kind of table a file is by its name (csv, tsv, jsonl or parquet), or '' for plain text."""
    stem, _, ending = unpacked_name(name).rpartition(".")
    return _FORMS.get(ending, "") if stem else ""


@dataclass(frozen=True)
class Header:
    """The columns of a table in order, those that may hold text, and what each holds where that is known."""

    columns: list[str]
    texts: list[str]
    kinds: dict[str, str] = field(default_factory=dict)


Choose = Callable[[Header], list[str]]
"""Picks the columns to read, by name. Raises UsageError."""

Row = tuple[str, tuple[Any, ...]]
"""Where a row stands ("row 5 of 'x.csv'"), and the values of the chosen columns."""


def table_rows(blocks: Iterable[bytes], form: str, name: str, choose: Choose) -> Iterator[Row]:
    """The rows of a csv, tsv or jsonl table that comes as UTF-8: text, or what JSON holds, None where a row lacks a
    column. Raises TextgenError with the row."""
    raw: io.BufferedReader[Any] = io.BufferedReader(_Blocks(blocks), 1 << 18)
    return _json_rows(raw, name, choose) if form == "jsonl" else _csv_rows(raw, form, name, choose)


def parquet_rows(stream: BinaryIO, name: str, choose: Choose) -> Iterator[Row]:
    """The rows of a parquet file. One that was packed is unpacked to a temporary file, since its end is read first."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise TextgenError("parquet files need pyarrow.", hint="pip install pyarrow") from None
    with tempfile.TemporaryFile() as spool:
        if not (isinstance(stream, io.BufferedReader) and stream.seekable()):
            shutil.copyfileobj(stream, spool)
            stream = spool
        stream.seek(0)
        row = 0
        try:
            file = parquet.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
            schema = {field.name: field.type for field in file.schema_arrow}
            plain = [key for key, kind in schema.items() if _is_text(kind)]
            chosen = choose(Header(list(schema), plain, {key: str(kind) for key, kind in schema.items()}))
            for column in chosen:
                require_zone(schema[column], column, name)
            for batch in file.iter_batches(PARQUET_ROWS, columns=list(dict.fromkeys(chosen))):
                arrays = [batch.column(batch.schema.get_field_index(column)) for column in chosen]
                columns = [python_values(array, column, name) for array, column in zip(arrays, chosen, strict=True)]
                for values in zip(*columns, strict=True):
                    row += 1
                    yield f"row {row} of {name!r}", values
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise TextgenError(f"{name!r} is a damaged parquet file ({' '.join(str(error).split())[:200]}).") from None


def texts(table: Callable[[Choose], Iterator[Row]], asked: str | None, name: str) -> Iterator[bytes]:
    """The texts of one column of a table, b'' for none; which column, says `choose_column`. Raises TextgenError with
    the row for what is not text."""
    column = ""

    def choose(header: Header) -> list[str]:
        nonlocal column
        column = choose_column(header.columns, header.texts, asked, name)
        if column not in header.texts and column in header.kinds:
            raise TextgenError(f"column {column!r} of {name!r} holds {header.kinds[column]}, not text.")
        return [column]

    for where, (value,) in table(choose):
        yield cell(value, column, where)


def choose_column(columns: Sequence[str], texts: Sequence[str], asked: str | None, name: str) -> str:
    """The column to read: the one asked for, else `text`, else the only one that holds text.

    `texts` are those of `columns` that may hold text. Raises UsageError naming the columns.
    """
    there = "its columns are " + ", ".join(map(repr, columns)) if columns else "it has no columns"
    if asked is not None:
        if asked not in columns:
            raise UsageError(f"{name!r} has no column {asked!r}; {there}.{did_you_mean(asked, columns)}")
        return asked
    if DEFAULT_COLUMN in columns:
        return DEFAULT_COLUMN
    if len(texts) != 1:
        raise UsageError(f"{name!r} has no column 'text'; {there}.", hint="--text-column NAME says which one to read.")
    return texts[0]


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _csv_rows(raw: io.BufferedReader[Any], form: str, name: str, choose: Choose) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), CELL_BYTES))
    lines = io.TextIOWrapper(raw, "utf-8", newline="")
    reader = csv.reader(_bounded(lines, name), delimiter="\t" if form == "tsv" else ",", strict=True)
    row = 0
    try:
        header = next((cells for cells in reader if cells), None)
        if header is None:
            return
        places = [header.index(column) for column in choose(Header(header, header))]
        for row, cells in enumerate((cells for cells in reader if cells), 1):
            if len(cells) != len(header):
                raise TextgenError(
                    f"row {row} of {name!r} (ending in line {reader.line_num}) has {len(cells)} cells, "
                    f"but there are {len(header)} columns."
                )
            yield f"row {row} of {name!r}", tuple(cells[place] for place in places)
    except csv.Error as error:
        problem = "a quotation mark is never closed" if "unexpected end" in str(error) else str(error)
        raise TextgenError(f"{name!r} is not {form} at line {reader.line_num}, row {row + 1} ({problem}).") from None


def _bounded(lines: io.TextIOWrapper, name: str) -> Iterator[str]:
    while line := lines.readline(CELL_BYTES):
        if len(line) == CELL_BYTES:
            raise TextgenError(f"{name!r} has a line of more than {CELL_BYTES >> 20} MiB; that is no table.")
        yield line


def _json_rows(raw: io.BufferedReader[Any], name: str, choose: Choose) -> Iterator[Row]:
    decode = json.JSONDecoder(parse_constant=refuse_constant, object_pairs_hook=unique_keys).decode
    chosen: list[str] | None = None
    number = 0
    while line := raw.readline(CELL_BYTES):
        number += 1
        if len(line) == CELL_BYTES:
            raise TextgenError(f"line {number} of {name!r} is longer than {CELL_BYTES >> 20} MiB; that is no table.")
        if line.isspace():
            continue
        try:
            row = decode(line.decode())
        except (ValueError, RecursionError) as error:
            raise TextgenError(f"line {number} of {name!r} is not JSON ({_json_problem(error)}).") from None
        if not isinstance(row, dict):
            raise TextgenError(f'line {number} of {name!r} is not a row, which looks like {{"text": "..."}}.')
        if chosen is None:
            chosen = choose(Header(list(row), [key for key, value in row.items() if isinstance(value, str)]))
        yield f"line {number} of {name!r}", tuple(row.get(column) for column in chosen)


def cell(value: Any, column: str, where: str) -> bytes:
    """The text of one cell, b'' for null. Raises TextgenError with the place for anything else."""
    if value is None:
        return b""
    if not isinstance(value, str):
        kind = {dict: "a table", list: "a list", bool: "true or false", int: "a number", float: "a number"}
        raise TextgenError(f"{where}: column {column!r} holds {kind.get(type(value), type(value).__name__)}, not text.")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(value[error.start]):04X}"
        raise TextgenError(f"{where}: column {column!r} has half a character ({half}).") from None


def _json_problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


class _Blocks(io.RawIOBase):
    """Blocks of bytes as a file that is read once."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
