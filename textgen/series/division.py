"""Which part of each series is learned from and which is held out: always the last, never one chosen by chance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from textgen.errors import TextgenError
from textgen.series.columns import Columns
from textgen.series.read import Series, Table, gap_limit
from textgen.series.times import ROW, Clock
from textgen.settings import TrainOptions

FEWEST = 8
"""Time steps of the shortest training part."""


@dataclass(frozen=True)
class Divided:
    """Each series in two parts, one after the other in time; `ends` are the times after the last of both."""

    training: list[Series]
    held_out: list[Series]
    ends: list[int]
    clock: Clock
    columns: Columns


def divide(table: Table, apart: Table | None, options: TrainOptions) -> Divided:
    """Divide every series: the held-out part is `apart` where that is given, which goes on where the series end, else
    the last share of each, at least one horizon and, of short series, a quarter or eight steps.

    Raises TextgenError for a series that is too short for its horizon, and for what does not follow it.
    """
    if apart is not None:
        apart.require_step(table.clock, str(options.validation_file), "the training part's")
        later = {each.name: each for each in apart.series}
        pairs = [(each, _following(each, later.get(each.name), table.clock, options)) for each in table.series]
    else:
        pairs = [_cut(each, options) for each in table.series]
    for training, _ in pairs:
        _refuse_short(training, len(training), options.horizon)
    ends = [one.start + table.clock.step * (len(one) + len(other)) for one, other in pairs]
    return Divided([one for one, _ in pairs], [other for _, other in pairs], ends, table.clock, table.columns)


def _cut(series: Series, options: TrainOptions) -> tuple[Series, Series]:
    length, held = len(series), 0
    if options.validation_split:
        held = max(round(options.validation_split * length), options.horizon, min(FEWEST, length // 4))
    _refuse_short(series, length - held, options.horizon)
    return piece(series, 0, length - held), piece(series, length - held, length)


def _refuse_short(series: Series, left: int, horizon: int) -> None:
    if left < max(horizon + 2, FEWEST):
        held = len(series) - left
        raise TextgenError(
            f"series {series.name!r} has {len(series):,} time steps; a horizon of {horizon:,} needs at least "
            f"{max(horizon + 2, FEWEST) + held:,}" + (f", {held:,} of them held out." if held else "."),
            hint="give a shorter --horizon, or a longer series.",
        )


def piece(series: Series, start: int, end: int) -> Series:
    """The steps of a series from one to before another; its start is that of the whole."""
    part = slice(start, end)
    return replace(series, values=series.values[part], missing=series.missing[part], extras=series.extras[part])


def _following(series: Series, later: Series | None, clock: Clock, options: TrainOptions) -> Series:
    """What a validation file holds of a series, beginning where the training part ends."""
    file = options.validation_file
    if later is None:
        raise TextgenError(f"{file!r} holds no series {series.name!r}.")
    end = series.start + clock.step * len(series)
    if clock.unit == ROW and later.start < end:
        return later
    ahead, rest = divmod(later.start - end, clock.step)
    if ahead < 0 or rest:
        raise TextgenError(
            f"{file!r} begins at {clock.label(later.start)} for {series.name!r}, but the training part ends at "
            f"{clock.label(end - clock.step)}; the one has to follow the other."
        )
    limit = options.seq_length or gap_limit(options.season or clock.season())
    if ahead > limit:
        raise TextgenError(
            f"{file!r} begins {ahead:,} time steps after the training part ends for {series.name!r}, which is longer "
            f"than the window of {limit:,}."
        )
    return bridged(series, later, ahead)


def bridged(series: Series, later: Series, gap: int) -> Series:
    """What follows a series, with a gap of so many steps before it filled by the last value."""
    values = np.concatenate([np.full(gap, series.values[-1]), later.values])
    missing = np.concatenate([np.ones(gap, dtype=bool), later.missing])
    extras = np.concatenate([np.repeat(series.extras[-1:], gap, axis=0), later.extras])
    return replace(later, start=series.start, values=values, missing=missing, extras=extras)
