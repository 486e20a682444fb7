"""Finds the clock of a table: months, days, business days or seconds, and how many of them make a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from textgen.series.times import BUSINESS_DAYS, DAY, DAY_UNIT, MONDAY, MONTH, SECOND, Clock, Integers, Moments

ENOUGH_ABSENT = 4
"""How often a weekday must be absent before a table is taken to omit it, unless it is the whole weekend."""


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
