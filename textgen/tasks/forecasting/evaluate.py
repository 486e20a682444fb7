"""`textgen evaluate` and `textgen predict` with a forecaster, and their plots.

`evaluate` prints errors by rolling origin, beside those of the naive forecasts; `predict` what comes after the end
of each series, with an interval. Plots need matplotlib.
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from textgen.errors import TextgenError, UsageError, require
from textgen.formatting import aligned, count, plural, table
from textgen.options import named
from textgen.screen import Output, rewrite_line, say, warn
from textgen.storage import filesystem
from textgen.storage.outputs import refuse_same, to_png
from textgen.tasks import Request
from textgen.tasks.forecasting.baselines import Reached, require_baselines
from textgen.tasks.forecasting.data import SeriesData
from textgen.tasks.forecasting.design import PreparedSeries, prepare_series
from textgen.tasks.forecasting.forecaster import Forecast, ForecastModel
from textgen.tasks.forecasting.options import ForecastEvaluation, ForecastPrediction, chosen_baselines, chosen_quantiles
from textgen.tasks.forecasting.rolling import LAST, MODEL, SEASONAL, BacktestReport, ForecastRequest
from textgen.tasks.forecasting.scaling import rounded

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MOST_PANELS = 8  # the number of series that are drawn; of more, the first ones
BEFORE = 4  # horizons of history that are shown, at least `FEWEST_BEFORE` steps
FEWEST_BEFORE = 48
BLUE, ORANGE, INK, FAINT = "#0072B2", "#D55E00", "#333333", "#DDDDDD"
COLUMNS = {"mae": "MAE", "rmse": "RMSE", "mse": "MSE", "mase": "MASE", "smape": "sMAPE", "scaled_mse": "MSE, scaled",
           "coverage": "coverage"}  # fmt: skip
COUNTED = "without a time column, rows are counted, so the table must begin with the training data."


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
    filesystem.write_output(path, to_png(figure))
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


def evaluate(request: Request) -> None:
    """Evaluate the values after the training data in the tables; without tables, the held-out part."""
    plot, reading = request.outputs.get("plot"), request.reading
    if plot is not None:
        require("matplotlib")
    options: ForecastEvaluation = request.options
    methods = chosen_baselines(options.baselines)
    require_baselines(methods)
    forecaster: ForecastModel = request.load()
    horizon = options.horizon or forecaster.horizon
    quantiles = chosen_quantiles(options.quantiles, options.paths)
    asked = ForecastRequest(horizon, 1, options.paths, options.level, options.seed, quantiles)
    if request.inputs:
        encoding, delimiter = reading.asked("encoding"), reading.asked("delimiter")
        rows = forecaster.read(request.inputs, encoding, delimiter, options.decimal)
        first = [forecaster.unseen(each, horizon) for each in rows]
        ended = all(start + horizon > len(each) for start, each in zip(first, rows, strict=True))
        if ended and not any(each.series.trained for each in rows):
            counted = not forecaster.design.columns.times
            raise TextgenError(
                f"{', '.join(request.inputs)} has fewer than {plural(horizon, 'row')} (the horizon) after the training "
                "data.",
                hint=COUNTED if counted else f"textgen evaluate -m {request.folder} scores what it held out.",
            )
        if not forecaster.design.columns.times and rows[0].series.name in forecaster.design.scales:
            warn(f"the first {count(first[0])} rows are taken to be the training data; {COUNTED}")
    else:
        data = cast(SeriesData, request.held_out())
        rows, first = data.rows, data.ends
    report = forecaster.evaluate_rows(rows, first, asked, methods, _progress(methods))
    Output().write(json.dumps(report.to_json(), ensure_ascii=False) + "\n" if request.as_json else _shown(report))
    if plot is not None:
        plot.check()
        _draw(forecaster, rows, asked, plot.path)


def _progress(methods: Sequence[str]) -> Reached | None:
    """Shows how far the baselines are, on a terminal."""
    if not methods or not sys.stderr.isatty():
        return None
    return lambda done, total: rewrite_line(f"baselines {done:,} of {total:,} forecasts" if done < total else "")


def _shown(report: BacktestReport) -> str:
    """A table of the methods, and the number of series for which the model beats the naive forecasts."""
    lines = [_table(report), _windows(report), *_quantiles(report), *_notes(report)]
    number = len(report.by_series)
    if number > 1:
        better = sum(_beats_naive(errors) for errors in report.by_series.values())
        lines.append(f"better than every naive forecast (RMSE) on {count(better)} of {count(number)} series")
    if report.recent is not None:
        lines += ["", "The last windows of each series, with the baselines:", _table(report.recent)]
        lines += [_windows(report.recent), *_unfitted(report.recent)]
    return "\n".join(lines) + "\n"


def _table(report: BacktestReport) -> str:
    """The errors of every method."""
    found = {method: errors.to_json() for method, errors in report.errors.items()}
    shown = {label: aligned([each[name] for each in found.values()]) for name, label in COLUMNS.items()}
    shown[COLUMNS["coverage"]] = [
        "-" if each["coverage"] is None else f"{each['coverage']:.1%}" for each in found.values()
    ]
    rows = [{"": method, **{label: shown[label][k] for label in shown}} for k, method in enumerate(found)]
    return table(rows, ["", *COLUMNS.values()])


def _windows(report: BacktestReport) -> str:
    """What was scored."""
    request, number = report.request, len(report.by_series)
    return (
        f"{plural(report.windows, 'window')} of {plural(request.horizon, 'step')} · {count(number)} series · "
        f"season {report.season} · coverage is that of the {request.level:g}% interval"
    )


def _quantiles(report: BacktestReport) -> list[str]:
    """The losses of the model's quantiles, if any were asked for."""
    errors = report.errors[MODEL]
    losses, together = errors.quantile_losses(), errors.weighted_quantile_loss()
    if not losses:
        return []
    shown = " · ".join(f"{quantile}: {'-' if loss is None else f'{loss:.4g}'}" for quantile, loss in losses.items())
    weighted = "-" if together is None else f"{together:.4g}"
    return [f"quantile loss {shown} · mean weighted quantile loss {weighted}"]


def _unfitted(report: BacktestReport) -> list[str]:
    """Notes on baselines that could not be fitted."""
    return [
        f"{method} could not be fitted for {plural(number, 'window')}; there, it is the last value"
        for method, number in report.unfitted.items()
    ]


def _notes(report: BacktestReport) -> list[str]:
    """Notes on the metrics: where evaluation begins, and why one is undefined."""
    number, lines = len(report.by_series), []
    if report.weights:
        largest = sorted(report.weights.items(), key=lambda each: -each[1])
        shares = " + ".join(f"{weight:.0%} {kind.replace('_', ' ')}" for kind, weight in largest if weight >= 0.005)
        lines.append(f"the model is {shares}" + (", on average" if number > 1 else ""))
    if report.continued:
        which = "" if report.continued == number else f"{count(report.continued)} series: "
        lines.append(f"{which}the table begins after the training data; every row is scored, from the end of training")
    undefined = sum(errors["model"].mean("ratio") is None for errors in report.by_series.values())
    if undefined:
        whose = "this series" if number == 1 else f"{count(undefined)} of {count(number)} series"
        lines.append(f"no MASE for {whose}: the seasonal naive forecast has no error in the training part")
    return lines + _unfitted(report)


def _beats_naive(errors: dict[str, Any]) -> bool:
    squares = {method: found.mean("scaled_square") or 0.0 for method, found in errors.items()}
    return squares[MODEL] < min(value for method, value in squares.items() if method in (LAST, SEASONAL))


def _draw(forecaster: ForecastModel, rows: list[PreparedSeries], asked: ForecastRequest, path: Path) -> None:
    """The forecast of the last horizon of each series, beside the actual values."""
    cut = [each.series.slice(0, len(each) - asked.horizon) for each in rows]
    found = forecaster.predict_rows([prepare_series(each, forecaster.design) for each in cut], asked)
    draw(found, path, [each.series.values[-asked.horizon :] for each in rows])
    say(f"plot: {path} (the last forecasts and the actual values)")


def predict(request: Request) -> None:
    """Write the forecasts of tables as csv, or as one JSON object per time step; with `plot`, also draw them."""
    if not request.inputs:
        raise UsageError(
            "no table given; a forecast continues from the end of a series.",
            hint=f"textgen predict -m {request.folder} TABLE.csv",
        )
    output, plot = request.outputs.get("output"), request.outputs.get("plot")
    refuse_same({named(name): getattr(request.options, name) for name in ("output", "plot", "future")})
    if plot is not None:
        require("matplotlib")
    options: ForecastPrediction = request.options
    quantiles = chosen_quantiles(options.quantiles, options.paths)
    if options.samples is not None and quantiles:
        raise UsageError(f"{named('samples')} writes sample paths; leave out {named('quantiles')}.")
    forecaster: ForecastModel = request.load()
    found = forecaster.predict(
        request.inputs,
        options.horizon,
        options.level,
        options.samples or options.paths,
        options.seed,
        request.reading.asked("encoding"),
        request.reading.asked("delimiter"),
        options.decimal,
        quantiles,
        options.future,
    )
    continued = sum(each.history.trained > 0 for each in found)
    if continued:
        which = "The table begins" if continued == len(found) else f"{continued:,} of {len(found):,} series begin"
        say(f"{which} after the training data: the forecast continues from both.")
    rows = _sampled(found) if options.samples is not None else _rows(found)
    text = _text(rows, request.as_json)
    if output is not None:
        output.write(text.encode())
        say(f"{output.path}: {len(rows):,} rows.")
    else:
        Output().write(text)
    if plot is not None:
        plot.check()
        draw(found, plot.path)
        say(f"plot: {plot.path}")


def _rows(found: list[Forecast]) -> list[dict[str, Any]]:
    """A row for each time step."""
    return [
        {"series": each.series, "time": time, **dict(zip(columns, values, strict=True))}
        for each in found
        for columns in [each.columns()]
        for time, *values in zip(each.times, *columns.values(), strict=True)
    ]


def _sampled(found: list[Forecast]) -> list[dict[str, Any]]:
    """A row for each time step of each sample path."""
    return [
        {"series": each.series, "time": time, "sample": number, "value": value}
        for each in found
        for number, path in enumerate(each.paths, 1)
        for time, value in zip(each.times, rounded(path.tolist(), each.scale), strict=True)
    ]


def _text(rows: list[dict[str, Any]], as_json: bool) -> str:
    """Rows as csv or JSON. Numbers in csv are as JSON writes them, so that both forms hold the same digits."""
    if as_json:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return text.getvalue()
