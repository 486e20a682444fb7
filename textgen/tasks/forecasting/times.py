"""Times as whole numbers: the clock of a series says what they count and how they are written.

Times are counted in seconds, days, months or rows. A day may be one of some weekdays only (business days), and a
month stands for one of its days: the first, the last, the 15th. A series is a regular grid of such numbers, so that
a gap is a number of steps; which clock a table keeps is found from its times. The calendar gives the hour, weekday,
month and day of the year of a step, as sines and cosines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from textgen.errors import TextgenError
from textgen.formatting import plural
from textgen.tasks.forecasting.formats import WEEKDAYS, TimeFormat, offset_of

SECOND, DAY_UNIT, MONTH, ROW = "second", "day", "month", "row"
UNITS = (SECOND, DAY_UNIT, MONTH, ROW)
HOUR, DAY, WEEK = 3600, 86_400, 604_800
NOUNS = {
    SECOND: ((WEEK, "week"), (DAY, "day"), (HOUR, "hour"), (60, "minute"), (1, "second")),
    MONTH: ((12, "year"), (3, "quarter"), (1, "month")),
}
EVERY_DAY, BUSINESS_DAYS = "1111111", "1111100"  # the weekdays that have a row, from Monday on
MONDAY = 4  # the first Monday, in days since 1970
MOST_CHANGES = 4  # how often the UTC offset of a place may change in a year; twice is usual
_LATEST = datetime(9998, 1, 1)
_ZONE = re.compile(r"|[+-]\d\d:\d\d(?: -?\d{1,15} [+-]\d\d:\d\d)*|[A-Za-z][\w+/-]*")

Integers = npt.NDArray[np.int64]
Places = npt.NDArray[np.intp]
YEAR = 365.2425 * DAY
ENOUGH = 2.5
"""How many periods training must cover before their phase is an input: with fewer, a season looks like a trend."""

Floats = npt.NDArray[np.float64]
ENOUGH_ABSENT = 4
"""How often a weekday must be absent before a table is taken to omit it, unless it is the whole weekend."""


@dataclass(frozen=True)
class Moments:
    """Times of a table: `local` (N,) seconds since 1970 in local time; `offsets` (N,) the seconds by which that is
    ahead of UTC, None if unknown; and the name of the time zone, '' if unknown."""

    local: Integers
    offsets: Integers | None = None
    zone: str = ""

    def __len__(self) -> int:
        return len(self.local)

    def of(self, rows: Places) -> Moments:
        """The times of some rows."""
        return Moments(self.local[rows], None if self.offsets is None else self.offsets[rows], self.zone)

    @property
    def absolute(self) -> Integers:
        """Seconds since 1970 (N,), in UTC if the offsets are known."""
        return self.local if self.offsets is None else self.local - self.offsets

    def named_zone(self) -> str:
        """The zone of a clock: its name, otherwise the offsets and when they changed; only the last offset if they
        change more often than those of a place."""
        if self.offsets is None or self.zone:
            return self.zone
        seconds, first = np.unique(self.absolute, return_index=True)
        offsets = self.offsets[first]
        changed = np.flatnonzero(np.diff(offsets)) + 1
        if len(changed) > MOST_CHANGES * (1 + (seconds[-1] - seconds[0]) / (365 * DAY)):
            return _offset_text(offsets[-1])
        changes = [f"{seconds[row]} {_offset_text(offsets[row])}" for row in changed]
        return " ".join([_offset_text(offsets[0]), *changes])


@dataclass(frozen=True)
class Clock:
    """How the times of a series are counted and written: the unit, the units per step, and the format.

    `week` are the weekdays that days and months fall on. `day` is the day of the month that a month stands for, or the
    last one of a shorter month; if `week` skips that day, it is the weekday before it, or the one after the first.
    `second` is the time of day of days and months. `zone` is '', the name of a time zone, or UTC offsets separated by
    the seconds since 1970 at which they change: '+02:00 1667091600 +01:00'. `format` is empty for counters.
    """

    unit: str
    step: int
    day: int = 1
    second: int = 0
    week: str = EVERY_DAY
    zone: str = ""
    format: str = ""

    def __post_init__(self) -> None:
        week = len(self.week) == 7 and set(self.week) <= {"0", "1"} and "1" in self.week
        if self.unit not in UNITS or self.step < 1 or not week or not 1 <= self.day <= 31 or not 0 <= self.second < DAY:
            raise ValueError("an impossible clock")
        if not _ZONE.fullmatch(self.zone):
            raise ValueError("an impossible time zone")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Clock:
        """A clock from its fields by name. Raises KeyError, TypeError or ValueError for other content."""
        unit, week, zone, form = (str(content[name]) for name in ("unit", "week", "zone", "format"))
        step, day, second = (int(content[name]) for name in ("step", "day", "second"))
        return cls(unit, step, day, second, week, zone, form)

    def same_steps(self, other: Clock) -> bool:
        """Whether both have the same steps, at any time of the day or month."""
        same_week = self.unit != DAY_UNIT or self.week == other.week
        return (self.unit, self.step) == (other.unit, other.step) and same_week

    def season(self) -> int:
        """The usual seasonal period in steps; 1 if there is none.

        A day for steps shorter than that, a week of days, a year of weeks, months or quarters.
        """
        if self.unit == MONTH:
            return 12 // self.step if 12 % self.step == 0 else 1
        if self.unit == DAY_UNIT and self.week != EVERY_DAY:
            week = self.week.count("1")
            return week if self.step == 1 else 52 if self.step == week else 1
        seconds = self.step * (DAY if self.unit == DAY_UNIT else 1)
        if self.unit == ROW or seconds > 8 * DAY:
            return 1
        period = DAY if seconds < DAY else WEEK if seconds < WEEK else 364 * DAY
        return max(1, round(period / seconds)) if period % seconds == 0 else 1

    def described(self) -> str:
        """A step in words: '1 hour'."""
        for size, noun in NOUNS.get(self.unit, ()):
            if self.step % size == 0:
                return plural(self.step // size, noun)
        if self.unit == DAY_UNIT and self.week == EVERY_DAY and self.step % 7 == 0:
            return plural(self.step // 7, "week")
        if self.unit == DAY_UNIT and self.week == BUSINESS_DAYS:
            return plural(self.step, "business day")
        weekdays = [name[:3] for name, there in zip(WEEKDAYS, self.week, strict=True) if there == "1"]
        only = "" if self.week == EVERY_DAY else f" ({', '.join(weekdays)})"
        return plural(self.step, self.unit) + only

    def count(self, moments: Moments) -> Integers | None:
        """Moments as counts (N,) of this clock's unit, or None if one of them is not on this clock. Moments without
        offsets are local times of its zone."""
        if self.unit == SECOND:
            local = moments.offsets is None
            return moments.absolute - _offsets(self.zone, moments.local, from_utc=False) * int(local)
        days, rest = np.divmod(moments.local, DAY)
        if np.any(rest != self.second):
            return None
        if self.unit == MONTH:
            times = _months(days)
            return times if np.array_equal(self._days_of_months(times), days) else None
        weeks, weekday = np.divmod(days - MONDAY, 7)
        chosen = np.array([each == "1" for each in self.week])
        if not chosen[weekday].all():
            return None
        counted: Integers = weeks * chosen.sum() + (np.cumsum(chosen) - 1)[weekday]
        return counted

    def local(self, times: Integers) -> Integers:
        """Times (...) as seconds since 1970 in local time."""
        if self.unit == SECOND:
            return times + _offsets(self.zone, times, from_utc=True)
        if self.unit == MONTH:
            return self._days_of_months(times) * DAY + self.second
        chosen = np.flatnonzero([each == "1" for each in self.week])
        weeks, rank = np.divmod(times, len(chosen))
        days: Integers = MONDAY + 7 * weeks + chosen[rank]
        return days * DAY + self.second

    def _days_of_months(self, times: Integers) -> Integers:
        """The days since 1970 that months stand for."""
        first, following = (_first_days(times + ahead) for ahead in (0, 1))
        days: Integers = first + np.minimum(self.day, following - first) - 1
        if self.week == EVERY_DAY:
            return days
        chosen = np.array([each == "1" for each in self.week])
        for _ in range(6):
            off = ~chosen[(days - MONDAY) % 7]
            days = days + np.where(off, 1 if self.day == 1 else -1, 0)
        return days

    def elapsed(self, times: Integers) -> Integers:
        """Times (...) as the calendar reads them: months or rows unchanged, others as seconds in local time."""
        return times if self.unit in (MONTH, ROW) else self.local(times)

    def labels(self, times: Integers) -> list[str | int]:
        """Times (N,) as the table writes them; counters, and times of digits only, as integers."""
        if self.unit == ROW:
            return [int(time) for time in times]
        local = self.local(times)
        offsets = _offsets(self.zone, times if self.unit == SECOND else local, from_utc=self.unit == SECOND)
        form = TimeFormat(self.format or "%Y-%m-%d %H:%M:%S")
        texts = [form.write(int(each), int(offset)) for each, offset in zip(local, offsets, strict=True)]
        return [int(text) if text.isdecimal() and not text.startswith("0") else text for text in texts]

    def label(self, time: int) -> str | int:
        """One time as the table writes it."""
        return self.labels(np.array([time], dtype=np.int64))[0]


ROWS = Clock(ROW, 1)
"""The clock of a table without times."""


def _offset_text(offset: int) -> str:
    minutes = abs(int(offset)) // 60
    return f"{'-' if offset < 0 else '+'}{minutes // 60:02}:{minutes % 60:02}"


def _months(days: Integers) -> Integers:
    """The months since the year 0 of days since 1970."""
    months: Integers = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) + 1970 * 12
    return months


def _first_days(months: Integers) -> Integers:
    """The first days of months, in days since 1970."""
    since = (months - 1970 * 12).astype("datetime64[M]")
    days: Integers = since.astype("datetime64[D]").astype(np.int64)
    return days


@cache
def time_zone(name: str) -> ZoneInfo:
    """The rules of a named time zone. Raises TextgenError if this machine has none for it."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise TextgenError(
            f"the time zone {name!r} is unknown here.", hint="pip install tzdata, or write times with their UTC offset."
        ) from None


def _offsets(zone: str, seconds: Integers, from_utc: bool) -> Integers:
    """How many seconds a zone is ahead of UTC at some times, in seconds since 1970 in UTC or in its local time."""
    if not zone:
        return np.zeros(seconds.shape, dtype=np.int64)
    if zone[0] in "+-":
        parts = zone.split()
        offsets = np.array([offset_of(part) for part in parts[::2]], dtype=np.int64)
        changes = np.array([int(part) for part in parts[1::2]], dtype=np.int64)
        changes = changes if from_utc else changes + offsets[1:]
        fixed: Integers = offsets[np.searchsorted(changes, seconds, side="right")]
        return fixed
    rules, start = time_zone(zone), datetime(1970, 1, 1)
    latest = int((_LATEST - start).total_seconds())
    found = np.empty(seconds.size, dtype=np.int64)
    for place, each in enumerate(np.minimum(seconds, latest).flat):
        moment = start + timedelta(seconds=int(each))
        aware = moment.replace(tzinfo=UTC).astimezone(rules) if from_utc else moment.replace(tzinfo=rules)
        offset = aware.utcoffset()
        found[place] = 0 if offset is None else round(offset.total_seconds())
    return found.reshape(seconds.shape)


@dataclass(frozen=True)
class Calendar:
    """The periods that are inputs, in months for a clock of months, else in seconds, with the harmonics of each."""

    periods: tuple[tuple[float, int], ...]

    @classmethod
    def of(cls, clock: Clock, length: int) -> Calendar:
        """The calendar that suits a time step and `length` steps of training."""
        if clock.unit == MONTH:
            known = [(12.0, 2)]
        elif clock.unit == ROW:
            known = []
        else:
            known = [(float(DAY), 2), (float(WEEK), 2), (YEAR, 1)]
        step = clock.step if clock.unit != DAY_UNIT else clock.step * WEEK / clock.week.count("1")
        span = length * step
        return cls(tuple(each for each in known if 2 * step <= each[0] <= span / ENOUGH))

    @property
    def width(self) -> int:
        """The number of features."""
        return sum(2 * harmonics for _, harmonics in self.periods)

    def features(self, times: Integers) -> Floats:
        """The features (..., width) of times (...), as `Clock.elapsed` counts them."""
        columns = []
        for period, harmonics in self.periods:
            phase = 2 * np.pi * np.mod(times / period, 1.0)
            for k in range(1, harmonics + 1):
                columns += [np.sin(k * phase), np.cos(k * phase)]
        return np.stack(columns, axis=-1) if columns else np.zeros((*times.shape, 0))


@dataclass(frozen=True)
class Fit:
    """A clock that counts all times of a table; of the `distances` between them, `irregular` ones are not one step, and
    `broken` ones not a whole number of steps."""

    clock: Clock
    irregular: int
    broken: int
    distances: int

    @property
    def regular(self) -> bool:
        """Whether at least half of the distances are one step."""
        return 2 * self.irregular <= self.distances


def fitting_clock(series: Sequence[Moments], coarse: int) -> Fit:
    """The clock of some series, each of increasing times; `coarse` is the resolution of their format in months, or 0 if
    it includes the day."""
    single = all(len(each) <= 1 for each in series)
    if single and coarse:
        return Fit(Clock(MONTH, coarse), 0, 0, 0)
    local = np.concatenate([each.local for each in series])
    second = int(local[0] % DAY)
    if np.any(local % DAY != second):
        return _fit(Clock(SECOND, 1), series)
    for clock in _monthly(local, second):
        counts = [clock.count(each) for each in series]
        if not single and all(count is not None and np.all(np.diff(count) > 0) for count in counts):
            return _fit(clock, series)
    daily = _fit(Clock(DAY_UNIT, 1, second=second), series)
    if daily.clock.step > 1 and not daily.broken:
        return daily
    weekly = (_fit(Clock(DAY_UNIT, 1, second=second, week=week), series) for week in _weeks(series))
    return next((fit for fit in weekly if not fit.broken), daily)


def _monthly(local: Integers, second: int) -> list[Clock]:
    """The clocks of months that may suit some times: on the same day of the month, the last one, or the nearest
    weekday."""
    dates = (local // DAY).astype("datetime64[D]")
    highest = int((dates - dates.astype("datetime64[M]")).astype(np.int64).max()) + 1
    clocks = [Clock(MONTH, 1, day=day, second=second) for day in dict.fromkeys([31, highest, 1])]
    return clocks + [replace(clock, week=BUSINESS_DAYS) for clock in clocks]


def _fit(clock: Clock, series: Sequence[Moments]) -> Fit:
    """The clock with the commonest distance between times as its step."""
    counts = [clock.count(each) for each in series]
    distances = np.concatenate([np.zeros(0, np.int64), *(np.diff(each) for each in counts if each is not None)])
    step = commonest(distances)
    broken = int((distances % step != 0).sum())
    return Fit(replace(clock, step=step), int((distances != step).sum()), broken, len(distances))


def commonest(distances: Integers) -> int:
    """The commonest of some distances, the smaller one in a tie; 1 if there are none."""
    steps, counts = np.unique(distances, return_counts=True)
    return int(steps[counts.argmax()]) if len(steps) else 1


def _weeks(series: Sequence[Moments]) -> list[str]:
    """The weekdays that daily rows may fall on, judged by those absent between the first and the last row of a series:
    the weekend, or any weekday that is absent often enough."""
    seen, absent = np.zeros(7, dtype=np.int64), np.zeros(7, dtype=np.int64)
    for each in series:
        days = each.local // DAY - MONDAY
        there = np.bincount(days % 7, minlength=7)
        first, last = int(days[0]), int(days[-1])
        spanned = np.array([(last - k) // 7 - (first - 1 - k) // 7 for k in range(7)])
        seen += there
        absent += spanned - there
    weeks = [BUSINESS_DAYS] if not seen[5:].any() and absent[5:].all() else []
    if np.all(absent[seen == 0] >= ENOUGH_ABSENT):
        weeks.append("".join("1" if number else "0" for number in seen))
    return weeks
