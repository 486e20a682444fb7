"""Tables as series: forms of times, long and wide tables, and a sentence with row and column for whatever is wrong."""

import gzip
import warnings

import numpy as np
import pytest
from test_series import hours, months, prepared, wave, write

from textgen.data.sources import SourceOptions, find_sources
from textgen.errors import TextgenError, UsageError
from textgen.tasks import options_for
from textgen.tasks.forecasting.options import ForecastingOptions
from textgen.tasks.forecasting.reading import read_series
from textgen.tasks.forecasting.times import BUSINESS_DAYS, DAY, DAY_UNIT, HOUR, MONTH, ROW, SECOND, Calendar, Clock


def table_of(path, **options):
    return read_series(find_sources([str(path)]), ForecastingOptions(**options), SourceOptions())


TIMES = {
    "2016-07-01,2016-07-02,2016-07-03": (DAY_UNIT, 1),
    "2016-07-01 00:00:00,2016-07-01 01:00:00,2016-07-01 02:00:00": (SECOND, HOUR),
    "2016-07-01T00:00+02:00,2016-07-01T00:30+02:00,2016-07-01T01:00+02:00": (SECOND, HOUR // 2),
    "1949-11,1949-12,1950-01": (MONTH, 1),
    "1-01,1-02,1-03": (MONTH, 1),
    "1992-01-01,1992-02-01,1992-03-01": (MONTH, 1),
    "2016Q3,2016Q4,2017Q1": (MONTH, 3),
    "1999,2000,2001": (MONTH, 12),
    "30.12.2016,31.12.2016,1.1.2017": (DAY_UNIT, 1),
    "12/30/2016,12/31/2016,1/1/2017": (DAY_UNIT, 1),
    "1/2/2017,2/2/2017,3/2/2017": (DAY_UNIT, 1),
    "20160701,20160702,20160703": (DAY_UNIT, 1),
    "7,8,9": (ROW, 1),
    "0,10,20": (ROW, 10),
}


@pytest.mark.parametrize("times", TIMES)
def test_times_are_read_in_many_forms(tmp_path, times):
    unit, step = TIMES[times]
    found = table_of(write(tmp_path / "x.csv", when=times.split(","), y=[1, 2, 3]), time_column=["when"])
    assert (found.clock.unit, found.clock.step) == (unit, step)
    assert found.series[0].values.tolist() == [1, 2, 3]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/St_Johns"])
def test_times_do_not_depend_on_where_one_is(tmp_path, monkeypatch, zone):
    monkeypatch.setenv("TZ", zone)
    found = table_of(write(tmp_path / "x.csv", date=["2016-07-01 12:00", "2016-07-01 13:00"], y=[1, 2]))
    assert found.clock.label(found.series[0].start) == "2016-07-01 12:00"


def test_several_columns_make_one_time(tmp_path):
    path = write(tmp_path / "x.csv", year=[2010] * 3, month=[1] * 3, day=[1, 1, 2], hour=[22, 23, 0], y=[1, 2, 3])
    found = table_of(path, time_column=["year", "month", "day", "hour"])
    assert found.clock.same_steps(Clock(SECOND, HOUR))
    path = write(tmp_path / "y.csv", date=["2010-01-01"] * 2, time=["10:00", "10:15"], y=[1, 2])
    assert table_of(path, time_column=["date", "time"]).clock.same_steps(Clock(SECOND, HOUR // 4))


def test_long_and_wide_tables_are_the_same_series(tmp_path):
    a, b, stamps = wave(50), wave(50, seed=2), hours(50)
    wide = table_of(write(tmp_path / "wide.csv", date=stamps, a=a, b=b), target_column=["all"])
    rows = [(stamp, name, value) for k, stamp in enumerate(stamps) for name, value in (("a", a[k]), ("b", b[k]))]
    date, name, value = zip(*rows, strict=True)
    path = tmp_path / "long.csv.gz"
    path.write_bytes(gzip.compress(write(tmp_path / "long.csv", date=date, name=name, value=value).read_bytes()))
    long = table_of(path, series_column="name")
    for one, other in zip(wide.series, long.series, strict=True):
        assert one.name == other.name and one.start == other.start and np.array_equal(one.values, other.values)


def test_series_may_begin_and_end_when_they_like(tmp_path):
    path = write(tmp_path / "x.csv", month=months(6), a=["", "NA", 3, 4, "", 6], b=[1, 2, 3, "null", "", ""])
    a, b = table_of(path, target_column=["a", "b"]).series
    assert a.values.tolist() == [3, 4, 4, 6] and a.missing.tolist() == [False, False, True, False]
    assert a.start == b.start + 2 and b.values.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("clock", "season"),
    [
        (Clock(SECOND, HOUR), 24), (Clock(SECOND, HOUR // 2), 48), (Clock(SECOND, 7 * HOUR), 1),
        (Clock(SECOND, DAY), 7), (Clock(SECOND, 7 * DAY), 52), (Clock(MONTH, 1), 12), (Clock(MONTH, 3), 4),
        (Clock(MONTH, 12), 1), (Clock(ROW, 1), 1), (Clock(DAY_UNIT, 1), 7), (Clock(DAY_UNIT, 7), 52),
        (Clock(DAY_UNIT, 14), 1), (Clock(DAY_UNIT, 1, week=BUSINESS_DAYS), 5),
        (Clock(DAY_UNIT, 5, week=BUSINESS_DAYS), 52),
    ],
)  # fmt: skip
def test_a_season_follows_from_the_step(clock, season):
    assert clock.season() == season


def test_the_calendar_is_of_what_was_seen_often_enough():
    assert Calendar.of(Clock(SECOND, HOUR), 30).periods == ()
    assert [period for period, _ in Calendar.of(Clock(SECOND, HOUR), 24 * 30).periods] == [DAY, 7 * DAY]
    assert len(Calendar.of(Clock(SECOND, DAY), 1500).periods) == 2
    assert Calendar.of(Clock(DAY_UNIT, 1), 1500) == Calendar.of(Clock(SECOND, DAY), 1500)
    features = Calendar.of(Clock(MONTH, 1), 100).features(np.arange(24))
    assert np.allclose(features[:12], features[12:]) and not np.allclose(features[0], features[6])


def test_what_is_held_out_may_be_a_file(tmp_path):
    stamps, values = months(120), wave(120)
    whole = prepared(write(tmp_path / "whole.csv", month=stamps, y=values), tmp_path)
    head = write(tmp_path / "head.csv", month=stamps[:108], y=values[:108])
    tail = write(tmp_path / "tail.csv", month=stamps[108:], y=values[108:])
    apart = prepared(head, tmp_path, validation_file=str(tail))
    assert apart.ends == whole.ends and apart.design == whole.design
    assert np.array_equal(apart.series[0].values, whole.series[0].values)
    with pytest.raises(
        TextgenError, match=r"tail.csv' begins at 1999-01 for 'y', but the training part ends at 1999-12"
    ):
        prepared(write(tmp_path / "whole.csv", month=stamps, y=values), tmp_path, validation_file=str(tail))


def test_a_file_that_does_not_go_on_in_the_same_step_is_refused(tmp_path):
    table = write(tmp_path / "x.csv", month=months(120), y=wave(120))
    daily = write(tmp_path / "d.csv", month=[f"2000-01-{k + 1:02}" for k in range(30)], y=wave(30))
    with pytest.raises(TextgenError, match=r"a step of .*d.csv' is 1 day, but the training part's is 1 month."):
        prepared(table, tmp_path, validation_file=str(daily))
    late = write(tmp_path / "late.csv", month=months(200)[160:], y=wave(40))
    with pytest.raises(TextgenError, match=r"begins 40 time steps after .* longer than the window of 32"):
        prepared(table, tmp_path, validation_file=str(late))
    prepared(table, tmp_path, validation_file=str(late), seq_length=40)
    one_day = write(tmp_path / "one.csv", month=["2020-01-15"], y=[1])
    with pytest.raises(TextgenError, match=r"a step of .*one.csv' is 1 day, but the training part's is 1 month."):
        prepared(table, tmp_path, validation_file=str(one_day))


def spoiled(place, column, value, length=120):
    columns = {"month": months(length), "sales": list(wave(length)), "price": list(wave(length, 7))}
    columns[column][place] = value
    return columns


WRONG = {
    "a date that does not parse": (
        spoiled(4, "month", "1990-13"),
        "row 5 of 'x.csv': column 'month' has the time '1990-13', which cannot be read as a date.",
    ),
    "an empty date": (
        spoiled(4, "month", ""),
        "row 5 of 'x.csv': column 'month' has an empty cell, which cannot be read as a date.",
    ),
    "a target with text in it": (
        spoiled(7, "sales", "closed"), "row 8 of 'x.csv': column 'sales' holds 'closed', which is not a number."
    ),
    "an endless number": (
        spoiled(7, "sales", "inf"), "row 8 of 'x.csv': column 'sales' holds 'inf', which is not a number."
    ),
    "an extra column with text in it": (
        spoiled(7, "price", "high"), "row 8 of 'x.csv': column 'price' holds 'high', which is not a number."
    ),
    "a constant column": (
        {"month": months(60), "sales": [4.5] * 60, "price": [1] * 60},
        "column 'sales' is constant: it holds 4.5 in all 48 rows of the training part.",
    ),
    "a column without a number": (
        {"month": months(60), "sales": ["NA"] * 60, "price": [1] * 60}, "column 'sales' has no numbers."
    ),
    "a gap longer than the window": (
        {"month": [*months(100)[:20], *months(100)[60:]], "sales": wave(60), "price": wave(60)},
        "row 21 of 'x.csv': column 'sales' has a gap of 40 time steps before it, longer than the window of 32.",
    ),
    "a series shorter than the horizon": (
        {"month": months(20), "sales": wave(20), "price": wave(20)},
        "series 'sales' has 20 time steps; a horizon of 12 needs at least 26, 12 of them held out.",
    ),
    "a time twice": (spoiled(9, "month", "1990-09"), "row 10 of 'x.csv': column 'month' has 1990-09 a second time."),
    "two times in one second": (
        {"month": [f"2020-01-01 00:00:00.{k}" for k in range(10)], "sales": range(10), "price": range(10)},
        "row 2 of 'x.csv': column 'month' has 2020-01-01 00:00:00.1 after 2020-01-01 00:00:00.0, but times are counted "
        "in whole seconds, and these are the same.",
    ),
    "a time twice, far apart": (
        spoiled(9, "month", "1990-02"),
        "row 10 of 'x.csv': column 'month' has 1990-02 a second time; the first is in row 2 of 'x.csv'.",
    ),
    "a time between two steps": (
        {"month": [f"2020-01-{k + 1:02} 00:00" for k in range(9)] + ["2020-01-10 07:00"], "sales": range(10),
         "price": range(10)},
        "row 10 of 'x.csv': column 'month' is not a whole number of steps of 1 day after the row before it.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_input_is_named_by_row_and_column(tmp_path, monkeypatch, wrong):
    columns, sentence = WRONG[wrong]
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.csv", **columns)
    with pytest.raises(TextgenError) as caught:
        prepared("x.csv", tmp_path, target_column=["sales"], extra_column=["price"], horizon=12)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "more than one column that could be forecast"),
        ({"target_column": ["sale"]}, "has no column 'sale'"),
        ({"target_column": ["sales"], "extra_column": ["sales"]}, "is named twice"),
        (
            {"target_column": ["sales"], "tokenizer": "char"},
            "tokenizer goes with task=lm or task=complete or task=classify, not",
        ),
        (
            {"target_column": ["sales"], "embedding_dropout": 0.5},
            "embedding_dropout applies to text, not to time series",
        ),
        ({"target_column": ["sales"], "transform": "log"}, "needs values above 0, and column 'sales' holds -1"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, sentence):
    path = write(tmp_path / "x.csv", month=months(60), sales=[-1, *wave(59)], price=wave(60))
    with pytest.raises(TextgenError) as caught:
        prepared(path, tmp_path, **options)
    assert sentence in str(caught.value)


def test_options_of_series_mean_forecasting():
    assert options_for({"horizon": 3}).task == "forecast"
    with pytest.raises(UsageError, match="horizon goes with task=forecast"):
        options_for({"horizon": 3, "task": "classify"})


def test_another_clock_is_refused_when_forecasting(tmp_path):
    import textgen

    path = write(tmp_path / "x.csv", month=months(60), y=wave(60))
    folder = textgen.train(path, task="forecast", max_steps=1, output_dir=str(tmp_path / "run"), threads=1)
    daily = write(tmp_path / "d.csv", month=[f"2020-01-{k + 1:02}" for k in range(30)], y=wave(30))
    with pytest.raises(TextgenError, match=r"a step of .* is 1 day, but the model's is 1 month."):
        textgen.load(folder).predict(daily)


# --- hints ---


def refused(path, folder, **options):
    with pytest.raises(TextgenError) as caught:
        prepared(path, folder, **options)
    return str(caught.value), caught.value.hint or ""


def test_a_column_of_names_is_proposed_as_that_of_the_series(tmp_path):
    path = write(tmp_path / "x.csv", date=months(60), store=["A", "B"] * 30, y=wave(60))
    said, hint = refused(path, tmp_path)
    assert said.endswith("has more than one column that could be forecast: 'store', 'y'.")
    assert "If 'store' names the series of each row: series_column=store." in hint
    path = write(tmp_path / "y.csv", date=months(60), x=wave(60), y=wave(60))
    assert "series_column" not in refused(path, tmp_path)[1], "columns of numbers name no series"


def test_a_table_with_no_column_to_forecast_is_not_said_to_have_several(tmp_path):
    path = write(tmp_path / "x.csv", date=months(60), y=wave(60))
    said, hint = refused(path, tmp_path, series_column="y")
    assert said.endswith("has no column to forecast; its columns are 'date', 'y'.") and "column of numbers" in hint


def test_a_cell_that_holds_no_number_comes_with_a_way_on(tmp_path):
    path = write(tmp_path / "x.csv", date=months(60), y=[*wave(59), "1_0.5"])
    said, hint = refused(path, tmp_path)
    assert "row 60" in said and "'1_0.5'" in said and "leave it empty" in hint
    path = write(tmp_path / "x.csv", date=months(60), store=["", *"A" * 59], y=wave(60))
    said, hint = refused(path, tmp_path, series_column="store")
    assert "row 1" in said and "no series name" in said and "fill the cell" in hint


def test_one_time_step_is_singular(tmp_path):
    said, _ = refused(write(tmp_path / "x.csv", date=months(1), y=[1.0]), tmp_path)
    assert "series 'y' has 1 time step;" in said


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_a_level_that_looks_like_a_fraction_is_questioned(level):
    from textgen.errors import TextgenWarning
    from textgen.tasks.forecasting.rolling import ForecastRequest

    with pytest.warns(
        TextgenWarning, match=rf"level={level} is less than one percent; did you mean level={100 * level:g}"
    ):
        ForecastRequest(1, level=level)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ForecastRequest(1, level=1)
        ForecastRequest(1, number=0, level=level)
