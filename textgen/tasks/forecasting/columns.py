"""The columns of a table: times, series to forecast, names of series, and inputs beside them.

The whole table decides how its times are written. Of the formats that read every time, the one is right whose times
are regular: 01/02/2012 after 01/01/2012 is a month later if the table goes on so.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import numpy as np

from textgen.data.tables import Header, may_be_text, require_columns
from textgen.errors import TextgenError, UsageError
from textgen.options import named
from textgen.tasks.forecasting.formats import DATES, TimeFormat
from textgen.tasks.forecasting.options import ForecastingOptions
from textgen.tasks.forecasting.times import (
    HOUR,
    ROW,
    SECOND,
    Clock,
    Fit,
    Integers,
    Moments,
    Places,
    commonest,
    fitting_clock,
)

TIME_NAMES = ("date", "time", "timestamp", "datetime", "ds", "month")
"""Names of columns that are taken for times if none is given."""

PARTS = ("year", "quarter", "month", "week", "day", "hour", "minute", "second")
"""Names of columns that each hold a part of a time."""

COARSE = ("year", "quarter", "week", "day")
"""Names of coarse time columns, used if there is none of `TIME_NAMES`."""

ALL = "all"
PLAUSIBLE = (1700, 2100)  # years that integers may mean, unless the column is called a year
_START = datetime(1970, 1, 1)
REVERSED, SORTED = "rows are newest first and were reversed", "rows were sorted by time"
SUNDAY_NIGHT = 4 * HOUR
"""Clocks are set back on a Sunday before this time of day."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table by their use."""

    times: tuple[str, ...]
    targets: tuple[str, ...]
    extras: tuple[str, ...]
    series: str | None
    future: tuple[str, ...] = ()
    static: tuple[str, ...] = ()

    def all(self) -> list[str]:
        """The names of all columns, in the order in which they are read."""
        return [*self.times, *([self.series] if self.series is not None else []), *self.numbers, *self.known]

    @property
    def known(self) -> list[str]:
        """The columns that are known in advance: the future ones, then the static ones."""
        return [*self.future, *self.static]

    @property
    def numbers(self) -> list[str]:
        """The columns that hold numbers: the targets, then the extras."""
        return [*self.targets, *self.extras]


def choose_columns(header: Header, options: ForecastingOptions) -> Columns:
    """Choose the columns of a table by the options, otherwise by their names; otherwise the only one that holds dates,
    or one without a name, is the time. Raises UsageError naming the columns."""
    columns, name = header.columns, header.name
    known = (options.future_column, options.static_column)
    asked = [*options.time_column, *options.extra_column, *known[0], *known[1]]
    asked += [options.series_column] if options.series_column is not None else []
    targets = list(options.target_column)
    require_columns(columns, [*asked, *(targets if targets != [ALL] or ALL in columns else [])], name)
    times = list(options.time_column)
    if not times:
        left = [column for column in columns if column not in asked + targets]
        times = [column for names in (TIME_NAMES, COARSE) for column in left if column.strip().lower() in names][:1]
        dates = [column for column in header.times if column not in asked + targets]
        times = times or (dates if len(dates) == 1 else [column for column in columns if not column])
    rest = [column for column in columns if column not in {*asked, *times}]
    if targets == [ALL] and ALL not in columns:
        targets = rest
    if not targets and len(rest) == 1:
        _refuse_no_header(header)
        targets = rest
    if not targets:
        _refuse_no_header(header)
        raise _no_target(header, rest, times, options)
    extras = tuple(options.extra_column)
    return Columns(tuple(times), tuple(targets), extras, options.series_column, *map(tuple, known))


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
    """Time columns as messages name them."""
    return " ".join(named("time_column", shlex.quote(name)) for name in columns)


@dataclass(frozen=True)
class TimeColumn:
    """Times (N,) as counts of a clock, and notes on how they were read."""

    clock: Clock
    stamps: Integers
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Reading:
    """The times of a table in one format, the clock that suits them, and how many rows go back in time."""

    form: TimeFormat
    moments: Moments
    fit: Fit
    backward: int

    @property
    def disorder(self) -> tuple[int, int]:
        """How irregular the times are: distances that are not a step, then rows that go back."""
        return self.fit.irregular, self.backward


@dataclass(frozen=True)
class TimeCells:
    """The cells of a time column (N,), the location of each row, the rows of each series, and the column's name."""

    values: Sequence[object]
    where: Sequence[str]
    series: Sequence[Places]
    column: str


def parse_times(cells: TimeCells, date_format: str | None = None, known: Clock | None = None) -> TimeColumn:
    """The times of a table: in the format asked for, otherwise in that of the `known` clock of training, otherwise in
    the one that makes them most regular. Raises TextgenError naming the row of a cell that is not a time."""
    moments = _typed(cells.values)
    if moments is not None:
        form = TimeFormat(_typed_format(moments))
        return _on_clock(_reading(form, moments, cells), cells, known)
    texts = [_text(value) for value in cells.values]
    if date_format is not None:
        return _on_clock(_asked(date_format, texts, cells), cells, known)
    integers = all(_is_integer(text) for text in texts)
    if known is not None and known.format and (found := _read(TimeFormat(known.format), texts)) is not None:
        return _on_clock(_reading(TimeFormat(known.format).as_in(texts), found, cells), cells, known)
    if integers and known is not None and known.unit == ROW:
        return _counter(texts, cells)
    read = [(form, _read(form, texts)) for form in map(TimeFormat, DATES)]
    readings = [_reading(form.as_in(texts), moments, cells) for form, moments in read if moments is not None]
    if integers:
        readings = [each for each in readings if _is_plausible(each, cells.column)]
        if not readings:
            return _counter(texts, cells)
    if not readings:
        raise _unreadable(texts, cells)
    best = min(readings, key=lambda each: each.disorder)
    column = _on_clock(best, cells, known)
    rivals = [each for each in readings if each.disorder == best.disorder and each is not best]
    rival = next((each for each in rivals if not np.array_equal(each.moments.local, best.moments.local)), None)
    if rival is None or known is not None:
        return column
    plain = rival.form.pattern.replace("%-", "%").replace("%^", "%").replace("%:z", "%z")
    shown = f"'{plain}'" if " " in plain else plain
    return replace(column, notes=(*column.notes, f"{rival.form.words} fits, too: {named('date_format', shown)}"))


def _counter(texts: Sequence[str], cells: TimeCells) -> TimeColumn:
    """Integers that count rows rather than mean dates."""
    stamps = np.array([int(text) for text in texts], dtype=np.int64)
    return TimeColumn(Clock(ROW, commonest(_distances(stamps, cells))), stamps)


def _distances(stamps: Integers, cells: TimeCells) -> Integers:
    """The distances between the distinct times of each series."""
    return np.concatenate([np.zeros(0, np.int64), *(np.diff(np.unique(stamps[rows])) for rows in cells.series)])


def _is_integer(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdecimal() and len(digits) <= 15


def _is_plausible(reading: _Reading, column: str) -> bool:
    """Whether integers are dates: regular, and of plausible years."""
    years = reading.moments.local.astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970
    plausible = bool(np.all((years >= PLAUSIBLE[0]) & (years <= PLAUSIBLE[1])))
    return reading.fit.regular and (plausible or "year" in column.lower())


def _text(value: object) -> str:
    """A cell as text. 2020.0 is 2020: some programs write integers like that."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _typed(values: Sequence[object]) -> Moments | None:
    """Cells that hold dates rather than text; None unless all do."""
    found = [value for value in values if isinstance(value, date)]
    if not found or len(found) < len(values):
        return None
    plain = [value if isinstance(value, datetime) else datetime(value.year, value.month, value.day) for value in found]
    walls = [value.replace(tzinfo=None) for value in plain]
    local = np.array([round((wall - _START).total_seconds()) for wall in walls], dtype=np.int64)
    offsets = [value.utcoffset() for value in plain]
    if any(offset is None for offset in offsets):
        return Moments(local)
    seconds = [(offset or timedelta()).total_seconds() for offset in offsets]
    name = str(plain[0].tzinfo)
    named = "/" in name and len({str(value.tzinfo) for value in plain}) == 1
    return Moments(local, np.array(seconds, dtype=np.int64), name if named else "")


def _typed_format(moments: Moments) -> str:
    if moments.offsets is not None:
        return "%Y-%m-%d %H:%M:%S%:z"
    return "%Y-%m-%d" if not np.any(moments.local % 86_400) else "%Y-%m-%d %H:%M:%S"


def _read(form: TimeFormat, texts: Sequence[str]) -> Moments | None:
    """Some texts in one format, or None if it does not read all of them."""
    known = {}
    for text in texts:
        if text not in known:
            moment = form.read(text)
            if moment is None:
                return None
            known[text] = moment
    found = [known[text] for text in texts]
    with_offset = sum(moment.offset is not None for moment in known.values())
    if with_offset not in (0, len(known)):
        return None
    local = np.array([moment.local for moment in found], dtype=np.int64)
    offsets = np.array([moment.offset for moment in found], dtype=np.int64) if with_offset else None
    return Moments(local, offsets)


def _reading(form: TimeFormat, moments: Moments, cells: TimeCells) -> _Reading:
    series, backward = [], 0
    for rows in cells.series:
        absolute = moments.absolute[rows]
        order = np.unique(absolute, return_index=True)[1]
        series.append(moments.of(rows[order]))
        falls = int((np.diff(absolute) < 0).sum())
        backward += min(falls, len(rows) - 1 - falls)
    return _Reading(form, moments, fitting_clock(series, form.coarse), backward)


def _asked(date_format: str, texts: Sequence[str], cells: TimeCells) -> _Reading:
    form = TimeFormat.asked(date_format)
    moments = _read(form, texts)
    if moments is None:
        row = next((row for row, text in enumerate(texts) if form.read(text) is None), 0)
        raise TextgenError(
            f"{cells.where[row]}: column {cells.column!r} has {_shown(texts[row])}, which {named('date_format')} "
            f"{date_format!r} does not read."
        )
    return _reading(form.as_in(texts), moments, cells)


def _unreadable(texts: Sequence[str], cells: TimeCells) -> TextgenError:
    """The error for the first time that is not in the format of those before it."""
    wrong = 0
    for form in map(TimeFormat, DATES):
        read = [form.read(text) for text in texts]
        if None not in read:
            offsets = [moment.offset is None for moment in read if moment is not None]
            row = offsets.index(not offsets[0])
            has, others = ("no UTC offset", "have one") if offsets[row] else ("a UTC offset", "have none")
            column = f"{cells.where[row]}: column {cells.column!r}"
            return TextgenError(f"{column} has the time {texts[row]!r} with {has}, but the rows before it {others}.")
        wrong = max(wrong, read.index(None))
    return TextgenError(
        f"{cells.where[wrong]}: column {cells.column!r} has {_shown(texts[wrong])}, which cannot be read as a date.",
        hint="dates look like 2016-07-01, 2016-07-01 14:00, 2016-07, 1.7.2016 or 7/1/2016, the same in every row; "
        f"{named('date_format', '%d/%m/%Y')} says how they are written.",
    )


def _shown(text: str) -> str:
    return f"the time {text!r}" if text else "an empty cell"


def _on_clock(reading: _Reading, cells: TimeCells, known: Clock | None) -> TimeColumn:
    """The times of a reading on the known clock if they suit it, otherwise on their own."""
    moments, clock = reading.moments, reading.fit.clock
    if known is not None and known.unit != ROW:
        stamps = known.count(moments)
        if stamps is not None:
            distances = _distances(stamps, cells)
            if not len(distances) or commonest(distances) == known.step:
                clock = known
    zone = known.zone if known is not None and moments.offsets is None else moments.named_zone()
    clock = replace(clock, zone=zone, format=reading.form.pattern)
    counted = clock.count(moments)
    assert counted is not None
    return TimeColumn(clock, counted)


def join_time_columns(names: Sequence[str], cells: Sequence[object]) -> object:
    """The cells of several time columns as one value: year, month, day ... by their names, or a date and a time."""
    lower = [name.strip().lower() for name in names]
    if len(names) == 1:
        return cells[0]
    if "year" not in lower or not set(lower) <= set(PARTS):
        return " ".join(_part(cell) for cell in cells)
    found = {name: _part(cell) for name, cell in zip(lower, cells, strict=True)}
    year = found["year"]
    if "quarter" in found:
        return f"{year}Q{found['quarter'].upper().removeprefix('Q')}"
    if "week" in found:
        return f"{year}-W{found['week']:0>2}"
    text = "-".join([year, *(f"{found[part]:0>2}" for part in ("month", "day") if part in found)])
    clock = [f"{found[part]:0>2}" for part in ("hour", "minute", "second") if part in found]
    if clock and "day" in found:
        text += " " + ":".join(clock if len(clock) > 1 else [*clock, "00"])
    return text


def _part(cell: object) -> str:
    text = _text(cell)
    return text.removesuffix(".0").removesuffix(" 00:00:00")


def sort_rows(stamps: Integers, series: Sequence[Places]) -> tuple[list[Places], tuple[str, ...]]:
    """For each series the indices (N,) that sort its rows by time, and a note if the table is in another order."""
    apart = [np.diff(stamps[rows]) for rows in series]
    if all(np.all(each > 0) for each in apart):
        return [np.arange(len(rows)) for rows in series], ()
    order = [np.argsort(stamps[rows], kind="stable") for rows in series]
    return order, (REVERSED if all(np.all(each <= 0) for each in apart) else SORTED,)


def refuse_duplicates(found: TimeColumn, cells: TimeCells, unused: Sequence[str], columns: Columns) -> None:
    """Raise TextgenError with a suitable hint for the first duplicate time of a series; `unused` are the columns of the
    table that are not read."""
    clock, stamps = found.clock, found.stamps
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
    days, seconds = np.divmod(stamps, 24 * HOUR)
    on_sunday_night = np.all(seconds < SUNDAY_NIGHT) and np.all((days + 3) % 7 == 6)
    if clock.unit == SECOND and not clock.zone and on_sunday_night:
        return "where the clock was set back, times need their UTC offset: 2020-10-25 02:00+01:00."
    if columns.series is not None:
        return "remove one of the rows, or add them up."
    others = f" ({', '.join(map(repr, unused))}?)" if 0 < len(unused) < 6 else ""
    return (
        f"{named('series_column', 'NAME')} says which of several series a row belongs to{others}; "
        "otherwise remove one of the rows."
    )
