"""Metrics of forecasts: MAE, RMSE, MSE, MASE, sMAPE and coverage, accumulated window by window.

MASE divides the mean absolute error by that of the seasonal naive forecast in the training part (Hyndman and Koehler
2006, "Another look at measures of forecast accuracy"); a series that the seasonal naive forecast predicts without error
has no MASE and is left out of the mean over series. sMAPE is 200 |y - f| / (|y| + |f|), in percent (Makridakis 1993).
Scaled errors are in standard deviations of the training part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from textgen.series.scaling import Floats, Mask, Scale
from textgen.series.times import Places


@dataclass
class Errors:
    """Sums over all forecasts: `add` takes windows, `include` the errors of another series."""

    sums: dict[str, float] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    def add(self, actual: Floats, forecast: Floats, known: Mask, scale: Scale) -> None:
        """Add windows (O, H) of one series: actual values, forecasts, and which actual values are known."""
        error = (actual - forecast)[known]
        size = (np.abs(actual) + np.abs(forecast))[known]
        self._sum("absolute", np.abs(error))
        self._sum("square", error**2)
        self._sum("percent", 200 * np.divide(np.abs(error), size, out=np.zeros_like(size), where=size > 0))
        if scale.naive:
            self._sum("ratio", np.abs(error) / scale.naive)
        self._sum("scaled_absolute", np.abs(error) / scale.deviation)
        self._sum("scaled_square", (error / scale.deviation) ** 2)

    def add_interval(self, actual: Floats, low: Floats, high: Floats, known: Mask) -> None:
        """Add whether actual values (O, H) lie within intervals."""
        self._sum("covered", ((low <= actual) & (actual <= high))[known].astype(np.float64))

    def _sum(self, name: str, values: Floats) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(values.sum())
        self.numbers[name] = self.numbers.get(name, 0) + len(values)

    def include(self, other: Errors) -> None:
        """Add the errors of another series."""
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.numbers[name] = self.numbers.get(name, 0) + other.numbers[name]

    def mean(self, name: str) -> float | None:
        """The mean of one of the sums; None if it is empty or not finite."""
        number = self.numbers.get(name, 0)
        return self.sums[name] / number if number and math.isfinite(self.sums[name]) else None

    def to_json(self) -> dict[str, Any]:
        """Every metric by name; None for an undefined one."""
        square = self.mean("square")
        return {
            "mae": self.mean("absolute"),
            "rmse": None if square is None else math.sqrt(square),
            "mse": square,
            "mase": self.mean("ratio"),
            "smape": self.mean("percent"),
            "scaled_mae": self.mean("scaled_absolute"),
            "scaled_mse": self.mean("scaled_square"),
            "coverage": self.mean("covered"),
        }


def last_value(values: Floats, origins: Places, horizon: int) -> Floats:
    """The forecast (O, horizon) that the value at each origin, the last known step, stays the same."""
    return np.repeat(values[origins][:, None], horizon, axis=1)


def seasonal_naive(values: Floats, origins: Places, horizon: int, season: int) -> Floats:
    """The forecast (O, horizon) that the last known season repeats; the first value extends backward."""
    ahead = np.arange(1, horizon + 1)
    back = ahead - season * -(-ahead // season)
    return values[np.maximum(origins[:, None] + back, 0)]
