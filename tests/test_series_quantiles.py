"""Laws of quantiles and sample paths: they are those of the paths that give the interval, and losses are by hand."""

import csv
import io
import json

import numpy as np
import pytest
from test_series import model_for, months, prepared, shaken, wave, write

import textgen
from textgen.cli import main
from textgen.errors import UsageError
from textgen.tasks.forecasting.objective import TorchForecastStepper
from textgen.tasks.forecasting.options import chosen_quantiles
from textgen.tasks.forecasting.rolling import MODEL, Errors, ForecastRequest, SeriesLoop

SIZES = {"hidden_size": 4, "max_steps": 2, "threads": 1, "device": "cpu", "cell": "gru"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    table = write(folder / "sales.csv", month=months(60), sales=wave(60), visits=wave(60, seed=3))
    given = {"task": "forecast", "target_column": ["all"], "horizon": 4, "output_dir": str(folder / "run")}
    return textgen.train(table, **given, **SIZES), table


def written(capsys, *args):
    assert main(["predict", *map(str, args)]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_quantiles_are_those_of_the_paths_and_bound_the_interval(model):
    forecaster = textgen.load(model[0])
    for found in forecaster.predict(model[1], number=50, level=80, quantiles=[0.9, 0.1, 0.5]):
        assert list(found.quantiles) == [0.1, 0.5, 0.9]
        for quantile, values in found.quantiles.items():
            assert np.allclose(values, np.quantile(found.paths, quantile, axis=0), rtol=1e-6)
        assert np.allclose(found.quantiles[0.1], found.low) and np.allclose(found.quantiles[0.9], found.high)
        assert list(found.columns()) == ["forecast", "low", "high", "q0.1", "q0.5", "q0.9"]


def test_samples_are_the_paths_of_the_seed(model, capsys):
    folder, table = model
    rows = written(capsys, "-m", folder, table, "--samples", 3, "--horizon", 2, "--seed", 5)
    assert list(rows[0]) == ["series", "time", "sample", "value"]
    forecasts = textgen.load(folder).predict(table, 2, number=3, seed=5)
    wanted = [
        (each.series, time, str(k + 1), each.paths[k, t])
        for each in forecasts
        for k in range(3)
        for t, time in enumerate(each.times)
    ]
    assert [(r["series"], r["time"], r["sample"]) for r in rows] == [each[:3] for each in wanted]
    assert np.allclose([float(r["value"]) for r in rows], [each[3] for each in wanted], rtol=1e-3)


def test_forecasts_and_intervals_do_not_change_with_quantiles(model, capsys):
    folder, table = model
    plain, more = written(capsys, "-m", folder, table), written(capsys, "-m", folder, table, "--quantiles", ".5,.05")
    assert list(more[0]) == [*plain[0], "q0.05", "q0.5"]
    assert [r["time"] for r in plain] == [r["time"] for r in more]
    assert all(
        float(a["forecast"]) == pytest.approx(float(b["forecast"]), rel=1e-3) for a, b in zip(plain, more, strict=True)
    )


def test_the_loss_of_a_quantile_by_hand():
    errors = Errors()
    actual, forecast = np.array([[10.0, 20.0, -5.0]]), np.array([[8.0, 25.0, 0.0]])
    errors.add_quantile(0.9, actual, forecast, np.array([[True, True, False]]))
    assert errors.quantile_losses() == {"0.9": pytest.approx((0.9 * 2 + 0.1 * 5) / 2)}
    errors.add_quantile(0.5, actual, actual, np.array([[True, True, True]]))
    assert errors.weighted_quantile_loss() == pytest.approx((2 * (0.9 * 2 + 0.1 * 5) / 30 + 0) / 2)
    assert Errors().weighted_quantile_loss() is None and "wql" not in Errors().to_json()


def test_the_median_of_a_backtest_loses_half_of_the_absolute_error(tmp_path):
    table = write(tmp_path / "x.csv", month=months(90), y=wave(90))
    data = prepared(table, tmp_path, horizon=3)
    loop = SeriesLoop(TorchForecastStepper(shaken(model_for(data))), data.rows, data.design)
    report = loop.evaluate(data.ends, ForecastRequest(3, number=21, quantiles=(0.5,)))
    loss, first = 0.0, data.ends[0] - 1
    (origins,) = loop.read([first], 100, [87])
    for place, step in enumerate(origins.steps):
        drawn = data.rows[0].restored(loop.paths(origins, 3, 21, 0), origins.steps)[place]
        loss += np.abs(data.rows[0].series.values[step + 1 : step + 4] - np.median(drawn, axis=0)).sum() / 2
    assert report.errors[MODEL].quantile_losses()["0.5"] == pytest.approx(loss / 3 / len(origins))


def test_evaluation_shows_them(model, capsys):
    assert main(["evaluate", "-m", str(model[0]), "--quantiles", "0.2,0.8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["model"]
    assert list(found["quantile_loss"]) == ["0.2", "0.8"] and 0 < found["wql"] < 1
    assert main(["evaluate", "-m", str(model[0]), "--quantiles", "0.2"]) == 0
    assert "mean weighted quantile loss" in capsys.readouterr().out


def test_mistakes_get_one_sentence(model, capsys):
    assert chosen_quantiles("0.9, .1,0.9", 10) == (0.1, 0.9)
    assert chosen_quantiles(np.array([0.5]), 10) == (0.5,) and chosen_quantiles(None, 0) == ()
    for wrong in ("0.5,1", "x", [0.1, None], "", "nan"):
        with pytest.raises(UsageError, match="quantiles must be numbers between 0 and 1, not"):
            chosen_quantiles(wrong, 10)
    with pytest.raises(UsageError, match="paths cannot be 0"):
        chosen_quantiles(0.5, 0)
    assert main(["predict", "-m", str(model[0]), str(model[1]), "--samples", "2", "--quantiles", "0.5"]) == 2
    assert "--samples writes sample paths; leave out --quantiles" in capsys.readouterr().err
