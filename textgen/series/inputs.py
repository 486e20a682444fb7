"""What the model reads at a time step: differences from one step and one season before, in units of the series.

Everything is relative to the current value, so that a series that rises to new heights still looks familiar. The same
function serves training, on whole series, and the loop, on the values that it has just fed back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from textgen.series.scaling import Floats, Scale
from textgen.series.times import Places

FARTHEST = 8.0
"""Inputs are clipped at this many units: a single outlier must not saturate the state."""

Floats32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Lags:
    """How far back a model looks, in steps before the current value: seasons, and weeks if the steps are shorter than a
    day and cover enough of them."""

    season: int
    seasons: tuple[int, ...]
    """The inputs include the values this many whole seasons before the step to forecast."""

    @classmethod
    def of(cls, season: int, length: int) -> Lags:
        """The lags that `length` steps of training suffice for."""
        if season == 1 or 3 * season > length:
            return cls(season, ())
        most = min(3, length // season - 2)
        week = (7,) if season in (24, 48, 96) and length >= 28 * season else ()
        return cls(season, (*range(1, most + 1), *week))

    @property
    def offsets(self) -> tuple[int, ...]:
        """The offsets to read, in steps before the current value, in the order that `features` expects."""
        back = [self.season - 1, self.season, self.season + 1] if self.season > 1 else [0, 1, 2]
        return (0, 1, 2, *back, *(k * self.season - 1 for k in self.seasons))

    @property
    def farthest(self) -> int:
        """How many values before the current one have to be remembered."""
        return max(self.offsets)

    @property
    def width(self) -> int:
        """The number of inputs from `features`, without calendar and extra columns."""
        return 5 + (2 + len(self.seasons) if self.seasons else 0)


@dataclass(frozen=True)
class Units:
    """The units of several rows, each (R,), the weights of their bases (R, 3), and the lowest and highest value in
    training with the room beyond."""

    step: Floats
    season: Floats
    base: Floats
    weights: Floats
    low: Floats
    high: Floats
    room: Floats

    @classmethod
    def of(cls, scales: Sequence[Scale]) -> Units:
        """One row for each scale."""
        rows = [(s.step_unit, s.season_unit, s.base_unit, s.weights(), s.low, s.high, s.room) for s in scales]
        return cls(*map(np.array, zip(*rows, strict=True)))

    def rows(self, chosen: Places) -> Units:
        """The units of some rows, which may repeat."""
        return Units(*(getattr(self, each.name)[chosen] for each in fields(self)))


def lagged(scaled: Floats, lags: Lags) -> Floats:
    """The lagged values of a whole series (N,) at each of its steps, (N, offsets); its first value extends backward."""
    places = np.arange(len(scaled))[:, None] - np.array(lags.offsets)
    read: Floats = scaled[np.maximum(places, 0)]
    return read


def base_forecast(values: Floats, units: Units) -> Floats:
    """The naive forecasts of the next step (R,), from lagged values (R, offsets)."""
    base: Floats = (values[:, [0, 3, 4]] * units.weights).sum(axis=1)
    return base


def features(values: Floats, units: Units, lags: Lags, missing: Floats) -> Floats32:
    """The inputs (R, width) of a step, from lagged values (R, offsets) and whether the current one is missing (R,)."""
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
