"""Forecasts by the loop, and their errors by rolling origin, beside those of the naive forecasts.

y(t) becomes x(t + 1). The history is read once, and at each origin the state is kept; then all origins roll out side
by side, each forecast fed back as the value of the next step. With draws instead of the likeliest values, the loop
gives sample paths. A model's output is a Student-t distribution of the next value: location, scale and degrees of
freedom. The location is a distance from the naive forecast, in units of its usual error, so that a model that gives
zeros is the naive forecast with its usual error.

The last value and the seasonal value are judged on the very same windows: a forecaster that does not beat them has
learned nothing. MASE divides the mean absolute error by that of the seasonal naive forecast within the training part
(Hyndman and Koehler 2006, "Another look at measures of forecast accuracy"); a series that the seasonal naive
forecast predicts without error has no MASE, and is left out of the mean over series. sMAPE is 200 |y - f| / (|y| +
|f|), in percent (Makridakis 1993). The scaled errors are those of values with the training part's mean and deviation
taken out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from textgen.errors import TextgenError, TextgenWarning
from textgen.formatting import plural
from textgen.model.stepper import Stepper, closed_loop
from textgen.options import named
from textgen.tasks.forecasting.design import Design, PreparedSeries
from textgen.tasks.forecasting.scaling import Floats, Floats32, Mask, Scale, Units, base_forecast, features
from textgen.tasks.forecasting.times import Places

MODEL, LAST, SEASONAL = "model", "last value", "seasonal naive"
SCALE_AT_ZERO = 0.541324854612918  # the argument at which softplus is 1
LEAST_SCALE, LEAST_FREEDOM, FREEDOM_AT_ZERO = 1e-3, 2.1, 6.0

MOST_CELLS = 1 << 22  # elements of an array while a batch of origins rolls out
MOST_ORIGINS = 20_000  # forecast in one batch; all of their states are in memory
MOST_PATH_STEPS = 2_000_000
"""The most steps of sample paths that a backtest draws; beyond, coverage is measured on every k-th window."""


@dataclass(frozen=True)
class Origins:
    """Where forecasts begin: of each row (R,) the index of its series and the last time step read, with the outputs
    (R, 3) and the state there."""

    series: Places
    steps: Places
    outputs: Floats32
    state: Any

    def __len__(self) -> int:
        return len(self.series)

    def select(self, stepper: Stepper, place: Places) -> Origins:
        """Some of the origins, which may repeat."""
        state = stepper.select(self.state, place)
        return Origins(self.series[place], self.steps[place], self.outputs[place], state)


@dataclass(frozen=True)
class SeriesLoop:
    """A model that reads series (`rows`) and continues them, each forecast fed back as the value of the next step."""

    stepper: Stepper
    rows: Sequence[PreparedSeries]
    design: Design

    def read(self, first: Sequence[int], most: int, ends: Sequence[int] | None = None) -> Iterator[Origins]:
        """Read all series from their beginnings as one batch; every step of a series from `first` to before `ends` is
        an origin. Yields them in batches of about `most`, in order of time."""
        lengths, begin = np.array([len(each) for each in self.rows]), np.array(first)
        stop = lengths if ends is None else np.array(ends)
        everything, starts = np.concatenate([each.inputs for each in self.rows]), _starts(lengths)
        state, kept, number = self.stepper.initial_state(len(self.rows)), [], 0
        for t in range(stop.max()):
            inputs = everything[starts + np.minimum(t, lengths - 1)]
            outputs, state = self.stepper.step(inputs, state)
            here = np.flatnonzero((begin <= t) & (t < stop))
            if len(here):
                kept.append(Origins(here, np.full(len(here), t), outputs[here], self.stepper.select(state, here)))
                number += len(here)
            if number >= most:
                yield self._together(kept)
                kept, number = [], 0
        if kept:
            yield self._together(kept)

    def _together(self, kept: Sequence[Origins]) -> Origins:
        parts = [np.concatenate(each) for each in zip(*((o.series, o.steps, o.outputs) for o in kept), strict=True)]
        return Origins(parts[0], parts[1], parts[2], self.stepper.concat([each.state for each in kept]))

    def methods(self, origins: Origins, horizon: int) -> dict[str, Floats]:
        """The scaled forecasts (R, horizon) of the model, and of its parts if it has several, by name."""
        return {MODEL: self.forecasts(origins, horizon)}

    def weights(self) -> dict[str, float]:
        """The mean weight of each kind of forecast in the model's; empty if there is one kind."""
        return {}

    def bounded(self, origins: Origins, scaled: Floats) -> Floats:
        """Scaled forecasts (R, ...) from some origins, within the bounds of a forecast."""
        least, greatest = _bounds(self.rows, origins, Units.of([each.scale for each in self.rows]).rows(origins.series))
        wide = (-1, *[1] * (scaled.ndim - 1))
        bounded: Floats = np.clip(scaled, least.reshape(wide), greatest.reshape(wide))
        return bounded

    def forecasts(self, origins: Origins, horizon: int) -> Floats:
        """The scaled forecasts (R, horizon). Raises ValueError if a calendar is too short."""
        return np.concatenate([self._roll_out(part, horizon) for part in self._chunks(origins, horizon)])

    def paths(self, origins: Origins, horizon: int, number: int, seed: int) -> Floats:
        """Scaled sample paths (R, number, horizon). The noise of a row depends on the seed, the name of its series and
        the distance of its origin from the end."""
        found = []
        for chunk in self._chunks(origins, horizon, number):
            copied = chunk.select(self.stepper, np.repeat(np.arange(len(chunk)), number))
            places = zip(chunk.series, chunk.steps, strict=True)
            noise = np.concatenate([_noise(seed, self.rows[k], int(t), number, horizon) for k, t in places])
            found.append(self._roll_out(copied, horizon, noise).reshape(len(chunk), number, horizon))
        return np.concatenate(found)

    def _chunks(self, origins: Origins, horizon: int, copies: int = 1) -> Iterator[Origins]:
        """The origins in chunks that fit into memory with `copies` paths each."""
        each = copies * (horizon * 3 + self.design.lags.farthest + 4 * self.design.width)
        size = max(1, MOST_CELLS // each)
        for start in range(0, len(origins), size):
            yield origins.select(self.stepper, np.arange(start, min(start + size, len(origins))))

    def _roll_out(self, origins: Origins, horizon: int, noise: Floats | None = None) -> Floats:
        """The next `horizon` scaled values (R, horizon) after each origin: the location of each distribution, fed back,
        or with uniform `noise` (R, horizon, 2) samples of it."""
        rolling = _Rolling(self.rows, self.design, origins, horizon, noise)
        steps = closed_loop(self.stepper.step, origins.outputs, origins.state, rolling.choose, rolling.feed)
        return np.stack([chosen for chosen, _ in islice(steps, horizon)], axis=1)

    def evaluate(self, first: Sequence[int], request: ForecastRequest) -> BacktestReport:
        """Forecast from every origin of each series whose forecast begins at step `first` or later and ends within the
        series. Raises TextgenError if there is no such origin."""
        begin = [max(0, start - 1) for start in first]
        ends = [len(each) - request.horizon for each in self.rows]
        total = sum(-(-max(0, end - start) // request.stride) for start, end in zip(begin, ends, strict=True))
        if not total:
            shorter = f", or a shorter {named('horizon')}"
            raise TextgenError(
                f"no series has {plural(request.horizon, 'time step')} left to be forecast and compared.",
                hint=f"give a longer series{shorter if request.horizon > 1 else ''}.",
            )
        continued = sum(each.series.trained > 0 for each in self.rows)
        report = BacktestReport(request, self.design.season, weights=self.weights(), continued=continued)
        thin = max(1, -(-total * request.number * request.horizon // MOST_PATH_STEPS))
        for batch in self.read(begin, MOST_ORIGINS, ends):
            past = batch.steps - np.array(begin)[batch.series]
            chosen = np.flatnonzero(past % request.stride == 0)
            if len(chosen):
                origins = batch.select(self.stepper, chosen)
                self._score_forecasts(origins, report)
                drawn = np.flatnonzero(past[chosen] // request.stride % thin == 0)
                if request.number and len(drawn):
                    self._score_intervals(origins.select(self.stepper, drawn), report)
        for errors in report.by_series.values():
            for method, found in errors.items():
                report.errors.setdefault(method, Errors()).include(found)
        return report

    def _score_forecasts(self, origins: Origins, report: BacktestReport) -> None:
        """Add the errors of the forecasts from some origins."""
        season, horizon = self.design.season, report.request.horizon
        found = self.methods(origins, horizon)
        report.windows += len(origins)
        for number in np.unique(origins.series):
            each, here = self.rows[number], origins.series == number
            steps, values = origins.steps[here], each.series.values
            places, known = following(each, steps, horizon)
            actual = each.series.values[places]
            methods = {method: each.restored(scaled[here], steps) for method, scaled in found.items()}
            methods[LAST] = last_value(values, steps, horizon)
            if season > 1:
                methods[SEASONAL] = seasonal_naive(values, steps, horizon, season)
            errors = report.by_series.setdefault(each.series.name, {})
            for method, forecast in methods.items():
                errors.setdefault(method, Errors()).add(actual, forecast, known, each.scale)

    def _score_intervals(self, origins: Origins, report: BacktestReport) -> None:
        """Add the coverage of the intervals from some origins."""
        request = report.request
        drawn = self.paths(origins, request.horizon, request.number, request.seed)
        low, high = interval(drawn, request.level)
        at = np.quantile(drawn, request.quantiles, axis=1)
        for number in np.unique(origins.series):
            each, here = self.rows[number], origins.series == number
            steps = origins.steps[here]
            places, known = following(each, steps, request.horizon)
            actual = each.series.values[places]
            errors = report.by_series[each.series.name][MODEL]
            errors.add_interval(actual, each.restored(low[here], steps), each.restored(high[here], steps), known)
            for quantile, values in zip(request.quantiles, at, strict=True):
                errors.add_quantile(quantile, actual, each.restored(values[here], steps), known)


def _noise(seed: int, rows: PreparedSeries, step: int, number: int, horizon: int) -> Floats:
    name = crc32(rows.series.name.encode("utf-8", "surrogateescape"))
    return np.random.default_rng([seed, name, len(rows) - step]).random((horizon, number, 2)).swapaxes(0, 1)


def _starts(lengths: Sequence[int] | Places) -> Places:
    """Where each of several arrays begins once they are concatenated."""
    each = np.asarray(lengths, dtype=np.intp)
    starts: Places = np.cumsum(each) - each
    return starts


def _bounds(rows: Sequence[PreparedSeries], origins: Origins, units: Units) -> tuple[Floats, Floats]:
    """The least and the greatest scaled forecast of each origin (R,)."""
    places = _starts([len(each) for each in rows])[origins.series] + origins.steps
    last, floor = (np.concatenate([getattr(each, name) for each in rows])[places] for name in ("scaled", "floor"))
    least = np.maximum(np.minimum(units.low, last) - units.room, floor)
    return least, np.maximum(units.high, last) + units.room


class _Rolling:
    """A batch of origins rolling out: what is chosen from an output, and what is read next."""

    def __init__(
        self, rows: Sequence[PreparedSeries], design: Design, origins: Origins, horizon: int, noise: Floats | None
    ) -> None:
        lengths = np.array([len(each.calendar) for each in rows])
        if np.any(origins.steps + horizon > lengths[origins.series]):
            raise ValueError(f"the calendar of a series ends before {horizon} steps after its origin")
        self._lags, self._offsets = design.lags, np.array(design.lags.offsets)
        self._units = Units.of([each.scale for each in rows]).rows(origins.series)
        starts = _starts([len(each) for each in rows])[origins.series]
        back = np.maximum(origins.steps[:, None] + np.arange(-design.lags.farthest, 1), 0)  # the first value goes on
        known = np.concatenate([each.scaled for each in rows])[starts[:, None] + back]
        self._values = np.concatenate([known, np.zeros((len(origins), horizon))], axis=1)
        self._extras = np.concatenate([each.extras for each in rows])[starts + origins.steps]
        self._calendar = np.concatenate([each.calendar for each in rows])
        self._place = _starts(lengths)[origins.series] + origins.steps
        self._least, self._greatest = _bounds(rows, origins, self._units)
        self._noise, self._ahead, self._reach = noise, 0, design.reach

    def _seen(self) -> Floats:
        """The lagged values that are read now, (R, offsets)."""
        return self._values[:, self._lags.farthest + self._ahead - self._offsets]

    def choose(self, outputs: Floats32) -> Floats:
        """The next value of each row (R,): the location of its distribution or a sample of it, within bounds."""
        location, scale, freedom = student_t(outputs)
        location = location * (self._ahead < self._reach)
        if self._noise is not None:
            location = location + scale * sample_student_t(self._noise[:, self._ahead], freedom)
        value = base_forecast(self._seen(), self._units) + self._units.base * location
        bounded: Floats = np.clip(value, self._least, self._greatest)
        return bounded

    def feed(self, chosen: Floats) -> Floats32:
        """The inputs (R, width) of the next time step, whose value is the chosen one."""
        self._ahead += 1
        self._values[:, self._lags.farthest + self._ahead] = chosen
        inputs = features(self._seen(), self._units, self._lags, np.zeros(len(chosen)))
        return np.concatenate([inputs, self._extras, self._calendar[self._place + self._ahead]], axis=1)


def following(prepared: PreparedSeries, steps: Places, horizon: int) -> tuple[Places, Mask]:
    """The steps (O, horizon) that follow some steps (O,), and at which of them the value is known."""
    places = steps[:, None] + np.arange(1, horizon + 1)
    return places, ~prepared.series.missing[places]


def interval(drawn: Floats, level: float) -> Floats:
    """The bounds (2, R, horizon) of the middle `level` percent of sample paths (R, number, horizon)."""
    tail = (1 - level / 100) / 2
    return np.quantile(drawn, [tail, 1 - tail], axis=1)


def student_t(outputs: npt.NDArray[np.floating]) -> tuple[Floats, Floats, Floats]:
    """Location, scale and degrees of freedom (R,) of outputs (R, 3), in units of the base's error."""
    location, scale, freedom = outputs.astype(np.float64).T
    scale = np.logaddexp(0.0, scale + SCALE_AT_ZERO) + LEAST_SCALE  # softplus
    return location, scale, LEAST_FREEDOM + np.logaddexp(0.0, freedom + FREEDOM_AT_ZERO)


def sample_student_t(uniform: Floats, freedom: Floats) -> Floats:
    """Samples of Student's t, from pairs of uniform numbers (..., 2) and degrees of freedom (...). Bailey 1994, "Polar
    generation of random variates with the t-distribution"."""
    radius = np.sqrt(freedom * (np.maximum(uniform[..., 0], 1e-12) ** (-2 / freedom) - 1))
    return radius * np.cos(2 * np.pi * uniform[..., 1])


@dataclass(frozen=True)
class ForecastRequest:
    """What to forecast: `horizon` steps, in a backtest from every `stride`-th origin, with `number` sample paths whose
    middle `level` percent are the interval; without paths, there is no interval and no coverage."""

    horizon: int
    stride: int = 1
    number: int = 100
    level: float = 90.0
    seed: int = 0
    quantiles: tuple[float, ...] = ()
    """Quantiles to estimate from the sample paths, in a backtest to score."""

    def __post_init__(self) -> None:
        if self.number and self.level < 1:
            says, meant = named("level", f"{self.level:g}"), named("level", f"{100 * self.level:g}")
            message = f"{says} is less than one percent; did you mean {meant} (percent)?"
            warnings.warn(TextgenWarning(message), stacklevel=2)


@dataclass
class BacktestReport:
    """The errors of the model and of the naive forecasts, by method, in total and for each series."""

    request: ForecastRequest
    season: int
    windows: int = 0
    weights: dict[str, float] = field(default_factory=dict)
    """The mean weight of each kind of forecast in the model's, if it combines several."""
    continued: int = 0
    """Series whose table begins after the end of training: all of their rows are scored."""
    errors: dict[str, Errors] = field(default_factory=dict)
    by_series: dict[str, dict[str, Errors]] = field(default_factory=dict)
    unfitted: dict[str, int] = field(default_factory=dict)
    """How often a method could not be fitted, so that the last value stands in for its forecast."""
    recent: BacktestReport | None = None
    """The same over the last windows of each series, where other methods are only scored on these."""

    def to_json(self) -> dict[str, Any]:
        """Every metric, by method; for several series, of each of them too."""
        each = {name: _metrics(errors) for name, errors in self.by_series.items()}
        return {
            "horizon": self.request.horizon,
            "windows": self.windows,
            "continued_from_training": self.continued,
            "season": self.season,
            "level": self.request.level,
            **({"weights": self.weights} if self.weights else {}),
            **_metrics(self.errors),
            **({"series": each} if len(each) > 1 else {}),
            **({"not_fitted": self.unfitted} if self.unfitted else {}),
            **({"recent": self.recent.to_json()} if self.recent else {}),
        }


def _metrics(errors: dict[str, Errors]) -> dict[str, Any]:
    return {method.lower().replace(" ", "_"): found.to_json() for method, found in errors.items()}


@dataclass
class Errors:
    """Sums over all forecasts: `add` takes windows, `include` the errors of another series."""

    sums: dict[str, float] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    def add(self, actual: Floats, forecast: Floats, known: Mask, scale: Scale) -> None:
        """Add windows (O, H) of one series: actual values, forecasts, and which actual values are known."""
        error = (actual - forecast)[known]
        size = (np.abs(actual) + np.abs(forecast))[known]
        self._sum("absolute", np.abs(error))
        self._sum("square", error**2)
        self._sum("percent", 200 * np.divide(np.abs(error), size, out=np.zeros_like(size), where=size > 0))
        if scale.naive:
            self._sum("ratio", np.abs(error) / scale.naive)
        self._sum("scaled_absolute", np.abs(error) / scale.deviation)
        self._sum("scaled_square", (error / scale.deviation) ** 2)

    def add_interval(self, actual: Floats, low: Floats, high: Floats, known: Mask) -> None:
        """Add whether actual values (O, H) lie within intervals."""
        self._sum("covered", ((low <= actual) & (actual <= high))[known].astype(np.float64))

    def add_quantile(self, quantile: float, actual: Floats, forecast: Floats, known: Mask) -> None:
        """Add the loss of the forecasts (O, H) of a quantile, and the sizes by which it is weighted."""
        above = (actual - forecast)[known]
        self._sum(f"quantile {quantile:g}", np.maximum(quantile * above, (quantile - 1) * above))
        self._sum(f"size {quantile:g}", np.abs(actual)[known])

    def quantile_losses(self) -> dict[str, float | None]:
        """The mean loss of each quantile that was scored, by its number."""
        names = [name.removeprefix("quantile ") for name in self.sums if name.startswith("quantile ")]
        return {name: self.mean(f"quantile {name}") for name in names}

    def weighted_quantile_loss(self) -> float | None:
        """The mean over quantiles of twice the sum of losses divided by that of absolute values; None without any."""
        pairs = [(loss, self.mean(f"size {name}")) for name, loss in self.quantile_losses().items()]
        ratios = [2 * loss / size for loss, size in pairs if loss is not None and size]
        return sum(ratios) / len(ratios) if ratios else None

    def _sum(self, name: str, values: Floats) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(values.sum())
        self.numbers[name] = self.numbers.get(name, 0) + len(values)

    def include(self, other: Errors) -> None:
        """Add the errors of another series."""
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.numbers[name] = self.numbers.get(name, 0) + other.numbers[name]

    def mean(self, name: str) -> float | None:
        """The mean of one of the sums; None if it is empty or not finite."""
        number = self.numbers.get(name, 0)
        return self.sums[name] / number if number and math.isfinite(self.sums[name]) else None

    def to_json(self) -> dict[str, Any]:
        """Every metric by name; None for an undefined one."""
        square, losses = self.mean("square"), self.quantile_losses()
        return {
            "mae": self.mean("absolute"),
            "rmse": None if square is None else math.sqrt(square),
            "mse": square,
            "mase": self.mean("ratio"),
            "smape": self.mean("percent"),
            "scaled_mae": self.mean("scaled_absolute"),
            "scaled_mse": self.mean("scaled_square"),
            "coverage": self.mean("covered"),
            **({"quantile_loss": losses, "wql": self.weighted_quantile_loss()} if losses else {}),
        }


def last_value(values: Floats, origins: Places, horizon: int) -> Floats:
    """The forecast (O, horizon) that the value at each origin, the last known step, stays the same."""
    return np.repeat(values[origins][:, None], horizon, axis=1)


def seasonal_naive(values: Floats, origins: Places, horizon: int, season: int) -> Floats:
    """The forecast (O, horizon) that the last known season repeats; the first value extends backward."""
    ahead = np.arange(1, horizon + 1)
    back = ahead - season * -(-ahead // season)
    return values[np.maximum(origins[:, None] + back, 0)]
