"""Plots forecasts: the end of the history, the forecast, and its interval. Needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from textgen import files
from textgen.dependencies import require
from textgen.plots import to_png
from textgen.series.forecaster import Forecast

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS = 8
"""The number of series that are drawn; of more, the first ones."""

BEFORE = 4
"""Horizons of history that are shown, at least `FEWEST_BEFORE` steps."""

FEWEST_BEFORE = 48
BLUE, ORANGE, INK, FAINT = "#0072B2", "#D55E00", "#333333", "#DDDDDD"


def draw(forecasts: Sequence[Forecast], path: Path, actual: Sequence[Any] = ()) -> Path:
    """Write a PNG of some forecasts, each with its `actual` values (H,) if known. Raises TextgenError without
    matplotlib."""
    require("matplotlib")
    from matplotlib.figure import Figure

    shown = list(forecasts)[:MOST_PANELS]
    columns = 1 if len(shown) < 4 else 2
    lines = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(9 if columns == 1 else 13, 0.9 + 2.9 * lines), dpi=140, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for place, forecast in enumerate(shown):
        _panel(axes[place], forecast, actual[place] if place < len(actual) else None)
    for empty in axes[len(shown) :]:
        empty.set_visible(False)
    files.write_output(path, to_png(figure))
    return path


def _panel(axes: Axes, forecast: Forecast, actual: Any) -> None:
    """Draw the history, the forecast and the interval of one series."""
    history = forecast.history
    horizon = len(forecast.values)
    back = min(len(history), max(BEFORE * horizon, FEWEST_BEFORE))
    values = np.where(history.missing, np.nan, history.values)[-back:]
    before, ahead = np.arange(-back + 1, 1), np.arange(0, horizon + 1)
    last = history.values[-1]
    if forecast.low is not None and forecast.high is not None:
        low, high = np.append(last, forecast.low), np.append(last, forecast.high)
        axes.fill_between(ahead, low, high, color=ORANGE, alpha=0.2, linewidth=0, label=f"{forecast.level:g}% interval")
    axes.plot(before, values, color=BLUE, linewidth=1.3, label="history")
    axes.plot(ahead, np.append(last, forecast.values), color=ORANGE, linewidth=1.8, label="forecast")
    if actual is not None:
        axes.plot(
            ahead[1 : len(actual) + 1], actual, color=BLUE, linewidth=1.1, linestyle=(0, (3, 1.5)), label="actual"
        )
    stamps = [str(time) for time in forecast.history_times[-back:] + forecast.times]
    ticks = np.linspace(0, len(stamps) - 1, min(6, len(stamps))).astype(int)
    axes.set_xticks(ticks - back + 1, [stamps[tick].removesuffix(":00") for tick in ticks], fontsize=8)
    axes.set_title(forecast.series, loc="left", fontsize=10, color=INK, parse_math=False)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    axes.tick_params(colors=INK, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.legend(loc="upper left", fontsize=8, frameon=False, ncols=4)
