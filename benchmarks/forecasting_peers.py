"""AutoETS and AutoARIMA on the series of benchmarks/forecasting.py: python benchmarks/forecasting_peers.py DATA_FOLDER

They are scored as `textgen evaluate --baselines ets,arima` scores them (see `textgen.tasks.forecasting.baselines`):
fitted again at every origin of series under 500 rows; fitted once for longer ones, over the last 200 origins. They are
deterministic and slow, so their errors are kept in benchmarks/forecasting_peers.jsonl, to which those that are missing
are added, and with which benchmarks/forecasting.py compares.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

from forecasting import ROWS, lines_of

from textgen.data.sources import SourceOptions, find_sources
from textgen.tasks.forecasting.baselines import Fitted, add_errors, scored_steps
from textgen.tasks.forecasting.design import design_of, prepare_series, split_series
from textgen.tasks.forecasting.options import BASELINES, ForecastingOptions
from textgen.tasks.forecasting.reading import read_series
from textgen.tasks.forecasting.rolling import BacktestReport, ForecastRequest

RECORD = Path(__file__).with_suffix(".jsonl")


def prepared(row, folder):
    """The series of a row as the model reads them, and the first step of each that is forecast."""
    lines = lines_of(row, folder)
    end = row.train if row.train > 0 else len(lines) - 1 + row.train
    options = ForecastingOptions(task="forecast", horizon=row.trained, **row.options)
    tables = []
    with tempfile.TemporaryDirectory() as place:
        for number, some in enumerate((lines[: end + 1], lines)):
            path = Path(place) / f"{number}.csv"
            path.write_text("\n".join(some) + "\n")
            tables.append(read_series(find_sources([str(path)]), options, SourceOptions(), 1_000))
    training, whole = tables
    design = design_of(training, split_series(training, None, options), options)
    rows = [prepare_series(each, design) for each in whole.series]
    return design, rows, [len(each) for each in training.series]


def errors_of(row, method, folder, fits):
    """The errors of one method at every horizon of a row, as records; `fits` keeps those of series in several rows."""
    design, rows, first = prepared(row, folder)
    reports = {horizon: BacktestReport(ForecastRequest(horizon), design.season) for horizon in row.horizons}
    seconds = dict.fromkeys(reports, 0.0)
    for each, start in zip(rows, first, strict=True):
        fitted = fits.setdefault(
            (row.file, each.series.name, method, start), Fitted(method, each.series.values, start, design.season, 90.0)
        )
        for horizon, report in reports.items():
            began = time.process_time()
            steps = scored_steps(len(each), start, report.request)
            add_errors(report, each, steps, method, fitted.forecasts(steps, horizon))
            report.windows += len(steps)
            seconds[horizon] += time.process_time() - began
        print(f"{row.name}: {method} of {each.series.name}, {seconds[row.horizons[0]]:.0f} s", flush=True)
    return [
        {
            "series": row.name,
            "method": method,
            "horizon": horizon,
            "windows": report.windows,
            **report.errors[method].to_json(),
            "not_fitted": report.unfitted.get(method, 0),
            "seconds": round(seconds[horizon], 1),
        }
        for horizon, report in reports.items()
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the tables are")
    parser.add_argument("--only", help="only the series whose names have this in them")
    parser.add_argument("--method", choices=BASELINES, action="append", help="only this one; may be repeated")
    parser.add_argument("--record", type=Path, default=RECORD, help="JSON lines of results, read first and added to")
    asked = parser.parse_args()
    records = [json.loads(line) for line in asked.record.read_text().splitlines()] if asked.record.exists() else []
    done = {(record["series"], record["method"]) for record in records}
    fits = {}
    for method in asked.method or BASELINES:
        for row in ROWS:
            if (row.name, method) in done or (asked.only and asked.only not in row.name):
                continue
            found = errors_of(row, method, asked.folder, fits)
            with asked.record.open("a") as file:
                file.writelines(json.dumps(record) + "\n" for record in found)
            print("\n".join(map(json.dumps, found)), flush=True)
    import statsforecast

    print(f"statsforecast {statsforecast.__version__}, python {platform.python_version()}")


if __name__ == "__main__":
    main()
