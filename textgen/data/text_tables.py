"""Rows of csv, tsv, JSON lines and JSON arrays.

The delimiter of a csv file is given, named by the file, or detected from its head. The columns of JSON are those of
all rows, so such a file is scanned once before its rows are read.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, BinaryIO

from textgen.data import tables
from textgen.data.tables import Choose, Header, Row, are_times, is_time, is_whole, may_be_text, named_columns
from textgen.errors import TextgenError, TextgenNote, TextgenWarning, UsageError
from textgen.formatting import count
from textgen.options import named
from textgen.storage import DuplicateKeyError, refuse_constant, unique_keys

USUAL = {"csv": ",", "tsv": "\t"}
DELIMITERS = (",", ";", "\t", "|")  # the delimiters that are detected
HEAD_CHARACTERS, HEAD_LINES = 1 << 16, 1000
"""How much of a file is examined to detect its delimiter and the content of its columns."""

_DECLARED = re.compile(r'"?sep=([^\w\r\n" ])"?[\r\n]*', re.IGNORECASE)
JSON, JSONL = "json", "jsonl"
MOST_COLUMNS, MOST_SHAPES = 10_000, 1_000
"""How many columns a table may have, and how many different sets of keys are counted."""

LONGEST_INTEGER = 4_000  # digits; a longer integer is read as infinity
READ_CHARACTERS = 1 << 16
_EXAMPLE = '{"text": "..."}'
_SPACE = re.compile(r"[ \t\r\n]*")
JsonRow = tuple[str, dict[str, Any]]
"""The place of a row, and its content."""


def delimiter_of(typed: str) -> str:
    r"""The delimiter that an option names; `\t` and `tab` mean a tab. Raises UsageError."""
    character = {"\\t": "\t", "tab": "\t"}.get(typed, typed)
    if len(character) != 1 or character.isalnum() or character in "\"'\r\n \0":
        raise UsageError(f"{named('delimiter')} must be one character, such as ';', or tab, not {typed!r}.")
    return character


def csv_rows(raw: BinaryIO, form: str, name: str, choose: Choose, delimiter: str | None = None) -> Iterator[Row]:
    """The rows of a file in UTF-8. Raises TextgenError naming the row and line of an error."""
    csv.field_size_limit(max(csv.field_size_limit(), tables.CELL_BYTES))
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
    while line := lines.readline(tables.CELL_BYTES):
        if len(line) == tables.CELL_BYTES:
            raise TextgenError(f"{name!r} has a line of more than {tables.CELL_BYTES >> 20} MiB, so it is not a table.")
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
        rows += filter(None, csv.reader(head, delimiter=delimiter, strict=True))
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
            first = doubtful[0]
            number, cells = fits[first].ragged or (0, 0)
            raise UsageError(
                f"the delimiter of {name!r} is ambiguous: {shown(first)} gives {fits[first].columns} columns in the "
                f"first line, but {cells} in row {number}.",
                hint=f"{named('delimiter', _typed(first))} uses it anyway, {named('delimiter', ',')} uses commas.",
            )
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


def shown(delimiter: str) -> str:
    """A delimiter as messages show it."""
    return "tabs" if delimiter == "\t" else f"{delimiter!r}"


def _typed(delimiter: str) -> str:
    return "tab" if delimiter == "\t" else f"'{delimiter}'"


def json_form(head: bytes) -> str:
    """The form of a .json file that begins with `head` in any Unicode encoding: an array of objects, JSON lines, or ''
    for anything else."""
    text = head.decode(json.detect_encoding(head), "replace").lstrip()
    if text.startswith("["):
        return JSON if text[1:].lstrip()[:1] in ("{", "]") else ""
    first, end, rest = text.partition("\n")
    if not end or not rest.lstrip().startswith("{"):
        return ""
    try:
        return JSONL if isinstance(_DECODER.decode(first), dict) else ""
    except (ValueError, RecursionError):
        return ""


def json_objects(raw: BinaryIO, form: str, name: str) -> Iterator[JsonRow]:
    """The objects of a file in UTF-8, one by one. Raises TextgenError naming the line or row of an error."""
    return _lines(raw, name) if form == JSONL else _array(io.TextIOWrapper(raw, "utf-8", newline=""), name)


@dataclass
class JsonColumns:
    """What one pass over all rows finds out: how many rows there are, which sets of keys they have, and which keys hold
    text, anything but whole numbers, or anything but times in some row."""

    rows: int = 0
    shapes: Counter[tuple[str, ...]] = field(default_factory=Counter)
    keys: dict[str, int] = field(default_factory=dict)
    texts: set[str] = field(default_factory=set)
    not_whole: set[str] = field(default_factory=set)
    not_times: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, objects: Iterable[JsonRow], name: str) -> JsonColumns:
        """Read all rows. Raises TextgenError for a table with too many columns."""
        found = cls()
        for _, row in objects:
            found._add(row)
            if len(found.keys) > MOST_COLUMNS:
                raise TextgenError(
                    f"{name!r} has more than {count(MOST_COLUMNS)} different columns, so it is not a table."
                )
        return found

    def _add(self, row: dict[str, Any]) -> None:
        self.rows += 1
        for key, value in row.items():
            self.keys[key] = self.keys.get(key, 0) + 1
            if isinstance(value, str):
                self.texts.add(key)
            if key not in self.not_whole and not is_whole(value):
                self.not_whole.add(key)
            if key not in self.not_times and value is not None and not (isinstance(value, str) and is_time(value)):
                self.not_times.add(key)
        shape = tuple(row)
        if shape in self.shapes or len(self.shapes) < MOST_SHAPES:
            self.shapes[shape] += 1

    def choose(self, name: str, choose: Choose) -> list[str]:
        """The keys of the chosen columns, with a warning if some rows lack one."""
        keys = list(self.keys)
        places = named_columns(keys, name, lambda place: keys[place] not in self.not_whole)
        texts = [column for column, place in places.items() if keys[place] in self.texts]
        times = [column for column in texts if keys[places[column]] not in self.not_times]
        chosen = choose(Header(name, list(places), texts, times))
        for column in dict.fromkeys(chosen):
            self._report_missing(column, keys[places[column]], name)
        return [keys[places[column]] for column in chosen]

    def _report_missing(self, column: str, key: str, name: str) -> None:
        missing = self.rows - self.keys[key]
        if not missing:
            return
        others = Counter[str]()
        for shape, rows in self.shapes.items():
            if key not in shape:
                others.update(dict.fromkeys(shape, rows))
        near = [other for other, _ in others.most_common() if other.strip().lower() == key.strip().lower()]
        shown = near or [other for other, _ in others.most_common(6)]
        they = f"; they have {', '.join(map(repr, shown))}" if shown else ""
        warnings.warn(
            TextgenWarning(f"{count(missing)} of {count(self.rows)} rows of {name!r} have no {column!r} column{they}."),
            stacklevel=2,
        )


def json_rows(objects: Iterable[JsonRow], columns: JsonColumns, name: str, choose: Choose) -> Iterator[Row]:
    """The rows with the values of the chosen columns, None if a row lacks one."""
    if not columns.rows:
        return
    chosen = columns.choose(name, choose)
    for where, row in objects:
        yield where, tuple(row.get(key) for key in chosen)


def _integer(text: str) -> float:
    return int(text) if len(text) <= LONGEST_INTEGER else math.copysign(math.inf, -1 if text[0] == "-" else 1)


_DECODER = json.JSONDecoder(parse_constant=refuse_constant, parse_int=_integer, object_pairs_hook=unique_keys)


def _lines(raw: BinaryIO, name: str) -> Iterator[JsonRow]:
    for number, line in enumerate(iter(lambda: raw.readline(tables.CELL_BYTES), b""), 1):
        where = f"line {number} of {name!r}"
        if len(line) == tables.CELL_BYTES:
            raise TextgenError(f"{where} is longer than {tables.CELL_BYTES >> 20} MiB, so it is not a table.")
        if line.isspace():
            continue
        try:
            row = _DECODER.decode(line.decode())
        except (ValueError, RecursionError) as error:
            raise _not_json(error, where) from None
        yield _row(where, row)


def _row(where: str, value: Any) -> JsonRow:
    if not isinstance(value, dict):
        raise TextgenError(f"{where} is not a JSON object, such as {_EXAMPLE}.")
    return where, value


def _not_json(error: Exception, where: str) -> TextgenError:
    if isinstance(error, DuplicateKeyError):
        return TextgenError(f"{where} has two columns named {error.key!r}.", hint="give each column a different name.")
    problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    if isinstance(error, json.JSONDecodeError):
        problem = f"{error.msg} at character {error.pos + 1}"
    return TextgenError(f"{where} is not JSON ({problem}).")


def _array(text: io.TextIOWrapper, name: str) -> Iterator[JsonRow]:
    """The objects of an array, one at a time in memory."""
    buffer = _Buffer(text)
    if buffer.next() != "[":
        raise TextgenError(f"{name!r} is not a JSON array of objects such as {_EXAMPLE}.")
    buffer.skip()
    more, number = buffer.next() != "]", 0
    while more:
        number += 1
        where = f"row {number} of {name!r}"
        yield _row(where, buffer.value(where))
        sign = buffer.next()
        if sign not in (",", "]"):
            what = f"{sign!r} follows" if sign else "the file ends after"
            raise TextgenError(f"{name!r} is not JSON: {what} row {number}, but ',' or ']' was expected.")
        if more := sign == ",":
            buffer.skip()
            buffer.next()
    buffer.skip()
    if rest := buffer.next():
        raise TextgenError(f"{name!r} is not JSON: {rest!r} follows the end of the array.")


class _Buffer:
    """A text of which only the current value is in memory."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._held = ""
        self._place = 0

    def next(self) -> str:
        """The next character that is not whitespace, without consuming it; '' at the end."""
        while True:
            self._place = _SPACE.match(self._held, self._place).end()  # type: ignore[union-attr]  # it always matches
            if self._place < len(self._held) or not self._more():
                return self._held[self._place : self._place + 1]

    def skip(self) -> None:
        """Consume one character."""
        self._place += 1

    def value(self, where: str) -> Any:
        """The JSON value that begins here. Raises TextgenError."""
        while True:
            try:
                found, self._place = _DECODER.raw_decode(self._held, self._place)
                return found
            except json.JSONDecodeError as error:  # the value may only be incomplete
                size = len(self._held) - self._place
                if size >= tables.CELL_BYTES:
                    raise TextgenError(
                        f"{where} is not JSON, or longer than {tables.CELL_BYTES >> 20} MiB, so it is not a table."
                    ) from None
                if not self._more(size):
                    raise TextgenError(f"{where} is not JSON ({error.msg}).") from None
            except (ValueError, RecursionError) as error:
                raise _not_json(error, where) from None

    def _more(self, least: int = 0) -> bool:
        """Read at least as much again as is held, so that a long value is not parsed too often."""
        more = self._text.read(max(READ_CHARACTERS, least))
        self._held = self._held[self._place :] + more
        self._place = 0
        return bool(more)
