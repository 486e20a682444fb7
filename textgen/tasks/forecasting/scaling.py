"""How a series is scaled, from its training part alone, and what the model reads at a time step.

A series has a level, a spread, perhaps logarithms, and the naive forecast that the model corrects. The model reads
differences from the values a step and a season ago, in units of the series, so that a series that has risen to new
heights still looks as it did. The same function serves training, on whole series, and the loop, on the values it has
just fed back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen.errors import TextgenError
from textgen.options import named
from textgen.tasks.forecasting.times import Places

LAST, SEASONAL, CHANGE = "last value", "seasonal", "seasonal change"
LEAST = 1e-6  # the smallest unit of differences, in standard deviations
ROUNDING = 1e-14
"""Differences below this share of the largest value are rounding errors of float64 and count as zero."""

SIGNIFICANT, FINENESS = 6, 1000
"""Forecasts are rounded to at least `SIGNIFICANT` digits, and in units of at most 1 / `FINENESS` of the typical change
from one time step to the next."""

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
DAYS = (24, 48, 96)  # seasons that are a day, of steps that a week may have a pattern of
FARTHEST = 8.0  # inputs are clipped at this many units: a single outlier must not saturate the state
Floats32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scale:
    """The scale of one series, computed from its training part.

    Values y become z = (y - centre) / spread, or (log y - centre) / spread. `base` is the naive forecast that the model
    corrects. `step_unit`, `season_unit` and `base_unit` are the typical sizes, in z, of a change from one step to the
    next, of a change from season to season, and of the base's error. `mean` and `deviation` are those of y itself;
    `naive` is the mean absolute error of the (seasonal) naive forecast one season ahead, by which MASE divides; 0 if
    that forecast is exact. `end` is the time after the training data, held-out part included. `low` and `high` are the
    lowest and highest z. `nonnegative` says that no value of the training part is below zero.
    """

    transform: str
    centre: float
    spread: float
    base: str
    step_unit: float
    season_unit: float
    base_unit: float
    mean: float
    deviation: float
    naive: float
    end: int
    low: float
    high: float
    nonnegative: bool

    @property
    def zero(self) -> float:
        """The scaled value of zero; -inf for logarithms."""
        return -math.inf if self.transform == "log" else -self.centre / self.spread

    @property
    def room(self) -> float:
        """How far, in z, a forecast may leave the range of the training part: by the width of that range, or three
        times that with a trend. Without a bound, a loop fed with its own forecasts may diverge."""
        return (self.high - self.low) * (3 if self.base == CHANGE else 1)

    def scaled(self, values: Floats) -> Floats:
        """Values as the model reads them; logarithms are those of at least a thousandth of the typical value."""
        if self.transform == "log":
            values = np.log(np.maximum(values, math.exp(self.centre) * 1e-3))
        return (values - self.centre) / self.spread

    def restored(self, scaled: Floats) -> Floats:
        """The inverse of `scaled`."""
        values = scaled * self.spread + self.centre
        return np.exp(np.minimum(values, 700.0)) if self.transform == "log" else values

    def decimals(self, largest: float) -> int:
        """The decimals that forecasts of this series need, given the `largest` absolute value among them (see
        `FINENESS` and `SIGNIFICANT`). Negative if they are rounded to tens, hundreds and so on."""
        level = math.exp(min(self.centre, 700.0)) if self.transform == "log" else 1.0
        change = self.step_unit * self.spread * level
        needed = -_exponent(change / FINENESS) if change > 0 else 0
        return max(needed, SIGNIFICANT - 1 - _exponent(largest) if largest > 0 else 0)

    def weights(self) -> tuple[float, float, float]:
        """The weights of the base on the last value, the value a season before the next, and the value a season before
        the last."""
        return {LAST: (1.0, 0.0, 0.0), SEASONAL: (0.0, 1.0, 0.0), CHANGE: (1.0, 1.0, -1.0)}[self.base]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Scale:
        """A scale from its fields by name. Raises ValueError, TypeError or KeyError for other content."""
        given = {each.name: content[each.name] for each in fields(cls)}
        numbers = [value for name, value in given.items() if name not in ("transform", "base", "nonnegative")]
        if given["transform"] not in ("none", "log") or given["base"] not in (LAST, SEASONAL, CHANGE):
            raise ValueError("an unknown transform or base")
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            raise ValueError("a scale that is not a finite number")
        if min(given[name] for name in ("spread", "step_unit", "season_unit", "base_unit", "deviation")) <= 0:
            raise ValueError("a scale that is not above 0")
        if given["naive"] < 0 or type(given["nonnegative"]) is not bool:
            raise ValueError("a negative naive error, or a 'nonnegative' that is not true or false")
        return cls(**given)


def fit(name: str, values: Floats, missing: Mask, season: int, horizon: int, transform: str, end: int) -> Scale:
    """The scale of a training part: values (N,) with gaps filled, `missing` (N,) the gaps.

    A constant series has its value as unit, and is forecast to stay constant. Raises TextgenError for logarithms of
    values that are not above 0.
    """
    known = values[~missing]
    if is_constant(known):
        level = float(known[0])
        size = abs(level) or 1.0
        return Scale("none", level, size, LAST, 1.0, 1.0, 1.0, level, size, 0.0, end, 0.0, 0.0, level >= 0)
    if transform == "log" and known.min() <= 0:
        raise TextgenError(
            f"{named('transform', 'log')} needs values above 0, and column {name!r} holds {known.min():.15g}."
        )
    if transform == "auto":
        transform = "log" if suits_logarithms(values, missing, season) else "none"
    seen = np.log(known) if transform == "log" else known
    centre, spread = float(_mean(seen)), deviation(seen)
    scaled = ((np.log(values) if transform == "log" else values) - centre) / spread
    base = choose_base(scaled, missing, season, horizon)
    step_unit, season_unit, base_unit = (unit(scaled, missing, season, kind) for kind in (LAST, SEASONAL, base))
    ahead = season if len(values) > season else 1
    apart = np.abs(values[ahead:] - values[:-ahead])[~(missing[ahead:] | missing[:-ahead])]
    naive = float(_mean(apart)) if len(apart) else deviation(known)
    exact = naive <= ROUNDING * float(np.abs(known).max())
    return Scale(
        transform=transform,
        centre=centre,
        spread=spread,
        base=base,
        step_unit=step_unit,
        season_unit=season_unit,
        base_unit=base_unit,
        mean=float(_mean(known)),
        deviation=deviation(known),
        naive=0.0 if exact else naive,
        end=end,
        low=float(scaled.min()),
        high=float(scaled.max()),
        nonnegative=bool(known.min() >= 0),
    )


def is_constant(known: Floats) -> bool:
    """Whether values (N,) are all the same, or their deviation is too small to divide by."""
    return bool(np.ptp(known) == 0 or deviation(known) < np.finfo(np.float64).tiny)


def rounded(values: Sequence[float], scale: Scale) -> list[float]:
    """Forecasts of a series, rounded for output (see `Scale.decimals`)."""
    decimals = scale.decimals(max((abs(value) for value in values if math.isfinite(value)), default=0.0))
    return [round(float(value), decimals) + 0.0 for value in values]


def _exponent(number: float) -> int:
    """The decimal exponent of a number above 0: 2 of 345, -3 of 0.001."""
    return math.floor(math.log10(number))


def _mean(values: Floats) -> np.float64:
    """The mean, even of values whose sum overflows."""
    unit = _unit(values)
    mean: np.float64 = (values / unit).mean() * unit
    return mean


def deviation(values: Floats) -> float:
    """The standard deviation, even of values whose squares overflow. Scaling the values by a power of two scales it
    exactly."""
    unit = _unit(values - _mean(values))
    return float(((values - _mean(values)) / unit).std() * unit)


def _unit(values: Floats) -> float:
    """The power of two just above all absolute values; 1 if they are all zero."""
    largest = float(np.abs(values).max())
    return math.ldexp(1.0, min(math.frexp(largest)[1], 1023)) if largest > 0 else 1.0


def naive_error(scaled: Floats, missing: Mask, season: int, base: str, ahead: int) -> Floats:
    """The errors (n,) of a naive forecast `ahead` steps ahead, where origin and target are known."""
    origin, target = np.arange(len(scaled) - ahead), np.arange(ahead, len(scaled))
    seasons = -(-ahead // season)
    back, first = target - seasons * season, 0
    forecast = scaled[origin]
    if base == SEASONAL:
        forecast, first = scaled[np.maximum(back, 0)], seasons * season - ahead
    elif base == CHANGE:
        before = origin - season
        change = forecast - scaled[np.maximum(before, 0)]
        phase = scaled[np.maximum(back, 0)] - forecast
        forecast, first = forecast + phase + seasons * change, season
    there = (origin >= first) & ~missing[origin] & ~missing[target]
    return (scaled[target] - forecast)[there]


def choose_base(scaled: Floats, missing: Mask, season: int, horizon: int) -> str:
    """The naive forecast with the lowest mean square error over the horizon, the simplest one in a tie.

    The seasonal ones need three seasons of training.
    """
    kinds = [LAST, SEASONAL, CHANGE] if season > 1 and 3 * season <= len(scaled) else [LAST]
    steps = sorted({1, *np.unique(np.linspace(1, horizon, min(horizon, 24)).astype(int)).tolist()})
    errors = {}
    for kind in kinds:
        squares = [float(np.mean(e**2)) for k in steps if len(e := naive_error(scaled, missing, season, kind, k))]
        errors[kind] = float(np.mean(squares)) if squares else math.inf
    return min(kinds, key=lambda kind: errors[kind])


def unit(scaled: Floats, missing: Mask, season: int, base: str) -> float:
    """The root mean square error of a naive forecast of the next step; 1 if there is none."""
    errors = naive_error(scaled, missing, season, base, 1)
    return max(LEAST, float(np.sqrt(np.mean(errors**2)))) if len(errors) else 1.0


def suits_logarithms(values: Floats, missing: Mask, season: int) -> bool:
    """Whether changes are proportional to the values rather than independent of them: by the likelihood of the changes
    under a normal distribution, with the Jacobian of the logarithms (Box and Cox 1964) and a margin of two nats."""
    if values.min() <= 0:
        return False
    ahead = season if season > 1 and 3 * season <= len(values) else 1
    pairs = ~(missing[ahead:] | missing[:-ahead])
    logs = np.log(values)
    changes = [(v[ahead:] - v[:-ahead])[pairs] for v in (values, logs)]
    if not len(changes[0]):
        return False
    plain, logged = map(deviation, changes)
    if plain <= ROUNDING * values.max():
        return False
    if logged <= ROUNDING * np.abs(logs).max():
        return True
    gain = np.log(plain) - np.log(logged) - logs[ahead:][pairs].mean()
    return bool(gain * pairs.sum() > 2)


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
        week = (7,) if season in DAYS and length >= 28 * season else ()
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
