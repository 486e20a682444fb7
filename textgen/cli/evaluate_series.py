"""textgen evaluate, for a forecaster: its errors by rolling origin, beside those of the naive forecasts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgen.cli.screen import Output, say, warn
from textgen.dependencies import require
from textgen.errors import TextgenError
from textgen.wording import aligned, count, plural, table

if TYPE_CHECKING:
    from textgen.cli.evaluate import EvaluationRequest
    from textgen.series.design import PreparedSeries
    from textgen.series.evaluate import BacktestReport
    from textgen.series.forecaster import Forecaster

COLUMNS = {"mae": "MAE", "rmse": "RMSE", "mse": "MSE", "mase": "MASE", "smape": "sMAPE", "scaled_mse": "MSE, scaled",
           "coverage": "coverage"}  # fmt: skip
COUNTED = "without a time column, rows are counted, so the table must begin with the training data."


def evaluate(asked: EvaluationRequest) -> int:
    """Score what comes after the training data in the tables; without tables, what training held out."""
    from textgen.series.evaluate import ForecastRequest
    from textgen.series.forecaster import load
    from textgen.text.bulk import usable_cores
    from textgen.threads import use_threads

    if asked.plot is not None:
        require("matplotlib")
    forecaster = load(asked.folder)
    use_threads(asked.threads or usable_cores())
    options = asked.forecasting
    horizon = options.horizon or forecaster.horizon
    request = ForecastRequest(horizon, number=options.paths, level=options.level, seed=options.seed)
    if asked.corpus:
        encoding, delimiter = asked.reading.asked("encoding"), asked.reading.asked("delimiter")
        rows = forecaster.read(asked.corpus, encoding, delimiter, options.decimal)
        first = [forecaster.unseen(each, horizon) for each in rows]
        ended = all(start + horizon > len(each) for start, each in zip(first, rows, strict=True))
        if ended and not any(each.series.trained for each in rows):
            counted = not forecaster.design.columns.times
            raise TextgenError(
                f"{', '.join(asked.corpus)} has fewer than {plural(horizon, 'row')} (the horizon) after the training "
                "data.",
                hint=COUNTED if counted else f"textgen evaluate -m {asked.folder} scores what it held out.",
            )
        if not forecaster.design.columns.times and rows[0].series.name in forecaster.design.scales:
            warn(f"the first {count(first[0])} rows are taken to be the training data; {COUNTED}")
    else:
        rows, first = _held_out(asked.folder)
    report = forecaster.evaluate_rows(rows, first, request)
    Output().write(json.dumps(report.to_json(), ensure_ascii=False) + "\n" if asked.as_json else _shown(report))
    if asked.plot is not None:
        asked.plot.check()
        _draw(forecaster, rows, request, asked.plot.path)
    return 0


def _held_out(folder: Path) -> tuple[list[PreparedSeries], list[int]]:
    """The series of a run, and where the part begins that it holds out."""
    from textgen.series.data import SeriesData
    from textgen.training.checkpoint import Run
    from textgen.training.train import data_of

    try:
        data = data_of(Run(folder))
    except TextgenError as error:
        raise TextgenError(
            f"the held-out part of {str(folder)!r} is not available: {error}", hint="textgen evaluate TABLE"
        ) from error
    assert isinstance(data, SeriesData)
    if not data.held_out:
        raise TextgenError(f"{str(folder)!r} has no held-out part.", hint="textgen evaluate TABLE")
    return data.rows, data.ends


def _shown(report: BacktestReport) -> str:
    """A table of the methods, and of how many series the model beats the naive forecasts."""
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
    """What a reader has to know of the figures: where scoring begins, and why one does not exist."""
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


def _draw(forecaster: Forecaster, rows: list[PreparedSeries], request: Any, path: Path) -> None:
    """The last horizon of each series, forecast, beside what came."""
    from textgen.series.design import prepare_series
    from textgen.series.plot import draw

    cut = [each.series.slice(0, len(each) - request.horizon) for each in rows]
    found = forecaster.predict_rows([prepare_series(each, forecaster.design) for each in cut], request)
    draw(found, path, [each.series.values[-request.horizon :] for each in rows])
    say(f"plot: {path} (the last forecasts and the actual values)")
