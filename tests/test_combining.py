"""Laws of combined forecasts: weights are the best ones, never worse than a naive forecast, and unknown to what comes
later; a model folder without them is the recurrent model alone."""

import json
import shutil
import warnings

import numpy as np
import pytest
from faults import Quick
from test_series import SIZES, hours, model_for, months, prepared, shaken, wave, write
from zoo import CELLS

import textgen
from textgen import storage
from textgen.cli import main
from textgen.errors import TextgenError
from textgen.storage import filesystem
from textgen.tasks import options_for
from textgen.tasks.forecasting import objective
from textgen.tasks.forecasting.combining import (
    COMBINATION_FILE,
    KINDS,
    RECURRENT,
    RECURRENT_ONLY,
    SMOOTHED,
    Combination,
    CombinedLoop,
    Share,
    Smoother,
)
from textgen.tasks.forecasting.objective import TorchForecastStepper
from textgen.tasks.forecasting.rolling import LAST, MODEL, SEASONAL, ForecastRequest, SeriesLoop
from textgen.tasks.forecasting.weighting import TRUSTED, best_weights, covering, fitted

MANY = np.full((1, len(KINDS)), 1e9)
OTHER_SERIES = ("short", "long")


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(filesystem, "system", Quick())


def moments(seed, scale=1.0):
    """Mean products of the errors of every kind, of a series, (1, K, K)."""
    errors = np.random.default_rng(seed).normal(size=(len(KINDS), 40)) + np.random.default_rng(seed + 1).normal(size=40)
    sizes = np.random.default_rng(seed + 2).uniform(0.2, 2, (len(KINDS), 1)) * scale
    errors = sizes * errors
    return (errors @ errors.T / 40)[None]


@pytest.mark.parametrize("seed", range(8))
def test_weights_are_the_best_there_are(seed):
    found, weights = moments(seed), best_weights(moments(seed), MANY)[0]
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
    least = weights @ found[0] @ weights
    for other in np.random.default_rng(seed).dirichlet(np.full(len(KINDS), 0.5), 2000):
        assert least <= other @ found[0] @ other + 1e-6 * least


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_weights_do_not_depend_on_the_unit(scale):
    assert np.allclose(best_weights(moments(3), MANY), best_weights(moments(3, scale), MANY))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("independent", [1, TRUSTED, 1e9])
def test_a_combination_is_never_worse_than_a_naive_forecast(seed, independent):
    found = moments(seed)
    weights = best_weights(found, np.full((1, len(KINDS)), independent))[0]
    naive = min(found[0, place, place] for place in map(KINDS.index, (LAST, SEASONAL)))
    assert weights @ found[0] @ weights <= naive * (1 + 1e-9)


def test_without_evidence_the_usual_counts_and_with_it_the_series_own():
    """Of two series, one with many held-out forecasts keeps to its own errors; one with few leans on the other."""
    own, other = moments(1)[0], moments(5)[0]
    counts = np.array([[1e9] * len(KINDS), [1e-3] * len(KINDS)])
    found = best_weights(np.stack([own, other]), counts)
    assert np.allclose(found[0], best_weights(own[None], MANY)[0], atol=1e-6)
    leaning = best_weights(np.stack([own, np.eye(len(KINDS)) * 3]), counts)[1]
    assert np.allclose(leaning, found[0], atol=1e-3) or leaning.max() == 1  # or a naive forecast was better


@pytest.fixture(params=OTHER_SERIES)
def series(request, tmp_path):
    """Data of two series, short or long."""
    length = {"short": 90, "long": 700}[request.param]
    times = months(length) if request.param == "short" else hours(length)
    season = 12 if request.param == "short" else 24
    path = write(tmp_path / "x.csv", time=times, one=wave(length, season), two=wave(length, season, seed=1))
    return prepared(path, tmp_path, horizon=3, target_column=["one", "two"], time_column=["time"])


def test_smoothing_knows_nothing_of_what_comes_later(series):
    from dataclasses import replace

    origins, steps = np.array([0, 1, 1]), np.array([series.ends[0], series.ends[1], series.ends[1] + 4])
    spoiled = [
        replace(row, scaled=np.where(np.arange(len(row)) > end, 1e3, row.scaled))
        for row, end in zip(series.rows, (steps[0], steps[2]), strict=True)
    ]
    first = [steps[0], steps[1]]
    found = [Smoother(rows, series.design, first).forecasts(origins, steps, 5) for rows in (series.rows, spoiled)]
    assert np.allclose(*found) and np.isfinite(found[0]).all()


def test_a_smoothed_forecast_does_not_depend_on_what_else_is_forecast(series):
    first = [end - 2 for end in series.ends]
    places = np.array([0, 1, 0, 1]), np.array([first[0], first[1] + 1, first[0] + 2, first[1] + 3])
    together = Smoother(series.rows, series.design, first).forecasts(*places, 4)
    for row, (k, step) in enumerate(zip(*places, strict=True)):
        alone = Smoother(series.rows, series.design, first).forecasts(np.array([k]), np.array([step]), 4)[0]
        assert np.allclose(alone, together[row], rtol=1e-6)


def test_a_combined_forecast_is_the_weighted_mean_of_its_kinds(series):
    stepper = TorchForecastStepper(shaken(model_for(series)))
    combination = Combination({"one": Share((0.5, 0.25, 0.25, 0.0), 2.0)}, Share((0.0, 0.0, 0.0, 1.0)))
    loop, after = CombinedLoop.over(stepper, series.rows, series.design, series.ends, combination)
    (origins,) = loop.read([start - 1 for start in after], 100, after)
    kinds, found = loop.kinds(origins, 3), loop.forecasts(origins, 3)
    mean = 0.5 * kinds[RECURRENT] + 0.25 * kinds[SMOOTHED] + 0.25 * kinds[LAST]
    assert np.allclose(found[0], mean[0]) and np.allclose(found[1], kinds[SEASONAL][1])
    alone = SeriesLoop(stepper, loop.rows, series.design)
    assert np.allclose(kinds[RECURRENT], alone.forecasts(origins, 3))
    drawn, own = loop.paths(origins, 3, 50, 1), alone.paths(origins, 3, 50, 1)
    wide = (drawn[0] - found[0]) / (own[0] - kinds[RECURRENT][0])
    assert np.allclose(wide, 2.0) and np.allclose(drawn[1] - found[1], own[1] - kinds[RECURRENT][1])


@pytest.mark.parametrize(("weights", "warned"), [((0.0, 0.0, 0.0, 1.0), True), ((0.0, 0.0, 1.0, 0.0), False)])
def test_training_says_if_a_naive_forecast_is_better(tmp_path, monkeypatch, weights, warned):
    path = write(tmp_path / "x.csv", month=months(90), y=np.arange(90) + wave(90, slope=0.0))
    data = prepared(path, tmp_path, horizon=1)
    task = data.objective(data.with_defaults(options_for({**SIZES, "task": "forecast"})))
    monkeypatch.setattr(objective, "fitted", lambda *_: Combination({}, Share(weights)))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        task.evaluate(model_for(data), quick=False)
    assert any("the last value forecast is better" in str(each.message) for each in said) == warned


@pytest.mark.parametrize("name", ["gru", "rnn"])
def test_a_fitted_combination_beats_the_naive_forecasts_it_was_fitted_beside(series, name):
    stepper = TorchForecastStepper(model_for(series, CELLS[name]))
    combination = fitted(stepper, series.rows, series.design, series.ends)
    assert set(combination.shares) == {"one", "two"} and combination.smooths
    loop, after = CombinedLoop.over(stepper, series.rows, series.design, series.ends, combination)
    report = loop.evaluate(after, ForecastRequest(3, number=50))
    errors = {method: each.mean("scaled_square") for method, each in report.errors.items()}
    assert errors[MODEL] <= min(errors[LAST], errors[SEASONAL])
    assert sum(report.weights.values()) == pytest.approx(1)


def test_an_interval_is_stretched_to_what_it_covers(tmp_path):
    """A model whose interval is far too narrow: after stretching, it covers about what it claims."""
    path = write(tmp_path / "x.csv", month=months(400), y=wave(400, noise=0.5))
    data = prepared(path, tmp_path, horizon=1, validation_split=0.3)
    model = model_for(data)
    model.readout.linear.bias.data[1] = -2.0  # a small scale
    stepper = TorchForecastStepper(model)
    combination = fitted(stepper, data.rows, data.design, data.ends)
    covered = []
    for each in (RECURRENT_ONLY, combination):
        loop, after = CombinedLoop.over(stepper, data.rows, data.design, data.ends, each)
        covered.append(loop.evaluate(after, ForecastRequest(1, number=200)).errors[MODEL].mean("covered"))
    assert covered[0] < 0.5 and 0.84 < covered[1] < 0.96


def test_a_few_values_widen_an_interval_and_never_narrow_it():
    near, far = np.linspace(0.01, 0.5, 20), np.linspace(0.1, 3.0, 20)
    assert covering(near, 5, 1.0) == 1.0 and covering(np.repeat(near, 10), 5, 1.0) < 0.5
    assert covering(far, 5, 1.0) == pytest.approx(far[18]) and covering(far[:4], 5, 1.7) == 1.7


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("combined")
    table = write(place / "sales.csv", month=months(120), sales=wave(120))
    textgen.train(table, task="forecast", output_dir=str(place / "run"), **SIZES)
    return place


def test_a_model_folder_keeps_its_combination(trained, capfd):
    run, table = trained / "run", str(trained / "sales.csv")
    combination = textgen.load(run).combination
    content = json.loads((run / COMBINATION_FILE).read_bytes())
    assert Combination.from_json(content, "x") == combination and combination.to_json() == content
    assert main(["evaluate", "-m", str(run)]) == 0
    shown = capfd.readouterr().out
    assert "smoothed" in shown and "the model is " in shown and "recurrent" in shown
    assert main(["evaluate", "-m", str(run), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert set(told["weights"]) == {"recurrent", "smoothed", "last_value", "seasonal_naive"}
    numpy, torch = (textgen.load(run, backend=each).predict(table, 5, seed=1)[0] for each in ("numpy", "torch"))
    assert np.allclose(numpy.values, torch.values, rtol=1e-4) and np.allclose(numpy.paths, torch.paths, rtol=1e-3)


def test_a_folder_without_a_combination_is_the_recurrent_model(trained, tmp_path):
    table = trained / "sales.csv"
    folder = textgen.train(table, task="forecast", combine=False, output_dir=str(tmp_path / "alone"), **SIZES)
    assert not (folder / COMBINATION_FILE).exists()
    alone, whole = textgen.load(folder), textgen.load(trained / "run")
    assert alone.combination == RECURRENT_ONLY
    request = ForecastRequest(1, number=0)
    rows = whole.read(table)
    kinds = whole.evaluate_rows(rows, [len(rows[0]) - 12], request).errors
    found = alone.evaluate_rows(alone.read(table), [len(rows[0]) - 12], request).errors
    assert found[MODEL].mean("square") == pytest.approx(kinds[RECURRENT].mean("square"), rel=1e-6)


DAMAGE = {
    "no weights": lambda content: content["series"]["sales"].pop("weights"),
    "too much": lambda content: content["others"]["weights"].update(recurrent=2.0),
    "below zero": lambda content: content["others"]["weights"].update({"recurrent": -1.0, "smoothed": 2.0}),
    "no stretch": lambda content: content["others"].update(stretch=0.0),
    "not a number": lambda content: content["others"].update(stretch="wide"),
    "a list": lambda content: content.update(series=[1]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_combination_is_named(trained, tmp_path, name):
    run = shutil.copytree(trained / "run", tmp_path / "run")
    content = json.loads((run / COMBINATION_FILE).read_bytes())
    DAMAGE[name](content)
    filesystem.replace_in_folder(run, COMBINATION_FILE, filesystem.to_json(content))
    with pytest.raises(storage.DamagedError, match=COMBINATION_FILE):
        textgen.load(run)
    assert issubclass(storage.DamagedError, TextgenError)
