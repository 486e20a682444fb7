"""Calendar features: hour, weekday, month and day of the year of a time step, as sines and cosines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textgen.series.times import DAY, DAY_UNIT, MONTH, ROW, WEEK, Clock, Integers

YEAR = 365.2425 * DAY
ENOUGH = 2.5
"""How many periods training must cover before their phase is an input: with fewer, a season looks like a trend."""

Floats = npt.NDArray[np.float64]


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
