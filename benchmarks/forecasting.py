"""Forecasts of eleven well-known series next to two naive ones: python benchmarks/forecasting.py DATA_FOLDER

Each series has the protocol of published results: the training part, the forecast origins, and the error. Every run is
`textgen.train` with one seed and the default sizes, with one model for all horizons or, with --each-horizon, one for
each. Nothing that is scored is read in training. Results are written to a file of JSON lines as they arrive, from which
the table is made.
"""

import argparse
import gzip
import json
import platform
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import textgen
from textgen.tasks.forecasting.rolling import LAST, MODEL, SEASONAL, ForecastRequest

CELLS = ("rnn", "lstm", "gru")
NAIVE = {"last value": LAST, "seasonal naive": SEASONAL}


@dataclass(frozen=True)
class Row:
    """A series, which rows of its table train and which are forecast, and how the error is written."""

    name: str
    file: str
    train: int
    """Rows that training may read, what it holds out included; below 0, all but so many."""
    end: int | None = None
    measure: str = "rmse"
    horizons: tuple[int, ...] = (1,)
    options: dict = field(default_factory=dict)
    trained: int = 1
    """The horizon that a model for all horizons is trained for."""


ETT = {"validation_split": 0.25}
WEATHER = ["DEWP", "TEMP", "PRES", "Iws", "Is", "Ir"]
ROWS = (
    Row("ETTh1, 7 columns", "ETTh1.csv", 11_520, 14_400, "scaled", (24, 48, 168, 336, 720),
        {**ETT, "target_column": ["all"]}, 24),
    Row("ETTh1, OT", "ETTh1.csv", 11_520, 14_400, "scaled", (24, 48, 168, 336, 720), {**ETT, "target_column": ["OT"]},
        24),
    Row("exchange_rate", "exchange_rate.txt.gz", 6_070, None, "rse", (3, 6, 12, 24),
        {"validation_split": 0.25, "target_column": ["all"]}, 24),
    Row("pollution, pm2.5", "pollution.csv", 8_760, None, "rmse", (1,),
        {"time_column": ["year", "month", "day", "hour"], "target_column": ["pm2.5"], "extra_column": WEATHER}),
    Row("daily-min-temperatures", "daily-min-temperatures.csv", -365),
    Row("monthly-sunspots", "monthly-sunspots.csv", -931),
    Row("airline-passengers", "airline-passengers.csv", -48),
    Row("monthly-shampoo-sales", "monthly-shampoo-sales.csv", -12),
    Row("monthly-car-sales", "monthly-car-sales.csv", -12),
    Row("example_retail_sales", "example_retail_sales.csv", -24),
    Row("seattle-weather temp_max", "seattle-weather.csv", -365, options={"target_column": ["temp_max"]}),
)  # fmt: skip


def lines_of(row, folder):
    """The table of a protocol as lines, its header first: rates get a header, missing dust counts as 0."""
    path = folder / row.file
    if row.file.endswith(".gz"):
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        return [",".join(f"rate {k}" for k in range(1, 9)), *lines]
    lines = path.read_text().splitlines()
    if row.file == "pollution.csv":
        lines = [lines[0], *(line.replace(",NA,", ",0,") for line in lines[25:])]
    return lines[: None if row.end is None else row.end + 1]


def run(row, cell, folder, seed, each=False):
    """Train on the training rows and forecast the others, with a model for `each` horizon or one for all of them, which
    is trained for `row.trained` steps ahead; returns what is recorded."""
    lines = lines_of(row, folder)
    end = row.train if row.train > 0 else len(lines) - 1 + row.train
    errors, seconds, bases = [], 0.0, []
    with tempfile.TemporaryDirectory() as place:
        training, whole = Path(place) / "train.csv", Path(place) / "whole.csv"
        training.write_text("\n".join(lines[: end + 1]) + "\n")
        whole.write_text("\n".join(lines) + "\n")
        for ahead in row.horizons if each else (row.trained,):
            began = time.process_time()
            options = {"task": "forecast", "cell": cell, "seed": seed, "threads": 1, "horizon": ahead, **row.options}
            forecaster = textgen.load(textgen.train(training, output_dir=str(Path(place) / f"run-{ahead}"), **options))
            seconds += time.process_time() - began
            rows = forecaster.read(whole)
            first = forecaster.unseen(rows[0], 1)  # in time steps, of which a gap has some without rows
            errors += [scored(row, forecaster, rows, first, h) for h in ((ahead,) if each else row.horizons)]
            bases.append(sorted({scale.base for scale in forecaster.design.scales.values()}))
    report = {name: [each[name] for each in errors] for name in errors[0]}
    alone = base_alone(rows, first) if row.horizons == (1,) else None
    name = row.name + (", each" if each else "")
    return {"series": name, "cell": cell, "seconds": round(seconds, 1), "bases": bases, "base": alone, **report}


def base_alone(rows, end):
    """The RMSE of the next step by the naive forecasts that the model corrects: what an untrained model has."""
    guesses = [each.scale.restored(each.bases[end - 1 : -1]) for each in rows]
    errors = [each.series.values[end:] - guess for each, guess in zip(rows, guesses, strict=True)]
    return float(np.sqrt(np.mean(np.square(np.concatenate(errors)))))


def scored(row, forecaster, rows, end, horizon):
    """The errors of the model and of the naive forecasts at one horizon."""
    number = 100 if horizon <= 24 else 0
    request = ForecastRequest(horizon, number=number)
    report = forecaster.evaluate_rows(rows, [end] * len(rows), request)
    found = {name: written(row, errors) for name, errors in report.errors.items()}
    found["coverage"] = report.errors[MODEL].mean("covered")
    if row.measure == "rse":
        found |= relative(forecaster, rows, end, horizon)
    return found


def written(row, errors):
    """An error, and a second one beside it, as the protocol has them."""
    figures = errors.to_json()
    return [figures["scaled_mse"], figures["scaled_mae"]] if row.measure == "scaled" else [figures["rmse"]]


def relative(forecaster, rows, end, horizon):
    """Root relative squared error and mean correlation of the last step of each window, as Lai et al. 2018 count."""
    from textgen.tasks.forecasting.rolling import SeriesLoop

    recent = [each.since(end - forecaster.design.context) for each in rows]
    first, ends = [forecaster.design.context - 1] * len(rows), [len(each) - horizon for each in recent]
    truth, model, naive = ([[] for _ in rows] for _ in range(3))
    loop = SeriesLoop(forecaster.stepper, recent, forecaster.design)
    for origins in loop.read(first, 20_000, ends):
        ahead = loop.forecasts(origins, horizon)[:, -1]
        for place, (k, t) in enumerate(zip(origins.series, origins.steps, strict=True)):
            truth[k].append(recent[k].series.values[t + horizon])
            naive[k].append(recent[k].series.values[t])
            model[k].append(recent[k].scale.restored(ahead[place]))
    came = np.array(truth)
    spread = np.sqrt(((came - came.mean()) ** 2).sum())
    found = {}
    for name, guess in ((MODEL, np.array(model)), (LAST, np.array(naive))):
        pairs = zip(came, guess, strict=True)
        alike = float(np.mean([np.corrcoef(one, other)[0, 1] for one, other in pairs]))
        found[name] = [float(np.sqrt(((came - guess) ** 2).sum()) / spread), alike]
    return found


def cell_text(row, values):
    """The errors of all horizons as a cell of the table."""
    if values is None:
        return ""
    digits = {"scaled": 3, "rse": 4, "rmse": 3}[row.measure]
    if row.measure == "rmse":
        return f"{values[0][0]:.{digits}f}"
    return " / ".join(f"{one:.{digits}f} ({two:.3f})" for one, two in values)


def better(row, found, cell):
    """At how many horizons a cell is better than every naive forecast."""
    model, wins = found[cell]["model"], 0
    for k in range(len(row.horizons)):
        naive = [found[cell][name][k][0] for name in NAIVE.values() if name in found[cell]]
        wins += model[k][0] < min(naive)
    return wins


def report(records):
    """The markdown table of what was recorded."""
    heading = ["series", "error", *NAIVE, "corrected forecast", *CELLS, "better than both", "seconds", "coverage"]
    lines = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    for row, kind in [(row, kind) for row in ROWS for kind in ("", ", each")]:
        found = {record["cell"]: record for record in records if record["series"] == row.name + kind}
        if not found:
            continue
        some = next(iter(found.values()))
        name = {"scaled": "MSE (MAE) of z-scores", "rse": "RSE (CORR)", "rmse": "RMSE"}[row.measure]
        ahead = " / ".join(map(str, row.horizons)) if len(row.horizons) > 1 else "1"
        cells = [row.name + (", a model each" if kind else ""), f"{name}, horizon {ahead}"]
        cells += [cell_text(row, some.get(name)) for name in NAIVE.values()]
        alone = "" if some["base"] is None else f": {some['base']:.3f}"
        cells.append(" / ".join(dict.fromkeys(" and ".join(bases) for bases in some["bases"])) + alone)
        cells += [cell_text(row, found[cell]["model"]) if cell in found else "" for cell in CELLS]
        wins = [f"{cell} {better(row, found, cell)}/{len(row.horizons)}" for cell in CELLS if cell in found]
        cells.append(", ".join(wins))
        cells.append(" / ".join(f"{found[cell]['seconds']:.2g}" for cell in CELLS if cell in found))
        cells.append(" / ".join(f"{found[cell]['coverage'][0]:.0%}" for cell in CELLS if cell in found))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the tables are")
    parser.add_argument("--cell", choices=CELLS, action="append", help="only this cell; may be repeated")
    parser.add_argument("--only", help="only the series whose names have this in them")
    parser.add_argument("--record", type=Path, help="JSON lines of results, read first and added to")
    parser.add_argument("--each-horizon", action="store_true", help="a model for each horizon, where there are several")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    records = []
    if asked.record and asked.record.exists():
        records = [json.loads(line) for line in asked.record.read_text().splitlines()]
    done = {(record["series"], record["cell"]) for record in records}
    for row in ROWS:
        for cell in asked.cell or CELLS:
            each = asked.each_horizon and len(row.horizons) > 1
            known = (row.name + (", each" if each else ""), cell) in done
            if known or (asked.only and asked.only not in row.name):
                continue
            records.append(run(row, cell, asked.folder, asked.seed, each))
            if asked.record:
                with asked.record.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
            print(json.dumps(records[-1]), flush=True)
    print(f"\n{report(records)}\n")
    print(f"torch {torch.__version__}, python {platform.python_version()}, one thread, seed {asked.seed}")


if __name__ == "__main__":
    main()
