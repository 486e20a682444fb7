"""`textgen predict` with a forecaster: the values after the end of each series, with an interval."""

from __future__ import annotations

import csv
import io
import json

from textgen.dependencies import require
from textgen.errors import UsageError
from textgen.screen import Output, say
from textgen.series.forecaster import Forecast, Forecaster
from textgen.series.options import ForecastPrediction
from textgen.series.plot import draw
from textgen.tasks.base import Request


def predict(request: Request) -> None:
    """Write the forecasts of tables as csv, or as one JSON object per time step; with `plot`, also draw them."""
    if not request.inputs:
        raise UsageError(
            "no table given; a forecast continues from the end of a series.",
            hint=f"textgen predict -m {request.folder} TABLE.csv",
        )
    output, plot = request.outputs.get("output"), request.outputs.get("plot")
    if plot is not None:
        require("matplotlib")
    forecaster: Forecaster = request.load()
    options: ForecastPrediction = request.options
    found = forecaster.predict(
        request.inputs,
        options.horizon,
        options.level,
        options.paths,
        options.seed,
        request.reading.asked("encoding"),
        request.reading.asked("delimiter"),
        options.decimal,
    )
    continued = sum(each.history.trained > 0 for each in found)
    if continued:
        which = "The table begins" if continued == len(found) else f"{continued:,} of {len(found):,} series begin"
        say(f"{which} after the training data: the forecast continues from both.")
    text = _json(found) if request.as_json else _csv(found)
    if output is not None:
        output.write(text.encode())
        say(f"{output.path}: {sum(len(each.times) for each in found):,} rows.")
    else:
        Output().write(text)
    if plot is not None:
        plot.check()
        draw(found, plot.path)
        say(f"plot: {plot.path}")


def _rows(found: list[Forecast]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for each in found:
        columns = each.columns()
        rows += [
            {"series": each.series, "time": time, **{name: column[k] for name, column in columns.items()}}
            for k, time in enumerate(each.times)
        ]
    return rows


def _csv(found: list[Forecast]) -> str:
    """Numbers as JSON writes them, so that both forms hold the same digits."""
    rows, text = _rows(found), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return text.getvalue()


def _json(found: list[Forecast]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(found))
