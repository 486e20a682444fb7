"""What a forecaster is besides its weights: columns, clock, season, lags, calendar, and the measures of each series.

`Rows` is a series as the model reads it. The design is kept in the model folder as `forecast.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import sealed
from textgen.series.calendar import Calendar
from textgen.series.columns import Columns
from textgen.series.inputs import FARTHEST, Lags, Units, base_forecast, features, lagged
from textgen.series.read import Series
from textgen.series.scaling import Scale, deviation, fit
from textgen.series.times import Clock

FILE = "forecast.json"
CONTEXT = 512
"""Steps that are read, at least, before the first forecast of a series: enough for a state to forget its beginning."""

LARGEST = 1_000_000
"""Time steps that a season, a horizon or a lag may have."""

OUTPUTS = 3
"""Numbers that the model gives at a time step: location, scale and degrees of freedom, before they are bounded."""

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Design:
    """All that turns tables into what a model reads, and what it gives into forecasts."""

    columns: Columns
    clock: Clock
    season: int
    horizon: int
    lags: Lags
    calendar: Calendar
    extras: tuple[tuple[float, float], ...]
    """Mean and deviation of each extra column in the training parts."""
    scales: dict[str, Scale]
    transform: str
    longest_gap: int | None
    """Steps of the longest gap that is filled; None where no window said so."""

    def __post_init__(self) -> None:
        sizes = [self.season, self.horizon, *(self.season * k for k in self.lags.seasons)]
        if not all(1 <= size <= LARGEST for size in sizes) or self.lags.season != self.season or self.clock.step < 1:
            raise ValueError("a season, a horizon or a lag that cannot be")
        if not all(period > 0 and 1 <= harmonics <= 16 for period, harmonics in self.calendar.periods):
            raise ValueError("a calendar that cannot be")

    @property
    def width(self) -> int:
        """How many numbers the model reads at a time step."""
        return self.lags.width + len(self.extras) + self.calendar.width

    @property
    def context(self) -> int:
        """How many steps before a forecast are read."""
        return max(CONTEXT, self.lags.farthest + 1)

    @property
    def reach(self) -> int:
        """How many steps ahead the model is trusted: those that held-out forecasts have judged, at least a season.
        Beyond, the naive forecast goes on from where the model has come."""
        return max(self.horizon, self.season)

    def scale_of(self, series: Series) -> Scale:
        """The measures of a series; of one that training did not see, from all of it."""
        known = self.scales.get(series.name)
        if known is not None:
            return known
        return fit(series.name, series.values, series.missing, self.season, self.horizon, self.transform, series.start)

    def to_json(self) -> dict[str, Any]:
        """As the model folder keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: str) -> Design:
        """Raises DamagedError, naming the path, for what is no design."""
        try:
            columns = content["columns"]
            return cls(
                Columns(
                    tuple(columns["times"]), tuple(columns["targets"]), tuple(columns["extras"]), columns["series"]
                ),
                Clock.from_json(content["clock"]),
                int(content["season"]),
                int(content["horizon"]),
                Lags(int(content["lags"]["season"]), tuple(map(int, content["lags"]["seasons"]))),
                Calendar(tuple((float(p), int(k)) for p, k in content["calendar"]["periods"])),
                tuple((float(mean), float(deviation)) for mean, deviation in content["extras"]),
                {str(name): Scale.from_json(scale) for name, scale in content["scales"].items()},
                str(content["transform"]),
                None if content["longest_gap"] is None else int(content["longest_gap"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise sealed.DamagedError(f"{path} is damaged ({type(error).__name__}: {error}).") from None


@dataclass(frozen=True)
class Rows:
    """One series as the model reads it: `scaled` (N,), `inputs` (N, width) at each of its time steps, `bases` (N,) the
    naive forecasts of the next step, `calendar` (N + ahead, C) and `beside` (N, E) of the steps to come. `floor` (N,)
    is the least scaled value that a forecast from each step may take: zero, where neither training nor the history up
    to that step has a value below it."""

    series: Series
    scale: Scale
    scaled: Floats
    inputs: Floats32
    bases: Floats
    calendar: Floats32
    beside: Floats32
    floor: Floats

    def __len__(self) -> int:
        return len(self.scaled)

    def restored(self, scaled: Floats, steps: npt.NDArray[np.intp]) -> Floats:
        """The values behind scaled ones (O, ...) that were forecast from some steps (O,), none below the floor."""
        floor = self.floor[steps].reshape(-1, *[1] * (scaled.ndim - 1))
        values = self.scale.restored(scaled)
        return np.where(np.isfinite(floor), np.where(scaled <= floor, 0.0, np.maximum(values, 0.0)), values)

    @cached_property
    def counted(self) -> npt.NDArray[np.bool_]:
        """Whether the next step of each (N,) is known and its naive forecast is not a guess."""
        there = np.zeros(len(self), dtype=bool)
        there[:-1] = ~self.series.missing[1:]
        return there

    def since(self, step: int) -> Rows:
        """The same series from a step on."""
        series = self.series
        later = replace(series, values=series.values[step:], missing=series.missing[step:], extras=series.extras[step:])
        return Rows(
            later,
            self.scale,
            self.scaled[step:],
            self.inputs[step:],
            self.bases[step:],
            self.calendar[step:],
            self.beside[step:],
            self.floor[step:],
        )

    @property
    def residuals(self) -> Floats:
        """What the model is to say of each step's next (N,): its distance from the base, in the base's unit."""
        ahead = np.append(self.scaled[1:], self.scaled[-1:])
        return (ahead - self.bases) / self.scale.base_unit


def rows_of(series: Series, design: Design, ahead: int = 0) -> Rows:
    """A series ready to be read, and `ahead` further steps of its calendar."""
    scale = design.scale_of(series)
    scaled = scale.scaled(series.values)
    units = Units.of([scale])
    read = lagged(scaled, design.lags)
    times = series.start + design.clock.step * np.arange(1, len(series) + ahead + 1)
    calendar = design.calendar.features(series.clock.elapsed(times))
    beside = beside_of(series, design)
    inputs = features(read, units, design.lags, series.missing.astype(np.float64))
    whole = np.concatenate([inputs, beside, calendar[: len(series)].astype(np.float32)], axis=1)
    bases = base_forecast(read, units)
    return Rows(series, scale, scaled, whole, bases, calendar.astype(np.float32), beside, _floor(series, scale))


def _floor(series: Series, scale: Scale) -> Floats:
    """The floor of forecasts from each step (N,): see `Rows`."""
    positive = np.minimum(np.minimum.accumulate(series.values), series.lowest) >= 0
    return np.where(positive & scale.nonnegative, scale.zero, -np.inf)


def beside_of(series: Series, design: Design) -> Floats32:
    """The extra columns (N, E) in units of their own."""
    mean, deviation = (np.array([each[k] for each in design.extras]).reshape(-1) for k in (0, 1))
    scaled = (series.extras - mean) / deviation if len(mean) else series.extras
    return np.clip(scaled, -FARTHEST, FARTHEST).astype(np.float32)


def extra_measures(extras: Sequence[Floats]) -> tuple[tuple[float, float], ...]:
    """Mean and deviation of each column of the training parts' extras (N, E). A constant one is measured by its own
    size, so that the unit of a column never matters; one of zeros has deviation 1."""
    together = np.concatenate(list(extras))
    return tuple((float(c.mean()), deviation(c) if np.ptp(c) > 0 else abs(float(c[0])) or 1.0) for c in together.T)
