"""Chooses the columns of a table: times, series to forecast, the names of series, and extra inputs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from textgen.errors import UsageError
from textgen.parameters import named
from textgen.series.options import ForecastingOptions
from textgen.text.header import Header, may_be_text
from textgen.text.records import require_columns

TIME_NAMES = ("date", "time", "timestamp", "datetime", "ds", "month")
"""Names of columns that are taken for times if none is given."""

PARTS = ("year", "quarter", "month", "week", "day", "hour", "minute", "second")
"""Names of columns that each hold a part of a time."""

COARSE = ("year", "quarter", "week", "day")
"""Names of coarse time columns, used if there is none of `TIME_NAMES`."""

ALL = "all"


@dataclass(frozen=True)
class Columns:
    """The columns of a table by their use."""

    times: tuple[str, ...]
    targets: tuple[str, ...]
    extras: tuple[str, ...]
    series: str | None

    def all(self) -> list[str]:
        """The names of all columns, in the order in which they are read."""
        return [*self.times, *([self.series] if self.series is not None else []), *self.numbers]

    @property
    def numbers(self) -> list[str]:
        """The columns that hold numbers: the targets, then the extras."""
        return [*self.targets, *self.extras]


def choose_columns(header: Header, options: ForecastingOptions) -> Columns:
    """Choose the columns of a table by the options, otherwise by their names, otherwise by the dates that one of them
    holds. Raises UsageError naming the columns."""
    columns, name = header.columns, header.name
    asked = [*options.time_column, *options.extra_column]
    asked += [options.series_column] if options.series_column is not None else []
    targets = list(options.target_column)
    require_columns(columns, [*asked, *(targets if targets != [ALL] or ALL in columns else [])], name)
    times = list(options.time_column)
    if not times:
        left = [column for column in columns if column not in asked + targets]
        times = [column for names in (TIME_NAMES, COARSE) for column in left if column.strip().lower() in names][:1]
        times = times or _unnamed_times(header, {*asked, *targets})
    rest = [column for column in columns if column not in {*asked, *times}]
    if targets == [ALL] and ALL not in columns:
        targets = rest
    if not targets and len(rest) == 1:
        _refuse_no_header(header)
        targets = rest
    if not targets:
        _refuse_no_header(header)
        raise _no_target(header, rest, times, options)
    return Columns(tuple(times), tuple(targets), tuple(options.extra_column), options.series_column)


def _no_target(header: Header, rest: Sequence[str], times: Sequence[str], options: ForecastingOptions) -> UsageError:
    """The error if the remaining columns, `rest`, leave open which one to forecast."""
    parts = time_parts(header.columns, times)
    spread = "" if len(parts) < 2 or options.time_column else f" If a time has several columns: {typed(parts)}."
    if not rest:
        return UsageError(
            f"{header.name!r} has no column to forecast; its columns are {', '.join(map(repr, header.columns))}.",
            hint="add a column of numbers, or name fewer columns in the other options." + spread,
        )
    words = [column for column in rest if column in header.texts]
    series = ""
    if options.series_column is None and 0 < len(words) < len(rest):
        series = f" If {words[0]!r} names the series of each row: {named('series_column', words[0])}."
    return UsageError(
        f"{header.name!r} has more than one column that could be forecast: {', '.join(map(repr, rest))}.",
        hint=f"{named('target_column', 'NAME')} says which; {named('target_column', ALL)} takes every one of them."
        + series
        + spread,
    )


def _unnamed_times(header: Header, named: set[str]) -> list[str]:
    """The time column if none has a usual name: the only one that holds dates, or one without a name."""
    dates = [column for column in header.times if column not in named]
    return dates if len(dates) == 1 else [column for column in header.columns if not column]


def _refuse_no_header(header: Header) -> None:
    """Raise UsageError if the first row of a csv file has no column names, but only numbers or times."""
    names = [column for column in header.columns if column]
    if header.in_first_row and names and not any(may_be_text([column]) for column in names):
        raise UsageError(
            f"the first row of {header.name!r} has no column names, but {', '.join(map(repr, names[:5]))}.",
            hint="add a first line with a name for each column, such as: date,value",
        )


def time_parts(columns: Sequence[str], times: Sequence[str]) -> list[str]:
    """Columns that by their names each hold a part of a time: year, month, ...; or a date and a time of day. Empty if
    there are none, or if `times`, the columns in use, include others."""
    lower = {column.strip().lower(): column for column in columns}
    parts = [lower[name] for name in PARTS if name in lower] if "year" in lower else []
    if not parts and "date" in lower:
        parts = [lower[name] for name in ("date", "time", "hour") if name in lower][:2]
    return parts if set(times) <= set(parts) else []


def typed(columns: Sequence[str]) -> str:
    """Time columns as command-line options."""
    return " ".join(f"--time-column {shlex.quote(name)}" for name in columns)
