"""Which part of each series is learned from and which is held out: always the last, never one chosen by chance."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace

import numpy as np

from textgen.errors import TextgenError
from textgen.parameters import named
from textgen.series.columns import Columns
from textgen.series.read import Series, Table, gap_limit, report_left_out
from textgen.series.scaling import is_constant
from textgen.series.times import ROW, Clock
from textgen.settings import TrainOptions
from textgen.wording import plural

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
    pairs = _usable(pairs, options)
    ends = [one.start + table.clock.step * (len(one) + len(other)) for one, other in pairs]
    return Divided([one for one, _ in pairs], [other for _, other in pairs], ends, table.clock, table.columns)


def _cut(series: Series, options: TrainOptions) -> tuple[Series, Series]:
    left = len(series) - _held(len(series), options, options.horizon)
    return piece(series, 0, left), piece(series, left, len(series))


def _held(length: int, options: TrainOptions, horizon: int) -> int:
    """How many time steps of a series are held out."""
    if options.validation_file is not None or not options.validation_split:
        return 0
    return min(length, max(round(options.validation_split * length), horizon, min(FEWEST, length // 4)))


def _usable(pairs: list[tuple[Series, Series]], options: TrainOptions) -> list[tuple[Series, Series]]:
    """The series that can be learned from, with a warning for the others. Raises TextgenError if there is none."""
    reasons = [_unusable(training, len(training) + len(held), options) for training, held in pairs]
    usable = [pair for pair, reason in zip(pairs, reasons, strict=True) if reason is None]
    report_left_out([reason for reason in reasons if reason is not None], len(usable))
    return usable


def _unusable(training: Series, length: int, options: TrainOptions) -> TextgenError | None:
    """What is wrong with a series of so many time steps, if anything: it is too short, or its training part is
    constant."""
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


def _too_short(name: str, length: int, options: TrainOptions) -> TextgenError:
    least = _least(options, options.horizon)
    held = _held(least, options, options.horizon)
    fitting = bisect_right(range(1, options.horizon), length, key=lambda horizon: _least(options, horizon))
    shorter = f"{named('horizon', fitting)} fits; or give" if fitting else "give"
    return TextgenError(
        f"series {name!r} has {plural(length, 'time step')}; a horizon of {options.horizon:,} needs at least {least:,}"
        + (f", {held:,} of them held out." if held else "."),
        hint=f"{shorter} a longer series.",
    )


def _least(options: TrainOptions, horizon: int) -> int:
    """The time steps of the shortest series that leaves enough to learn from."""
    needed = max(horizon + 2, FEWEST)
    length = 0
    while length != (length := needed + _held(length, options, horizon)):
        pass
    return length


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
