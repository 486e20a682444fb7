"""Parses a time column: detects its format and its clock, and counts its times.

The whole table decides. Of the formats that read every time, the one that makes the times most regular is chosen:
01/02/2012 is a month after 01/01/2012 if the other rows agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import numpy as np

from textgen.errors import TextgenError
from textgen.parameters import named
from textgen.series.columns import PARTS
from textgen.series.formats import DATES, TimeFormat
from textgen.series.regularity import Fit, commonest, fitting_clock
from textgen.series.times import ROW, Clock, Integers, Moments, Places

PLAUSIBLE = (1700, 2100)
"""Years that integers may mean, unless the column is called a year."""

_START = datetime(1970, 1, 1)


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
    readings = _readings(texts, cells)
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
    return replace(column, notes=(*column.notes, f"{rival.form.words} fits, too: --date-format {shown}"))


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


def _readings(texts: Sequence[str], cells: TimeCells) -> list[_Reading]:
    """The texts in every format that reads all of them."""
    found = [(form, _read(form, texts)) for form in map(TimeFormat, DATES)]
    return [_reading(form.as_in(texts), moments, cells) for form, moments in found if moments is not None]


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
