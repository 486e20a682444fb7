"""Splits each series into a training part and a held-out part, which is always the end, never a random choice."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace

import numpy as np

from textgen.errors import TextgenError
from textgen.parameters import named
from textgen.series.columns import Columns
from textgen.series.options import ForecastingOptions
from textgen.series.read import Series, Table, gap_limit, report_left_out
from textgen.series.scaling import is_constant
from textgen.series.times import ROW, Clock
from textgen.wording import plural

FEWEST = 8
"""Time steps of the shortest possible training part."""


@dataclass(frozen=True)
class SplitSeries:
    """Each series in two consecutive parts; `ends` are the times after the end of both."""

    training: list[Series]
    held_out: list[Series]
    ends: list[int]
    clock: Clock
    columns: Columns


def split_series(table: Table, apart: Table | None, options: ForecastingOptions) -> SplitSeries:
    """Split every series. The held-out part is `apart` if given, which has to continue the series; otherwise the last
    share of each, at least one horizon and, of short series, a quarter or eight steps.

    Raises TextgenError for a series that is too short for its horizon, and for a validation file that does not continue
    the series.
    """
    if apart is not None:
        apart.require_step(table.clock, str(options.validation_file), "the training part's")
        later = {each.name: each for each in apart.series}
        pairs = [(each, _continuation(each, later.get(each.name), table.clock, options)) for each in table.series]
    else:
        pairs = []
        for each in table.series:
            left = len(each) - _held_out_steps(len(each), options, options.horizon)
            pairs.append((each.slice(0, left), each.slice(left)))
    reasons = [_unusable(training, len(training) + len(held), options) for training, held in pairs]
    pairs = [pair for pair, reason in zip(pairs, reasons, strict=True) if reason is None]
    report_left_out([reason for reason in reasons if reason is not None], len(pairs))
    ends = [one.start + table.clock.step * (len(one) + len(other)) for one, other in pairs]
    return SplitSeries([one for one, _ in pairs], [other for _, other in pairs], ends, table.clock, table.columns)


def _held_out_steps(length: int, options: ForecastingOptions, horizon: int) -> int:
    """How many time steps of a series are held out."""
    if options.validation_file is not None or not options.validation_split:
        return 0
    return min(length, max(round(options.validation_split * length), horizon, min(FEWEST, length // 4)))


def _unusable(training: Series, length: int, options: ForecastingOptions) -> TextgenError | None:
    """Why a series of `length` time steps cannot be used, if so: it is too short, or its training part is constant."""
    if len(training) < max(options.horizon + 2, FEWEST):
        return _too_short(training.name, len(training) if options.validation_file else length, options)
    known = training.values[~training.missing]
    if is_constant(known):
        what = "column" if training.name == training.column else "series"
        return TextgenError(
            f"{what} {training.name!r} is constant: it holds {known[0]:.15g} in all {len(known):,} rows of the "
            "training part."
        )
    return None


def _too_short(name: str, length: int, options: ForecastingOptions) -> TextgenError:
    least = _least(options, options.horizon)
    held = _held_out_steps(least, options, options.horizon)
    fitting = bisect_right(range(1, options.horizon), length, key=lambda horizon: _least(options, horizon))
    shorter = f"{named('horizon', fitting)} fits; or give" if fitting else "give"
    return TextgenError(
        f"series {name!r} has {plural(length, 'time step')}; a horizon of {options.horizon:,} needs at least {least:,}"
        + (f", {held:,} of them held out." if held else "."),
        hint=f"{shorter} a longer series.",
    )


def _least(options: ForecastingOptions, horizon: int) -> int:
    """The length of the shortest series that leaves enough time steps for training."""
    needed = max(horizon + 2, FEWEST)
    length = 0
    while length != (length := needed + _held_out_steps(length, options, horizon)):
        pass
    return length


def _continuation(series: Series, later: Series | None, clock: Clock, options: ForecastingOptions) -> Series:
    """The part of a series in the validation file, beginning where the training part ends."""
    file = options.validation_file
    if later is None:
        raise TextgenError(f"{file!r} has no series {series.name!r}.")
    end = series.start + clock.step * len(series)
    if clock.unit == ROW and later.start < end:
        return later
    ahead, rest = divmod(later.start - end, clock.step)
    if ahead < 0 or rest:
        raise TextgenError(
            f"{file!r} begins at {clock.label(later.start)} for {series.name!r}, but the training part ends at "
            f"{clock.label(end - clock.step)}; it has to begin after that."
        )
    limit = options.seq_length or gap_limit(options.season or clock.season())
    if ahead > limit:
        raise TextgenError(
            f"{file!r} begins {ahead:,} time steps after the training part ends for {series.name!r}, which is longer "
            f"than the window of {limit:,}."
        )
    return bridged(series, later, ahead)


def bridged(series: Series, later: Series, gap: int) -> Series:
    """What follows a series, with `gap` steps before it filled by the last value of the series."""
    values = np.concatenate([np.full(gap, series.values[-1]), later.values])
    missing = np.concatenate([np.ones(gap, dtype=bool), later.missing])
    extras = np.concatenate([np.repeat(series.extras[-1:], gap, axis=0), later.extras])
    return replace(later, start=series.start, values=values, missing=missing, extras=extras)
