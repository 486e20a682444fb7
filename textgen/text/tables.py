"""Tables: csv, tsv, json, jsonl and parquet, read row by row in bounded memory; one column gives one document per row.

Empty cells and nulls give no document. A cell that is not text is refused with its row, counted from 1.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from textgen.errors import TextgenError
from textgen.text.archives import uncompressed_name
from textgen.text.cells import cell
from textgen.text.header import Choose, Header, Row, text_column_of

TABLE_ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
_FORMS = {"csv": "csv", "tsv": "tsv", "json": "json", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}


def form_of(name: str) -> str:
    """The format of a table by its file name (csv, tsv, json, jsonl or parquet), or '' for plain text. Whether a .json
    file is a table depends on its content (`textgen.text.sources.table_form`)."""
    stem, _, ending = uncompressed_name(name).rpartition(".")
    return _FORMS.get(ending, "") if stem else ""


def texts(table: Callable[[Choose], Iterator[Row]], asked: str | None) -> Iterator[bytes]:
    """The texts of the column that `text_column_of` chooses, b'' for an empty cell. Raises TextgenError naming the row
    of a cell that is not text."""
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
    """Blocks of bytes as a file that can be read once."""
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
