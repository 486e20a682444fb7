"""What a series is measured by, from its training part alone: its level and spread, whether logarithms suit it, and
the naive forecast that the model corrects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen.errors import TextgenError
from textgen.parameters import named

LAST, SEASONAL, CHANGE = "last value", "seasonal", "seasonal change"
LEAST = 1e-6
"""The smallest unit that differences are measured in, in standard deviations."""

ROUNDING = 1e-14
"""Differences below this share of the largest value are rounding errors of float64 and count as zero."""

SIGNIFICANT, FINENESS = 6, 1000
"""A forecast is written with at least so many significant digits, and in steps of at most one part in `FINENESS` of
the usual change from one time step to the next."""

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scale:
    """The measures of one series, all from its training part.

    Values y become z = (y - centre) / spread, or (log y - centre) / spread. `base` is the naive forecast that the model
    corrects. `step_unit`, `season_unit` and `base_unit` are the typical sizes, in z, of a change from one step to the
    next, of one from season to season, and of the base's error. `mean` and `deviation` are those of y itself; `naive`
    is the mean absolute error of the (seasonal) naive forecast one season ahead, by which MASE divides; 0 if that
    forecast is exact. `end` is the time after the last that training saw, held-out part included. `low` and `high` are
    the least and greatest z. `nonnegative` says that no value of the training part is below zero.
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
        """The scaled value of zero; -inf in logarithms, which never reach it."""
        return -math.inf if self.transform == "log" else -self.centre / self.spread

    @property
    def room(self) -> float:
        """How far, in z, a forecast may go beyond what was seen: the width of all that training saw, three times that
        where a trend goes on. A loop that feeds on itself could otherwise run away."""
        return (self.high - self.low) * (3 if self.base == CHANGE else 1)

    def scaled(self, values: Floats) -> Floats:
        """Values as the model sees them; where logarithms are taken, at least a thousandth of their usual size."""
        if self.transform == "log":
            values = np.log(np.maximum(values, math.exp(self.centre) * 1e-3))
        return (values - self.centre) / self.spread

    def restored(self, scaled: Floats) -> Floats:
        """The values behind scaled ones."""
        values = scaled * self.spread + self.centre
        return np.exp(np.minimum(values, 700.0)) if self.transform == "log" else values

    def decimals(self, largest: float) -> int:
        """Digits after the point that forecasts of this series need, the largest of them in size being `largest`:
        see `FINENESS` and `SIGNIFICANT`. Negative where even ones, tens and so on are more than is needed."""
        level = math.exp(min(self.centre, 700.0)) if self.transform == "log" else 1.0
        change = self.step_unit * self.spread * level
        needed = -_exponent(change / FINENESS) if change > 0 else 0
        return max(needed, SIGNIFICANT - 1 - _exponent(largest) if largest > 0 else 0)

    def weights(self) -> tuple[float, float, float]:
        """The base as a sum: its weights on the last value, the value a season before the next, and the one a season
        before the last."""
        return {LAST: (1.0, 0.0, 0.0), SEASONAL: (0.0, 1.0, 0.0), CHANGE: (1.0, 1.0, -1.0)}[self.base]

    def to_json(self) -> dict[str, Any]:
        """As the model folder keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Scale:
        """Raises ValueError, TypeError or KeyError for what `to_json` did not write."""
        given = {each.name: content[each.name] for each in fields(cls)}
        numbers = [value for name, value in given.items() if name not in ("transform", "base", "nonnegative")]
        if given["transform"] not in ("none", "log") or given["base"] not in (LAST, SEASONAL, CHANGE):
            raise ValueError("a transform or a base that does not exist")
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            raise ValueError("a measure that is no number")
        if min(given[name] for name in ("spread", "step_unit", "season_unit", "base_unit", "deviation")) <= 0:
            raise ValueError("a measure that is not above 0")
        if given["naive"] < 0 or type(given["nonnegative"]) is not bool:
            raise ValueError("a naive error below 0, or a sign that is neither true nor false")
        return cls(**given)


def fit(name: str, values: Floats, missing: Mask, season: int, horizon: int, transform: str, end: int) -> Scale:
    """The measures of a training part: values (N,) with gaps filled, `missing` (N,) where they were.

    A constant series is measured in units of its value and forecast as what it is. Raises TextgenError for logarithms
    of what is not above 0.
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
    """Whether values (N,) are all the same, or so close that their spread is too small to be divided by."""
    return bool(np.ptp(known) == 0 or deviation(known) < np.finfo(np.float64).tiny)


def rounded(values: Sequence[float], scale: Scale) -> list[float]:
    """Forecasts of a series, rounded to the digits that it needs: what csv and JSON say alike."""
    decimals = scale.decimals(max((abs(value) for value in values if math.isfinite(value)), default=0.0))
    return [round(float(value), decimals) + 0.0 for value in values]


def _exponent(number: float) -> int:
    """The power of ten of the first significant digit of a number above 0: 2 of 345, -3 of 0.001."""
    return math.floor(math.log10(number))


def _mean(values: Floats) -> np.float64:
    """The mean, of values too large to be added up as well."""
    unit = _unit(values)
    mean: np.float64 = (values / unit).mean() * unit
    return mean


def deviation(values: Floats) -> float:
    """The standard deviation, of values whose squares no float64 holds as well: exactly in proportion to the unit that
    values are measured in, if units differ by a power of two."""
    unit = _unit(values - _mean(values))
    return float(((values - _mean(values)) / unit).std() * unit)


def _unit(values: Floats) -> float:
    """The power of two just above all values in size; 1 if they are all zero."""
    largest = float(np.abs(values).max())
    return math.ldexp(1.0, min(math.frexp(largest)[1], 1023)) if largest > 0 else 1.0


def naive_error(scaled: Floats, missing: Mask, season: int, base: str, ahead: int) -> Floats:
    """The errors of a naive forecast `ahead` steps before, (n,), where both ends are known."""
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
    """The naive forecast with the least mean square error over the horizon, the simplest where they are even.

    A seasonal one needs three seasons of training to be believed.
    """
    kinds = [LAST, SEASONAL, CHANGE] if season > 1 and 3 * season <= len(scaled) else [LAST]
    steps = sorted({1, *np.unique(np.linspace(1, horizon, min(horizon, 24)).astype(int)).tolist()})
    errors = {}
    for kind in kinds:
        squares = [float(np.mean(e**2)) for k in steps if len(e := naive_error(scaled, missing, season, kind, k))]
        errors[kind] = float(np.mean(squares)) if squares else math.inf
    return min(kinds, key=lambda kind: errors[kind])


def unit(scaled: Floats, missing: Mask, season: int, base: str) -> float:
    """The root mean square error of a naive forecast of the next step; 1 where there is none."""
    errors = naive_error(scaled, missing, season, base, 1)
    return max(LEAST, float(np.sqrt(np.mean(errors**2)))) if len(errors) else 1.0


def suits_logarithms(values: Floats, missing: Mask, season: int) -> bool:
    """Whether changes are rather in proportion to the values: by the likelihood of the changes under a normal law,
    logarithms counted with their Jacobian (Box and Cox 1964), with a margin of two nats."""
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
