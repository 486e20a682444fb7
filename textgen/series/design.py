"""The design of a forecaster, everything but its weights: columns, clock, season, lags, calendar, scales.

It is stored in the model folder as `forecast.json`. A `PreparedSeries` is a series as the model reads it.
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
from textgen.series.inputs import FARTHEST, Floats32, Lags, Units, base_forecast, features, lagged
from textgen.series.read import Series
from textgen.series.scaling import Floats, Scale, deviation, fit
from textgen.series.times import Clock

FILE = "forecast.json"
CONTEXT = 512
"""The least steps to read before a forecast: enough for the state to forget where reading began."""

LARGEST = 1_000_000
"""The most time steps of a season, a horizon or a lag."""

OUTPUTS = 3
"""The model's outputs at a time step: location, scale and degrees of freedom, before they are bounded."""


@dataclass(frozen=True)
class Design:
    """Everything that turns tables into model inputs, and model outputs into forecasts."""

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
    """Steps of the longest gap that is filled; None for `gap_limit`."""

    def __post_init__(self) -> None:
        sizes = [self.season, self.horizon, *(self.season * k for k in self.lags.seasons)]
        if not all(1 <= size <= LARGEST for size in sizes) or self.lags.season != self.season or self.clock.step < 1:
            raise ValueError("an impossible season, horizon or lag")
        if not all(period > 0 and 1 <= harmonics <= 16 for period, harmonics in self.calendar.periods):
            raise ValueError("an impossible calendar")

    @property
    def width(self) -> int:
        """The number of model inputs at a time step."""
        return self.lags.width + len(self.extras) + self.calendar.width

    @property
    def context(self) -> int:
        """The number of steps to read before a forecast."""
        return max(CONTEXT, self.lags.farthest + 1)

    @property
    def reach(self) -> int:
        """How many steps ahead the model is trusted: those that held-out forecasts measure, at least a season. Beyond
        them, the naive forecast continues from the model's."""
        return max(self.horizon, self.season)

    def scale_of(self, series: Series) -> Scale:
        """The scale of a series; for one that is not in the training data, from all of its values."""
        known = self.scales.get(series.name)
        if known is not None:
            return known
        return fit(series.name, series.values, series.missing, self.season, self.horizon, self.transform, series.start)

    def to_json(self) -> dict[str, Any]:
        """The content of `forecast.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: str) -> Design:
        """The inverse of `to_json`. Raises DamagedError naming the path."""
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
class PreparedSeries:
    """One series as the model reads it: `scaled` values (N,) and `inputs` (N, width) at each time step, `bases` (N,)
    the naive forecasts of the next step, `calendar` (N + ahead, C) of the next steps, `extras` (N, E). `floor` (N,) is
    the lowest scaled value of forecasts from each step: zero if no value up to that step, in training or since, is
    negative; otherwise -inf."""

    series: Series
    scale: Scale
    scaled: Floats
    inputs: Floats32
    bases: Floats
    calendar: Floats32
    extras: Floats32
    floor: Floats

    def __len__(self) -> int:
        return len(self.scaled)

    def restored(self, scaled: Floats, steps: npt.NDArray[np.intp]) -> Floats:
        """The values of scaled forecasts (O, ...) made at some steps (O,), none below the floor."""
        floor = self.floor[steps].reshape(-1, *[1] * (scaled.ndim - 1))
        values = self.scale.restored(scaled)
        return np.where(np.isfinite(floor), np.where(scaled <= floor, 0.0, np.maximum(values, 0.0)), values)

    @cached_property
    def counted(self) -> npt.NDArray[np.bool_]:
        """Whether the value after each step (N,) is known."""
        return np.append(~self.series.missing[1:], False)

    def since(self, step: int) -> PreparedSeries:
        """The same series from a step on."""
        names = ("scaled", "inputs", "bases", "calendar", "extras", "floor")
        return replace(self, series=self.series.slice(step), **{name: getattr(self, name)[step:] for name in names})

    @property
    def residuals(self) -> Floats:
        """The targets (N,): the distance of the next value from its naive forecast, in units of the base's error."""
        ahead = np.append(self.scaled[1:], self.scaled[-1:])
        return (ahead - self.bases) / self.scale.base_unit


def prepare_series(series: Series, design: Design, ahead: int = 0) -> PreparedSeries:
    """A series as the model reads it, with the calendar of `ahead` more steps."""
    scale = design.scale_of(series)
    scaled = scale.scaled(series.values)
    units = Units.of([scale])
    read = lagged(scaled, design.lags)
    times = series.start + design.clock.step * np.arange(1, len(series) + ahead + 1)
    calendar = design.calendar.features(series.clock.elapsed(times)).astype(np.float32)
    mean, spread = np.array(design.extras).reshape(-1, 2).T
    extras = np.clip((series.extras - mean) / spread, -FARTHEST, FARTHEST).astype(np.float32)
    of_values = features(read, units, design.lags, series.missing.astype(np.float64))
    inputs = np.concatenate([of_values, extras, calendar[: len(series)]], axis=1)
    never_negative = np.minimum(np.minimum.accumulate(series.values), series.lowest) >= 0
    floor = np.where(never_negative & scale.nonnegative, scale.zero, -np.inf)
    return PreparedSeries(series, scale, scaled, inputs, base_forecast(read, units), calendar, extras, floor)


def extra_measures(extras: Sequence[Floats]) -> tuple[tuple[float, float], ...]:
    """Mean and deviation of each extra column in the training parts (N, E). The deviation of a constant is its absolute
    value, so that the unit of a column never matters, and 1 for zero."""
    columns = np.concatenate(list(extras)).T
    return tuple((float(c.mean()), deviation(c) if np.ptp(c) > 0 else abs(float(c[0])) or 1.0) for c in columns)
