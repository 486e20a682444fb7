"""The options that only forecasting has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from textgen.data import FileOptions
from textgen.errors import UsageError, did_you_mean
from textgen.options import displayed, named, option, plain
from textgen.storage.outputs import FORECASTS, PLOT
from textgen.tasks import TrainOptions

TRANSFORMS = ("auto", "none", "log")
ETS, ARIMA = "ets", "arima"
BASELINES = (ETS, ARIMA)
"""Classical forecasters that evaluation can show beside the model: AutoETS and AutoARIMA."""

TEXT_ONLY = ("init_from", "embedding_dropout")
"""Training options that only apply to text."""


@dataclass(frozen=True)
class ForecastingOptions(TrainOptions):
    """How a forecaster is trained: which columns of a table are series, and what is forecast."""

    time_column: list[str] = option(
        [],
        "The time column; several (date and time; year, month, day, hour) are combined into one time.",
        metavar="NAME",
        default_text="date, time, timestamp, ds, month or year, or the only column with dates; else rows are counted",
        section="Forecasting (--task forecast)",
    )
    date_format: str | None = option(
        None,
        "Time format in strptime notation: %d/%m/%Y, '%Y-%m-%d %H:%M', %b %Y; or YYYYMMDD.",
        metavar="FORMAT",
        default_text="detected from the whole table; day before month if both fit",
    )
    target_column: list[str] = option(
        [],
        "A column to forecast; may be repeated; 'all' means every column not named in another option.",
        metavar="NAME",
        default_text="the only one left",
    )
    series_column: str | None = option(None, "The column that names the series each row belongs to.", metavar="NAME")
    extra_column: list[str] = option(
        [], "A further numeric input column; a forecast assumes that it keeps its last value.", metavar="NAME"
    )
    future_column: list[str] = option(
        [],
        "An input that is known in advance: numbers, or words such as holidays; forecasts need its next values.",
        metavar="NAME",
    )
    static_column: list[str] = option(
        [], "An input with one value for each series: a number or a word, such as a region.", metavar="NAME"
    )
    horizon: int = option(1, "Time steps to forecast.", low=1, high=100_000)
    season: int | None = option(
        None,
        "Seasonal period in time steps; 1 for none.",
        low=1,
        high=100_000,
        default_text="24 for hours, 7 for days, 5 for business days, 52 for weeks, 12 for months, 4 for quarters",
    )
    transform: str = option(
        "auto", "Model the values or their logarithms; auto decides from the training part.", choices=TRANSFORMS
    )
    combine: bool = option(
        True,
        "Combine the model's forecasts with smoothed and naive ones, weighted by their errors on the held-out part.",
    )
    decimal: str | None = option(None, "Decimal separator of numbers.", choices=(".", ","), default_text="detected")


@dataclass(frozen=True)
class ForecastOptions(FileOptions):
    """The options of a request to a forecaster."""

    horizon: int | None = option(
        None, "Time steps to forecast.", low=1, high=100_000, default_text="as in training", section="Forecasting"
    )
    level: float = option(90.0, "Prediction interval: the percentage of sample paths it covers.", above=0, high=99.9)
    paths: int = option(
        200, "Number of sample paths to estimate the interval from; 0 gives no interval.", low=0, high=100_000
    )
    quantiles: str | None = option(
        None, "Quantiles to forecast, or to score: numbers between 0 and 1, such as 0.1,0.5,0.9.", metavar="Q,..."
    )
    seed: int = option(0, "Random seed of the sample paths.", low=0, high=2**63 - 1)
    decimal: str | None = option(
        None, "Decimal separator of numbers in the table.", choices=(".", ","), default_text="detected"
    )


@dataclass(frozen=True)
class ForecastEvaluation(ForecastOptions):
    """How a forecaster is evaluated."""

    baselines: str | None = option(
        None,
        "Classical forecasters to score on the same windows: ets, arima (AutoETS and AutoARIMA; slow).",
        metavar="NAME,...",
    )
    plot: str | None = option(None, "Plot the result as PNG.", metavar="FILE", writes=PLOT)


@dataclass(frozen=True)
class ForecastPrediction(ForecastOptions):
    """What is forecast, and where the forecasts are written."""

    future: str | None = option(
        None, "A table with the next values of future columns: times, series and these columns.", metavar="FILE"
    )
    samples: int | None = option(
        None,
        "Write this many sample paths, a row for each time step of each, instead of forecasts.",
        low=1,
        high=10_000,
    )
    output: str | None = option(
        None,
        "Write to this file; - is standard output.",
        metavar="FILE",
        default_text="-",
        also=("-o",),
        writes=FORECASTS,
    )
    plot: str | None = option(None, "Plot the forecasts as PNG.", metavar="FILE", writes=PLOT)


def check_series(options: ForecastingOptions) -> None:
    """Check the options for conflicts. Raises UsageError for a column named twice, or an option that only applies to
    text."""
    columns = [*options.time_column, *options.target_column, *options.extra_column]
    columns += [*options.future_column, *options.static_column]
    columns += [options.series_column] if options.series_column is not None else []
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"column {twice!r} is named twice; a column is a time, a target, a series or an input.")
    given = next((name for name in TEXT_ONLY if getattr(options, name) != getattr(TrainOptions, name)), None)
    if given is not None:
        raise UsageError(f"{named(given)} applies to text, not to time series.")


def chosen_baselines(asked: Any) -> list[str]:
    """The baselines of a text such as `ets,arima`, or of a list of names. Raises UsageError for an unknown one."""
    names = [name.strip() for name in asked.split(",")] if isinstance(asked, str) else list(asked or ())
    for name in names:
        if name not in BASELINES:
            near = did_you_mean(str(name), BASELINES)
            raise UsageError(f"{named('baselines')} must be some of {', '.join(BASELINES)}, not {name!r}.{near}")
    return list(dict.fromkeys(names))


def chosen_quantiles(asked: Any, paths: int) -> tuple[float, ...]:
    """The quantiles of a text such as `0.1,0.5,0.9`, of a number or of a list of numbers, in increasing order. Raises
    UsageError for anything but numbers between 0 and 1, and without sample `paths` to estimate them from."""
    parts = asked.split(",") if isinstance(asked, str) else plain(asked)
    parts = parts if isinstance(parts, list) else [] if parts is None else [parts]
    found = []
    for part in parts:
        try:
            found.append(float(part))
        except (TypeError, ValueError):
            found.append(math.nan)
        if not 0 < found[-1] < 1:
            raise UsageError(f"{named('quantiles')} must be numbers between 0 and 1, not {displayed(part)}.")
    if found and not paths:
        raise UsageError(f"{named('quantiles')} are estimated from sample paths, so {named('paths')} cannot be 0.")
    return tuple(sorted(set(found)))
