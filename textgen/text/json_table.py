"""Rows of JSON lines and of a JSON array of objects. Any row may add a column, so a first pass finds all of them."""

from __future__ import annotations

import io
import json
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from textgen.errors import TextgenError, TextgenWarning
from textgen.strict_json import DuplicateKeyError, refuse_constant, unique_keys
from textgen.text import header
from textgen.text.header import Choose, Header, Row, is_time, is_whole, named_columns
from textgen.wording import count

JSON, JSONL = "json", "jsonl"
MOST_COLUMNS, MOST_SHAPES = 10_000, 1_000
"""How many columns a table may have, and how many different sets of keys are counted."""

LONGEST_INTEGER = 4_000
"""Digits; a longer integer is read as infinity."""

READ_CHARACTERS = 1 << 16
_EXAMPLE = '{"text": "..."}'

JsonRow = tuple[str, dict[str, Any]]
"""The place of a row, and its content."""


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
    number = 0
    while line := raw.readline(header.CELL_BYTES):
        number += 1
        where = f"line {number} of {name!r}"
        if len(line) == header.CELL_BYTES:
            raise TextgenError(f"{where} is longer than {header.CELL_BYTES >> 20} MiB, so it is not a table.")
        if line.isspace():
            continue
        try:
            row = _DECODER.decode(line.decode())
        except (ValueError, RecursionError) as error:
            raise _not_json(error, where) from None
        if not isinstance(row, dict):
            raise _not_a_row(where)
        yield where, row


def _not_a_row(where: str) -> TextgenError:
    return TextgenError(f"{where} is not a JSON object, such as {_EXAMPLE}.")


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
        row = buffer.value(where)
        if not isinstance(row, dict):
            raise _not_a_row(where)
        yield where, row
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
            while self._place < len(self._held):
                if self._held[self._place] not in " \t\r\n":
                    return self._held[self._place]
                self._place += 1
            if not self._more():
                return ""

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
                if size >= header.CELL_BYTES:
                    raise TextgenError(
                        f"{where} is not JSON, or longer than {header.CELL_BYTES >> 20} MiB, so it is not a table."
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
