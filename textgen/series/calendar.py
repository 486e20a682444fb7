"""The calendar as numbers: hour, weekday, month and day of the year of a time step, as sines and cosines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textgen.series.times import DAY, DAY_UNIT, MONTH, ROW, WEEK, Clock, Integers

YEAR = 365.2425 * DAY
ENOUGH = 2.5
"""How many times a period must be seen in training before its phase is an input: less tells a season from a trend by
chance alone."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calendar:
    """Which periods are inputs, in months for a clock of months, else in seconds, and with how many harmonics each."""

    periods: tuple[tuple[float, int], ...]

    @classmethod
    def of(cls, clock: Clock, length: int) -> Calendar:
        """The calendar that makes sense for a time step and `length` steps of training."""
        if clock.unit == MONTH:
            known = [(12.0, 2)]
        elif clock.unit == ROW:
            known = []
        else:
            known = [(float(DAY), 2), (float(WEEK), 2), (YEAR, 1)]
        step = clock.step if clock.unit != DAY_UNIT else clock.step * WEEK / clock.week.count("1")
        span = length * step
        return cls(tuple((period, most) for period, most in known if 2 * step <= period <= span / ENOUGH))

    @property
    def width(self) -> int:
        """How many numbers a time step has."""
        return sum(2 * harmonics for _, harmonics in self.periods)

    def features(self, times: Integers) -> Floats:
        """The inputs of times (...), as `Clock.elapsed` counts them, as (..., width)."""
        columns = []
        for period, harmonics in self.periods:
            phase = 2 * np.pi * np.mod(times / period, 1.0)
            for k in range(1, harmonics + 1):
                columns += [np.sin(k * phase), np.cos(k * phase)]
        return np.stack(columns, axis=-1) if columns else np.zeros((*times.shape, 0))
