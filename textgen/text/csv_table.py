"""Rows of csv and tsv files. The delimiter is given by an option, declared by the file, or detected from its head."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

from textgen.errors import TextgenError, TextgenNote, UsageError
from textgen.parameters import named
from textgen.text import header
from textgen.text.header import Choose, Header, Row, are_times, is_whole, may_be_text, named_columns

USUAL = {"csv": ",", "tsv": "\t"}
DELIMITERS = (",", ";", "\t", "|")
"""The delimiters that are detected."""

HEAD_CHARACTERS, HEAD_LINES = 1 << 16, 1000
"""How much of a file is examined to detect its delimiter and the content of its columns."""

_DECLARED = re.compile(r'"?sep=([^\w\r\n" ])"?[\r\n]*', re.IGNORECASE)


def delimiter_of(typed: str) -> str:
    r"""The delimiter that an option names; `\t` and `tab` mean a tab. Raises UsageError."""
    character = {"\\t": "\t", "tab": "\t"}.get(typed, typed)
    if len(character) != 1 or character.isalnum() or character in "\"'\r\n \0":
        raise UsageError(f"{named('delimiter')} must be one character, such as ';', or tab, not {typed!r}.")
    return character


def csv_rows(raw: BinaryIO, form: str, name: str, choose: Choose, delimiter: str | None = None) -> Iterator[Row]:
    """The rows of a file in UTF-8. Raises TextgenError naming the row and line of an error."""
    csv.field_size_limit(max(csv.field_size_limit(), header.CELL_BYTES))
    lines = _bounded(io.TextIOWrapper(raw, "utf-8", newline=""), name)
    head, whole = _head(lines)
    declared = _DECLARED.fullmatch(head[0]) if head else None
    if declared:
        head = head[1:]
    delimiter = delimiter or (declared[1] if declared else _detected(head, whole, form, name))
    reader = csv.reader(chain(head, lines), delimiter=delimiter, strict=True)
    row = 0
    try:
        headings = next((cells for cells in reader if cells), None)
        if headings is None:
            return
        places = _places(headings, head, delimiter, name, choose)
        for row, cells in enumerate((cells for cells in reader if cells), 1):
            if len(cells) != len(headings):
                raise TextgenError(
                    f"row {row} of {name!r} (ending in line {reader.line_num + bool(declared)}) has {len(cells)} "
                    f"cells, but there are {len(headings)} columns.",
                    hint=f"put a cell that contains {shown(delimiter)} in quotation marks.",
                )
            yield f"row {row} of {name!r}", tuple(cells[place] for place in places)
    except csv.Error as error:
        problem = "a quotation mark is not closed" if "unexpected end" in str(error) else str(error)
        line = reader.line_num + bool(declared)
        raise TextgenError(f"{name!r} is not {form} at line {line}, row {row + 1} ({problem}).") from None


def _places(headings: list[str], head: list[str], delimiter: str, name: str, choose: Choose) -> list[int]:
    """The positions of the chosen columns."""
    rows = [cells for cells in _parsed(head, delimiter)[0][1:] if len(cells) == len(headings)]
    found = named_columns(headings, name, lambda place: all(is_whole(cells[place]) for cells in rows))
    cells = {column: [cells[place] for cells in rows] for column, place in found.items()}
    texts = [column for column in found if may_be_text(cells[column])]
    times = [column for column in found if are_times(cells[column])]
    columns = Header(name, list(found), texts, times, in_first_row=True, delimiter=delimiter)
    return [found[column] for column in choose(columns)]


def _bounded(lines: io.TextIOWrapper, name: str) -> Iterator[str]:
    while line := lines.readline(header.CELL_BYTES):
        if len(line) == header.CELL_BYTES:
            raise TextgenError(f"{name!r} has a line of more than {header.CELL_BYTES >> 20} MiB, so it is not a table.")
        yield line


def _head(lines: Iterator[str]) -> tuple[list[str], bool]:
    """The first lines of a file, and whether they are the whole file."""
    head: list[str] = []
    size = 0
    for line in lines:
        head.append(line)
        size += len(line)
        if size >= HEAD_CHARACTERS or len(head) >= HEAD_LINES:
            return head, False
    return head, True


def _parsed(head: Sequence[str], delimiter: str) -> tuple[list[list[str]], str]:
    """The rows of a head without blank lines, up to the first that is not valid csv; and the error in that one."""
    rows: list[list[str]] = []
    try:
        for cells in filter(None, csv.reader(head, delimiter=delimiter, strict=True)):
            rows.append(cells)
    except csv.Error as error:
        return rows, str(error)
    return rows, ""


@dataclass(frozen=True)
class _Fit:
    """How well a delimiter fits a head.

    Attributes:
        columns: how many cells the first row has.
        rows: how many rows follow it.
        fitting: how many of those have as many cells.
        divides: whether any of those has more than one cell.
        ragged: the number and cell count of the first row that has not.
        broken: whether the head is not valid csv.
    """

    columns: int
    rows: int
    fitting: int
    divides: bool
    ragged: tuple[int, int] | None
    broken: bool

    @classmethod
    def of(cls, head: Sequence[str], whole: bool, delimiter: str) -> _Fit:
        rows, wrong = _parsed(head, delimiter)
        if not rows:
            return cls(0, 0, 0, False, None, bool(wrong))
        columns, sizes = len(rows[0]), [len(cells) for cells in rows[1:]]
        ragged = next(((k, size) for k, size in enumerate(sizes, 1) if size != columns), None)
        broken = bool(wrong) and (whole or "unexpected end" not in wrong)
        return cls(columns, len(sizes), sizes.count(columns), any(size > 1 for size in sizes), ragged, broken)

    @property
    def even(self) -> bool:
        """Whether every row has the same number of columns, at least two."""
        return self.columns > 1 and self.ragged is None and not self.broken

    @property
    def mostly(self) -> bool:
        """Whether more than half of the rows do, up to the first that is not valid csv."""
        return self.columns > 1 and (not self.rows or 2 * self.fitting > self.rows)


def _detected(head: Sequence[str], whole: bool, form: str, name: str) -> str:
    """The delimiter of a file, detected from its head, with a note if it is not the usual one. Raises UsageError if two
    fit equally well, or the only candidate does not fit well enough."""
    usual = USUAL[form]
    fits = {delimiter: _Fit.of(head, whole, delimiter) for delimiter in DELIMITERS}
    found = [delimiter for delimiter, fit in fits.items() if fit.even]
    if not found and fits[usual].columns < 2:
        found = [delimiter for delimiter, fit in fits.items() if fit.mostly]
        doubtful = [delimiter for delimiter, fit in fits.items() if fit.columns > 1 and fit.divides]
        if not found and doubtful:
            raise _unclear(fits[doubtful[0]], doubtful[0], name)
    if len(found) > 1:
        columns = " or ".join(f"{fits[delimiter].columns} columns with {shown(delimiter)}" for delimiter in found)
        raise UsageError(
            f"the delimiter of {name!r} is ambiguous: it has {columns}.",
            hint=f"give {named('delimiter', _typed(found[0]))} or {named('delimiter', _typed(found[1]))}.",
        )
    delimiter = found[0] if found else usual
    if delimiter != usual:
        warnings.warn(TextgenNote(f"{name!r} is read with {shown(delimiter)} as the delimiter."), stacklevel=2)
    return delimiter


def _unclear(fit: _Fit, delimiter: str, name: str) -> UsageError:
    assert fit.ragged is not None
    number, cells = fit.ragged
    return UsageError(
        f"the delimiter of {name!r} is ambiguous: {shown(delimiter)} gives {fit.columns} columns in the first line, "
        f"but {cells} in row {number}.",
        hint=f"{named('delimiter', _typed(delimiter))} uses it anyway, {named('delimiter', ',')} uses commas.",
    )


def shown(delimiter: str) -> str:
    """A delimiter as messages show it."""
    return "tabs" if delimiter == "\t" else f"{delimiter!r}"


def _typed(delimiter: str) -> str:
    return "tab" if delimiter == "\t" else f"'{delimiter}'"
