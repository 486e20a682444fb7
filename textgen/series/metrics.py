"""How far forecasts are from what came: MAE, RMSE, MSE, MASE, sMAPE and coverage, summed up window by window.

MASE divides the mean absolute error by that of the seasonal naive forecast within the training part (Hyndman and
Koehler 2006, "Another look at measures of forecast accuracy"); a series that the seasonal naive forecast predicts
without error has no MASE, and is left out of the mean over series. sMAPE is 200 |y - f| / (|y| + |f|), in percent
(Makridakis 1993). The scaled errors are those of values with the training part's mean and deviation taken out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen.series.scaling import Scale

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass
class Errors:
    """Sums over all that was forecast; `add` takes windows as they come, `total` adds up several series."""

    sums: dict[str, float] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    def add(self, truth: Floats, forecast: Floats, known: Mask, scale: Scale) -> None:
        """Windows (O, H) of one series: what came, what was forecast, and where what came is known."""
        error = (truth - forecast)[known]
        size = (np.abs(truth) + np.abs(forecast))[known]
        self._sum("absolute", np.abs(error))
        self._sum("square", error**2)
        self._sum("percent", 200 * np.divide(np.abs(error), size, out=np.zeros_like(size), where=size > 0))
        if scale.naive:
            self._sum("ratio", np.abs(error) / scale.naive)
        self._sum("scaled_absolute", np.abs(error) / scale.deviation)
        self._sum("scaled_square", (error / scale.deviation) ** 2)

    def add_interval(self, truth: Floats, low: Floats, high: Floats, known: Mask) -> None:
        """Whether what came lies within an interval, both (O, H)."""
        self._sum("covered", ((low <= truth) & (truth <= high))[known].astype(np.float64))

    def _sum(self, name: str, values: Floats) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(values.sum())
        self.numbers[name] = self.numbers.get(name, 0) + len(values)

    def include(self, other: Errors) -> None:
        """Add those of another series."""
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.numbers[name] = self.numbers.get(name, 0) + other.numbers[name]

    def mean(self, name: str) -> float | None:
        """The mean of one of the sums; None if nothing was added to it, or if no float64 holds the sum."""
        number = self.numbers.get(name, 0)
        return self.sums[name] / number if number and math.isfinite(self.sums[name]) else None

    def to_json(self) -> dict[str, Any]:
        """Every figure by its name; None for one that does not exist."""
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


def last_value(values: Floats, origins: npt.NDArray[np.intp], horizon: int) -> Floats:
    """The forecast (O, horizon) that nothing changes after each origin, the last step known."""
    return np.repeat(values[origins][:, None], horizon, axis=1)


def seasonal_naive(values: Floats, origins: npt.NDArray[np.intp], horizon: int, season: int) -> Floats:
    """The forecast (O, horizon) that the last season known comes again; before the first value stands that."""
    ahead = np.arange(1, horizon + 1)
    back = ahead - season * -(-ahead // season)
    return values[np.maximum(origins[:, None] + back, 0)]
