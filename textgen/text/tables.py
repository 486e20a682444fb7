"""Tables: csv, tsv, json, jsonl and parquet, row by row, in bounded memory; as documents, one a row, from one column.

Empty cells and nulls give no document. What is not text is refused with its row, counted from 1 without the header.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from textgen.errors import TextgenError
from textgen.text.archives import unpacked_name
from textgen.text.cells import cell
from textgen.text.header import Choose, Header, Row, text_column_of

TABLE_ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
_FORMS = {"csv": "csv", "tsv": "tsv", "json": "json", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}


def form_of(name: str) -> str:
    """The kind of table a file is by its name (csv, tsv, json, jsonl or parquet), or '' for plain text. What a json
    file is depends on its content (`textgen.text.sources.table_form`)."""
    stem, _, ending = unpacked_name(name).rpartition(".")
    return _FORMS.get(ending, "") if stem else ""


def texts(table: Callable[[Choose], Iterator[Row]], asked: str | None) -> Iterator[bytes]:
    """The texts of one column of a table, b'' for none; which column, says `text_column_of`. Raises TextgenError with
    the row for what is not text."""
    column = ""

    def choose(header: Header) -> list[str]:
        nonlocal column
        column = text_column_of(header, asked)
        if column not in header.texts and column in header.kinds:
            raise TextgenError(f"column {column!r} of {header.name!r} holds {header.kinds[column]}, not text.")
        return [column]

    for where, (value,) in table(choose):
        yield cell(value, column, where)


def as_file(blocks: Iterable[bytes]) -> BinaryIO:
    """Blocks of bytes as a file that is read once."""
    return io.BufferedReader(_Blocks(blocks), 1 << 18)


class _Blocks(io.RawIOBase):
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
