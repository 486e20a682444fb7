"""Laws of forecasting: a model begins as the naive forecast that it corrects, measures come from the training part
alone, the loop is what teacher forcing would be on its own output, and every cell of the zoo learns and goes on."""

import json
import math
import shutil
import time

import numpy as np
import pytest
import torch
from faults import Quick
from zoo import CELLS

import textgen
from textgen import storage
from textgen.cli import main
from textgen.model import CONFIG
from textgen.model.stack import build_model
from textgen.model.weights import model_tensors
from textgen.storage import filesystem, to_json
from textgen.tasks import options_for
from textgen.tasks.forecasting.data import SeriesData
from textgen.tasks.forecasting.design import DESIGN_FILE, Design, prepare_series
from textgen.tasks.forecasting.objective import TorchForecastStepper, negative_log_likelihood
from textgen.tasks.forecasting.reading import Series
from textgen.tasks.forecasting.rolling import (
    MODEL,
    ForecastRequest,
    SeriesLoop,
    sample_student_t,
    student_t,
)
from textgen.tasks.forecasting.scaling import CHANGE, LAST, SEASONAL, fit
from textgen.training import Evaluated
from textgen.training.runs import Run
from textgen.training.start import start
from textgen.training.stored_data import data_of
from textgen.training.trainer import Trainer

SIZES = {
    "hidden_size": 4, "batch_size": 3, "seq_length": 16, "max_steps": 6, "eval_steps": 2, "save_steps": 3,
    "logging_steps": 2, "warmup_steps": 1, "threads": 1, "device": "cpu", "cell": "gru",
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(filesystem, "system", Quick())


def wave(length, period=12, slope=0.05, noise=0.3, seed=0):
    """A season on a trend, with noise."""
    steps = np.arange(length)
    draw = np.random.default_rng(seed).normal(size=length)
    return 20 + slope * steps + 3 * np.sin(2 * np.pi * steps / period) + noise * draw


def months(length):
    return [f"{1990 + k // 12}-{k % 12 + 1:02}" for k in range(length)]


def hours(length):
    return [str(np.datetime64("2020-01-06") + np.timedelta64(k, "h")).replace("T", " ") for k in range(length)]


def write(path, **columns):
    """A csv of columns of equal length."""
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def prepared(path, cache, **options):
    """What a forecaster learns from, of one table."""
    given = options_for({"task": "forecast", **options})
    return SeriesData.prepare([str(path)], given, cache, lambda *_: None)


def model_for(data, cell=CELLS["gru"], **options):
    config = data.config(options_for({**SIZES, **options}), SIZES["hidden_size"])
    return build_model(config, cell).eval()


def shaken(model):
    """The model with a readout that says something."""
    with torch.no_grad():
        model.readout.linear.weight.normal_(std=0.3)
    return model


@pytest.fixture
def table(tmp_path):
    return write(tmp_path / "sales.csv", month=months(120), sales=wave(120))


# What a model begins as


@pytest.mark.parametrize("horizon", [1, 5, 30])
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (LAST, np.cumsum(np.random.default_rng(1).normal(size=150)) + 50),
        (SEASONAL, wave(150, slope=0.0, noise=0.2)),
        (CHANGE, wave(150, slope=0.6, noise=0.05)),
    ],
    ids=[LAST, SEASONAL, CHANGE],
)
def test_an_untrained_model_is_the_naive_forecast_that_it_corrects(tmp_path, kind, values, horizon):
    path = write(tmp_path / "x.csv", month=months(150), y=values)
    data = prepared(path, tmp_path, horizon=horizon, transform="none")
    (scale,) = data.design.scales.values()
    assert scale.base == kind
    rows, last = data.rows, len(values) - 1
    stepper = TorchForecastStepper(model_for(data))
    (origin,) = SeriesLoop(stepper, rows, data.design).read([last], 10)
    found = scale.restored(SeriesLoop(stepper, rows, data.design).forecasts(origin, horizon)[0])
    ahead = np.arange(1, horizon + 1)
    seasons = -(-ahead // 12)
    again = values[last + ahead - 12 * seasons]
    naive = {
        LAST: np.full(horizon, values[-1]),
        SEASONAL: again,
        CHANGE: again + seasons * (values[last] - values[last - 12]),
    }
    assert np.allclose(found, naive[kind])


def test_the_law_of_an_untrained_model_has_the_usual_error_of_its_base():
    location, scale, freedom = student_t(np.zeros((1, 3), dtype=np.float32))
    assert location == 0 and scale == pytest.approx(1, abs=2e-3) and freedom > 5


def test_the_likelihood_is_that_of_students_law():
    outputs = torch.randn(50, 3)
    residuals = torch.randn(50) * 2
    location, scale, freedom = (torch.from_numpy(each) for each in student_t(outputs.numpy()))
    wanted = -torch.distributions.StudentT(freedom, location, scale).log_prob(residuals.double())
    assert torch.allclose(negative_log_likelihood(outputs, residuals).double(), wanted, atol=1e-4)


@pytest.mark.parametrize("freedom", [2.5, 8.0, 60.0])
def test_draws_have_the_quantiles_of_students_law(freedom):
    drawn = sample_student_t(np.random.default_rng(0).random((200_000, 2)), np.full(200_000, freedom))
    spread = torch.distributions.StudentT(freedom).sample((200_000,)).numpy()
    for share in (0.05, 0.25, 0.5, 0.9):
        assert np.quantile(drawn, share) == pytest.approx(np.quantile(spread, share), abs=0.06)


# What is measured, and on what


@pytest.mark.parametrize("transform", ["auto", "none", "log"])
def test_measures_see_the_training_part_alone(tmp_path, transform):
    values = wave(120)
    other = values.copy()
    other[108:] = 1000 + np.arange(12) ** 2
    designs = []
    for name, each in (("one", values), ("other", other)):
        path = write(tmp_path / f"{name}.csv", month=months(120), sales=each, price=each * 3)
        data = prepared(path, tmp_path, target_column=["sales"], extra_column=["price"], transform=transform)
        assert data.ends == [108]
        designs.append(data.design)
    assert designs[0] == designs[1]


def test_the_part_held_out_is_the_last_and_no_window_shows_it(tmp_path, table):
    data = prepared(table, tmp_path, horizon=6)
    assert data.ends == [108] and data.held_out_tokens == 12
    options = data.with_defaults(options_for({**SIZES, "task": "forecast"}))
    windows = data.objective(options).windows
    residuals = data.rows[0].residuals.astype(np.float32)
    seen = set()
    for step in range(200):
        inputs, targets = windows.window(step)
        for lane in range(windows.batch_size):
            start = next(k for k in range(108) if np.array_equal(inputs[0, lane], data.rows[0].inputs[k]))
            counted = np.flatnonzero(targets[:, lane, 1])
            assert np.array_equal(targets[counted, lane, 0], residuals[start + counted])
            seen |= set(start + counted)
    assert seen == set(range(107))


def test_a_window_is_a_function_of_seed_and_step(tmp_path, table):
    tasks = [
        prepared(table, tmp_path).objective(options_for({**SIZES, "task": "forecast", "seed": s})) for s in (1, 1, 2)
    ]
    first = [task.window(5) for task in tasks]
    assert torch.equal(first[0][0], first[1][0]) and torch.equal(first[0][1], first[1][1])
    assert not torch.equal(first[0][0], first[2][0])


def test_a_gap_is_filled_and_does_not_count(tmp_path):
    values, stamps = wave(120), months(120)
    whole = write(tmp_path / "whole.csv", month=stamps, sales=values)
    holed = [value if not 50 <= k < 53 else "NA" for k, value in enumerate(values)]
    marked = prepared(write(tmp_path / "marked.csv", month=stamps, sales=holed), tmp_path)
    left_out = [k for k in range(120) if not 50 <= k < 53]
    path = write(tmp_path / "left.csv", month=[stamps[k] for k in left_out], sales=values[left_out])
    absent = prepared(path, tmp_path)
    for data in (marked, absent):
        (series,) = data.series
        assert np.flatnonzero(series.missing).tolist() == [50, 51, 52]
        assert np.all(series.values[50:53] == values[49])
        assert np.flatnonzero(~data.rows[0].counted).tolist() == [49, 50, 51, 119]
        assert data.rows[0].inputs[50:53, 4].tolist() == [1, 1, 1]
    assert marked.key == absent.key != prepared(whole, tmp_path).key


def test_what_does_not_count_does_not_change_the_loss(tmp_path, table):
    task = prepared(table, tmp_path).objective(options_for({**SIZES, "task": "forecast"}))
    outputs, (_, targets) = torch.randn(16, 3, 3), task.window(3)
    targets[4:9, 1, 1] = 0
    other = targets.clone()
    other[4:9, 1, 0] += 100
    assert task.loss(outputs, targets) == task.loss(outputs, other)
    shares = [task.share(targets, slice(k, k + 1)) for k in range(3)]
    parts = [task.loss(outputs[:, k : k + 1], targets[:, k : k + 1]) * shares[k] for k in range(3)]
    assert sum(parts) == pytest.approx(float(task.loss(outputs, targets)), rel=1e-5)


def test_logarithms_are_taken_where_changes_are_in_proportion():
    noise = np.random.default_rng(0).normal(size=200)
    missing = np.zeros(200, dtype=bool)
    grows = fit("x", np.exp(0.03 * np.arange(200) + 0.05 * noise), missing, 1, 1, "auto", 0)
    level = fit("x", 100 + noise, missing, 1, 1, "auto", 0)
    assert (grows.transform, level.transform) == ("log", "none")
    assert np.allclose(grows.restored(grows.scaled(np.array([1.0, 50.0]))), [1, 50])


# The loop


@pytest.mark.parametrize("name", CELLS)
def test_the_loop_is_teacher_forcing_on_its_own_output(tmp_path, name):
    """What follows a forecast is what would follow had the forecast come true, one step at a time."""
    path = write(tmp_path / "x.csv", time=hours(200), load=wave(200, 24), fan=wave(200, 7))
    data = prepared(path, tmp_path, horizon=5, target_column=["load"], extra_column=["fan"])
    stepper = TorchForecastStepper(shaken(model_for(data, CELLS[name])))
    (origin,) = SeriesLoop(stepper, data.rows, data.design).read([199], 10)
    whole = data.rows[0].scale.restored(SeriesLoop(stepper, data.rows, data.design).forecasts(origin, 5)[0])
    (series,) = data.series
    for k in range(1, 5):
        values = np.concatenate([series.values, whole[:k]])
        extras = np.concatenate([series.extras, np.repeat(series.extras[-1:], k, axis=0)])
        longer = Series(series.name, series.start, values, np.zeros(200 + k, dtype=bool), extras)
        rows = [prepare_series(longer, data.design)]
        (later,) = SeriesLoop(stepper, rows, data.design).read([199 + k], 10)
        step = rows[0].scale.restored(SeriesLoop(stepper, rows, data.design).forecasts(later, 1)[0])
        assert step == pytest.approx(whole[k : k + 1], rel=1e-5)


def test_one_step_of_the_loop_is_what_the_model_says_of_the_next(tmp_path, table):
    data = prepared(table, tmp_path)
    model = shaken(model_for(data))
    stepper = TorchForecastStepper(model)
    (origins,) = SeriesLoop(stepper, data.rows, data.design).read([60], 1000)
    ahead = SeriesLoop(stepper, data.rows, data.design).forecasts(origins, 1)[:, 0]
    with torch.no_grad():
        outputs, _ = model(torch.from_numpy(data.rows[0].inputs)[:, None])
    rows = data.rows[0]
    said = rows.bases + rows.scale.base_unit * outputs[:, 0, 0].numpy().astype(np.float64)
    assert np.allclose(ahead, said[60:], atol=1e-5)


def test_a_row_does_not_know_its_neighbours(tmp_path):
    """Forecasts and sample paths of a series are the same alone, among others, and in chunks."""
    both = write(tmp_path / "two.csv", month=months(120), a=wave(120), b=wave(120, seed=5) * 9)
    data = prepared(both, tmp_path, target_column=["all"], horizon=8)
    stepper = TorchForecastStepper(shaken(model_for(data)))
    (origins,) = SeriesLoop(stepper, data.rows, data.design).read([119, 119], 10)
    together = SeriesLoop(stepper, data.rows, data.design).forecasts(origins, 8)
    drawn = SeriesLoop(stepper, data.rows, data.design).paths(origins, 8, 20, seed=3)
    for k in range(2):
        (alone,) = SeriesLoop(stepper, data.rows[k : k + 1], data.design).read([119], 10)
        rows = data.rows[k : k + 1]
        assert np.allclose(SeriesLoop(stepper, rows, data.design).forecasts(alone, 8), together[k], atol=1e-5)
        assert np.allclose(SeriesLoop(stepper, rows, data.design).paths(alone, 8, 20, seed=3)[0], drawn[k], atol=1e-4)
    assert not np.allclose(SeriesLoop(stepper, data.rows, data.design).paths(origins, 8, 20, seed=4), drawn)


def test_the_calendar_of_another_series_is_never_read(tmp_path):
    both = write(tmp_path / "two.csv", month=months(120), a=wave(120), b=wave(120, seed=5))
    data = prepared(both, tmp_path, target_column=["all"], horizon=2)
    stepper = TorchForecastStepper(model_for(data))
    (origins,) = SeriesLoop(stepper, data.rows, data.design).read([119, 119], 10)
    with pytest.raises(ValueError, match="calendar"):
        SeriesLoop(stepper, data.rows, data.design).forecasts(origins, 4)


def test_a_loop_that_runs_away_is_held(tmp_path, table):
    data = prepared(table, tmp_path, horizon=100, validation_split=0.0)
    model = model_for(data)
    with torch.no_grad():
        model.readout.linear.bias.copy_(torch.tensor([50.0, 0.0, 0.0]))
    stepper, (scale,) = TorchForecastStepper(model), data.design.scales.values()
    (origin,) = SeriesLoop(stepper, data.rows, data.design).read([119], 10)
    highest = max(scale.high, data.rows[0].scaled[-1]) + scale.room
    for values in (
        SeriesLoop(stepper, data.rows, data.design).forecasts(origin, 100),
        SeriesLoop(stepper, data.rows, data.design).paths(origin, 100, 3, seed=1),
    ):
        assert np.isfinite(values).all() and values.max() == pytest.approx(highest)


def test_beyond_its_reach_a_model_leaves_it_to_the_naive_forecast(tmp_path, table):
    data = prepared(table, tmp_path, horizon=40, season=10, transform="none")
    short = prepared(table, tmp_path, horizon=4, season=10, transform="none")
    assert (data.design.reach, short.design.reach) == (40, 10)
    stepper = TorchForecastStepper(shaken(model_for(short)))
    rows = [prepare_series(short.series[0], short.design, 40)]
    (origin,) = SeriesLoop(stepper, rows, data.design).read([119], 10)
    found = SeriesLoop(stepper, rows, short.design).forecasts(origin, 40)[0]
    (scale,) = short.design.scales.values()
    past = np.concatenate([rows[0].scaled, found])
    naive = np.stack([past[119:-1], past[110:-10], past[109:-11]], axis=1) @ np.array(scale.weights())
    assert np.allclose(found[10:], naive[10:]) and not np.isclose(found[:10], naive[:10]).any()


def test_chunks_change_nothing(tmp_path, table, monkeypatch):
    data = prepared(table, tmp_path, horizon=7)
    stepper = TorchForecastStepper(shaken(model_for(data)))
    request = ForecastRequest(7, number=11)
    whole = SeriesLoop(stepper, data.rows, data.design).evaluate([40], request).to_json()
    monkeypatch.setattr("textgen.tasks.forecasting.rolling.MOST_CELLS", 1000)
    monkeypatch.setattr("textgen.tasks.forecasting.rolling.MOST_ORIGINS", 9)
    pieces = SeriesLoop(stepper, data.rows, data.design).evaluate([40], request).to_json()
    assert pieces["windows"] == whole["windows"] == 120 - 7 - 40 + 1
    for name in ("mae", "rmse", "coverage"):
        assert pieces["model"][name] == pytest.approx(whole["model"][name], rel=1e-4)


# Figures


def test_naive_errors_are_those_computed_by_hand(tmp_path):
    values = wave(120)
    values[100] = np.nan
    shown = ["" if math.isnan(v) else repr(float(v)) for v in values]
    data = prepared(write(tmp_path / "x.csv", month=months(120), y=shown), tmp_path, horizon=4, transform="none")
    loop = SeriesLoop(TorchForecastStepper(model_for(data)), data.rows, data.design)
    report = loop.evaluate(data.ends, ForecastRequest(4, number=0))
    filled = values.copy()
    filled[100] = filled[99]
    errors = {"last value": [], "seasonal naive": []}
    percent = []
    for origin in range(107, 116):
        for step in range(1, 5):
            if origin + step != 100:
                errors["last value"].append(values[origin + step] - filled[origin])
                errors["seasonal naive"].append(values[origin + step] - filled[origin + step - 12])
                percent.append(200 * abs(errors["last value"][-1]) / (abs(values[origin + step]) + abs(filled[origin])))
    assert report.windows == 9
    training = values[:108]
    apart = training[12:] - training[:-12]
    for name, found in errors.items():
        figures = report.errors[name].to_json()
        assert figures["mae"] == pytest.approx(np.mean(np.abs(found)))
        assert figures["mse"] == pytest.approx(np.mean(np.square(found)))
        assert figures["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(found))))
        assert figures["mase"] == pytest.approx(np.mean(np.abs(found)) / np.nanmean(np.abs(apart)))
        assert figures["scaled_mse"] == pytest.approx(np.mean(np.square(found)) / np.nanvar(training))
    assert report.errors["last value"].to_json()["smape"] == pytest.approx(np.mean(percent))


def test_an_interval_holds_about_what_it_says(tmp_path):
    walk = np.cumsum(np.random.default_rng(4).normal(size=3000))
    data = prepared(write(tmp_path / "walk.csv", y=walk), tmp_path, horizon=3, transform="none")
    stepper = TorchForecastStepper(model_for(data))
    report = SeriesLoop(stepper, data.rows, data.design).evaluate([2400], ForecastRequest(3, number=200, level=80))
    assert report.errors[MODEL].mean("covered") == pytest.approx(0.8, abs=0.08)


# Training


def trainer_of(folder, data, cell, **options):
    given = options_for({**SIZES, "task": "forecast", "learning_rate": 0.02, "dropout": 0.2, **options})
    torch.manual_seed(7)
    config = data.config(given, given.hidden_size)
    folder.mkdir(parents=True)
    run = Run.create(folder / "run", {CONFIG: to_json(config.to_json())})
    return Trainer(run, data.objective(given), build_model(config, cell), given, "cpu")


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_learns_and_goes_on_with_the_same_bits(tmp_path, table, name):
    data = prepared(table, tmp_path, horizon=2)
    whole = trainer_of(tmp_path / "whole", data, CELLS[name])
    before = {key: tensor.clone() for key, tensor in model_tensors(whole.model).items()}
    list(whole.run())
    moved = [key for key, tensor in whole.run_folder.load(6).weights.items() if not torch.equal(tensor, before[key])]
    assert any(key.startswith("stack") for key in moved) and "readout.linear.weight" in moved
    first = trainer_of(tmp_path / "first", data, CELLS[name])
    for event in first.run():
        first.stop = first.stop or getattr(event, "step", 0) == 3
    second = trainer_of(tmp_path / "second", data, CELLS[name])
    second.resume(first.run_folder.load(3))
    list(second.run())
    wanted, found = whole.run_folder.load(6), second.run_folder.load(6)
    for kind in ("weights", "optimizer"):
        one, other = getattr(wanted, kind), getattr(found, kind)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_model_learns_what_the_naive_forecast_does_not_know(tmp_path):
    """A strong pull back to the middle is found: the last value is a poor guess of such a series."""
    draw, values = np.random.default_rng(0), [0.0]
    for _ in range(1500):
        values.append(0.2 * values[-1] + draw.normal())
    path = write(tmp_path / "x.csv", y=np.array(values) + 10)
    folder = textgen.train(path, task="forecast", output_dir=str(tmp_path / "run"), threads=1, cell="gru", seed=1)
    figures = textgen.load(folder).evaluate_rows(*held_out(path, tmp_path), ForecastRequest(1, number=50)).to_json()
    assert figures["model"]["rmse"] < 0.85 * figures["last_value"]["rmse"]
    assert 0.8 < figures["model"]["coverage"] < 0.97


def held_out(path, place):
    data = prepared(path, place)
    return data.rows, data.ends


# From the command line and from Python


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("trained")
    path = write(place / "loads.csv", time=hours(400), north=wave(400, 24), south=wave(400, 24, seed=3) * 5)
    options = {**SIZES, "max_steps": 20, "task": "forecast", "horizon": 24, "target_column": ["north", "south"]}
    return textgen.train(path, output_dir=str(place / "run"), **options), path


def test_a_forecast_goes_on_from_the_end(trained):
    folder, path = trained
    forecaster = textgen.load(folder)
    north, south = forecaster.predict(path, seed=1)
    assert (north.series, south.series) == ("north", "south")
    assert north.times[0] == "2020-01-22 16" and len(north.times) == len(north.values) == 24
    assert north.paths.shape == (200, 24)
    assert np.all(north.low < north.values) and np.all(north.values < north.high)
    shorter = forecaster.predict(path, horizon=3, seed=1)[0]
    assert np.allclose(shorter.paths, north.paths[:, :3], rtol=1e-4)
    again = forecaster.predict(path, horizon=3, number=0)[0]
    assert np.allclose(again.values, north.values[:3], rtol=1e-4) and again.low is None


def test_predict_writes_csv_json_and_a_plot(trained, tmp_path, capfd):
    folder, path = trained
    assert main(["predict", str(path), "-m", str(folder), "--horizon", "2", "--seed", "1"]) == 0
    written = capfd.readouterr().out.splitlines()
    assert written[0] == "series,time,forecast,low,high" and len(written) == 5
    target, plot = tmp_path / "out.jsonl", tmp_path / "plot.png"
    asked = ["predict", str(path), "-m", str(folder), "--horizon", "2", "--seed", "1", "--json", "-o", str(target)]
    assert main([*asked, "--plot", str(plot)]) == 0
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["series"] for row in rows] == ["north", "north", "south", "south"]
    assert f"{rows[0]['forecast']:.6g}" == written[1].split(",")[2]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_evaluate_puts_the_naive_forecasts_beside(trained, tmp_path, capfd):
    folder, path = trained
    assert main(["evaluate", "-m", str(folder), "--json"]) == 0
    figures = json.loads(capfd.readouterr().out)
    assert {"model", "last_value", "seasonal_naive", "series"} <= figures.keys()
    assert figures["windows"] == 2 * 17 and figures["horizon"] == 24
    assert main(["evaluate", "-m", str(folder), "--paths", "0", "--plot", str(tmp_path / "x.png")]) == 0
    shown = capfd.readouterr().out
    assert "seasonal naive" in shown and "MASE" in shown and (tmp_path / "x.png").exists()
    assert main(["evaluate", str(path), "-m", str(folder)]) == 1
    assert "(the horizon) after the training data." in capfd.readouterr().err


def test_rows_without_times_are_counted_and_that_is_said(tmp_path, capfd):
    values = wave(150, 12)
    table = write(tmp_path / "x.csv", größe=values[:100])
    table.write_bytes(table.read_text(encoding="utf-8").encode("latin-1"))
    folder = tmp_path / "run"
    latin = ["--encoding", "latin-1", "--threads", "1"]
    asked = ["--task", "forecast", "--horizon", "6", "--max-steps", "2", "--output-dir", str(folder)]
    assert main(["train", str(table), *asked, *latin]) == 0
    assert main(["evaluate", str(table), "-m", str(folder), *latin]) == 1
    assert "Hint: without a time column, rows are counted" in capfd.readouterr().err
    write(table, größe=values)
    utf8 = ["--encoding", "utf-8", "--threads", "1"]
    assert main(["evaluate", str(table), "-m", str(folder), *utf8]) == 0
    assert "the first 100 rows are taken to be the training data" in capfd.readouterr().err
    assert main(["predict", str(table), "-m", str(folder)]) == 2  # read as in training: latin-1
    assert "has no column 'größe'" in capfd.readouterr().err
    table.write_bytes(table.read_text(encoding="utf-8").encode("latin-1"))
    assert main(["predict", str(table), "-m", str(folder), *utf8]) == 1
    said = capfd.readouterr().err
    assert "--encoding auto" in said and "--tokenizer" not in said
    assert main(["predict", str(table), "-m", str(folder)]) == 0


def test_evaluate_scores_what_came_after_training(trained, tmp_path, capfd):
    folder, _ = trained
    longer = write(tmp_path / "later.csv", time=hours(460), north=wave(460, 24), south=wave(460, 24, seed=3) * 5)
    assert main(["evaluate", str(longer), "-m", str(folder), "--json", "--paths", "0"]) == 0
    assert json.loads(capfd.readouterr().out)["windows"] == 2 * (60 - 24 + 1)


def test_a_gap_that_training_took_is_taken_again(tmp_path):
    stamps = months(160)
    path = write(tmp_path / "x.csv", month=stamps[:60] + stamps[100:], y=wave(120))
    given = {**SIZES, "task": "forecast", "seq_length": 48, "max_steps": 1}
    folder = textgen.train(path, output_dir=str(tmp_path / "run"), **given)
    assert len(textgen.load(folder).predict(path)[0].history) == 160


def test_a_series_that_ends_before_the_part_to_score_is_passed_over(trained):
    folder, path = trained
    forecaster = textgen.load(folder)
    rows = forecaster.read(path)
    report = forecaster.evaluate_rows(rows, [5000, 370], ForecastRequest(24, number=0))
    assert report.windows == 400 - 370 - 24 + 1 and list(report.by_series) == ["south"]


DAMAGE = {
    "scales": {"north": {"base": "best"}},
    "season": 10**9,
    "horizon": "far",
    "lags": {"season": 24, "seasons": [10**9]},
    "calendar": {"periods": [[86400.0, 10**9]]},
    "clock": {
        "unit": "second",
        "step": 0,
        "day": 1,
        "second": 0,
        "week": "1111111",
        "zone": "",
        "format": "%Y-%m-%d %H",
    },
    "columns": None,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_design_is_named(trained, name):
    path = trained[0] / DESIGN_FILE
    content = json.loads(path.read_text())
    assert to_json(Design.from_json(content, str(path)).to_json()) == path.read_bytes()
    with pytest.raises(storage.DamagedError, match=r"forecast\.json is damaged"):
        Design.from_json({**content, name: DAMAGE[name]}, str(path))


def test_the_plan_repeats_what_was_named(trained, tmp_path, capfd):
    _, path = trained
    named = ["--task", "forecast", "--target-column", "north", "--target-column", "south", "--output-dir"]
    assert main(["train", str(path), *named, str(tmp_path / "x"), "--dry-run"]) == 0
    assert "--target-column north --target-column south" in capfd.readouterr().err


def test_a_run_is_resumed_and_is_the_same(trained, tmp_path):
    from textgen.training.start import resume, start

    _, path = trained
    given = {**SIZES, "task": "forecast", "horizon": 3, "target_column": ["north"]}
    outcomes = []
    for name in ("whole", "stopped"):
        options = options_for({**given, "output_dir": str(tmp_path / name)})
        session = start([str(path)], options, time.monotonic())
        if name == "stopped":
            session.trainer.stop = True
            list(session.events())
            session = resume(session.run.folder, {})
        list(session.events())
        outcomes.append((tmp_path / name / "model.safetensors").read_bytes())
    assert outcomes[0] == outcomes[1]


def test_a_forecaster_whose_data_is_gone_reads_its_tables_again(tmp_path):
    """The planned window length does not change how the series are read."""
    path = tmp_path / "series.csv"
    days = np.arange("2024-01-01", "2024-04-30", dtype="datetime64[D]")
    kept = [day for number, day in enumerate(days) if not 60 <= number < 70]  # a gap longer than the planned window
    path.write_text("day,value\n" + "".join(f"{day},{number % 7}\n" for number, day in enumerate(kept)))
    options = {"task": "forecast", "max_steps": 2, "output_dir": str(tmp_path / "run"), "threads": 1}
    session = start([str(path)], options_for(options), 0.0)
    for _ in session.events():
        pass
    shutil.rmtree(session.data.folder)
    assert data_of(tmp_path / "run").digests() == session.data.digests()


def test_a_model_that_training_makes_worse_stays_the_naive_forecast(tmp_path):
    walk = np.cumsum(np.random.default_rng(8).normal(size=400))
    data = prepared(write(tmp_path / "walk.csv", y=walk), tmp_path, horizon=2, transform="none")
    trainer = trainer_of(tmp_path / "run", data, CELLS["gru"], learning_rate=4.0, eval_steps=1, max_grad_norm=100.0)
    before = {name: tensor.clone() for name, tensor in model_tensors(trainer.model).items()}
    scores = [event.score for event in trainer.run() if isinstance(event, Evaluated)]
    assert trainer.progress.best_step == 0 and min(score.criterion for score in scores[1:-1]) > scores[0].criterion
    kept = trainer.run_folder.best_weights()
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.items())
    report = SeriesLoop(TorchForecastStepper(trainer.model), data.rows, data.design).evaluate([360], ForecastRequest(2))
    errors = {method: found.mean("square") for method, found in report.errors.items()}
    assert errors[MODEL] == pytest.approx(min(error for method, error in errors.items() if method != MODEL))
