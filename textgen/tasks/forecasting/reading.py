"""Reads regular series from tables: chooses columns, counts times, fills and marks gaps.

In long form a column names the series of each row; in wide form each series has a column. Both give one `Series` for
each series and target column, all with the same time step.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice

import numpy as np

from textgen.data.sources import Source, SourceOptions, no_content, read_rows
from textgen.data.tables import COMMA, Header, NumberFormat, Row, name_in
from textgen.errors import TextgenError, TextgenNote, TextgenWarning, UsageError
from textgen.options import named
from textgen.tasks.forecasting.columns import (
    Columns,
    TimeCells,
    TimeColumn,
    choose_columns,
    join_time_columns,
    parse_times,
    refuse_duplicates,
    sort_rows,
)
from textgen.tasks.forecasting.known import Cell, Words, constant, filled, known_cell, known_values, words_of
from textgen.tasks.forecasting.options import ForecastingOptions, check_series
from textgen.tasks.forecasting.scaling import Floats, Mask
from textgen.tasks.forecasting.times import ROWS, Clock, Integers, Places

MOST_REASONS = 5  # the most series for which a warning says why they are left out
HEAD_ROWS = 1000
"""The rows of each table from which its number format is detected."""


@dataclass(frozen=True)
class Series:
    """One series on a regular grid: `values` (N,) with gaps filled by the last value, `missing` (N,) the gaps, `extras`
    (N, E); `start` is the time of the first value, in units of the clock; `column` names the column of the values.

    The first `trained` values come from the model, which keeps the end of its training data, not from the table;
    `lowest` is the smallest value before them."""

    name: str
    start: int
    values: Floats
    missing: Mask
    extras: Floats
    column: str = ""
    clock: Clock = ROWS
    trained: int = 0
    lowest: float = math.inf
    known: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    """The values (N + ahead, columns) of columns that are known in advance, beyond the end of the series as far as they
    are given; see `textgen.tasks.forecasting.known`."""

    def __len__(self) -> int:
        return len(self.values)

    def slice(self, start: int, end: int | None = None) -> Series:
        """The steps from `start` to before `end`, with all that is known in advance; the start time stays that of the
        whole."""
        part, known = slice(start, end), self.known[start:]
        values, missing = self.values[part], self.missing[part]
        return replace(self, values=values, missing=missing, extras=self.extras[part], known=known)


@dataclass
class _Rows:
    """The rows of one series in table order: their indices in the whole table, and their numbers."""

    rows: list[int] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)
    known: list[list[Cell]] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """All series of a corpus, their common clock, and the columns that they come from."""

    series: list[Series]
    clock: Clock
    columns: Columns
    notes: tuple[str, ...] = ()
    """Notes on how its times were read."""
    words: Words = field(default_factory=dict)
    """The words of each column that is known in advance."""

    def require_step(self, clock: Clock, name: str, whose: str) -> None:
        """Raise TextgenError if this table, called `name`, has another time step than the given clock."""
        one_row = max(map(len, self.series)) == 1
        if not self.clock.same_steps(clock if not one_row else replace(clock, step=self.clock.step)):
            raise TextgenError(f"a step of {name!r} is {self.clock.described()}, but {whose} is {clock.described()}.")


def read_series(
    sources: Sequence[Source],
    options: ForecastingOptions,
    reading: SourceOptions,
    window: int | None = None,
    known: Clock | None = None,
    words: Words | None = None,
) -> Table:
    """Every series of some tables. `window` is the longest gap to fill, in steps; by default it depends on the season
    (see `gap_limit`). `known` is the clock of training, whose format and step are tried first; `words`
    are those of training. Raises TextgenError
    naming row and column of invalid numbers and times, duplicate times, and gaps that are too long."""
    check_series(options)
    chosen: list[Columns] = []
    delimiter = ""
    unused: list[str] = []

    def choose(header: Header) -> list[str]:
        nonlocal delimiter
        delimiter, found = header.delimiter, choose_columns(header, options)
        if chosen and found != chosen[0]:
            raise UsageError(
                f"{header.name!r} has different columns from the files before it ({', '.join(header.columns)})."
            )
        chosen.append(found)
        unused[:] = [column for column in header.columns if column not in found.all()]
        return found.all()

    gathered = TableRows()
    for source in sources:
        rows = read_rows(source, reading, choose)
        head = list(islice(rows, HEAD_ROWS))
        if head:
            form = _format_of(head, chosen[0], source.name, options.decimal, points=delimiter != ";")
            gathered.add(chain(head, rows), chosen[0], form)
    if not gathered.where:
        raise no_content(sources, "rows")
    return _regular(gathered, chosen[0], unused, options, window, known, words)


@dataclass
class TableRows:
    """The rows of some tables: their times, their locations, and their numbers by series."""

    times: list[object] = field(default_factory=list)
    where: list[str] = field(default_factory=list)
    groups: dict[str, _Rows] = field(default_factory=dict)

    def add(self, rows: Iterable[Row], columns: Columns, form: NumberFormat) -> None:
        """Add the rows of one table. Raises TextgenError naming row and column."""
        named = columns.series is not None
        for place, cells in rows:
            stamp, rest = cells[: len(columns.times)], cells[len(columns.times) + named :]
            key = name_in(cells[len(stamp)], str(columns.series), place, "series name") if named else ""
            group = self.groups.setdefault(key, _Rows())
            group.rows.append(len(self.where))
            pairs = zip(rest, columns.numbers, strict=False)
            group.values.append([form.number(cell, place, column) for cell, column in pairs])
            beside = zip(rest[len(columns.numbers) :], columns.known, strict=True)
            group.known.append([known_cell(cell, form, place, column) for cell, column in beside])
            self.times.append(join_time_columns(columns.times, stamp) if stamp else None)
            self.where.append(place)


def _format_of(head: Sequence[Row], columns: Columns, name: str, asked: str | None, points: bool) -> NumberFormat:
    """The number format of a table, detected from its first rows; with a note if it has decimal commas. A table whose
    columns are separated by semicolons is not likely to have decimal `points`."""
    first = len(columns.all()) - len(columns.numbers) - len(columns.known)
    cells = (
        (f"{place}: column {column!r}", cell)
        for place, values in head
        for cell, column in zip(values[first:], columns.numbers, strict=False)
    )
    form = NumberFormat.of(cells, asked, points)
    if form.decimal == COMMA and asked is None:
        warnings.warn(TextgenNote(f"{name!r} is read with decimal commas."), stacklevel=2)
    return form


def _regular(
    gathered: TableRows,
    columns: Columns,
    unused: list[str],
    options: ForecastingOptions,
    window: int | None,
    known: Clock | None,
    words: Words | None,
) -> Table:
    groups = gathered.groups
    words = (
        words_of(columns.known, [row for group in groups.values() for row in group.known]) if words is None else words
    )
    _refuse_same_names(groups, columns)
    rows_of_series = [np.array(group.rows) for group in groups.values()]
    cells = TimeCells(gathered.times, gathered.where, rows_of_series, " ".join(columns.times))
    found = _timed(cells, columns, unused, options, known)
    clock, stamps = found.clock, found.stamps
    order, moved = sort_rows(stamps, cells.series)
    limit = gap_limit(options.season or clock.season()) if window is None else window
    series: list[Series] = []
    empty: list[TextgenError] = []
    for (key, group), places in zip(groups.items(), order, strict=True):
        rows = np.array(group.rows)[places]
        values = np.array(group.values)[places]
        where = [cells.where[row] for row in rows]
        offsets = _offsets(stamps[rows], clock, where, columns)
        beside = _known_of(key, [group.known[place] for place in places], columns, words, where)
        for place, target in enumerate(columns.targets):
            name = name_of(key, target, columns)
            if np.isnan(values[:, place]).all():
                what = f" for series {name!r}" if name != target else ""
                empty.append(TextgenError(f"column {target!r} has no numbers{what}."))
                continue
            grid = _Grid(offsets, where, int(stamps[rows[0]]), clock, limit)
            one = grid.filled(name, target, values[:, place], values[:, len(columns.targets) :])
            has_words = [words[column] is not None for column in columns.known]
            series.append(replace(one, known=grid.known(one, beside, has_words)))
    report_left_out(empty, len(series))
    return Table(series, clock, columns, (*moved, *found.notes), words)


def _known_of(key: str, cells: Sequence[list[Cell]], columns: Columns, words: Words, where: list[str]) -> Floats:
    """The values (N, columns) of the columns that are known in advance, in the rows of a series."""
    for place, column in enumerate(columns.static, len(columns.future)):
        only = constant(column, key or " ".join(columns.targets), [row[place] for row in cells], where)
        cells = [[*row[:place], only, *row[place + 1 :]] for row in cells]
    return known_values(columns.known, cells, words, where)


def _timed(
    cells: TimeCells, columns: Columns, unused: list[str], options: ForecastingOptions, known: Clock | None
) -> TimeColumn:
    """The times of a table, or the numbers of its rows if it has none."""
    if not columns.times:
        stamps = np.zeros(len(cells.where), dtype=np.int64)
        for rows in cells.series:
            stamps[rows] = np.arange(1, len(rows) + 1)
        return TimeColumn(ROWS, stamps)
    found = parse_times(cells, options.date_format, known)
    refuse_duplicates(found, cells, unused, columns)
    return found


def report_left_out(reasons: Sequence[TextgenError], left: int) -> None:
    """Warn of series that are left out, with the reasons. Raises the first one if no series is `left`."""
    if not reasons:
        return
    if not left:
        raise reasons[0]
    shown = " ".join(map(str, reasons[:MOST_REASONS])) + (" ..." if len(reasons) > MOST_REASONS else "")
    warnings.warn(TextgenWarning(f"{len(reasons):,} of {len(reasons) + left:,} series left out: {shown}"), stacklevel=2)


def name_of(key: str, target: str, columns: Columns) -> str:
    """The name of a series: its column, its name in the series column, or both."""
    return key if key and len(columns.targets) == 1 else "/".join(filter(None, (key, target)))


def _refuse_same_names(groups: Iterable[str], columns: Columns) -> None:
    """Raise TextgenError if two series would have the same name."""
    seen: dict[str, tuple[str, str]] = {}
    for key in groups:
        for target in columns.targets:
            name = name_of(key, target, columns)
            if name in seen:
                before, column = seen[name]
                raise TextgenError(
                    f"two series have the name {name!r}: column {column!r} of {before!r} and column {target!r} of "
                    f"{key!r}.",
                    hint=f"rename one in column {columns.series!r}.",
                )
            seen[name] = (key, target)


def gap_limit(season: int) -> int:
    """The longest gap that is filled by default: two seasons, at least 32 steps."""
    return max(32, 2 * season)


def _offsets(stamps: Integers, clock: Clock, where: list[str], columns: Columns) -> Integers:
    """The position of each row on the grid. Raises TextgenError for the first row between two steps."""
    apart = np.diff(stamps)
    wrong = np.flatnonzero(apart % clock.step)
    if len(wrong):
        raise TextgenError(
            f"{where[wrong[0] + 1]}: column {' '.join(columns.times)!r} is not a whole number of steps of "
            f"{clock.described()} after the row before it."
        )
    offsets: Integers = (stamps - stamps[0]) // clock.step
    return offsets


@dataclass(frozen=True)
class _Grid:
    """The positions of the rows of a series on its grid, and their locations in the table."""

    offsets: Integers
    where: list[str]
    start: int
    clock: Clock
    limit: int

    def filled(self, name: str, column: str, values: Floats, extras: Floats) -> Series:
        """The series from its first to its last number; there must be one. Gaps are filled with the last value."""
        known = np.flatnonzero(~np.isnan(values))
        places = self.offsets[known]
        gaps = np.diff(places) - 1
        if len(gaps) and gaps.max() > self.limit:
            first = int(np.flatnonzero(gaps > self.limit)[0])
            raise TextgenError(
                f"{self.where[known[first + 1]]}: column {column!r} has a gap of {gaps[first]:,} time steps before it, "
                f"longer than the window of {self.limit:,}.",
                hint=f"cut the table there, fill the gap, or give a longer {named('seq_length')}.",
            )
        places = places - places[0]
        missing = np.ones(places[-1] + 1, dtype=bool)
        missing[places] = False
        grid = np.zeros(len(missing))
        grid[places] = values[known]
        beside = np.full((len(missing), extras.shape[1]), np.nan)
        inside = (self.offsets >= self.offsets[known[0]]) & (self.offsets <= self.offsets[known[-1]])
        beside[self.offsets[inside] - self.offsets[known[0]]] = extras[inside]
        for extra in beside.T:
            extra[:] = np.nan_to_num(extra[_last_known(np.isnan(extra))])  # zeros without any number
        start = self.start + int(self.offsets[known[0]]) * self.clock.step
        return Series(name, start, grid[_last_known(missing)], missing, beside, column, self.clock)

    def known(self, series: Series, values: Floats, has_words: Sequence[bool]) -> Floats:
        """The values (rows, columns) of columns that are known in advance, from the first step of a series to the last
        row."""
        places = self.offsets - (series.start - self.start) // self.clock.step
        inside = places >= 0
        found = np.full((max(len(series), int(places[-1]) + 1), values.shape[1]), np.nan)
        found[places[inside]] = values[inside]
        return filled(found, has_words, len(series))


def _last_known(missing: Mask) -> Places:
    """For each step the last one up to it that is not missing; before the first such step, the first."""
    return np.maximum.accumulate(np.where(missing, missing.argmin(), np.arange(len(missing))))
