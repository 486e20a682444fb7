"""Forecasts of well-known series next to naive and classical ones: python benchmarks/forecasting.py DATA_FOLDER

Each of eleven series has the protocol of published results: the training part, the forecast origins, and the error.
Every run is `textgen.train` with one seed and the default sizes, with one model for all horizons or, with
--each-horizon, one for each. Nothing that is scored is read in training. Results are written to a file of JSON lines as
they arrive, from which the tables are made.

The second table compares with AutoETS and AutoARIMA on exactly the same origins, from the record of
benchmarks/forecasting_peers.py. All methods of a row are scored there by the root mean square of the errors in standard
deviations of the training part, over all origins of series under 500 rows, over the last 200 of longer ones. The third
is the 414 hourly series of the M4 competition, scored as the competition did.
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
from textgen.tasks.forecasting.baselines import TITLES, scored_steps
from textgen.tasks.forecasting.rolling import LAST, MODEL, SEASONAL, ForecastRequest

CELLS = ("rnn", "lstm", "gru")
NAIVE = {"last value": LAST, "seasonal naive": SEASONAL}
PEERS = Path(__file__).with_name("forecasting_peers.jsonl")
M4 = "M4 hourly"
M4_AHEAD, M4_SEASON = 48, 24
M4_PUBLISHED = (("winner of M4 (Smyl 2020), published", 9.33, 0.893), ("seasonal naive, published", 13.91, 1.193))


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
    found["recent"] = recent(forecaster, rows, end, horizon)
    if row.measure == "rse":
        found |= relative(forecaster, rows, end, horizon)
    return found


def recent(forecaster, rows, end, horizon):
    """The errors of the model on the origins that AutoETS and AutoARIMA are scored on, and how many these are."""
    request = ForecastRequest(horizon, number=100 if horizon <= 24 else 0)
    start = [int(scored_steps(len(each), end, request)[0]) + 1 for each in rows]
    report = forecaster.evaluate_rows(rows, [end] * len(rows), request, start=start)
    return {"windows": report.windows, **report.errors[MODEL].to_json()}


def run_m4(cell, folder, seed):
    """The hourly series of M4: trained on all but the last 48 values of each, which are then forecast once. sMAPE and
    MASE are means over the series, MASE in units of the error of the seasonal naive forecast in training."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(folder / "m4_hourly.parquet").select(["series_id", "timestamp", "value"])
    frame = table.to_pandas().sort_values(["series_id", "timestamp"], kind="stable")
    training = frame[frame.groupby("series_id").cumcount(ascending=False) >= M4_AHEAD]
    whole = {str(name): part.to_numpy() for name, part in frame.groupby("series_id")["value"]}
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        columns = {"series_column": "series_id", "time_column": ["timestamp"], "target_column": ["value"]}
        options = {"task": "forecast", "horizon": M4_AHEAD, "season": M4_SEASON, "cell": cell, "seed": seed, **columns}
        forecaster = textgen.load(textgen.train(training, output_dir=str(Path(place) / "run"), **options))
        trained = time.perf_counter()
        forecasts = {each.series: each for each in forecaster.predict(training, number=100)}
        seconds = (trained - began, time.perf_counter() - trained)
    if set(forecasts) != set(whole):
        raise SystemExit(f"{len(forecasts)} of {len(whole)} series were forecast")
    smape, mase, covered = {name: [] for name in (MODEL, SEASONAL)}, {name: [] for name in (MODEL, SEASONAL)}, []
    for name, values in whole.items():
        before, came = values[:-M4_AHEAD], values[-M4_AHEAD:]
        unit = np.abs(before[M4_SEASON:] - before[:-M4_SEASON]).mean()
        again = np.tile(before[-M4_SEASON:], M4_AHEAD // M4_SEASON)
        for method, guess in ((MODEL, forecasts[name].values), (SEASONAL, again)):
            smape[method].append(np.mean(200 * np.abs(came - guess) / (np.abs(came) + np.abs(guess))))
            mase[method].append(np.mean(np.abs(came - guess)) / unit)
        covered.append(np.mean((forecasts[name].low <= came) & (came <= forecasts[name].high)))
    return {
        "series": M4,
        "cell": cell,
        "seconds": round(seconds[0], 1),
        "seconds_to_predict": round(seconds[1], 1),
        "smape": {name: float(np.mean(each)) for name, each in smape.items()},
        "mase": {name: float(np.mean(each)) for name, each in mase.items()},
        "coverage": float(np.mean(covered)),
    }


def m4_table(records):
    """The markdown table of the hourly series of M4; empty if none were run."""
    found = [record for record in records if record["series"] == M4]
    if not found:
        return ""
    lines = ["| M4 hourly, 414 series, 48 steps | sMAPE | MASE | coverage | seconds to train |", "|---" * 5 + "|"]
    for record in found:
        errors = f"{record['smape'][MODEL]:.2f} | {record['mase'][MODEL]:.3f} | {record['coverage']:.0%}"
        lines.append(f"| {record['cell']} | {errors} | {record['seconds']:.0f} |")
    errors = f"{found[0]['smape'][SEASONAL]:.2f} | {found[0]['mase'][SEASONAL]:.3f}"
    lines.append(f"| seasonal naive | {errors} | | |")
    lines += [f"| {name} | {smape} | {mase} | | |" for name, smape, mase in M4_PUBLISHED]
    return "\n".join(lines)


def peers_table(records, peers):
    """The markdown table of the comparison with AutoETS and AutoARIMA, and a line for each cell: the mean ratio of its
    error to the better of the two, and on how many rows it is better than both."""
    errors = {(each["series"], each["method"], each["horizon"]): each for each in peers}
    kept = {(each["series"], each["cell"]): each for each in records if "recent" in each}
    rows = [row for row in ROWS if all((row.name, name, h) in errors for name in TITLES for h in row.horizons)]
    rows = [row for row in rows if any((row.name, cell) in kept for cell in CELLS)]
    ratios = {cell: [] for cell in CELLS}
    heading = ["series", "windows", "horizon", *TITLES.values(), *CELLS, *(f"{cell} / better" for cell in CELLS)]
    lines = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    for row in rows:
        found = [[errors[row.name, name, h] for h in row.horizons] for name in TITLES]
        best = [min(each["scaled_mse"] for each in same) for same in zip(*found, strict=True)]
        cells = [row.name, f"{found[0][0]['windows']:,}", " / ".join(map(str, row.horizons))]
        cells += [root_text(row, each) for each in found]
        beside = []
        for cell in CELLS:
            own = kept[row.name, cell]["recent"] if (row.name, cell) in kept else None
            cells.append(root_text(row, own) if own else "")
            if own:
                pairs = zip(own, best, strict=True)
                ratios[cell].append(float(np.mean([np.sqrt(one["scaled_mse"] / other) for one, other in pairs])))
            beside.append(f"{ratios[cell][-1]:.3f}" if own else "")
        lines.append("| " + " | ".join(cells + beside) + " |")
    for cell, each in ratios.items():
        if each:
            wins = sum(ratio < 1 for ratio in each)
            lines.append(f"{cell}: mean ratio {np.mean(each):.3f}, better than both on {wins} of {len(each)} rows")
    return "\n".join(lines)


def root_text(row, errors):
    """Root mean square errors at every horizon: in units of the table for a row of one series, else scaled."""
    if row.measure == "rmse":
        return " / ".join(f"{each['rmse']:.4g}" for each in errors)
    return " / ".join(f"{np.sqrt(each['scaled_mse']):.3f}" for each in errors)


def written(row, errors):
    """An error, and a second one beside it, as the protocol has them."""
    figures = errors.to_json()
    return [figures["scaled_mse"], figures["scaled_mae"]] if row.measure == "scaled" else [figures["rmse"]]


def relative(forecaster, rows, end, horizon):
    """Root relative squared error and mean correlation of the last step of each window, as Lai et al. 2018 count."""
    loop, after = forecaster.loop(rows, [end] * len(rows))
    recent, first = loop.rows, [start - 1 for start in after]
    ends = [len(each) - horizon for each in recent]
    truth, model, naive = ([[] for _ in rows] for _ in range(3))
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
    parser.add_argument("--m4", action="store_true", help="the hourly series of M4, too, which take minutes")
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
    for cell in asked.cell or CELLS:
        if (M4, cell) in done or not asked.m4:
            continue
        records.append(run_m4(cell, asked.folder, asked.seed))
        if asked.record:
            with asked.record.open("a") as file:
                file.write(json.dumps(records[-1]) + "\n")
        print(json.dumps(records[-1]), flush=True)
    peers = [json.loads(line) for line in PEERS.read_text().splitlines()] if PEERS.exists() else []
    print(f"\n{report(records)}\n\n{peers_table(records, peers)}\n\n{m4_table(records)}\n")
    print(f"torch {torch.__version__}, python {platform.python_version()}, one thread, seed {asked.seed}")


if __name__ == "__main__":
    main()
