"""From a table to regular series: columns chosen, times counted, gaps filled and marked.

Long form has a column that says which series a row belongs to; wide form has a column for each series. Both come out
the same: one `Series` for each series and target column, all with one time step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from textgen.errors import TextgenError, UsageError
from textgen.series.columns import Columns, choose_columns
from textgen.series.order import in_order, refuse_twice
from textgen.series.settings import SeriesOptions, check_series
from textgen.series.time_column import Cells, joined, understood
from textgen.series.times import ROWS, Clock, Integers
from textgen.text.records import read_records
from textgen.text.sources import Source, SourceOptions

MISSING = ("", "na", "nan", "n/a", "null", "none", "?", "-")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """One series on a regular grid: `values` (N,) with gaps filled by the last value, `missing` (N,) where they were,
    `extras` (N, E); `start` is the time of the first value, in units of the clock."""

    name: str
    start: int
    values: Floats
    missing: npt.NDArray[np.bool_]
    extras: Floats
    clock: Clock = ROWS

    def __len__(self) -> int:
        return len(self.values)


@dataclass
class _Rows:
    """The rows of one series as they come: their numbers in the whole table, and what they hold."""

    rows: list[int] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """All series of a corpus, their common clock, and the columns they came from."""

    series: list[Series]
    clock: Clock
    columns: Columns
    notes: tuple[str, ...] = ()
    """What is worth saying of how its times were read."""

    def require_step(self, clock: Clock, name: str, whose: str) -> None:
        """Raise TextgenError if the rows of this table, called `name`, are not a step of that clock apart."""
        one_row = max(map(len, self.series)) == 1
        if not self.clock.same_steps(clock if not one_row else replace(clock, step=self.clock.step)):
            raise TextgenError(f"a step of {name!r} is {self.clock.described()}, but {whose} is {clock.described()}.")


def read_series(
    sources: Sequence[Source],
    options: SeriesOptions,
    reading: SourceOptions,
    window: int | None = None,
    known: Clock | None = None,
) -> Table:
    """Every series of some tables. `window` is the longest gap that is filled, in steps; None is no limit but the
    season's own (see `gap_limit`). `known` is the clock of training, whose format and step are tried first. Raises
    TextgenError naming row and column for what is no number or no time, for a time that comes twice, and for too long a
    gap."""
    check_series(options)
    chosen: list[Columns] = []
    unused: list[str] = []

    def choose(columns: list[str], name: str) -> list[str]:
        found = choose_columns(columns, name, options)
        if chosen and found != chosen[0]:
            raise UsageError(f"{name!r} has other columns than the files before it ({', '.join(columns)}).")
        chosen.append(found)
        unused[:] = [column for column in columns if column not in found.all()]
        return found.all()

    times: list[object] = []
    where: list[str] = []
    groups: dict[str, _Rows] = {}
    for record in read_records(sources, choose, reading):
        columns = chosen[0]
        cells = list(record.values)
        stamp = cells[: len(columns.times)]
        rest = cells[len(stamp) + (columns.series is not None) :]
        key = str(cells[len(stamp)]) if columns.series is not None else ""
        group = groups.setdefault(key, _Rows())
        group.rows.append(len(where))
        names = (*columns.targets, *columns.extras)
        group.values.append([number(cell, record.where, column) for cell, column in zip(rest, names, strict=True)])
        times.append(joined(columns.times, stamp) if stamp else None)
        where.append(record.where)
    series = [np.array(group.rows) for group in groups.values()]
    stamped = Cells(times, where, series, " ".join(chosen[0].times))
    return _regular(stamped, groups, chosen[0], unused, options, window, known)


def number(value: object, where: str, column: str) -> float:
    """What a cell holds as a number, NaN for nothing. Raises TextgenError naming row and column for anything else."""
    if value is None:
        return math.nan
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in MISSING:
            return math.nan
        try:
            found = float(text)
        except ValueError:
            found = math.inf
    elif isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        found = float(value)
    else:
        found = math.inf
    if math.isinf(found):
        raise TextgenError(f"{where}: column {column!r} holds {value!r}, which is no number.")
    return found


def _regular(
    cells: Cells,
    groups: dict[str, _Rows],
    columns: Columns,
    unused: list[str],
    options: SeriesOptions,
    window: int | None,
    known: Clock | None,
) -> Table:
    clock, stamps, notes = _timed(cells, columns, unused, options, known)
    order, moved = in_order(stamps, cells.series)
    limit = gap_limit(options.season or clock.season()) if window is None else window
    series = []
    for (key, group), places in zip(groups.items(), order, strict=True):
        rows = np.array(group.rows)[places]
        values = np.array(group.values)[places]
        where = [cells.where[row] for row in rows]
        offsets = _offsets(stamps[rows], clock, where, columns)
        for place, target in enumerate(columns.targets):
            name = key if key and len(columns.targets) == 1 else "/".join(filter(None, (key, target)))
            grid = _Grid(offsets, where, int(stamps[rows[0]]), clock, limit)
            series.append(grid.filled(name, target, values[:, place], values[:, len(columns.targets) :]))
    return Table(series, clock, columns, (*moved, *notes))


def _timed(
    cells: Cells, columns: Columns, unused: list[str], options: SeriesOptions, known: Clock | None
) -> tuple[Clock, Integers, tuple[str, ...]]:
    """The clock of a table, the time of each row (N,), and what is worth saying of them."""
    if not columns.times:
        stamps = np.zeros(len(cells.where), dtype=np.int64)
        for rows in cells.series:
            stamps[rows] = np.arange(1, len(rows) + 1)
        return ROWS, stamps, ()
    found = understood(cells, options.date_format, known)
    refuse_twice(found.clock, found.stamps, cells, unused, columns)
    return found.clock, found.stamps, found.notes


def gap_limit(season: int) -> int:
    """The longest gap that is filled where no window says otherwise: two seasons, at least 32 steps."""
    return max(32, 2 * season)


def _offsets(stamps: Integers, clock: Clock, where: list[str], columns: Columns) -> Integers:
    """The place of each row on the grid. Raises TextgenError for the first row that lies between two steps."""
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
    """Where the rows of a series stand on its grid, and what they are called."""

    offsets: Integers
    where: list[str]
    start: int
    clock: Clock
    limit: int

    def filled(self, name: str, column: str, values: Floats, extras: Floats) -> Series:
        """The series from its first number to its last, gaps filled by the last value before them."""
        known = np.flatnonzero(~np.isnan(values))
        if not len(known):
            series = "" if name == column else f" for series {name!r}"
            raise TextgenError(f"column {column!r} holds no number at all{series}.")
        places = self.offsets[known]
        gaps = np.diff(places) - 1
        if len(gaps) and gaps.max() > self.limit:
            first = int(np.flatnonzero(gaps > self.limit)[0])
            raise TextgenError(
                f"{self.where[known[first + 1]]}: column {column!r} has a gap of {gaps[first]:,} time steps before it, "
                f"longer than the window of {self.limit:,}.",
                hint="cut the table there, fill the gap, or give a longer --seq-length.",
            )
        places = places - places[0]
        missing = np.ones(places[-1] + 1, dtype=bool)
        missing[places] = False
        last = np.maximum.accumulate(np.where(missing, 0, np.arange(len(missing))))
        grid = np.zeros(len(missing))
        grid[places] = values[known]
        beside = np.full((len(missing), extras.shape[1]), np.nan)
        inside = (self.offsets >= self.offsets[known[0]]) & (self.offsets <= self.offsets[known[-1]])
        beside[self.offsets[inside] - self.offsets[known[0]]] = extras[inside]
        start = self.start + int(self.offsets[known[0]]) * self.clock.step
        return Series(name, start, grid[last], missing, _carried_on(beside), self.clock)


def _carried_on(extras: Floats) -> Floats:
    """Extra columns (N, E) with every gap filled by the last value before it, by the first after it at the start."""
    filled = extras.copy()
    for column in filled.T:
        known = np.flatnonzero(~np.isnan(column))
        if len(known):
            places = np.maximum(np.searchsorted(known, np.arange(len(column)), side="right") - 1, 0)
            column[:] = column[known[places]]
        else:
            column[:] = 0.0
    return filled
