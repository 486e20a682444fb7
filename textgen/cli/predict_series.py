"""textgen predict, for a forecaster: what comes after the end of each series, with an interval."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

from textgen.cli.screen import Output, say
from textgen.dependencies import require
from textgen.errors import UsageError

if TYPE_CHECKING:
    from textgen.cli.predict import PredictionRequest
    from textgen.series.forecaster import Forecast


def predict(asked: PredictionRequest) -> int:
    """Write the forecasts of tables as csv, or as one JSON object a time step; with `plot`, draw them too."""
    if not asked.inputs:
        raise UsageError(
            "no table given; a forecast goes on from the end of a series.",
            hint=f"textgen predict -m {asked.folder} TABLE.csv",
        )
    if asked.plot is not None:
        require("matplotlib")
    from textgen.series.forecaster import load
    from textgen.text.bulk import usable_cores
    from textgen.threads import use_threads

    forecaster = load(asked.folder)
    use_threads(asked.threads or usable_cores())
    options = asked.forecasting
    found = forecaster.predict(
        asked.inputs,
        options.horizon,
        options.level,
        options.paths,
        options.seed,
        asked.reading.asked("encoding"),
        asked.reading.asked("delimiter"),
        options.decimal,
    )
    continued = sum(each.history.trained > 0 for each in found)
    if continued:
        which = "The table begins" if continued == len(found) else f"{continued:,} of {len(found):,} series begin"
        say(f"{which} after the training data: the forecast goes on from both.")
    text = _json(found) if asked.as_json else _csv(found)
    if asked.output is not None:
        asked.output.write(text.encode())
        say(f"{asked.output.path}: {sum(len(each.times) for each in found):,} rows.")
    else:
        Output().write(text)
    if asked.plot is not None:
        from textgen.series.plot import draw

        asked.plot.check()
        draw(found, asked.plot.path)
        say(f"plot: {asked.plot.path}")
    return 0


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
