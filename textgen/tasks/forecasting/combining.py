"""Forecasts of several kinds, combined: those of the recurrent model, of exponential smoothing, and the naive ones.

Each series has a weight for each kind, and a factor for its interval (see `weighting`). They are kept in the model
folder as `combination.json`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from textgen import storage
from textgen.model.stepper import Stepper
from textgen.tasks.forecasting.design import Design, PreparedSeries
from textgen.tasks.forecasting.rolling import (
    LAST,
    MODEL,
    SEASONAL,
    Origins,
    SeriesLoop,
    last_value,
    seasonal_naive,
)
from textgen.tasks.forecasting.scaling import Floats
from textgen.tasks.forecasting.smoothing import MOST_LANES, SETTINGS, Histories, Search, Smoothed
from textgen.tasks.forecasting.times import Places

COMBINATION_FILE = "combination.json"
RECURRENT, SMOOTHED = "recurrent", "smoothed"
KINDS = (RECURRENT, SMOOTHED, LAST, SEASONAL)

REFITTED = 500
"""Shorter series are smoothed with settings of their own for every forecast: all that is known by then."""


@dataclass(frozen=True)
class Share:
    """The weights of the kinds in the forecast of a series, in the order of `KINDS`, and the factor by which its
    interval is stretched."""

    weights: tuple[float, ...]
    stretch: float = 1.0


@dataclass(frozen=True)
class Combination:
    """The shares of every series that training has seen, by name, and of all others."""

    shares: Mapping[str, Share]
    others: Share

    def of(self, name: str) -> Share:
        """The share of a series."""
        return self.shares.get(name, self.others)

    @property
    def smooths(self) -> bool:
        """Whether any forecast has a smoothed part."""
        return any(each.weights[KINDS.index(SMOOTHED)] > 0 for each in (*self.shares.values(), self.others))

    def to_json(self) -> dict[str, Any]:
        """The content of `combination.json`."""

        def written(share: Share) -> dict[str, Any]:
            return {"weights": dict(zip(KINDS, share.weights, strict=True)), "stretch": share.stretch}

        series = {name: written(share) for name, share in self.shares.items()}
        return {"series": series, "others": written(self.others)}

    @classmethod
    def from_json(cls, content: Any, path: str) -> Self:
        """The inverse of `to_json`. Raises DamagedError naming the path."""

        def read(share: Any) -> Share:
            weights, stretch = tuple(float(share["weights"][kind]) for kind in KINDS), float(share["stretch"])
            sound = math.isfinite(stretch) and stretch > 0 and all(0 <= weight <= 1 for weight in weights)
            if not sound or abs(sum(weights) - 1) > 1e-6:
                raise ValueError("weights that do not sum to 1, or an interval that is not stretched by a number")
            return Share(weights, stretch)

        try:
            shares = {str(name): read(share) for name, share in content["series"].items()}
            return cls(shares, read(content["others"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise storage.DamagedError(f"{path} is damaged ({type(error).__name__}: {error}).") from None


class Smoother:
    """Smoothed forecasts of some series, for origins from step `first` of each on.

    Settings are found from what is known at the origin if that is short, otherwise once, at the first origin.
    """

    def __init__(self, rows: Sequence[PreparedSeries], design: Design, first: Sequence[int]) -> None:
        self._rows, self._design, self._first = rows, design, first
        self._read: dict[tuple[int, int], tuple[Smoothed, int, int]] = {}

    def forecasts(self, series: Places, steps: Places, horizon: int) -> Floats:
        """The scaled forecasts (R, horizon) of some series after some steps (R,)."""
        keys = [self._key(int(k), int(t)) for k, t in zip(series, steps, strict=True)]
        wanted, together = sorted(set(keys) - self._read.keys()), MOST_LANES // SETTINGS
        for start in range(0, len(wanted), together):
            self._fit(wanted[start : start + together])
        groups: dict[int, list[int]] = {}
        for row, key in enumerate(keys):
            groups.setdefault(id(self._read[key][0]), []).append(row)
        found = np.empty((len(series), horizon))
        for rows in groups.values():
            smoothed = self._read[keys[rows[0]]][0]
            lanes, shifts = np.array([self._read[keys[row]][1:] for row in rows]).T
            found[rows] = smoothed.forecasts(lanes, steps[rows] + shifts, horizon)
        return found

    def described(self, number: int, step: int) -> dict[str, Any]:
        """The settings for a series, their weights, and the states after a step, by name; the values of every season
        begin with that of the next step."""
        self.forecasts(np.array([number]), np.array([step]), 1)
        smoothed, lane, shift = self._read[self._key(number, step)]
        return smoothed.described(lane, step + shift)

    def _key(self, number: int, step: int) -> tuple[int, int]:
        """The series, and the last step that its settings are found from."""
        return number, step if len(self._rows[number]) < REFITTED else self._first[number]

    def _fit(self, keys: Sequence[tuple[int, int]]) -> None:
        """Find settings, and read the series with them: to the step itself if settings are found for each, otherwise to
        the end."""
        design, rows = self._design, [self._rows[k] for k, _ in keys]
        begins = [max(0, step + 1 - design.history) for _, step in keys]
        ends = [step + 1 if len(row) < REFITTED else len(row) for row, (_, step) in zip(rows, keys, strict=True)]
        known = [slice(begin, step + 1) for begin, (_, step) in zip(begins, keys, strict=True)]
        search = Search(_histories(rows, known), design.periods, design.horizon)
        histories = _histories(rows, list(map(slice, begins, ends)))
        shifts = [len(histories.values) - end for end in ends]
        start = min(step + shift for (_, step), shift in zip(keys, shifts, strict=True))
        smoothed = Smoothed.of(histories, *search.best(), design.periods, start)
        self._read |= {key: (smoothed, lane, shifts[lane]) for lane, key in enumerate(keys)}


def _histories(rows: Sequence[PreparedSeries], parts: Sequence[slice]) -> Histories:
    """Parts of some series."""
    pairs = list(zip(rows, parts, strict=True))
    return Histories.of([row.scaled[part] for row, part in pairs], [row.series.missing[part] for row, part in pairs])


@dataclass(frozen=True)
class CombinedLoop(SeriesLoop):
    """A recurrent model whose forecasts are combined with others. `smoother` reads the same series, of which `rows` may
    be the ends; `offsets` (S,) are the steps at which those begin."""

    combination: Combination
    smoother: Smoother
    offsets: Sequence[int]

    @classmethod
    def over(
        cls,
        stepper: Stepper,
        rows: Sequence[PreparedSeries],
        design: Design,
        first: Sequence[int],
        combination: Combination,
    ) -> tuple[Self, list[int]]:
        """The loop over the ends of series, for forecasts of the steps from `first` of each on, and where those are in
        its rows. The model reads `design.context` steps before them, smoothing `design.history`."""
        offsets = [min(max(0, start - design.context), len(row) - 1) for start, row in zip(first, rows, strict=True)]
        recent = [row.since(offset) for row, offset in zip(rows, offsets, strict=True)]
        smoother = Smoother(rows, design, [max(0, start - 1) for start in first])
        after = [start - offset for start, offset in zip(first, offsets, strict=True)]
        return cls(stepper, recent, design, combination, smoother, offsets), after

    def methods(self, origins: Origins, horizon: int) -> dict[str, Floats]:
        kinds = self.kinds(origins, horizon)
        parts = {kind: kinds[kind] for kind in (RECURRENT, SMOOTHED) if kind in kinds}
        return {MODEL: self._combined(origins, kinds), **parts}

    def weights(self) -> dict[str, float]:
        found = np.mean([self.combination.of(row.series.name).weights for row in self.rows], axis=0)
        return {kind.replace(" ", "_"): float(weight) for kind, weight in zip(KINDS, found, strict=True)}

    def forecasts(self, origins: Origins, horizon: int) -> Floats:
        return self._combined(origins, self.kinds(origins, horizon))

    def paths(self, origins: Origins, horizon: int, number: int, seed: int) -> Floats:
        """Those of the recurrent model, around the combined forecast and stretched."""
        kinds = self.kinds(origins, horizon)
        stretch = np.array([share.stretch for share in self._shares(origins)])[:, None, None]
        drawn = super().paths(origins, horizon, number, seed) - kinds[RECURRENT][:, None]
        return self.bounded(origins, self._combined(origins, kinds)[:, None] + stretch * drawn)

    def kinds(self, origins: Origins, horizon: int) -> dict[str, Floats]:
        """The scaled forecasts (R, horizon) of each kind."""
        steps = origins.steps + np.array(self.offsets)[origins.series]
        found = {RECURRENT: super().forecasts(origins, horizon)}
        if self.combination.smooths:
            smoothed = self.bounded(origins, self.smoother.forecasts(origins.series, steps, horizon))
            found[SMOOTHED] = np.where(np.isnan(smoothed), found[RECURRENT], smoothed)  # it has left all numbers
        found |= {kind: np.empty((len(origins), horizon)) for kind in (LAST, SEASONAL)}
        for number in np.unique(origins.series):
            here, scaled = origins.series == number, self.rows[number].scaled
            found[LAST][here] = last_value(scaled, origins.steps[here], horizon)
            found[SEASONAL][here] = seasonal_naive(scaled, origins.steps[here], horizon, self.design.season)
        return found

    def _shares(self, origins: Origins) -> list[Share]:
        return [self.combination.of(self.rows[number].series.name) for number in origins.series]

    def _combined(self, origins: Origins, kinds: Mapping[str, Floats]) -> Floats:
        weights = np.array([share.weights for share in self._shares(origins)])
        combined: Floats = sum(weights[:, [KINDS.index(kind)]] * found for kind, found in kinds.items())  # type: ignore
        return combined


RECURRENT_ONLY = Combination({}, Share(tuple(float(kind == RECURRENT) for kind in KINDS)))
