"""Classical forecasters on the windows that a model is scored on: AutoETS and AutoARIMA of statsforecast.

Both choose their own form and parameters (Hyndman and Khandakar 2008, "Automatic time series forecasting"). A series
of fewer than `FEW` time steps is fitted again at every origin. A longer one is fitted once, on what comes before the
first origin, and reads the values after that with fixed parameters; only its last `RECENT` origins are scored, so the
model is scored on these, too. Gaps hold the last value, as everywhere. statsforecast is the extra `bench`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from textgen.errors import needed
from textgen.options import named
from textgen.tasks.forecasting.design import PreparedSeries
from textgen.tasks.forecasting.options import ARIMA, BASELINES
from textgen.tasks.forecasting.rolling import BacktestReport, Errors, ForecastRequest
from textgen.tasks.forecasting.scaling import Floats
from textgen.tasks.forecasting.times import Places

TITLES = dict(zip(BASELINES, ("AutoETS", "AutoARIMA"), strict=True))
FEW = 500  # a series of fewer time steps is fitted again at every origin
RECENT = 200  # the origins that are scored of a longer one
LONGEST_FIT = 2_000
"""The most time steps, the last ones before the first origin, that AutoARIMA is fitted on with a season of more than
`QUICK_SEASON`: a fit on 11,520 hours takes six minutes."""

QUICK_SEASON = 12
READ = 1_000  # the last values that a fitted AutoARIMA reads at an origin; more change nothing that is shown
LONGEST_SEASON = 24
"""AutoETS knows no longer season, and AutoARIMA takes hours for one; beyond, they are fitted without a season."""

Reached = Callable[[int, int], None]
"""Is called with the number of forecasts made, and that of all."""


@dataclass(frozen=True)
class Forecasts:
    """The forecasts (O, H) of one method from some origins, the bounds of its intervals, and how often it could not be
    fitted, so that the last value stands in, without an interval."""

    values: Floats
    low: Floats
    high: Floats
    failed: int = 0


@dataclass
class Fitted:
    """One method on one series of `values` (N,), with a `season` in time steps. A long series is fitted on what comes
    before step `first`."""

    method: str
    values: Floats
    first: int
    season: int
    level: float
    failed: int = field(default=0, init=False)

    @property
    def begin(self) -> int:
        """The first step that is read."""
        slow = self.method == ARIMA and QUICK_SEASON < self.season <= LONGEST_SEASON and len(self.values) >= FEW
        return max(0, self.first - LONGEST_FIT) if slow else 0

    @cached_property
    def model(self) -> Any:
        """The method, fitted once; None if it cannot be."""
        return self._attempt(lambda: self._new().fit(self.values[self.begin : self.first]))

    def forecasts(self, steps: Places, horizon: int, reached: Callable[[], None] | None = None) -> Forecasts:
        """Forecasts of `horizon` steps after each of some steps (O,), the last ones that are known."""
        self.failed = 0
        found = np.full((3, len(steps), horizon), np.nan)
        briefly = self.method == ARIMA and len(self.values) >= FEW
        for place, step in enumerate(steps):
            begin = max(self.begin, step + 1 - READ) if briefly else self.begin
            found[:, place] = self._ahead(self.values[begin : step + 1], horizon)
            if reached is not None:
                reached()
        return Forecasts(found[0], found[1], found[2], self.failed)

    def _new(self) -> Any:
        from statsforecast import models

        return getattr(models, TITLES[self.method])(season_length=self.season if self.season <= LONGEST_SEASON else 1)

    def _ahead(self, known: Floats, horizon: int) -> Floats:
        """The forecast and its bounds (3, H) after some values; the last value if the method fails."""
        again = len(self.values) < FEW
        if again or self.model is not None:
            call = self._new().forecast if again else self.model.forward
            found = self._attempt(lambda: call(y=known, h=horizon, level=[self.level]))
            if found is not None and np.all(np.isfinite(found["mean"])):
                return np.stack([found["mean"], found[f"lo-{self.level}"], found[f"hi-{self.level}"]])
        self.failed += 1
        none = np.full(horizon, np.nan)
        return np.stack([np.full(horizon, known[-1]), none, none])

    def _attempt(self, call: Callable[[], Any]) -> Any:
        """What a call returns; None if it raises, as it does for series that are too short or constant."""
        try:
            with _quiet():
                return call()
        except Exception:
            return None


@contextmanager
def _quiet() -> Iterator[None]:
    """A block without the warnings of numeric code."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def require_baselines(methods: Sequence[str]) -> None:
    """Raise TextgenError if statsforecast is needed and is not installed."""
    if methods:
        with needed("statsforecast", named("baselines", ",".join(methods))), _quiet():
            import statsforecast.models  # noqa: F401


def scored_steps(length: int, first: int, request: ForecastRequest) -> Places:
    """The origins (O,) of a series of some `length` that baselines are scored from, of all those that forecasts from
    step `first` on have: the last known steps."""
    steps = np.arange(max(0, first - 1), length - request.horizon, request.stride)
    return steps if length < FEW else steps[-RECENT:]


def with_baselines(
    evaluate: Callable[[Sequence[int], ForecastRequest], BacktestReport],
    rows: Sequence[PreparedSeries],
    first: Sequence[int],
    request: ForecastRequest,
    methods: Sequence[str],
    reached: Reached | None = None,
) -> BacktestReport:
    """The report of `evaluate` with some baselines in it; where these are scored on fewer windows, in its `recent`,
    which is about the same windows for all methods. Raises TextgenError without statsforecast."""
    require_baselines(methods)
    report = evaluate(first, request)
    if not methods:
        return report
    steps = [scored_steps(len(each), start, request) for each, start in zip(rows, first, strict=True)]
    total = sum(map(len, steps))
    compared = report
    if total < report.windows:
        later = [int(each[0]) + 1 if len(each) else start for each, start in zip(steps, first, strict=True)]
        compared = evaluate(later, request)
        report.recent = compared
    done = 0

    def one() -> None:
        nonlocal done
        done += 1
        if reached is not None:
            reached(done, total * len(methods))

    for each, some, start in zip(rows, steps, first, strict=True):
        for method in methods if len(some) else ():
            fitted = Fitted(method, each.series.values, start, report.season, request.level)
            add_errors(compared, each, some, TITLES[method], fitted.forecasts(some, request.horizon, one))
    return report


def add_errors(report: BacktestReport, rows: PreparedSeries, steps: Places, title: str, found: Forecasts) -> None:
    """Add the errors of one method on one series."""
    places = steps[:, None] + np.arange(1, found.values.shape[1] + 1)
    actual, known = rows.series.values[places], ~rows.series.missing[places]
    errors = Errors()
    errors.add(actual, found.values, known, rows.scale)
    if report.request.number:
        errors.add_interval(actual, found.low, found.high, known & np.isfinite(found.low))
    report.by_series.setdefault(rows.series.name, {})[title] = errors
    report.errors.setdefault(title, Errors()).include(errors)
    if found.failed:
        report.unfitted[title] = report.unfitted.get(title, 0) + found.failed
