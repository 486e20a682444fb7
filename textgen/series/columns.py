"""Which column of a table is what: a time, a series to forecast, the name of one, or something to learn from beside."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from textgen.errors import UsageError
from textgen.series.settings import SeriesOptions
from textgen.text.records import require_columns

TIME_NAMES = ("date", "time", "timestamp", "datetime", "ds", "month")
"""Names of columns that are taken for times where none is named."""

PARTS = ("year", "quarter", "month", "week", "day", "hour", "minute", "second")
"""Names of columns that hold a part of a time each."""

COARSE = ("year", "quarter", "week", "day")
"""Names that are taken for times where none of the others is there."""

ALL = "all"


@dataclass(frozen=True)
class Columns:
    """The columns of a table by what they are."""

    times: tuple[str, ...]
    targets: tuple[str, ...]
    extras: tuple[str, ...]
    series: str | None

    def all(self) -> list[str]:
        """Their names, in the order in which they are read."""
        return [*self.times, *([self.series] if self.series is not None else []), *self.targets, *self.extras]


def choose_columns(columns: Sequence[str], name: str, options: SeriesOptions) -> Columns:
    """What the columns of a table are, by the options, or by their names where these leave it open. Raises UsageError
    naming the columns."""
    named = [*options.time_column, *options.extra_column]
    named += [options.series_column] if options.series_column is not None else []
    targets = list(options.target_column)
    require_columns(columns, [*named, *(targets if targets != [ALL] or ALL in columns else [])], name)
    times = list(options.time_column)
    if not times:
        left = [column for column in columns if column not in named + targets]
        times = [column for names in (TIME_NAMES, COARSE) for column in left if column.strip().lower() in names][:1]
    rest = [column for column in columns if column not in {*named, *times}]
    if targets == [ALL] and ALL not in columns:
        targets = rest
    if not targets and len(rest) == 1:
        targets = rest
    if not targets:
        there = ", ".join(map(repr, rest)) or "none"
        parts = time_parts(columns, times)
        spread = "" if len(parts) < 2 or options.time_column else f" If a time is spread over columns: {typed(parts)}."
        raise UsageError(
            f"{name!r} has more than one column that could be forecast, or none (there are: {there}).",
            hint="--target-column NAME says which; --target-column all takes every one of them." + spread,
        )
    return Columns(tuple(times), tuple(targets), tuple(options.extra_column), options.series_column)


def time_parts(columns: Sequence[str], times: Sequence[str]) -> list[str]:
    """Columns whose names say that each holds a part of a time: year, month, ...; or a date and a time of day. Empty if
    there are none, or if `times` (those in use) are others."""
    lower = {column.strip().lower(): column for column in columns}
    parts = [lower[name] for name in PARTS if name in lower] if "year" in lower else []
    if not parts and "date" in lower:
        parts = [lower[name] for name in ("date", "time", "hour") if name in lower][:2]
    return parts if set(times) <= set(parts) else []


def typed(columns: Sequence[str]) -> str:
    """Time columns as they are typed."""
    return " ".join(f"--time-column {shlex.quote(name)}" for name in columns)
