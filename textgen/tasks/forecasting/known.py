"""Inputs that are known in advance: columns whose values for the next steps are given, and those that never change.

A column holds numbers, or words such as the names of holidays. A word becomes one input for each word of the training
part, 1 where the column holds it; numbers are standardized. At each time step the model reads the values of the step
that it predicts, in training, in evaluation and in a forecast. Within a series, such a column is an array of floats:
its numbers, or the places of its words among all of them, `NO_WORD` for an empty cell, and NaN where there is no value.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgen.data.tables import COMMA, MISSING, POINT, NumberFormat, name_in, read_number
from textgen.errors import TextgenError, TextgenWarning
from textgen.formatting import plural
from textgen.options import named
from textgen.tasks.forecasting.scaling import FARTHEST, Floats, Floats32, deviation

NO_WORD = -1.0
MOST_WORDS = 100
"""The most different words of a column: each is an input of the model."""

Cell = float | str | None
Words = Mapping[str, tuple[str, ...] | None]
"""By column its words, None for numbers."""


@dataclass(frozen=True)
class Known:
    """A column that is known in advance. `words` are all of its words, None if it holds numbers, of which `centre` and
    `spread` are the mean and the deviation in the training part; `seen` says which words are in that part. `static`:
    it holds one value for each series."""

    column: str
    static: bool
    words: tuple[str, ...] | None = None
    seen: tuple[bool, ...] = ()
    centre: float = 0.0
    spread: float = 1.0

    @property
    def width(self) -> int:
        """The number of model inputs."""
        return 1 if self.words is None else sum(self.seen)

    def inputs(self, values: Floats) -> Floats:
        """The model inputs (N, width) of the values (N,) of this column; zeros where a value is missing."""
        if self.words is None:
            scaled = np.clip((values - self.centre) / self.spread, -FARTHEST, FARTHEST)
            return np.nan_to_num(scaled)[:, None]
        codes = np.arange(len(self.words))[np.array(self.seen, dtype=bool)]
        same: Floats = (values[:, None] == codes).astype(np.float64)
        return same

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Known:
        """A column from its fields by name. Raises KeyError, TypeError or ValueError for other content."""
        words = None if content["words"] is None else tuple(map(str, content["words"]))
        seen = tuple(map(bool, content["seen"]))
        centre, spread = float(content["centre"]), float(content["spread"])
        if len(seen) != len(words or ()) or not math.isfinite(centre) or not 0 < spread < math.inf:
            raise ValueError("an impossible column of known values")
        return cls(str(content["column"]), bool(content["static"]), words, seen, centre, spread)


def known_of(future: Sequence[str], static: Sequence[str], words: Words, training: Sequence[Floats]) -> list[Known]:
    """The columns that are known in advance, by the values (N, columns) in the training part of each series."""
    found = []
    for place, column in enumerate((*future, *static)):
        values = np.concatenate([each[:, place] for each in training])
        values = values[~np.isnan(values)]
        names = words[column]
        if names is not None:
            seen = tuple(bool(np.any(values == code)) for code in range(len(names)))
            found.append(Known(column, place >= len(future), names, seen))
            continue
        varies = len(values) > 0 and np.ptp(values) > 0
        centre = float(values.mean()) if len(values) else 0.0
        found.append(Known(column, place >= len(future), None, (), centre, deviation(values) if varies else 1.0))
    return found


def known_inputs(columns: Sequence[Known], values: Floats, rows: int) -> Floats32:
    """The inputs (rows, width) of the columns at each time step, from their values (N, columns): those of the next
    step. Beyond the values there are zeros, and constants go on."""
    ahead = np.full((rows, len(columns)), np.nan)
    some = values[1 : rows + 1]
    ahead[: len(some)] = some
    for place, column in enumerate(columns):
        if column.static and len(values):
            ahead[:, place] = values[0, place]
    parts = [column.inputs(ahead[:, place]) for place, column in enumerate(columns)]
    return np.concatenate([np.zeros((rows, 0)), *parts], axis=1).astype(np.float32)


def require_ahead(columns: Sequence[Known], name: str, values: Floats, length: int, labels: Sequence[object]) -> None:
    """Raise TextgenError if a column has no value for one of the steps to forecast, whose times are `labels`, after the
    `length` steps of the series `name`."""
    for place, column in enumerate(columns):
        if column.static:
            continue
        ahead = values[length : length + len(labels), place] if len(values) else np.zeros(0)
        absent = np.flatnonzero(np.isnan(ahead))
        if len(absent) or len(ahead) < len(labels):
            step = int(absent[0]) if len(absent) else len(ahead)
            raise TextgenError(
                f"series {name!r} has no value of {column.column!r} for {labels[step]}; a forecast of "
                f"{plural(len(labels), 'step')} needs the values of future columns for all of them.",
                hint=f"add rows with this column and an empty target, or give {named('future', 'FILE')}.",
            )


def known_cell(value: object, form: NumberFormat, where: str, column: str) -> Cell:
    """A cell as a number or a word, None if it is empty."""
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in MISSING:
            return None
        if all(read_number(text, decimal) is None for decimal in (POINT, COMMA)):
            return name_in(text, column, where, "word")
    if isinstance(value, bool):
        return str(value).lower()
    number = form.number(value, where, column)
    return None if math.isnan(number) else number


def words_of(columns: Sequence[str], cells: Sequence[Sequence[Cell]]) -> dict[str, tuple[str, ...] | None]:
    """The words of each column, in the order of the cells (rows of one cell for each column); None for a column of
    numbers. Raises TextgenError for an empty column, and for one with too many words."""
    found: dict[str, tuple[str, ...] | None] = {}
    for place, column in enumerate(columns):
        filled = [row[place] for row in cells if row[place] is not None]
        if not filled:
            raise TextgenError(f"column {column!r} is empty.")
        words = dict.fromkeys(_word(cell) for cell in filled) if any(isinstance(c, str) for c in filled) else None
        if words is not None and len(words) > MOST_WORDS:
            first = next(cell for cell in filled if isinstance(cell, str))
            raise TextgenError(
                f"column {column!r} holds {len(words):,} different words, such as {first!r}, but at most {MOST_WORDS} "
                "can be inputs.",
                hint="give a column of numbers, or one with fewer different words.",
            )
        found[column] = None if words is None else tuple(words)
    return found


def known_values(columns: Sequence[str], cells: Sequence[Sequence[Cell]], words: Words, where: Sequence[str]) -> Floats:
    """Cells (rows of one cell for each column) as floats (N, columns). A word that is not among `words` counts as none,
    with a warning. Raises TextgenError for a word in a column of numbers."""
    values = np.full((len(cells), len(columns)), np.nan)
    for place, column in enumerate(columns):
        names = words[column]
        codes = None if names is None else {word: float(code) for code, word in enumerate(names)}
        for row, cell in enumerate(each[place] for each in cells):
            if codes is not None:
                values[row, place] = NO_WORD if cell is None else codes.get(_word(cell), NO_WORD)
                if cell is not None and _word(cell) not in codes:
                    _warn_of(column, _word(cell))
            elif isinstance(cell, str):
                raise TextgenError(f"{where[row]}: column {column!r} holds {cell!r}, which is not a number.")
            elif cell is not None:
                values[row, place] = cell
    return values


def _word(cell: Cell) -> str:
    return f"{cell:g}" if isinstance(cell, float) else str(cell)


def _warn_of(column: str, word: str) -> None:
    text = f"column {column!r} holds {word!r}, which training has not seen; it counts as an empty cell."
    warnings.warn(TextgenWarning(text), stacklevel=2)


def filled(values: Floats, words: Sequence[bool], length: int) -> Floats:
    """Values on the grid of a series (N, columns), of which the first `length` are its own steps: gaps in these hold
    the last number, or no word, while later ones stay."""
    found = values.copy()
    for place, has_words in enumerate(words):
        column, gaps = found[:length, place], np.isnan(found[:length, place])
        if has_words:
            column[gaps] = NO_WORD
        elif not gaps.all():
            first = int(gaps.argmin())
            column[:] = column[np.maximum.accumulate(np.where(gaps, first, np.arange(length)))]
    return found


def constant(column: str, name: str, cells: Sequence[Cell], where: Sequence[str]) -> Cell:
    """The only value of a static column in a series. Raises TextgenError if there is another one, or none."""
    given = [(cell, place) for cell, place in zip(cells, where, strict=True) if cell is not None]
    if not given:
        raise TextgenError(f"static column {column!r} is empty for series {name!r}.")
    other = next((each for each in given if each[0] != given[0][0]), None)
    if other is not None:
        shown = [_word(cell) for cell in (other[0], given[0][0])]
        raise TextgenError(
            f"{other[1]}: static column {column!r} holds {shown[0]!r}, but {shown[1]!r} before it for series {name!r}.",
            hint=f"if it changes, it is a future column: {named('future_column', column)}.",
        )
    return given[0][0]
