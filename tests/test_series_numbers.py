"""Laws of the numbers of a forecaster: their digits, their independence of the unit, what stays above zero, and where
scoring of new rows begins."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from faults import Quick
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_series import SIZES, model_for, months, prepared, shaken, wave, write
from zoo import CELLS

import textgen
from textgen import storage
from textgen.cli import main
from textgen.formatting import aligned
from textgen.storage import filesystem
from textgen.tasks import options_for
from textgen.tasks.forecasting import data as history
from textgen.tasks.forecasting.design import prepare_series
from textgen.tasks.forecasting.forecaster import ForecastModel
from textgen.tasks.forecasting.objective import TorchForecastStepper
from textgen.tasks.forecasting.rolling import MODEL, Errors, ForecastRequest, SeriesLoop
from textgen.tasks.forecasting.scaling import fit, rounded

CASES = Path(__file__).parent / "cases"
KNOWN = np.zeros(150, dtype=bool)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(filesystem, "system", Quick())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a model of each case, trained once."""
    made = {}

    def folder_of(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name) / "run"
            options = {**SIZES, "max_steps": 30, "hidden_size": 8, "seed": 1}
            made[name] = textgen.train(CASES / f"{name}.csv", task="forecast", output_dir=str(folder), **options)
        return made[name]

    return folder_of


def run_of(data, model):
    """A forecaster of data that nothing was trained on."""
    kept = history.from_bytes(history.to_bytes(data.series, data.design.context), data.design, "history")
    return ForecastModel(data.config(options_for({**SIZES}), 4), data.design, TorchForecastStepper(model), kept)


def printed(capfd, *arguments):
    assert main([str(each) for each in arguments]) == 0
    return capfd.readouterr().out


# Digits


@pytest.mark.parametrize("name", ["population", "sparse", "old"])
def test_csv_and_json_hold_the_same_digits(trained, capfd, name):
    asked = ["predict", CASES / f"{name}.csv", "-m", trained(name), "--horizon", "4", "--threads", "1"]
    table = list(csv.DictReader(printed(capfd, *asked).splitlines()))
    objects = [json.loads(line) for line in printed(capfd, *asked, "--json").splitlines()]
    assert len(table) == 4
    for row, written in zip(table, objects, strict=True):
        assert {key: str(value) for key, value in written.items()} == row
    (forecast,) = textgen.load(trained(name)).predict(CASES / f"{name}.csv", horizon=4)
    assert forecast.to_json()["forecast"] == [each["forecast"] for each in objects]


def test_a_large_level_does_not_hide_the_forecast(trained):
    (forecast,) = textgen.load(trained("population")).predict(CASES / "population.csv", horizon=4)
    written = forecast.to_json()["forecast"]
    assert len(set(written)) == 4
    assert written == pytest.approx(forecast.values.tolist(), rel=0, abs=0.05)


@given(
    level=st.sampled_from([0.0, 1.0, -3e4, 5e9]),
    spread=st.floats(1e-12, 1e12),
    transform=st.sampled_from(["none", "auto"]),
)
@settings(deadline=None)
def test_rounding_is_finer_than_a_thousandth_of_the_usual_change(level, spread, transform):
    assume(spread > 1e-9 * abs(level))
    values = level + spread * wave(150, slope=0.0)
    scale = fit("x", values, KNOWN, 12, 1, transform, 0)
    shown = rounded(values.tolist(), scale)
    change = np.sqrt(np.mean(np.diff(values) ** 2))
    assert np.abs(np.array(shown) - values).max() <= change / 1000


def test_no_forecast_has_fewer_than_six_digits():
    jumps = fit("x", np.tile([0.0, 5000.0], 75), KNOWN, 1, 1, "none", 0)
    assert rounded([3.14159265, 12.0], jumps) == [3.1416, 12.0]
    assert rounded([1234567.89], fit("x", np.tile([0.0, 5e9], 75), KNOWN, 1, 1, "none", 0)) == [1234570.0]


def test_a_column_of_figures_has_four_significant_digits_in_any_unit():
    assert aligned([0.5682, 4.0783, None]) == ["0.5682", "4.0783", "-"]
    assert aligned([5950.941, 42820.48]) == ["5951", "42820"]
    assert aligned([2.5e-12, 0.0]) == ["2.500e-12", "0.000e+00"]
    assert aligned([3.0, 1e-10]) == ["3.000", "0.000"]
    assert aligned([]) == [] and aligned([0.0]) == ["0.0000"]


# Units


def scaled_report(place, values, factor, transform, extra=None):
    """What a model with fixed weights scores on a series in another unit, with its forecasts."""
    import torch

    torch.manual_seed(5)
    beside = {} if extra is None else {"fan": extra * factor}
    columns = {"target_column": ["y"], "extra_column": list(beside)}
    path = write(place / "x.csv", month=months(len(values)), y=values * factor, **beside)
    data = prepared(path, place, horizon=4, transform=transform, **columns)
    stepper = TorchForecastStepper(shaken(model_for(data)))
    report = SeriesLoop(stepper, data.rows, data.design).evaluate(data.ends, ForecastRequest(4, number=20)).to_json()
    (origin,) = SeriesLoop(stepper, data.rows, data.design).read([len(values) - 1], 10)
    ahead = data.rows[0].restored(SeriesLoop(stepper, data.rows, data.design).forecasts(origin, 4), origin.steps)
    return report, ahead


@pytest.mark.parametrize("transform", ["none", "auto", "log"])
@pytest.mark.parametrize("factor", [2.0**-30, 2.0**30, 1e-9, 1e9, 2.0**-300, 2.0**300])
def test_no_figure_depends_on_the_unit(tmp_path, factor, transform):
    values = np.exp(wave(100) / 40)
    extra = np.where(np.arange(100) < 90, 0.1, 0.3)
    one, forecast = scaled_report(tmp_path, values, 1.0, transform, extra)
    other, scaled = scaled_report(tmp_path, values, factor, transform, extra)
    assert np.allclose(scaled / factor, forecast, rtol=1e-5, atol=0)
    for method in ("model", "last_value", "seasonal_naive"):
        for name in ("mase", "smape", "scaled_mse"):
            assert other[method][name] == pytest.approx(one[method][name], rel=1e-4)
        if other[method]["mse"]:
            assert other[method]["rmse"] == pytest.approx(one[method]["rmse"] * factor, rel=1e-4)
    assert other["model"]["coverage"] == pytest.approx(one["model"]["coverage"], abs=0.03)


@given(st.floats(1e-12, 1e12), st.integers(2, 12))
@settings(deadline=None, max_examples=25)
def test_a_repeated_season_has_no_mase_in_any_unit(unit, season):
    values = unit * np.resize(np.random.default_rng(season).random(season), 150)
    scale = fit("x", values, KNOWN, season, 1, "auto", 0)
    errors = Errors()
    errors.add(values[None], values[None] + unit, ~KNOWN[None], scale)
    figures = errors.to_json()
    assert scale.naive == 0 and figures["mase"] is None and figures["mae"] == pytest.approx(unit)


def test_mase_is_undefined_where_the_seasonal_naive_forecast_is_exact(trained, capfd):
    shown = printed(capfd, "evaluate", "-m", trained("perfect"), "--threads", "1")
    assert "no MASE for this series: the seasonal naive forecast has no error" in shown
    figures = json.loads(printed(capfd, "evaluate", "-m", trained("perfect"), "--threads", "1", "--json"))
    assert {figures[method]["mase"] for method in ("model", "last_value", "seasonal_naive")} == {None}
    assert figures["last_value"]["mae"] == 3.0


def test_a_series_without_mase_is_left_out_of_the_mean():
    one, other = Errors(), Errors()
    values, ahead = wave(150), np.resize([1.0, 2.0, 4.0], 150)
    one.add(values, values + 1, ~KNOWN, scale := fit("x", values, KNOWN, 3, 1, "none", 0))
    other.add(ahead, ahead + 9, ~KNOWN, fit("y", ahead, KNOWN, 3, 1, "none", 0))
    one.include(other)
    assert one.to_json()["mase"] == pytest.approx(1 / scale.naive)


# Zero


@pytest.mark.parametrize("name", CELLS)
def test_nothing_forecast_of_counts_is_below_zero(tmp_path, name):
    draw = np.random.default_rng(3)
    counts = np.where(draw.random(150) < 0.7, 0, draw.integers(1, 80, 150))
    data = prepared(write(tmp_path / "x.csv", month=months(150), y=counts), tmp_path, horizon=5)
    forecaster = run_of(data, shaken(model_for(data, CELLS[name])))
    (found,) = forecaster.predict(tmp_path / "x.csv", number=50)
    assert found.paths.min() == 0 and found.values.min() >= 0 and found.low.min() >= 0
    stepper = forecaster.stepper
    (origins,) = SeriesLoop(stepper, data.rows, data.design).read([50], 1000)
    found = SeriesLoop(stepper, data.rows, data.design).paths(origins, 1, 20, seed=0)
    drawn = data.rows[0].restored(found, origins.steps)
    assert drawn.min() == 0


def test_the_interval_of_counts_begins_at_zero(trained, capfd):
    asked = ["predict", CASES / "sparse.csv", "-m", trained("sparse"), "--horizon", "6", "--threads", "1"]
    rows = list(csv.DictReader(printed(capfd, *asked).splitlines()))
    assert min(float(row["low"]) for row in rows) == 0 and max(float(row["high"]) for row in rows) > 10


def test_a_history_below_zero_lifts_the_bound(tmp_path):
    """A thermometer that was trained on a summer may still forecast frost, once it has seen some."""
    summer = np.abs(wave(150, slope=0.0)) / 10
    data = prepared(write(tmp_path / "x.csv", month=months(150), y=summer), tmp_path, transform="none")
    (rows,) = data.rows
    assert rows.scale.nonnegative and np.all(rows.floor == rows.scale.zero)
    winter = summer.copy()
    winter[100:] -= 5
    (series,) = data.series
    cold = prepare_series(
        type(series)("y", series.start, winter, series.missing, series.extras).slice(0, 150), data.design
    )
    assert np.isfinite(cold.floor[:100]).all() and np.isinf(cold.floor[100:]).all()
    assert cold.restored(np.array([[-30.0]]), np.array([149]))[0, 0] < 0
    assert cold.restored(np.array([[-30.0]]), np.array([99]))[0, 0] == 0


def test_series_below_zero_are_not_bounded(trained):
    forecaster = textgen.load(trained("old"))
    assert not any(scale.nonnegative for scale in forecaster.design.scales.values())
    assert forecaster.predict(CASES / "old.csv")[0].low.max() < 0


# Where training ended


def both(place, old, new, gap=0):
    """A table of the rows of two, some of the second left out."""
    first, second = (path.read_text().splitlines() for path in (old, new))
    path = place / "both.csv"
    path.write_text("\n".join([*first, *second[1 + gap :]]) + "\n")
    later = place / "later.csv"
    later.write_text("\n".join([first[0], *second[1 + gap :]]) + "\n")
    return path, later


@pytest.mark.parametrize("gap", [0, 1, 9])
def test_new_rows_alone_are_scored_and_forecast_as_in_the_whole_table(trained, tmp_path, gap):
    whole, later = both(tmp_path, CASES / "old.csv", CASES / "new.csv", gap)
    forecaster = textgen.load(shutil.copytree(trained("old"), tmp_path / "elsewhere"))
    one, other = (forecaster.evaluate(path).to_json() for path in (whole, later))
    assert (one.pop("continued_from_training"), other.pop("continued_from_training")) == (0, 1)
    assert one == other and one["windows"] == 50
    one, other = (forecaster.predict(path, horizon=3)[0] for path in (whole, later))
    assert one.to_json() == other.to_json() and np.array_equal(one.paths, other.paths)


def test_the_output_says_where_scoring_begins(trained, tmp_path, capfd):
    asked = ["-m", str(trained("old")), "--threads", "1"]
    shown = printed(capfd, "evaluate", CASES / "new.csv", *asked)
    assert "every row is scored, from the end of training" in shown
    assert float(shown.splitlines()[1].split()[2]) < 0.5
    assert "from the end" not in printed(
        capfd, "evaluate", both(tmp_path, CASES / "old.csv", CASES / "new.csv")[0], *asked
    )
    assert main(["predict", str(CASES / "new.csv"), *asked]) == 0
    assert "The table begins after the training data" in capfd.readouterr().err


def test_one_new_row_is_enough(trained, tmp_path):
    later = tmp_path / "later.csv"
    later.write_text("".join((CASES / "new.csv").read_text().splitlines(keepends=True)[:2]))
    forecaster = textgen.load(trained("old"))
    assert forecaster.evaluate(later).windows == 1
    assert forecaster.predict(later)[0].times == ["2022-11-10"]


def test_a_table_that_begins_too_late_stands_alone(trained, tmp_path):
    later = tmp_path / "later.csv"
    later.write_text((CASES / "new.csv").read_text().replace("2022-", "2025-"))
    report = textgen.load(trained("old")).evaluate(later)
    assert report.continued == 0 and report.windows == 49


def test_each_series_goes_on_from_its_own_end(tmp_path):
    columns = {"series_column": "shop", "target_column": ["y"], "extra_column": ["fan"]}
    rows = [("month", "shop", "y", "fan")]
    for shop, slope in (("a", 0.1), ("b", -0.05)):
        stamps, values = months(200), wave(200, slope=slope, seed=len(shop))
        rows += [(stamps[k], shop, values[k], wave(200, 7)[k]) for k in range(200)]
    table = tmp_path / "all.csv"

    def kept(keep):
        lines = [rows[0], *(row for row in rows[1:] if keep(row))]
        table.write_text("\n".join(",".join(map(str, row)) for row in lines) + "\n")
        return table

    data = prepared(kept(lambda row: row[0] < "2003"), tmp_path, horizon=3, **columns)
    forecaster = run_of(data, shaken(model_for(data)))
    whole = forecaster.evaluate(kept(lambda row: True)).to_json()
    mixed = forecaster.evaluate(kept(lambda row: row[0] >= "2003" or row[1] == "b")).to_json()
    assert (whole.pop("continued_from_training"), mixed.pop("continued_from_training")) == (0, 1)
    assert whole == mixed and MODEL in whole


def test_what_was_forgotten_still_counts_for_zero(tmp_path):
    """The end of training that is kept is short; that there once was a value below zero is not forgotten."""
    values = np.abs(wave(700, slope=0.0))
    values[650] = -1
    data = prepared(write(tmp_path / "x.csv", month=months(700), y=values), tmp_path, transform="none")
    (series,) = data.series
    design = data.design
    kept = history.from_bytes(history.to_bytes([series], 20), design, "history")
    later = type(series)("y", series.start + 700, values[:9], np.zeros(9, dtype=bool), np.zeros((9, 0)))
    joined = history.continued(later, kept, design)
    assert len(joined) == 29 and joined.trained == 20 and np.isinf(prepare_series(joined, design).floor).all()


@pytest.mark.parametrize("change", ["lengths", "lowest", "extras", "values", None])
def test_a_damaged_history_is_named(tmp_path, change):
    import safetensors.numpy

    path = write(tmp_path / "x.csv", month=months(150), y=wave(150))
    data = prepared(path, tmp_path)
    content = history.to_bytes(data.series, 20)
    arrays = safetensors.numpy.load(content)
    if change is not None:
        arrays[change] = np.concatenate([arrays[change], arrays[change]])
    broken = safetensors.numpy.save(arrays) if change else content[:-3]
    with pytest.raises(storage.DamagedError, match="history is damaged"):
        history.from_bytes(broken, data.design, "history")
