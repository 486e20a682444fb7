"""How good a forecaster is, by rolling origin: from every step on it forecasts the horizon, and so do the naive ones.

The last value and the seasonal value are judged on the very same windows: a forecaster that does not beat them has
learnt nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from textgen.errors import TextgenError, TextgenWarning
from textgen.parameters import named
from textgen.series.design import Design, Rows
from textgen.series.loop import Floats, ForecastStepper, Origins, forecasts, paths, read, taken
from textgen.series.metrics import Errors, last_value, seasonal_naive
from textgen.wording import plural

MODEL, LAST, SEASONAL = "model", "last value", "seasonal naive"
MOST_ORIGINS = 20_000
"""Origins that roll out side by side; their states are held at once."""

MOST_PATH_STEPS = 2_000_000
"""Steps of sample paths that an evaluation draws at most; of more windows, every so many are taken for coverage."""


@dataclass(frozen=True)
class ForecastRequest:
    """What is forecast when: `horizon` steps from every `stride`-th origin on, with `number` sample paths of which the
    middle `level` percent are the interval; 0 paths measure no coverage."""

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
    """The errors of the model and of the naive forecasts, by method, in all and for each series."""

    request: ForecastRequest
    season: int
    windows: int = 0
    continued: int = 0
    """Series whose table begins after the end of training: all of their rows are scored."""
    errors: dict[str, Errors] = field(default_factory=dict)
    by_series: dict[str, dict[str, Errors]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Every figure, by method; where there are several series, of each of them too."""
        each = {name: _figures(errors) for name, errors in self.by_series.items()}
        return {
            "horizon": self.request.horizon,
            "windows": self.windows,
            "continued_from_training": self.continued,
            "season": self.season,
            "level": self.request.level,
            **_figures(self.errors),
            **({"series": each} if len(each) > 1 else {}),
        }


def _figures(errors: dict[str, Errors]) -> dict[str, Any]:
    return {method.replace(" ", "_"): found.to_json() for method, found in errors.items()}


def evaluate_rows(
    stepper: ForecastStepper, rows: Sequence[Rows], design: Design, first: Sequence[int], request: ForecastRequest
) -> BacktestReport:
    """Forecast from every origin of each series whose first forecast value is number `first` or later and whose last
    is still there. Raises TextgenError if there is no such origin."""
    report = BacktestReport(request, design.season)
    counts = [max(0, len(r) - request.horizon - max(0, start - 1)) for r, start in zip(rows, first, strict=True)]
    total = sum(-(-count // request.stride) for count in counts)
    if not total:
        shorter = f", or a shorter {named('horizon')}"
        raise TextgenError(
            f"no series has {plural(request.horizon, 'time step')} left to be forecast and compared.",
            hint=f"give a longer series{shorter if request.horizon > 1 else ''}.",
        )
    report.continued = sum(each.series.trained > 0 for each in rows)
    thin = max(1, -(-total * request.number * request.horizon // MOST_PATH_STEPS))
    begin = [max(0, start - 1) for start in first]
    ends = [len(each) - request.horizon for each in rows]
    for batch in read(stepper, rows, begin, MOST_ORIGINS, ends):
        past = batch.steps - np.array(begin)[batch.series]
        chosen = np.flatnonzero(past % request.stride == 0)
        _judge(stepper, rows, design, taken(stepper, batch, chosen), report, past[chosen] // request.stride % thin == 0)
    for errors in report.by_series.values():
        for method, found in errors.items():
            report.errors.setdefault(method, Errors()).include(found)
    return report


def _judge(
    stepper: ForecastStepper,
    rows: Sequence[Rows],
    design: Design,
    origins: Origins,
    report: BacktestReport,
    drawn: np.ndarray[Any, np.dtype[np.bool_]],
) -> None:
    """Add up the errors of some origins, and coverage where paths are `drawn`."""
    request = report.request
    if not len(origins):
        return
    found = forecasts(stepper, rows, design, origins, request.horizon)
    report.windows += len(origins)
    for number in np.unique(origins.series):
        here = origins.series == number
        _compare(rows[number], origins.steps[here], found[here], design.season, report)
    if not request.number or not drawn.any():
        return
    some = taken(stepper, origins, np.flatnonzero(drawn))
    low, high = interval(
        paths(stepper, rows, design, some, request.horizon, request.number, request.seed), request.level
    )
    for number in np.unique(some.series):
        here = some.series == number
        each = rows[number]
        steps = some.steps[here]
        truth, known = _came(each, steps, request.horizon)
        errors = report.by_series[each.series.name][MODEL]
        errors.add_interval(truth, each.restored(low[here], steps), each.restored(high[here], steps), known)


def _compare(rows: Rows, steps: np.ndarray[Any, Any], scaled: Floats, season: int, report: BacktestReport) -> None:
    horizon, values = report.request.horizon, rows.series.values
    truth, known = _came(rows, steps, horizon)
    methods = {MODEL: rows.restored(scaled, steps), LAST: last_value(values, steps, horizon)}
    if season > 1:
        methods[SEASONAL] = seasonal_naive(values, steps, horizon, season)
    errors = report.by_series.setdefault(rows.series.name, {})
    for method, forecast in methods.items():
        errors.setdefault(method, Errors()).add(truth, forecast, known, rows.scale)


def _came(rows: Rows, steps: np.ndarray[Any, Any], horizon: int) -> tuple[Floats, np.ndarray[Any, np.dtype[np.bool_]]]:
    places = steps[:, None] + np.arange(1, horizon + 1)
    return rows.series.values[places], ~rows.series.missing[places]


def interval(drawn: Floats, level: float) -> tuple[Floats, Floats]:
    """The middle `level` percent of sample paths (R, number, horizon), as two (R, horizon)."""
    tail = (1 - level / 100) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=1)
    return low, high
