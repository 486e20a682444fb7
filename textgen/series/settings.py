"""Every option of the forecast task, declared once with its help and limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textgen.errors import UsageError
from textgen.options import option

TRANSFORMS = ("auto", "none", "log")


@dataclass(frozen=True)
class SeriesOptions:
    """Which columns of a table are series, and how they are forecast."""

    of_task: ClassVar[str] = "forecast"

    time_column: list[str] = option(
        [],
        "The column of times; several (date and time; year, month, day, hour) are read as one.",
        metavar="NAME",
        default_text="date, time, timestamp, ds, month or year, or the only one with dates; else rows are counted",
        section="Forecasting",
    )
    date_format: str | None = option(
        None,
        "How times are written, as strptime has it: %d/%m/%Y, '%Y-%m-%d %H:%M', %b %Y; or YYYYMMDD.",
        metavar="FORMAT",
        default_text="found out from the whole table; the day before the month where both fit",
    )
    target_column: list[str] = option(
        [],
        "A column to forecast; may be repeated, and 'all' names every column that is not named otherwise.",
        metavar="NAME",
        default_text="the only one there is",
    )
    series_column: str | None = option(
        None, "The column that says which of many series a row belongs to.", metavar="NAME"
    )
    extra_column: list[str] = option(
        [], "A column of numbers to learn from, too; in a forecast it keeps its last value.", metavar="NAME"
    )
    horizon: int = option(1, "Time steps to forecast.", low=1, high=100_000)
    season: int | None = option(
        None,
        "Time steps after which a series resembles itself; 1 for none.",
        low=1,
        high=100_000,
        default_text="24 for hours, 7 for days, 5 for business days, 52 for weeks, 12 for months, 4 for quarters",
    )
    transform: str = option(
        "auto", "Learn from the values or from their logarithms; auto decides by the training part.", choices=TRANSFORMS
    )
    decimal: str | None = option(
        None, "What stands before the decimals of a number.", choices=(".", ","), default_text="detected"
    )


@dataclass(frozen=True)
class ForecastOptions:
    """What is asked of a trained forecaster."""

    horizon: int | None = option(
        None, "Time steps to forecast.", low=1, high=100_000, default_text="as trained", section="Forecasting"
    )
    level: float = option(90.0, "Percent of the sample paths that the interval holds.", above=0, high=99.9)
    paths: int = option(200, "Sample paths that the interval is drawn from; 0 draws none.", low=0, high=100_000)
    seed: int = option(0, "Seed of the sample paths.", low=0, high=2**63 - 1)
    decimal: str | None = option(
        None, "What stands before the decimals of a number in the table.", choices=(".", ","), default_text="detected"
    )


def check_series(options: SeriesOptions) -> None:
    """Hold the options to each other. Raises UsageError for a column that is named twice."""
    named = [*options.time_column, *options.target_column, *options.extra_column]
    named += [options.series_column] if options.series_column is not None else []
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"column {twice!r} is named twice; a column is a time, a target, a series or an extra.")
