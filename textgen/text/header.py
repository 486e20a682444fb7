"""The columns of a table: their names, what they hold, and which one holds the text."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from textgen.errors import TextgenError, TextgenNote, TextgenWarning, UsageError, did_you_mean, missing_column
from textgen.parameters import named
from textgen.text.numbers import COMMA, POINT, read_number

DEFAULT_COLUMN = "text"
CELL_BYTES = 64 << 20
"""The longest line of a table, in bytes of JSON or characters of csv."""

_COMMON_NAMES = """
abstract answer article body caption code comment content data description document headline input line lines lyrics
message name names note notes poem post prompt question quote quotes review reviews sentence sentences song story
summary text texts title tweet utterance value values word words y
"""
COMMON_NAMES = frozenset(_COMMON_NAMES.split())
"""Names of the only column of a csv file that need no warning that its first row was taken for a name."""

_UNNAMED = re.compile(r"|Unnamed: [0-9]+|__index_level_[0-9]+__")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER_OR_TIME = re.compile(r"[-+0-9\s.,:/%'TZeE]*[0-9][-+0-9\s.,:/%'TZeE]*")
_TIME = re.compile(
    r"[0-9]{1,4}[-/.][0-9]{1,2}(?:[-/.][0-9]{1,4})?(?:[T ]+[0-9]{1,2}:[0-9]{2}[-+:.0-9]*Z?)?|[0-9]{4}[- ]?[Qq][1-4]"
)
_SHOWN = 60


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

Row = tuple[str, tuple[Any, ...]]
"""The place of a row ("row 5 of 'x.csv'"), and the values of the chosen columns."""


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
        shown = column if len(column) <= _SHOWN else column[:_SHOWN] + "..."
        first = f"the first row of {header.name!r} is read as the name of its only column: {shown!r}."
        warnings.warn(
            TextgenWarning(f"{first} If it is a text, add a first line with a name, such as: text"), stacklevel=2
        )
