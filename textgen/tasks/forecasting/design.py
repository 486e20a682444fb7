"""The design of a forecaster: columns, clock, season, lags, calendar, and the scale of each series.

The design is kept in the model folder as `forecast.json`. `PreparedSeries` is a series as the model reads it. The
held-out part of a series is always its end. Training reads windows of the series, a pure function of (seed, step).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import storage
from textgen.errors import TextgenError
from textgen.formatting import plural
from textgen.options import named
from textgen.tasks.forecasting.columns import Columns
from textgen.tasks.forecasting.known import Known, known_inputs, known_of
from textgen.tasks.forecasting.options import ForecastingOptions
from textgen.tasks.forecasting.reading import Series, Table, gap_limit, report_left_out
from textgen.tasks.forecasting.scaling import (
    DAYS,
    FARTHEST,
    Floats,
    Floats32,
    Lags,
    Scale,
    Units,
    base_forecast,
    deviation,
    features,
    fit,
    is_constant,
    lagged,
)
from textgen.tasks.forecasting.times import ROW, Calendar, Clock

FEWEST = 8  # time steps of the shortest possible training part
DESIGN_FILE = "forecast.json"
CONTEXT = 512  # the least steps to read before a forecast: enough for the state to forget where reading began
SMOOTHED_SEASONS, LONGEST = 8, 1_500  # how much smoothing reads, in its longest season, and how long that may be
LARGEST = 1_000_000  # the most time steps of a season, a horizon or a lag
OUTPUTS = 3
"""The model's outputs at a time step: location, scale and degrees of freedom, before they are bounded."""

WARM = 4
"""A window that begins inside a series only warms up the state in its first 1 / WARM."""


def split_series(table: Table, apart: Table | None, options: ForecastingOptions) -> list[tuple[Series, Series]]:
    """The training part and the held-out part of every series. The latter is `apart` if given, which has to continue
    the series; otherwise the last share of each, at least one horizon and, of short series, a quarter or eight steps.

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
    left_out = [reason for reason in reasons if reason is not None]
    report_left_out(left_out, len(pairs) - len(left_out))
    return [pair for pair, reason in zip(pairs, reasons, strict=True) if reason is None]


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
    known = np.concatenate([np.repeat(series.known[len(series) - 1 : len(series)], gap, axis=0), later.known])
    return replace(later, start=series.start, values=values, missing=missing, extras=extras, known=known)


@dataclass(frozen=True)
class Design:
    """Everything that turns tables into model inputs, and model outputs into forecasts."""

    columns: Columns
    clock: Clock
    season: int
    horizon: int
    lags: Lags
    calendar: Calendar
    extras: tuple[tuple[float, float], ...]
    """Mean and deviation of each extra column in the training parts. The deviation of a constant is its absolute value,
    so that the unit of a column never matters, and 1 for zero."""
    scales: dict[str, Scale]
    transform: str
    longest_gap: int | None
    """Steps of the longest gap that is filled; None for `gap_limit`."""
    known: tuple[Known, ...] = ()
    """The columns that are known in advance."""

    def __post_init__(self) -> None:
        sizes = [self.season, self.horizon, *(self.season * k for k in self.lags.seasons)]
        if not all(1 <= size <= LARGEST for size in sizes) or self.lags.season != self.season or self.clock.step < 1:
            raise ValueError("an impossible season, horizon or lag")
        if not all(period > 0 and 1 <= harmonics <= 16 for period, harmonics in self.calendar.periods):
            raise ValueError("an impossible calendar")

    @property
    def width(self) -> int:
        """The number of model inputs at a time step."""
        return self.lags.width + len(self.extras) + self.calendar.width + sum(each.width for each in self.known)

    @property
    def context(self) -> int:
        """The number of steps to read before a forecast."""
        return max(CONTEXT, self.lags.farthest + 1)

    @property
    def periods(self) -> tuple[int, ...]:
        """The seasons that are smoothed: the season, and the week if it is a day."""
        week = (7 * self.season,) if self.season in DAYS else ()
        return tuple(period for period in (self.season, *week) if 1 < period <= LONGEST)

    @property
    def history(self) -> int:
        """The number of steps that forecasts depend on: smoothing reads further back than the model."""
        return max(self.context, SMOOTHED_SEASONS * max(self.periods, default=1))

    @property
    def reach(self) -> int:
        """How many steps ahead the model is trusted: those that held-out forecasts measure, at least a season. Beyond
        them, the naive forecast continues from the model's."""
        return max(self.horizon, self.season)

    def scale_of(self, series: Series) -> Scale:
        """The scale of a series; for one that is not in the training data, from all of its values."""
        known = self.scales.get(series.name)
        if known is not None:
            return known
        return fit(series.name, series.values, series.missing, self.season, self.horizon, self.transform, series.start)

    def to_json(self) -> dict[str, Any]:
        """The content of `forecast.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: str) -> Design:
        """The inverse of `to_json`. Raises DamagedError naming the path."""
        try:
            columns = content["columns"]
            return cls(
                Columns(
                    tuple(columns["times"]),
                    tuple(columns["targets"]),
                    tuple(columns["extras"]),
                    columns["series"],
                    tuple(columns.get("future", ())),
                    tuple(columns.get("static", ())),
                ),
                Clock.from_json(content["clock"]),
                int(content["season"]),
                int(content["horizon"]),
                Lags(int(content["lags"]["season"]), tuple(map(int, content["lags"]["seasons"]))),
                Calendar(tuple((float(p), int(k)) for p, k in content["calendar"]["periods"])),
                tuple((float(mean), float(deviation)) for mean, deviation in content["extras"]),
                {str(name): Scale.from_json(scale) for name, scale in content["scales"].items()},
                str(content["transform"]),
                None if content["longest_gap"] is None else int(content["longest_gap"]),
                tuple(Known.from_json(each) for each in content.get("known", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise storage.DamagedError(f"{path} is damaged ({type(error).__name__}: {error}).") from None


@dataclass(frozen=True)
class PreparedSeries:
    """One series as the model reads it: `scaled` values (N,) and `inputs` (N, width) at each time step, `bases` (N,)
    the naive forecasts of the next step, `calendar` (N + ahead, C) and all else that is known of the next steps,
    `extras` (N, E). `floor` (N,) is the lowest scaled value of forecasts from each step: zero if no value up to that
    step, in training or since, is negative; otherwise -inf."""

    series: Series
    scale: Scale
    scaled: Floats
    inputs: Floats32
    bases: Floats
    calendar: Floats32
    extras: Floats32
    floor: Floats

    def __len__(self) -> int:
        return len(self.scaled)

    def restored(self, scaled: Floats, steps: npt.NDArray[np.intp]) -> Floats:
        """The values of scaled forecasts (O, ...) made at some steps (O,), none below the floor."""
        floor = self.floor[steps].reshape(-1, *[1] * (scaled.ndim - 1))
        values = self.scale.restored(scaled)
        return np.where(np.isfinite(floor), np.where(scaled <= floor, 0.0, np.maximum(values, 0.0)), values)

    @cached_property
    def counted(self) -> npt.NDArray[np.bool_]:
        """Whether the value after each step (N,) is known."""
        return np.append(~self.series.missing[1:], False)

    def since(self, step: int) -> PreparedSeries:
        """The same series from a step on."""
        names = ("scaled", "inputs", "bases", "calendar", "extras", "floor")
        return replace(self, series=self.series.slice(step), **{name: getattr(self, name)[step:] for name in names})

    @property
    def residuals(self) -> Floats:
        """The targets (N,): the distance of the next value from its naive forecast, in units of the base's error."""
        ahead = np.append(self.scaled[1:], self.scaled[-1:])
        return (ahead - self.bases) / self.scale.base_unit


def prepare_series(series: Series, design: Design, ahead: int = 0) -> PreparedSeries:
    """A series as the model reads it, with the calendar of `ahead` more steps."""
    scale = design.scale_of(series)
    scaled = scale.scaled(series.values)
    units = Units.of([scale])
    read = lagged(scaled, design.lags)
    times = series.start + design.clock.step * np.arange(1, len(series) + ahead + 1)
    calendar = design.calendar.features(series.clock.elapsed(times)).astype(np.float32)
    calendar = np.concatenate([calendar, known_inputs(design.known, series.known, len(times))], axis=1)
    mean, spread = np.array(design.extras).reshape(-1, 2).T
    extras = np.clip((series.extras - mean) / spread, -FARTHEST, FARTHEST).astype(np.float32)
    of_values = features(read, units, design.lags, series.missing.astype(np.float64))
    inputs = np.concatenate([of_values, extras, calendar[: len(series)]], axis=1)
    never_negative = np.minimum(np.minimum.accumulate(series.values), series.lowest) >= 0
    floor = np.where(never_negative & scale.nonnegative, scale.zero, -np.inf)
    return PreparedSeries(series, scale, scaled, inputs, base_forecast(read, units), calendar, extras, floor)


def design_of(table: Table, split: Sequence[tuple[Series, Series]], options: ForecastingOptions) -> Design:
    """The design that suits the training parts."""
    clock, training = table.clock, [one for one, _ in split]
    season = options.season or clock.season()
    longest = max(map(len, training))
    extras = np.concatenate([each.extras for each in training]).T
    scales = {}
    for each, held in split:
        end = each.start + clock.step * (len(each) + len(held))
        scales[each.name] = fit(each.name, each.values, each.missing, season, options.horizon, options.transform, end)
    return Design(
        table.columns,
        clock,
        season,
        options.horizon,
        Lags.of(season, longest),
        Calendar.of(clock, longest),
        tuple((float(c.mean()), deviation(c) if np.ptp(c) > 0 else abs(float(c[0])) or 1.0) for c in extras),
        scales,
        options.transform,
        options.seq_length,
        tuple(known_of(table.columns.future, table.columns.static, table.words, [e.known[: len(e)] for e in training])),
    )


def arrays_of(series: Sequence[Series]) -> dict[str, Any]:
    """Several series, concatenated, as named arrays for a store."""
    return {
        "values": np.concatenate([each.values for each in series]),
        "missing": np.concatenate([each.missing for each in series]).astype(np.uint8),
        "extras": np.concatenate([each.extras for each in series]),
        "lengths": np.array([len(each) for each in series], dtype=np.int64),
        "starts": np.array([each.start for each in series], dtype=np.int64),
        **_known_arrays(series),
    }


def _known_arrays(series: Sequence[Series]) -> dict[str, Any]:
    """What is known in advance of several series, if anything is."""
    if not series or not series[0].known.shape[1]:
        return {}
    lengths = np.array([len(each.known) for each in series], dtype=np.int64)
    return {"known": np.concatenate([each.known for each in series]), "known_lengths": lengths}


def known_parts(arrays: Mapping[str, Any], columns: int) -> list[Floats]:
    """What is known in advance of each series, from the arrays of `arrays_of`. Raises ValueError for other arrays."""
    if not columns:
        return [np.zeros((0, 0))] * len(arrays["lengths"])
    known, lengths = arrays["known"], arrays["known_lengths"]
    if known.shape != (lengths.sum(), columns) or len(lengths) != len(arrays["lengths"]):
        raise ValueError("its known values do not have the recorded lengths")
    return np.split(known, np.cumsum(lengths)[:-1])


@dataclass(frozen=True)
class Windows:
    """Windows of `seq_length` steps, `batch_size` per step; series are drawn in proportion to their lengths.

    A window begins with the initial state; inside a series, its first quarter only warms up the state. `ends` are the
    lengths of the training parts.
    """

    rows: Sequence[PreparedSeries]
    ends: Sequence[int]
    batch_size: int
    seq_length: int
    seed: int

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """The steps of each series whose next step is still in the training part."""
        return np.array([end - 1 for end in self.ends])

    @property
    def steps_per_epoch(self) -> int:
        """Training steps that read as many time steps as there are."""
        return max(1, int(self.counts.sum()) // (self.batch_size * self.seq_length))

    def window(self, step: int) -> tuple[Floats32, Floats32]:
        """Inputs (T, B, width) and targets (T, B, 2) of a step: the residual, and whether it counts (1 or 0)."""
        draw = np.random.default_rng([self.seed, step])
        chosen = draw.choice(len(self.rows), size=self.batch_size, p=self.counts / self.counts.sum())
        width = self.rows[0].inputs.shape[1]
        inputs = np.zeros((self.seq_length, self.batch_size, width), dtype=np.float32)
        targets = np.zeros((self.seq_length, self.batch_size, 2), dtype=np.float32)
        for lane, (k, where) in enumerate(zip(chosen, draw.random(self.batch_size), strict=True)):
            rows, count = self.rows[k], int(self.counts[k])
            warm = self.seq_length // WARM
            start = int(where * (max(0, count - self.seq_length) + warm + 1)) - warm
            start, length = max(0, start), min(self.seq_length, count)
            part = slice(start, start + length)
            inputs[:length, lane] = rows.inputs[part]
            targets[:length, lane, 0] = rows.residuals[part]
            targets[:length, lane, 1] = rows.counted[part]
            if start:
                targets[:warm, lane, 1] = 0.0
        return inputs, targets
