"""`textgen evaluate` with a forecaster: its rolling-origin errors beside those of the naive forecasts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from textgen.dependencies import require
from textgen.errors import TextgenError
from textgen.screen import Output, say, warn
from textgen.series.data import SeriesData
from textgen.series.design import PreparedSeries, prepare_series
from textgen.series.forecaster import Forecaster
from textgen.series.options import ForecastEvaluation
from textgen.series.plot import draw
from textgen.series.rolling import BacktestReport, ForecastRequest
from textgen.tasks.base import Request
from textgen.wording import aligned, count, plural, table

COLUMNS = {"mae": "MAE", "rmse": "RMSE", "mse": "MSE", "mase": "MASE", "smape": "sMAPE", "scaled_mse": "MSE, scaled",
           "coverage": "coverage"}  # fmt: skip
COUNTED = "without a time column, rows are counted, so the table must begin with the training data."


def evaluate(request: Request) -> None:
    """Evaluate the values after the training data in the tables; without tables, the held-out part."""
    plot, reading = request.outputs.get("plot"), request.reading
    if plot is not None:
        require("matplotlib")
    forecaster: Forecaster = request.load()
    options: ForecastEvaluation = request.options
    horizon = options.horizon or forecaster.horizon
    asked = ForecastRequest(horizon, number=options.paths, level=options.level, seed=options.seed)
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
    report = forecaster.evaluate_rows(rows, first, asked)
    Output().write(json.dumps(report.to_json(), ensure_ascii=False) + "\n" if request.as_json else _shown(report))
    if plot is not None:
        plot.check()
        _draw(forecaster, rows, asked, plot.path)


def _shown(report: BacktestReport) -> str:
    """A table of the methods, and the number of series for which the model beats the naive forecasts."""
    found = {method: errors.to_json() for method, errors in report.errors.items()}
    shown = {label: aligned([each[name] for each in found.values()]) for name, label in COLUMNS.items()}
    shown[COLUMNS["coverage"]] = [
        "-" if each["coverage"] is None else f"{each['coverage']:.1%}" for each in found.values()
    ]
    rows = [{"": method, **{label: shown[label][k] for label in shown}} for k, method in enumerate(found)]
    lines = [table(rows, ["", *COLUMNS.values()])]
    request, number = report.request, len(report.by_series)
    lines.append(
        f"{plural(report.windows, 'window')} of {plural(request.horizon, 'step')} · {count(number)} series · "
        f"season {report.season} · coverage is that of the {request.level:g}% interval"
    )
    lines += _notes(report)
    if number > 1:
        better = sum(_beats_naive(errors) for errors in report.by_series.values())
        lines.append(f"better than every naive forecast (RMSE) on {count(better)} of {count(number)} series")
    return "\n".join(lines) + "\n"


def _notes(report: BacktestReport) -> list[str]:
    """Notes on the metrics: where evaluation begins, and why one is undefined."""
    number, lines = len(report.by_series), []
    if report.continued:
        which = "" if report.continued == number else f"{count(report.continued)} series: "
        lines.append(f"{which}the table begins after the training data; every row is scored, from the end of training")
    undefined = sum(errors["model"].mean("ratio") is None for errors in report.by_series.values())
    if undefined:
        whose = "this series" if number == 1 else f"{count(undefined)} of {count(number)} series"
        lines.append(f"no MASE for {whose}: the seasonal naive forecast has no error in the training part")
    return lines


def _beats_naive(errors: dict[str, Any]) -> bool:
    squares = {method: found.mean("scaled_square") or 0.0 for method, found in errors.items()}
    return squares["model"] < min(value for method, value in squares.items() if method != "model")


def _draw(forecaster: Forecaster, rows: list[PreparedSeries], asked: ForecastRequest, path: Path) -> None:
    """The forecast of the last horizon of each series, beside the actual values."""
    cut = [each.series.slice(0, len(each) - asked.horizon) for each in rows]
    found = forecaster.predict_rows([prepare_series(each, forecaster.design) for each in cut], asked)
    draw(found, path, [each.series.values[-asked.horizon :] for each in rows])
    say(f"plot: {path} (the last forecasts and the actual values)")
