"""Tables for tasks that read more than one column: some columns of every row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from textgen.errors import TextgenError
from textgen.text.header import Choose
from textgen.text.header import require_columns as require_columns
from textgen.text.sources import Source, SourceOptions, read_rows


class TableRow(NamedTuple):
    """The place of a row ("row 5 of 'x.csv'"), and the values of the chosen columns: text in csv and tsv, typed values
    in other formats, None for a missing one."""

    where: str
    values: tuple[Any, ...]


def read_records(sources: Sequence[Source], choose: Choose, reading: SourceOptions) -> Iterator[TableRow]:
    """Every row of several tables; `choose(header)` chooses the columns of each table.

    Raises TextgenError naming the file and row of an error, and at the end if there was no row at all.
    """
    empty = True
    for source in sources:
        for where, values in read_rows(source, reading, choose):
            empty = False
            yield TableRow(where, values)
    if empty:
        raise no_rows(sources)


def no_rows(sources: Sequence[Source]) -> TextgenError:
    """The error for tables without rows."""
    names = repr(sources[0].name) if len(sources) == 1 else f"of {len(sources)} files"
    return TextgenError(f"corpus {names} has no rows.")
