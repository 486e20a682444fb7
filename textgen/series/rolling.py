"""Backtests by rolling origin: at every step a forecaster predicts the horizon, and so do the naive forecasts.

The last value and the seasonal naive forecast are scored on the same windows: a forecaster that does not beat them has
learned nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from textgen.errors import TextgenError, TextgenWarning
from textgen.parameters import named
from textgen.series.design import Design, PreparedSeries
from textgen.series.loop import Origins, forecasts, paths, read, select
from textgen.series.metrics import Errors, last_value, seasonal_naive
from textgen.series.scaling import Floats, Mask
from textgen.series.times import Places
from textgen.stepper import Stepper
from textgen.wording import plural

MODEL, LAST, SEASONAL = "model", "last value", "seasonal naive"
MOST_ORIGINS = 20_000
"""Origins that are forecast in one batch; all of their states are in memory."""

MOST_PATH_STEPS = 2_000_000
"""The most steps of sample paths that a backtest draws; beyond, coverage is measured on every k-th window."""


@dataclass(frozen=True)
class ForecastRequest:
    """What to forecast: `horizon` steps, in a backtest from every `stride`-th origin, with `number` sample paths whose
    middle `level` percent are the interval; without paths, there is no interval and no coverage."""

    horizon: int
    stride: int = 1
    number: int = 100
    level: float = 90.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.number and self.level < 1:
            says = named("level", f"{self.level:g}")
            meant = named("level", f"{100 * self.level:g}")
            warnings.warn(
                TextgenWarning(f"{says} is less than one percent; did you mean {meant} (percent)?"), stacklevel=2
            )


@dataclass
class BacktestReport:
    """The errors of the model and of the naive forecasts, by method, in total and for each series."""

    request: ForecastRequest
    season: int
    windows: int = 0
    continued: int = 0
    """Series whose table begins after the end of training: all of their rows are scored."""
    errors: dict[str, Errors] = field(default_factory=dict)
    by_series: dict[str, dict[str, Errors]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Every metric, by method; for several series, of each of them too."""
        each = {name: _metrics(errors) for name, errors in self.by_series.items()}
        return {
            "horizon": self.request.horizon,
            "windows": self.windows,
            "continued_from_training": self.continued,
            "season": self.season,
            "level": self.request.level,
            **_metrics(self.errors),
            **({"series": each} if len(each) > 1 else {}),
        }


def _metrics(errors: dict[str, Errors]) -> dict[str, Any]:
    return {method.replace(" ", "_"): found.to_json() for method, found in errors.items()}


def evaluate_rows(
    stepper: Stepper,
    rows: Sequence[PreparedSeries],
    design: Design,
    first: Sequence[int],
    request: ForecastRequest,
) -> BacktestReport:
    """Forecast from every origin of each series whose forecast begins at step `first` or later and ends within the
    series. Raises TextgenError if there is no such origin."""
    report = BacktestReport(request, design.season)
    begin = [max(0, start - 1) for start in first]
    ends = [len(each) - request.horizon for each in rows]
    total = sum(-(-max(0, end - start) // request.stride) for start, end in zip(begin, ends, strict=True))
    if not total:
        shorter = f", or a shorter {named('horizon')}"
        raise TextgenError(
            f"no series has {plural(request.horizon, 'time step')} left to be forecast and compared.",
            hint=f"give a longer series{shorter if request.horizon > 1 else ''}.",
        )
    report.continued = sum(each.series.trained > 0 for each in rows)
    thin = max(1, -(-total * request.number * request.horizon // MOST_PATH_STEPS))
    for batch in read(stepper, rows, begin, MOST_ORIGINS, ends):
        past = batch.steps - np.array(begin)[batch.series]
        chosen = np.flatnonzero(past % request.stride == 0)
        if len(chosen):
            origins = select(stepper, batch, chosen)
            _score_forecasts(stepper, rows, design, origins, report)
            drawn = np.flatnonzero(past[chosen] // request.stride % thin == 0)
            if request.number and len(drawn):
                _score_intervals(stepper, rows, design, select(stepper, origins, drawn), report)
    for errors in report.by_series.values():
        for method, found in errors.items():
            report.errors.setdefault(method, Errors()).include(found)
    return report


def _score_forecasts(
    stepper: Stepper, rows: Sequence[PreparedSeries], design: Design, origins: Origins, report: BacktestReport
) -> None:
    """Add the errors of the forecasts from some origins."""
    season, horizon = design.season, report.request.horizon
    found = forecasts(stepper, rows, design, origins, horizon)
    report.windows += len(origins)
    for number in np.unique(origins.series):
        each, here = rows[number], origins.series == number
        steps, values = origins.steps[here], each.series.values
        actual, known = _actual(each, steps, horizon)
        methods = {MODEL: each.restored(found[here], steps), LAST: last_value(values, steps, horizon)}
        if season > 1:
            methods[SEASONAL] = seasonal_naive(values, steps, horizon, season)
        errors = report.by_series.setdefault(each.series.name, {})
        for method, forecast in methods.items():
            errors.setdefault(method, Errors()).add(actual, forecast, known, each.scale)


def _score_intervals(
    stepper: Stepper, rows: Sequence[PreparedSeries], design: Design, origins: Origins, report: BacktestReport
) -> None:
    """Add the coverage of the intervals from some origins."""
    request = report.request
    drawn = paths(stepper, rows, design, origins, request.horizon, request.number, request.seed)
    low, high = interval(drawn, request.level)
    for number in np.unique(origins.series):
        each, here = rows[number], origins.series == number
        steps = origins.steps[here]
        actual, known = _actual(each, steps, request.horizon)
        errors = report.by_series[each.series.name][MODEL]
        errors.add_interval(actual, each.restored(low[here], steps), each.restored(high[here], steps), known)


def _actual(prepared: PreparedSeries, steps: Places, horizon: int) -> tuple[Floats, Mask]:
    """The actual values (O, horizon) after some steps (O,), and which of them are known."""
    places = steps[:, None] + np.arange(1, horizon + 1)
    return prepared.series.values[places], ~prepared.series.missing[places]


def interval(drawn: Floats, level: float) -> tuple[Floats, Floats]:
    """The bounds of the middle `level` percent of sample paths (R, number, horizon), each (R, horizon)."""
    tail = (1 - level / 100) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=1)
    return low, high
