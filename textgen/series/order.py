"""Sorts rows by time, and explains duplicate times within a series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textgen.errors import TextgenError
from textgen.parameters import named
from textgen.series.columns import Columns, time_parts, typed
from textgen.series.time_column import TimeCells
from textgen.series.times import HOUR, SECOND, Clock, Integers, Places

REVERSED, SORTED = "rows are newest first and were reversed", "rows were sorted by time"
SUNDAY_NIGHT = 4 * HOUR
"""Clocks are set back on a Sunday before this time of day."""


def sort_rows(stamps: Integers, series: Sequence[Places]) -> tuple[list[Places], tuple[str, ...]]:
    """For each series the indices (N,) that sort its rows by time, and a note if the table is in another order."""
    apart = [np.diff(stamps[rows]) for rows in series]
    if all(np.all(each > 0) for each in apart):
        return [np.arange(len(rows)) for rows in series], ()
    order = [np.argsort(stamps[rows], kind="stable") for rows in series]
    return order, (REVERSED if all(np.all(each <= 0) for each in apart) else SORTED,)


def refuse_duplicates(
    clock: Clock, stamps: Integers, cells: TimeCells, unused: Sequence[str], columns: Columns
) -> None:
    """Raise TextgenError with a suitable hint for the first duplicate time of a series; `unused` are the columns of the
    table that are not read."""
    duplicates: dict[int, int] = {}
    for rows in cells.series:
        seen: dict[int, int] = {}
        for row in rows:
            first = seen.setdefault(int(stamps[row]), int(row))
            if first != row:
                duplicates[int(row)] = first
    if not duplicates:
        return
    row = min(duplicates)
    first = duplicates[row]
    time, before = cells.values[row], cells.values[first]
    what = "a second time." if row == first + 1 else f"a second time; the first is in {cells.where[first]}."
    hint = _hint(clock, stamps[list(duplicates)], cells, unused, columns)
    if clock.unit == SECOND and time != before:
        what = f"after {before}, but times are counted in whole seconds, and these are the same."
        hint = "leave that column out: without times, rows are counted."
    raise TextgenError(f"{cells.where[row]}: column {cells.column!r} has {time} {what}", hint=hint)


def _hint(clock: Clock, stamps: Integers, cells: TimeCells, unused: Sequence[str], columns: Columns) -> str:
    parts = time_parts([*columns.all(), *unused], columns.times)
    if len(parts) > len(columns.times):
        return f"{typed(parts)} combines several columns into one time."
    if clock.unit == SECOND and not clock.zone and _set_back(clock.local(stamps)):
        return "where the clock was set back, times need their UTC offset: 2020-10-25 02:00+01:00."
    if columns.series is not None:
        return "remove one of the rows, or add them up."
    others = f" ({', '.join(map(repr, unused))}?)" if 0 < len(unused) < 6 else ""
    return (
        f"{named('series_column', 'NAME')} says which of several series a row belongs to{others}; "
        "otherwise remove one of the rows."
    )


def _set_back(local: Integers) -> bool:
    days, seconds = np.divmod(local, 24 * HOUR)
    return bool(np.all(seconds < SUNDAY_NIGHT) and np.all((days + 3) % 7 == 6))
