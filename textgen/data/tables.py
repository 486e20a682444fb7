"""Tables row by row, in bounded memory: their columns, text cells and numbers.

Tables are csv, tsv, json, jsonl or parquet. As documents they give one a row, from one column; empty cells and nulls
give none. A value that is not text is refused with its row, counted from 1 without the header. Numbers have a
decimal point or a decimal comma: `1,234` is 1234 in one country and 1.234 in another, so the other cells of the
table decide, or an option.
"""

from __future__ import annotations

import datetime
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, BinaryIO

from textgen.data.archives import uncompressed_name
from textgen.errors import TextgenError, TextgenNote, TextgenWarning, UsageError, did_you_mean, missing_column
from textgen.options import named

MISSING = ("", "na", "nan", "n/a", "null", "none", "?", "-")
LARGEST = 1e100  # the largest magnitude of a number in a series; sums of squares of larger ones would overflow
POINT, COMMA = ".", ","
_PLAIN = r"[+-]?(?:[0-9]+(?:{0}[0-9]*)?|{0}[0-9]+)(?:[eE][+-]?[0-9]+)?"
_GROUPED = (
    r"[+-]?[1-9][0-9]{{0,2}}(?P<mark>[{1} \u00a0\u202f\u2009'\u2019])[0-9]{{3}}(?:(?P=mark)[0-9]{{3}})*(?:{0}[0-9]*)?"
)
_NOTATIONS = {
    decimal: tuple(re.compile(form.format(re.escape(decimal), other)) for form in (_PLAIN, _GROUPED))
    for decimal, other in ((POINT, COMMA), (COMMA, POINT))
}
_LONGEST_NUMBER = 40
LONGEST_NAME = 200  # characters; a longer cell must be a text, so the column is the wrong one
DEFAULT_COLUMN = "text"
CELL_BYTES = 64 << 20  # the longest line of a table, in bytes of JSON or characters of csv
_UNNAMED = re.compile(r"|Unnamed: [0-9]+|__index_level_[0-9]+__")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER_OR_TIME = re.compile(r"[-+0-9\s.,:/%'TZeE]*[0-9][-+0-9\s.,:/%'TZeE]*")
_LONGEST_NAME = 60
Row = tuple[str, tuple[Any, ...]]
"""The place of a row ("row 5 of 'x.csv'"), and the values of the chosen columns: text in csv and tsv, typed values in
other formats, None for a missing one."""

TABLE_ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
_FORMATS = {"csv": "csv", "tsv": "tsv", "json": "json", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}


def read_number(text: str, decimal: str) -> float | None:
    """The number in a text with this decimal mark, with or without grouped thousands; None if it is not a number. Only
    the digits 0 to 9 count, and infinity is not a number."""
    plain, grouped = _NOTATIONS[decimal]
    if plain.fullmatch(text):
        return float(text.replace(decimal, POINT))
    found = grouped.fullmatch(text)
    return float(text.replace(found["mark"], "").replace(decimal, POINT)) if found else None


@dataclass(frozen=True)
class NumberFormat:
    """The decimal mark of a table, and the doubtful marks: a cell with one of those that could be two different numbers
    is refused."""

    decimal: str = POINT
    doubtful: str = COMMA

    @classmethod
    def of(cls, cells: Iterable[tuple[str, object]], asked: str | None = None, points: bool = True) -> NumberFormat:
        """The format that an option gives (`asked`), or that cells imply that are numbers with one decimal mark only.

        `cells` come with their places. If none of them decides, `1.234` is 1.234 if the table is likely to have decimal
        `points`. Raises UsageError for cells that contradict each other.
        """
        if asked is not None:
            return cls(asked, "")
        telling: dict[str, tuple[str, str]] = {}
        for place, cell in cells:
            if isinstance(cell, str):
                text = cell.strip()
                readings = {decimal: read_number(text, decimal) for decimal in _NOTATIONS}
                if None in readings.values():
                    telling |= {
                        d: (place, text) for d, number in readings.items() if number is not None and d not in telling
                    }
        if len(telling) > 1:
            (_, point), (there, comma) = telling[POINT], telling[COMMA]
            raise UsageError(
                f"{there} holds {comma!r}, a number with a decimal comma, but {telling[POINT][0]} holds {point!r} with "
                f"a decimal point.",
                hint=f"{named('decimal', ',')} or {named('decimal', '.')} decides.",
            )
        return cls(next(iter(telling)), "") if telling else cls(POINT, COMMA if points else COMMA + POINT)

    def number(self, value: object, where: str, column: str) -> float:
        """The number in a cell, NaN if it is empty. Raises TextgenError naming the row and column of anything else."""
        found: float | None = None
        if value is None:
            return math.nan
        if isinstance(value, str):
            text = value.strip()
            if text.lower() in MISSING:
                return math.nan
            found = self._read(text, where, column)
        elif isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
            found = _as_float(value)
        if found is None or (isinstance(value, float) and math.isinf(value)):
            mark = COMMA if self.decimal == POINT else POINT
            other = read_number(value.strip(), mark) if isinstance(value, str) else None
            hint = "correct the cell, or leave it empty if nothing was measured."
            if other is not None:
                hint = f"{named('decimal', mark)} reads it as {other:g}."
            raise TextgenError(f"{where}: column {column!r} holds {_shown(value)}, which is not a number.", hint=hint)
        if abs(found) > LARGEST:
            raise TextgenError(
                f"{where}: column {column!r} holds {_shown(value)}, which is too large: numbers range from "
                f"-{LARGEST:g} to {LARGEST:g}.",
                hint="leave the cell empty if nothing was measured, or use a larger unit.",
            )
        return found

    def _read(self, text: str, where: str, column: str) -> float | None:
        found = read_number(text, self.decimal)
        if found is None or not any(mark in text for mark in self.doubtful):
            return found
        other = read_number(text, COMMA if self.decimal == POINT else POINT)
        if other is not None and other != found:
            raise TextgenError(
                f"{where}: column {column!r} holds {_shown(text)}, which is {found:g} with a decimal point and "
                f"{other:g} with a decimal comma.",
                hint=f"{named('decimal', '.')} or {named('decimal', ',')} decides.",
            )
        return found


def _as_float(value: int | float | Decimal) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a whole number of about {round(value.bit_length() * math.log10(2)):,} digits"
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_NUMBER else f"{shown[:_LONGEST_NUMBER]}..."


def cell(value: Any, column: str, where: str) -> bytes:
    """The text of one cell in UTF-8, b'' for null. Raises TextgenError naming the row and column of anything else."""
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


def name_in(value: Any, column: str, where: str, what: str) -> str:
    """The name in a cell, with surrounding spaces removed; `what` says what is named, for example a label.

    A value has the same name in every format. Since csv has only text, `True` becomes `true`, and `1.0` becomes `1`.
    Raises TextgenError naming the row and column of a cell that holds no name.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip():
        raise TextgenError(
            f"{where} has no {what} (column {column!r} is empty).", hint="fill the cell, or delete the row."
        )
    if isinstance(value, (list, dict, bytes, datetime.date)):
        raise TextgenError(f"{where}: column {column!r} holds a {type(value).__name__}, which is no {what}.")
    name = _canonical(str(value).strip())
    if len(name) > LONGEST_NAME:
        raise TextgenError(f"{where}: column {column!r} holds {len(name):,} characters, which are no {what}.")
    return name


def _canonical(text: str) -> str:
    """A boolean in lower case, and a whole number in Python's float notation without its `.0`. Everything else is
    kept: 007, 1.50 and 1e+20 are names in their own right."""
    if text.lower() in ("true", "false"):
        return text.lower()
    try:
        number = float(text) if text.endswith(".0") else None
    except ValueError:
        return text
    return str(int(number)) if number is not None and repr(number) == text else text


_COMMON_NAMES = """
abstract answer article body caption code comment content data description document headline input line lines lyrics
message name names note notes poem post prompt question quote quotes review reviews sentence sentences song story
summary text texts title tweet utterance value values word words y
"""
COMMON_NAMES = frozenset(_COMMON_NAMES.split())
"""Names of the only column of a csv file that need no warning that its first row was taken for a name."""

_TIME = re.compile(
    r"[0-9]{1,4}[-/.][0-9]{1,2}(?:[-/.][0-9]{1,4})?(?:[T ]+[0-9]{1,2}:[0-9]{2}[-+:.0-9]*Z?)?|[0-9]{4}[- ]?[Qq][1-4]"
)


@dataclass(frozen=True)
class Header:
    """The columns of a table, in order.

    Attributes:
        name: what messages call the table.
        columns: the names of its columns.
        texts: the columns that may hold text.
        times: the columns whose first cells are all dates.
        kinds: the type of each column, in formats that declare it.
        in_first_row: whether the names were read from the first row of a file that may have no header.
        delimiter: the delimiter of a csv or tsv file.
    """

    name: str
    columns: list[str]
    texts: list[str]
    times: list[str] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)
    in_first_row: bool = False
    delimiter: str = ""


Choose = Callable[[Header], list[str]]
"""Chooses the columns to read, by name. Raises UsageError."""


def named_columns(headings: Sequence[str], name: str, is_index: Callable[[int], bool]) -> dict[str, int]:
    """The position of each column by its name, with surrounding spaces removed.

    A column without a name is skipped, with a note, if `is_index(place)` says that it holds only row numbers, as in
    tables saved by pandas. Raises TextgenError for duplicate names.
    """
    places: dict[str, int] = {}
    for place, heading in enumerate(headings):
        column = heading.strip()
        if _UNNAMED.fullmatch(column) and is_index(place):
            warnings.warn(TextgenNote(f"column {place + 1} of {name!r} has no name and is skipped."), stacklevel=2)
            continue
        if column in places:
            what = f"two columns named {column!r}" if column else "two columns without a name"
            raise TextgenError(
                f"{name!r} has {what} (columns {places[column] + 1} and {place + 1}).",
                hint="give each column a different name.",
            )
        places[column] = place
    return places


def is_whole(cell: object) -> bool:
    """Whether a cell is empty or a whole number, like the cells of a column of row numbers."""
    if isinstance(cell, str):
        return not cell.strip() or _WHOLE.fullmatch(cell.strip()) is not None
    return cell is None or (isinstance(cell, int) and not isinstance(cell, bool))


def is_time(text: str) -> bool:
    """Whether a text looks like a date, with or without a time of day, and not like a number."""
    text = text.strip()
    return bool(_TIME.fullmatch(text)) and all(read_number(text, decimal) is None for decimal in (POINT, COMMA))


def are_times(cells: Sequence[str]) -> bool:
    """Whether the first cells of a column hold dates and nothing else."""
    filled = [cell for cell in cells if cell.strip()]
    return bool(filled) and all(map(is_time, filled))


def may_be_text(cells: Sequence[str]) -> bool:
    """Whether a column may hold text: all of its first cells are empty, or one is neither a number nor a time."""
    filled = [cell for cell in cells if cell.strip()]
    return not filled or not all(_NUMBER_OR_TIME.fullmatch(cell) for cell in filled)


def choose_column(columns: Sequence[str], texts: Sequence[str], asked: str | None, name: str) -> str:
    """The column to read: the one asked for, else `text`, else the only one that may hold text (`texts`).

    Raises UsageError naming the columns.
    """
    if asked is not None:
        require_columns(columns, [asked], name)
        return asked
    if DEFAULT_COLUMN in columns:
        return DEFAULT_COLUMN
    if len(texts) != 1:
        numbers = "" if texts or not columns else f" {named('task', 'forecast')} reads columns of numbers."
        raise UsageError(
            f"{name!r} has no column 'text'; {_listing(columns)}.",
            hint=f"{named('text_column', 'NAME')} chooses one.{numbers}",
        )
    return texts[0]


def require_columns(columns: Sequence[str], wanted: Sequence[str], name: str) -> None:
    """Raise UsageError for the first wanted column that a table lacks, naming those it has."""
    for column in wanted:
        if column not in columns:
            message = f"{name!r} has no column {column!r}; {_listing(columns)}.{did_you_mean(column, columns)}"
            raise missing_column(message, column)


def _listing(columns: Sequence[str]) -> str:
    return "its columns are " + ", ".join(map(repr, columns)) if columns else "it has no columns"


def text_column_of(header: Header, asked: str | None) -> str:
    """As `choose_column`, with a note if the column of a csv file was chosen by what its cells look like."""
    column = choose_column(header.columns, header.texts, asked, header.name)
    if asked is None:
        report_choice(header, column)
    return column


def report_choice(header: Header, column: str) -> None:
    """Warn which column of a csv file is read if neither an option nor its name decided that; for a single column, warn
    that its name may in fact be the first text."""
    if column == DEFAULT_COLUMN or not header.in_first_row:
        return
    if len(header.columns) > 1:
        only = f"{column!r} is the only column of {header.name!r} that holds text, so it is read."
        warnings.warn(TextgenNote(only), stacklevel=2)
    elif column.strip("\"'_ ").lower() not in COMMON_NAMES:
        shown = column if len(column) <= _LONGEST_NAME else column[:_LONGEST_NAME] + "..."
        first = f"the first row of {header.name!r} is read as the name of its only column: {shown!r}."
        warnings.warn(
            TextgenWarning(f"{first} If it is a text, add a first line with a name, such as: text"), stacklevel=2
        )


def form_of(name: str) -> str:
    """The format of a table by its file name (csv, tsv, json, jsonl or parquet), or '' for plain text. Whether a .json
    file is a table depends on its content (`textgen.data.sources.table_form`)."""
    stem, _, ending = uncompressed_name(name).rpartition(".")
    return _FORMATS.get(ending, "") if stem else ""


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
