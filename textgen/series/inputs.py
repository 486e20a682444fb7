"""What the model reads at a time step: differences from what was a step and a season ago, in units of the series.

Everything is relative to the value at hand, so that a series that has risen to where it never was still looks as it
did. The same function serves training, on whole series, and the loop, on the values it has just fed back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from textgen.series.scaling import Scale

FARTHEST = 8.0
"""Inputs beyond this many units count as this: one mad value must not carry the state away."""

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Lags:
    """How far back a model looks, in steps before the value at hand: seasons and, where the step is part of a day and
    there is enough of it, weeks."""

    season: int
    seasons: tuple[int, ...]
    """Whole seasons before the step to forecast that are inputs."""

    @classmethod
    def of(cls, season: int, length: int) -> Lags:
        """The lags that `length` steps of training can teach."""
        if season == 1 or 3 * season > length:
            return cls(season, ())
        most = min(3, length // season - 2)
        week = (7,) if season in (24, 48, 96) and length >= 28 * season else ()
        return cls(season, (*range(1, most + 1), *week))

    @property
    def offsets(self) -> tuple[int, ...]:
        """The offsets read, in steps before the value at hand; their order is that of `features`."""
        back = [self.season - 1, self.season, self.season + 1] if self.season > 1 else [0, 1, 2]
        return (0, 1, 2, *back, *(k * self.season - 1 for k in self.seasons))

    @property
    def farthest(self) -> int:
        """How many values before the one at hand have to be remembered."""
        return max(self.offsets)

    @property
    def width(self) -> int:
        """How many numbers `features` gives, calendar and extra columns apart."""
        return 5 + (2 + len(self.seasons) if self.seasons else 0)


@dataclass(frozen=True)
class Units:
    """The measures of several rows, each (R,), the weights of their bases (R, 3), and the least and greatest value that
    was seen, with the room beyond."""

    step: Floats
    season: Floats
    base: Floats
    weights: Floats
    low: Floats
    high: Floats
    room: Floats

    @classmethod
    def of(cls, scales: Sequence[Scale]) -> Units:
        """Of one row a scale."""
        return cls(
            np.array([scale.step_unit for scale in scales]),
            np.array([scale.season_unit for scale in scales]),
            np.array([scale.base_unit for scale in scales]),
            np.array([scale.weights() for scale in scales]).reshape(-1, 3),
            np.array([scale.low for scale in scales]),
            np.array([scale.high for scale in scales]),
            np.array([scale.room for scale in scales]),
        )

    def rows(self, chosen: npt.NDArray[np.intp]) -> Units:
        """Those of some rows, as often as they are named."""
        return Units(*(getattr(self, each.name)[chosen] for each in fields(self)))


def lagged(scaled: Floats, lags: Lags) -> Floats:
    """A whole series (N,) as what is read at each of its steps, (N, offsets); before its first value stands that."""
    places = np.arange(len(scaled))[:, None] - np.array(lags.offsets)
    read: Floats = scaled[np.maximum(places, 0)]
    return read


def base_forecast(values: Floats, units: Units) -> Floats:
    """The naive forecast of the next step (R,), from what is read at this one (R, offsets)."""
    base: Floats = (values[:, [0, 3, 4]] * units.weights).sum(axis=1)
    return base


def features(values: Floats, units: Units, lags: Lags, missing: Floats) -> Floats32:
    """The inputs (R, width) of rows, from what is read at a step (R, offsets), and where that was missing (R,)."""
    now = values[:, 0]
    base = (values[:, [1, 4, 5]] * units.weights).sum(axis=1)
    columns = [
        (now - values[:, 1]) / units.step,
        (values[:, 1] - values[:, 2]) / units.step,
        (now - base) / units.base,
        2 * np.tanh(now / 2),
        missing,
    ]
    if lags.seasons:
        back = values[:, 6:] - now[:, None]
        columns += [(now - values[:, 4]) / units.season, back.mean(axis=1) / units.season]
        columns += list((back / units.season[:, None]).T)
    bounded: Floats32 = np.clip(np.stack(columns, axis=1), -FARTHEST, FARTHEST).astype(np.float32)
    return bounded
