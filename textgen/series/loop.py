"""The forecasting loop: y(t) becomes x(t + 1).

The history is read once and the state is kept at each origin. Then all origins roll out as one batch, each forecast fed
back as the value of the next step. Samples instead of the likeliest values give sample paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from zlib import crc32

import numpy as np

from textgen.loop import closed_loop
from textgen.series.design import Design, PreparedSeries
from textgen.series.head import sample_student_t, student_t
from textgen.series.inputs import Floats32, Units, base_forecast, features
from textgen.series.scaling import Floats
from textgen.series.times import Places
from textgen.stepper import Stepper

MOST_CELLS = 1 << 22
"""The most elements of an array while a batch of origins rolls out."""


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


def read(
    stepper: Stepper,
    rows: Sequence[PreparedSeries],
    first: Sequence[int],
    most: int,
    ends: Sequence[int] | None = None,
) -> Iterator[Origins]:
    """Read all series from their beginnings as one batch; every step of a series from `first` to before `ends` is an
    origin. Yields them in batches of about `most`, in order of time."""
    lengths, begin = np.array([len(each) for each in rows]), np.array(first)
    stop = lengths if ends is None else np.array(ends)
    everything, starts = np.concatenate([each.inputs for each in rows]), _starts(lengths)
    state, kept, number = stepper.initial_state(len(rows)), [], 0
    for t in range(stop.max()):
        inputs = everything[starts + np.minimum(t, lengths - 1)]
        outputs, state = stepper.step(inputs, state)
        here = np.flatnonzero((begin <= t) & (t < stop))
        if len(here):
            kept.append(Origins(here, np.full(len(here), t), outputs[here], stepper.select(state, here)))
            number += len(here)
        if number >= most:
            yield _together(stepper, kept)
            kept, number = [], 0
    if kept:
        yield _together(stepper, kept)


def _together(stepper: Stepper, kept: Sequence[Origins]) -> Origins:
    parts = [np.concatenate(each) for each in zip(*((o.series, o.steps, o.outputs) for o in kept), strict=True)]
    return Origins(parts[0], parts[1], parts[2], stepper.concat([each.state for each in kept]))


def roll_out(
    stepper: Stepper,
    rows: Sequence[PreparedSeries],
    design: Design,
    origins: Origins,
    horizon: int,
    noise: Floats | None = None,
) -> Floats:
    """The next `horizon` scaled values (R, horizon) after each origin: the location of each distribution, fed back, or
    with uniform `noise` (R, horizon, 2) samples of it. Raises ValueError if a calendar is too short."""
    rolling = _Rolling(rows, design, origins, horizon, noise)
    steps = closed_loop(stepper.step, origins.outputs, origins.state, rolling.choose, rolling.feed)
    return np.stack([chosen for chosen, _ in islice(steps, horizon)], axis=1)


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
        last, room = self._values[:, design.lags.farthest], self._units.room
        floor = np.concatenate([each.floor for each in rows])[starts + origins.steps]
        self._least = np.maximum(np.minimum(self._units.low, last) - room, floor)
        self._greatest = np.maximum(self._units.high, last) + room
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


def _starts(lengths: Sequence[int] | Places) -> Places:
    """Where each of several arrays begins once they are concatenated."""
    each = np.asarray(lengths, dtype=np.intp)
    starts: Places = np.cumsum(each) - each
    return starts


def chunks(stepper: Stepper, design: Design, origins: Origins, horizon: int, copies: int = 1) -> Iterator[Origins]:
    """The origins in chunks that fit into memory with `copies` paths each."""
    each = copies * (horizon * 3 + design.lags.farthest + 4 * design.width)
    size = max(1, MOST_CELLS // each)
    for start in range(0, len(origins), size):
        place = np.arange(start, min(start + size, len(origins)))
        yield select(stepper, origins, place)


def select(stepper: Stepper, origins: Origins, place: Places) -> Origins:
    """Some of the origins, which may repeat."""
    return Origins(
        origins.series[place], origins.steps[place], origins.outputs[place], stepper.select(origins.state, place)
    )


def paths(
    stepper: Stepper,
    rows: Sequence[PreparedSeries],
    design: Design,
    origins: Origins,
    horizon: int,
    number: int,
    seed: int,
) -> Floats:
    """Scaled sample paths (R, number, horizon). The noise of a row depends on the seed, the name of its series and the
    distance of its origin from the end."""
    found = []
    for chunk in chunks(stepper, design, origins, horizon, number):
        copied = select(stepper, chunk, np.repeat(np.arange(len(chunk)), number))
        places = zip(chunk.series, chunk.steps, strict=True)
        noise = np.concatenate([_noise(seed, rows[k], int(t), number, horizon) for k, t in places])
        drawn = roll_out(stepper, rows, design, copied, horizon, noise)
        found.append(drawn.reshape(len(chunk), number, horizon))
    return np.concatenate(found)


def _noise(seed: int, rows: PreparedSeries, step: int, number: int, horizon: int) -> Floats:
    name = crc32(rows.series.name.encode("utf-8", "surrogateescape"))
    return np.random.default_rng([seed, name, len(rows) - step]).random((horizon, number, 2)).swapaxes(0, 1)


def forecasts(
    stepper: Stepper, rows: Sequence[PreparedSeries], design: Design, origins: Origins, horizon: int
) -> Floats:
    """The scaled forecasts (R, horizon)."""
    parts = chunks(stepper, design, origins, horizon)
    return np.concatenate([roll_out(stepper, rows, design, part, horizon) for part in parts])
