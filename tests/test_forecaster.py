"""Laws of `textgen.Forecaster`: it is `textgen.train` and `textgen.load` for frames, and any frame of the same rows
gives the same forecasts, in a frame of the same kind."""

import gc
from datetime import date, datetime

import numpy as np
import pytest
from test_series import wave, write

import textgen
from textgen.errors import TextgenError, UsageError
from textgen.training.stored_data import data_of

SIZES = {"hidden_size": 4, "max_steps": 3, "eval_steps": 3, "threads": 1, "device": "cpu", "cell": "gru"}
LENGTH = 60
MONTHS = [datetime(1990 + k // 12, k % 12 + 1, 1) for k in range(LENGTH)]
VALUES = np.round(10 * wave(LENGTH)).tolist()

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")


def polars():
    return pytest.importorskip("polars")


def fitted(table, **columns):
    return textgen.Forecaster(horizon=3, **SIZES).fit(table, **columns)


@pytest.fixture(scope="module")
def plain():
    return fitted(pd.DataFrame({"ds": MONTHS, "y": VALUES}))


@pytest.fixture(scope="module")
def wanted(plain):
    return plain.predict()


def test_it_is_train_and_load(plain, wanted, tmp_path):
    path = write(tmp_path / "x.csv", ds=[f"{each:%Y-%m-%d}" for each in MONTHS], y=VALUES)
    folder = textgen.train(path, task="forecast", horizon=3, output_dir=str(tmp_path / "run"), **SIZES)
    (forecast,) = textgen.load(folder).predict(path)
    for name, values in forecast.columns().items():
        assert wanted[name].tolist() == values
    assert list(wanted.columns) == ["series", "time", "forecast", "low", "high"]
    assert wanted["time"].tolist() == [pd.Timestamp(1995, month, 1) for month in (1, 2, 3)]
    assert wanted["series"].tolist() == ["y"] * 3


FRAMES = {
    "a series with an index": lambda: pd.Series(VALUES, index=pd.DatetimeIndex(MONTHS, name="ds"), name="y"),
    "an index without a name": lambda: pd.DataFrame({"y": VALUES}, index=pd.DatetimeIndex(MONTHS)),
    "periods": lambda: pd.DataFrame({"y": VALUES}, index=pd.DatetimeIndex(MONTHS).to_period("M")),
    "nullable integers": lambda: pd.DataFrame({"ds": MONTHS, "y": pd.array(VALUES, dtype="Int64")}),
    "nullable floats": lambda: pd.DataFrame({"ds": MONTHS, "y": pd.array(VALUES, dtype="Float64")}),
    "arrow types": lambda: pd.DataFrame({"ds": MONTHS, "y": VALUES}).convert_dtypes(dtype_backend="pyarrow"),
    "polars": lambda: polars().DataFrame({"ds": MONTHS, "y": VALUES}),
    "polars days": lambda: polars().DataFrame({"ds": [each.date() for each in MONTHS], "y": VALUES}),
    "pyarrow": lambda: pa.table({"ds": MONTHS, "y": VALUES}),
    "text": lambda: pd.DataFrame({"ds": [f"{each:%Y-%m}" for each in MONTHS], "y": VALUES}),
}


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_any_frame_of_the_same_rows_gives_the_same_forecasts_in_its_own_kind(wanted, make):
    table = make()
    found = fitted(table).predict()
    assert type(found) is (pd.DataFrame if isinstance(table, pd.Series) else type(table))
    for name in ("forecast", "low", "high"):
        column = found[name].to_pylist() if isinstance(found, pa.Table) else found[name].to_list()
        assert column == wanted[name].tolist()


@pytest.mark.parametrize(
    ("table", "first"),
    [
        (lambda: polars().DataFrame({"ds": [each.date() for each in MONTHS], "y": VALUES}), date(1995, 1, 1)),
        (lambda: polars().DataFrame({"ds": MONTHS, "y": VALUES}), datetime(1995, 1, 1)),
        (lambda: pd.DataFrame({"ds": [f"{each:%Y-%m}" for each in MONTHS], "y": VALUES}), "1995-01"),
        (lambda: pd.DataFrame({"y": VALUES}), LENGTH + 1),
        (
            lambda: pd.DataFrame({"ds": pd.DatetimeIndex(MONTHS).tz_localize("Europe/Berlin"), "y": VALUES}),
            pd.Timestamp("1995-01-01", tz="Europe/Berlin"),
        ),
        (
            lambda: (
                polars()
                .DataFrame({"ds": MONTHS, "y": VALUES})
                .with_columns(polars().col("ds").dt.replace_time_zone("Europe/Berlin"))
            ),
            pd.Timestamp("1995-01-01", tz="Europe/Berlin"),
        ),
    ],
    ids=["days", "moments", "text", "counted", "zone", "zone of polars"],
)
def test_times_are_of_the_kind_of_the_table(table, first):
    found = fitted(table()).predict()["time"]
    assert found[0] == first
    if isinstance(first, pd.Timestamp):
        assert "Europe/Berlin" in str(found.dtype)


def test_series_may_be_categories():
    rows = {"ds": MONTHS * 2, "shop": ["a"] * LENGTH + ["b"] * LENGTH, "y": VALUES + VALUES[::-1]}
    frames = [
        pd.DataFrame(rows),
        pd.DataFrame(rows).astype({"shop": "category"}),
        pd.DataFrame(rows).set_index(["shop", "ds"]),
        polars().DataFrame(rows).with_columns(polars().col("shop").cast(polars().Categorical)).to_pandas(),
        polars().DataFrame(rows).with_columns(polars().col("shop").cast(polars().Enum(["b", "a"]))),
        polars().DataFrame(rows).with_columns(polars().col("shop").cast(polars().Categorical)),
    ]
    found = [fitted(frame, series_column="shop", target_column="y").predict() for frame in frames]
    for each in found:
        assert each["series"].to_list() == ["a"] * 3 + ["b"] * 3
        assert each["forecast"].to_list() == found[0]["forecast"].to_list()


def test_a_newer_table_is_continued(plain):
    newer = pd.DataFrame({"ds": pd.date_range("1995-01-01", periods=2, freq="MS"), "y": [200, 210]})
    found = plain.predict(2, newer, level=50.0)
    assert found["time"].tolist() == [pd.Timestamp(1995, 3, 1), pd.Timestamp(1995, 4, 1)]
    assert len(plain.predict(horizon=7)) == 7
    assert list(plain.predict(quantiles=0.25).columns)[-1] == "q0.25"


def test_what_was_held_out_is_evaluated(plain):
    data, request = data_of(plain.folder), plain.model.request(None, 1, 100, 90.0, 0)
    assert plain.evaluate().to_json() == plain.model.evaluate_rows(data.rows, data.ends, request).to_json()
    none = fitted(pd.DataFrame({"ds": MONTHS, "y": VALUES}), validation_split=0.0)
    with pytest.raises(TextgenError, match="nothing was held out"):
        none.evaluate()
    newer = pd.DataFrame({"ds": pd.date_range("1995-01-01", periods=5, freq="MS"), "y": [200, 210, 190, 200, 205]})
    assert none.evaluate(newer).windows == 3


def test_the_run_folder_is_temporary_unless_it_is_named(tmp_path, capfd):
    forecaster = fitted(pd.DataFrame({"ds": MONTHS, "y": VALUES}))
    folder = forecaster.folder
    assert folder.is_dir()
    del forecaster
    gc.collect()
    assert not folder.parent.exists()
    named = textgen.Forecaster(horizon=3, output_dir=str(tmp_path / "run"), **SIZES)
    assert named.fit(pd.DataFrame({"ds": MONTHS, "y": VALUES})).folder == tmp_path / "run"
    del named
    gc.collect()
    assert textgen.load(tmp_path / "run").horizon == 3
    assert capfd.readouterr().out == ""


def test_mistakes_get_one_sentence():
    with pytest.raises(TextgenError, match="has not been fitted"):
        textgen.Forecaster().predict()
    with pytest.raises(UsageError, match="'horzon'"):
        textgen.Forecaster(horzon=3)
    with pytest.raises(UsageError, match="horizon must be a whole number"):
        textgen.Forecaster(horizon=0)
    with pytest.raises(UsageError, match="no column 'z'"):
        fitted(pd.DataFrame({"ds": MONTHS, "y": VALUES}), target_column="z")
