"""Laws of the classical forecasters beside a model: the same windows, the same errors, no look at what comes later."""

import sys

import numpy as np
import pytest
from test_series import hours, model_for, months, prepared, wave, write

import textgen
from textgen.cli import main
from textgen.errors import TextgenError, UsageError
from textgen.tasks.forecasting import baselines
from textgen.tasks.forecasting.baselines import Fitted, scored_steps, with_baselines
from textgen.tasks.forecasting.objective import TorchForecastStepper
from textgen.tasks.forecasting.options import chosen_baselines
from textgen.tasks.forecasting.rolling import LAST, ForecastRequest, SeriesLoop


class LastValue:
    """Forecasts the last value it knows, and keeps what it was fitted on and what it has read."""

    def __init__(self):
        self.fitted, self.read = [], []

    def fit(self, y):
        self.fitted.append(len(y))
        return self

    def forward(self, y, h, level):
        self.read.append(len(y))
        return {
            "mean": np.full(h, y[-1]),
            f"lo-{level[0]}": np.full(h, y[-1] - 1),
            f"hi-{level[0]}": np.full(h, np.inf),
        }

    forecast = forward


@pytest.fixture
def last_value(monkeypatch):
    """Stands in for AutoETS and AutoARIMA."""
    made = LastValue()
    monkeypatch.setattr(Fitted, "_new", lambda self: made)
    monkeypatch.setattr(baselines, "require_baselines", lambda methods: None)
    return made


def compared(data, horizon, methods=("ets",), **request):
    loop = SeriesLoop(TorchForecastStepper(model_for(data)), data.rows, data.design)
    asked = ForecastRequest(horizon, number=4, **request)
    return with_baselines(loop.evaluate, data.rows, data.ends, asked, methods)


def without_coverage(errors):
    return {name: value for name, value in errors.to_json().items() if name != "coverage"}


@pytest.mark.parametrize(("horizon", "stride"), [(1, 1), (4, 1), (3, 2)])
def test_the_last_value_as_a_baseline_has_the_errors_of_the_last_value(tmp_path, last_value, horizon, stride):
    rows = [
        (n, month, value) for k, n in enumerate("ab") for month, value in zip(months(90), wave(90, seed=k), strict=True)
    ]
    path = write(tmp_path / "x.csv", shop=[r[0] for r in rows], month=[r[1] for r in rows], y=[r[2] for r in rows])
    data = prepared(path, tmp_path, horizon=horizon, series_column="shop", target_column=["y"])
    report = compared(data, horizon, ["ets", "arima"], stride=stride)
    assert report.recent is None
    for found in (report.errors, *report.by_series.values()):
        for title in ("AutoETS", "AutoARIMA"):
            assert without_coverage(found[title]) == pytest.approx(without_coverage(found[LAST]))
    assert not last_value.fitted  # again at every origin
    assert set(last_value.read) == set(range(data.ends[0], 90 - horizon + 1, stride))


@pytest.mark.parametrize(("method", "title"), [("ets", "AutoETS"), ("arima", "AutoARIMA")])
def test_a_long_series_is_fitted_once_and_compared_on_its_last_windows(
    tmp_path, last_value, monkeypatch, method, title
):
    for name, value in (("FEW", 100), ("RECENT", 7), ("LONGEST_FIT", 60), ("READ", 50)):
        monkeypatch.setattr(baselines, name, value)
    path = write(tmp_path / "x.csv", date=hours(300), y=wave(300, period=24))
    data = prepared(path, tmp_path, horizon=3)
    report = compared(data, 3, [method])
    assert title not in report.errors and report.windows > 7
    recent = report.recent
    assert recent.windows == 7
    assert without_coverage(recent.errors[title]) == pytest.approx(without_coverage(recent.errors[LAST]))
    assert last_value.fitted == [data.ends[0] if method == "ets" else 60]
    assert last_value.read == [50 if method == "arima" else 300 - 3 - 7 + k + 1 for k in range(7)]
    assert set(report.to_json()["recent"]) >= {"windows", "model", title.lower()}


def test_origins_are_those_of_the_model():
    request = ForecastRequest(5, stride=3)
    assert list(scored_steps(40, 31, request)) == [30, 33]
    assert list(scored_steps(10, 9, request)) == []
    long = scored_steps(2_000, 900, request)
    assert len(long) == 200 and long[-1] < 1_995 and np.all((long - 899) % 3 == 0)


def test_what_cannot_be_fitted_is_the_last_value_and_is_counted(tmp_path, last_value, monkeypatch):
    def broken(y, h, level):
        raise ValueError("tiny")

    monkeypatch.setattr(last_value, "forecast", broken, raising=False)
    data = prepared(write(tmp_path / "x.csv", month=months(60), y=wave(60)), tmp_path, horizon=2)
    report = compared(data, 2)
    assert report.unfitted == {"AutoETS": report.windows}
    assert without_coverage(report.errors["AutoETS"]) == pytest.approx(without_coverage(report.errors[LAST]))
    assert report.errors["AutoETS"].mean("covered") is None


def test_missing_values_are_filled_and_not_scored(tmp_path, last_value):
    values = [f"{v:.3f}" for v in wave(80)]
    values[75] = ""
    data = prepared(write(tmp_path / "x.csv", month=months(80), y=values), tmp_path)
    report = compared(data, 1)
    assert report.errors["AutoETS"].numbers["square"] == report.windows - 1


def test_names_of_baselines():
    assert chosen_baselines("ets, arima,ets") == ["ets", "arima"]
    assert chosen_baselines(["arima"]) == ["arima"] and chosen_baselines(None) == []
    with pytest.raises(UsageError, match="baselines must be some of ets, arima, not 'arma'"):
        chosen_baselines("arma")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    table = write(folder / "sales.csv", month=months(60), sales=wave(60))
    sizes = {"hidden_size": 4, "max_steps": 2, "threads": 1, "device": "cpu", "cell": "gru"}
    return textgen.train(table, task="forecast", output_dir=str(folder / "run"), **sizes), table


def test_only_later_windows_are_scored_with_what_was_fitted_before(model, monkeypatch):
    forecaster = textgen.load(model[0])
    rows, asked = forecaster.read(model[1]), ForecastRequest(1, number=0)
    seen = []
    loop = type(forecaster).loop

    def watched(self, rows, first):
        seen.append(first)
        return loop(self, rows, first)

    monkeypatch.setattr(type(forecaster), "loop", watched)
    every = forecaster.evaluate_rows(rows, [50], asked)
    some = forecaster.evaluate_rows(rows, [50], asked, start=[55])
    assert (every.windows, some.windows) == (10, 5) and seen == [[50], [50]]
    last = forecaster.evaluate_rows(rows, [50], asked, start=[59])
    assert last.errors[LAST].to_json()["mae"] == pytest.approx(abs(np.diff(rows[0].series.values)[-1]))


def test_without_statsforecast_one_sentence_says_what_to_install(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "statsforecast", None)
    assert main(["evaluate", "-m", str(model[0]), "--baselines", "ets"]) == 1
    said = capsys.readouterr().err
    assert "--baselines ets needs statsforecast" in said and "pip install 'textgen-lm[bench]'" in said


def test_autoets_and_autoarima_are_those_of_statsforecast(model, capsys):
    models = pytest.importorskip("statsforecast.models")
    assert main(["evaluate", "-m", str(model[0]), "--baselines", "ets,arima", "--paths", "10"]) == 0
    shown = capsys.readouterr().out
    assert "AutoETS" in shown and "AutoARIMA" in shown
    values = np.array([float(line.split(",")[1]) for line in model[1].read_text().splitlines()[1:]])
    found = Fitted("ets", values, 54, 12, 90.0).forecasts(np.array([53, 58]), 2)
    for place, step in enumerate((53, 58)):
        wanted = models.AutoETS(season_length=12).forecast(y=values[: step + 1], h=2)["mean"]
        assert np.allclose(found.values[place], wanted)
    assert np.all(found.low < found.values) and np.all(found.values < found.high)
    with pytest.raises(TextgenError):
        textgen.load(model[0]).evaluate(model[1].parent / "none.csv", baselines=["ets"])
