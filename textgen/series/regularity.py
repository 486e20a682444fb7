"""Which clock a table keeps: months, days, business days or seconds, and how many of them are a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from textgen.series.times import (
    BUSINESS_DAYS,
    DAY,
    DAY_UNIT,
    MONDAY,
    MONTH,
    SECOND,
    Clock,
    Integers,
    Moments,
)

ENOUGH_ABSENT = 4
"""How often a weekday must be absent, other than a whole weekend, before a table is taken to leave it out."""


@dataclass(frozen=True)
class Fit:
    """A clock that counts all times of a table, how many of their `distances` are not one step (`faults`), and how many
    of those are no whole number of steps."""

    clock: Clock
    faults: int
    broken: int
    distances: int

    @property
    def regular(self) -> bool:
        """Whether most rows are a step apart."""
        return 2 * self.faults <= self.distances


def fitting_clock(series: Sequence[Moments], coarse: int) -> Fit:
    """The clock of some series, each of times that rise; `coarse` is the months that their format can tell apart, or 0
    where it says the day."""
    whole = _together(series)
    if not any(len(each) > 1 for each in series) and coarse:
        return Fit(Clock(MONTH, coarse), 0, 0, 0)
    second = int(whole.local[0] % DAY)
    if np.any(whole.local % DAY != second):
        return _fit(Clock(SECOND, 1), series)
    for clock in _monthly(whole, second):
        counts = [clock.count(each) for each in series]
        rising = all(count is not None and np.all(np.diff(count) > 0) for count in counts)
        if rising and any(len(each) > 1 for each in series):
            return _fit(clock, series)
    daily = _fit(Clock(DAY_UNIT, 1, second=second), series)
    if daily.clock.step > 1 and not daily.broken:
        return daily
    weekly = (_fit(Clock(DAY_UNIT, 1, second=second, week=week), series) for week in _weeks(series))
    return next((fit for fit in weekly if not fit.broken), daily)


def _together(series: Sequence[Moments]) -> Moments:
    offsets = [each.offsets for each in series if each.offsets is not None]
    return Moments(np.concatenate([each.local for each in series]), np.concatenate(offsets) if offsets else None)


def _monthly(whole: Moments, second: int) -> list[Clock]:
    """The clocks that count months and may suit some times: on the same day, on the last one, or on the weekday beside
    that."""
    highest = _highest_day(whole.local // DAY)
    days = dict.fromkeys([31, highest, 1])
    clocks = [Clock(MONTH, 1, day=day, second=second) for day in days]
    return clocks + [replace(clock, week=BUSINESS_DAYS) for clock in clocks]


def _highest_day(days: Integers) -> int:
    """The highest day of the month among days since 1970."""
    dates = days.astype("datetime64[D]")
    return int((dates - dates.astype("datetime64[M]")).astype(np.int64).max()) + 1


def _fit(clock: Clock, series: Sequence[Moments]) -> Fit:
    """The clock with the commonest distance of its times as its step."""
    counts = [clock.count(each) for each in series]
    distances = np.concatenate([np.zeros(0, np.int64), *(np.diff(each) for each in counts if each is not None)])
    step = commonest(distances)
    broken = int((distances % step != 0).sum())
    return Fit(replace(clock, step=step), int((distances != step).sum()), broken, len(distances))


def commonest(distances: Integers) -> int:
    """The commonest of some distances, of two the smaller; 1 where there are none."""
    steps, counts = np.unique(distances, return_counts=True)
    return int(steps[counts.argmax()]) if len(steps) else 1


def _weeks(series: Sequence[Moments]) -> list[str]:
    """The weekdays that daily rows may fall on, by those that are absent between the first row of a series and its
    last: a weekend, or any weekday often enough."""
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
