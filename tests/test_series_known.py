"""Laws of inputs that are known in advance: the model reads those of the step it predicts, in training, in evaluation
and in a forecast; what is missing is said; what never changes is read at every step."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_series import model_for, months, prepared, quick_disk, shaken, wave, write  # noqa: F401

import textgen
from textgen.cli import main
from textgen.errors import TextgenError, TextgenWarning, UsageError
from textgen.tasks.forecasting.design import Windows, prepare_series
from textgen.tasks.forecasting.known import Known, known_inputs
from textgen.tasks.forecasting.objective import TorchForecastStepper
from textgen.tasks.forecasting.rolling import MODEL, ForecastRequest, SeriesLoop
from textgen.training.stored_data import data_of

SMALL = {"hidden_size": 4, "max_steps": 2, "threads": 1, "device": "cpu", "cell": "gru", "task": "forecast"}
NAMES = ["", "Easter", "", "", "Labour Day", "", "", "", "", "", "", "Christmas"]


def prices(length, seed=1):
    return np.round(5 + np.random.default_rng(seed).random(length), 3)


def sales(path, length=60, ahead=0, **columns):
    """Sales with a price, of which `ahead` more rows have no sales."""
    months_, values = months(length + ahead), [f"{v:.3f}" for v in wave(length)] + [""] * ahead
    return write(path, month=months_, sales=values, price=prices(length + ahead), **columns)


def test_an_input_is_that_of_the_step_to_predict(tmp_path):
    path = sales(tmp_path / "x.csv", 60, 3)
    data = prepared(path, tmp_path, future_column=["price"], horizon=2)
    (rows,), design = data.rows, data.design
    assert design.width == rows.inputs.shape[1] and len(rows) == 60
    values, end = prices(63), data.ends[0]
    centre, spread = values[:end].mean(), values[:end].std()
    assert np.allclose(rows.calendar[:, -1], (values[1:63] - centre) / spread, atol=1e-5)
    assert np.array_equal(rows.inputs[:, -1], rows.calendar[:60, -1])


def test_windows_of_training_hold_it(tmp_path):
    data = prepared(sales(tmp_path / "x.csv"), tmp_path, future_column=["price"])
    inputs, _ = Windows(data.rows, data.ends, 2, 16, 1).window(3)
    assert any(
        np.array_equal(inputs[:, 0], data.rows[0].inputs[start : start + 16]) for start in range(data.ends[0] - 16)
    )


def test_the_loop_reads_it_ahead_as_evaluation_on_the_actual_rows_does(tmp_path):
    whole = prepared(sales(tmp_path / "x.csv", 60), tmp_path / "a", future_column=["price"], horizon=4)
    stepper = TorchForecastStepper(shaken(model_for(whole)))
    (rows,) = whole.rows
    cut = prepare_series(rows.series.slice(0, 50), whole.design, 4)
    assert len(cut) == 50 and len(cut.series.known) == 60
    (known,) = SeriesLoop(stepper, [rows], whole.design).read([49], 10, [50])
    (origin,) = SeriesLoop(stepper, [cut], whole.design).read([49], 10)
    expected = SeriesLoop(stepper, [rows], whole.design).forecasts(known, 4)
    assert np.allclose(SeriesLoop(stepper, [cut], whole.design).forecasts(origin, 4), expected)
    changed = rows.series.known.copy()
    changed[52] += 1
    other = prepare_series(replace(rows.series, known=changed), whole.design, 4)
    loop = SeriesLoop(stepper, [other], whole.design)
    (origin,) = loop.read([49], 10, [50])
    found = loop.forecasts(origin, 4)
    assert np.array_equal(found[0, :2], expected[0, :2]) and not np.allclose(found[0, 2:], expected[0, 2:])


def test_each_word_of_training_is_an_input(tmp_path):
    path = sales(tmp_path / "x.csv", 60, 3, holiday=[NAMES[k % 12] for k in range(62)] + ["Moon Day"])
    data = prepared(path, tmp_path, future_column=["holiday", "price"], horizon=2)
    holiday, price = data.design.known
    assert holiday.words == ("Easter", "Labour Day", "Christmas", "Moon Day")
    assert holiday.seen == (True, True, True, False) and holiday.width == 3 and price.words is None
    ones = data.rows[0].calendar[:, -4:-1]
    for step in range(61):
        name = NAMES[(step + 1) % 12]
        assert ones[step].tolist() == [float(name == each) for each in holiday.words[:3]]
    assert not ones[61:].any()


def test_words_after_training_count_as_none_with_a_warning(tmp_path):
    given = {**SMALL, "future_column": ["holiday"], "target_column": ["sales"], "output_dir": str(tmp_path / "run")}
    names = [NAMES[k % 12] for k in range(60)]
    table = write(tmp_path / "x.csv", month=months(60), sales=wave(60), holiday=names)
    model = textgen.load(textgen.train(table, **given))
    ahead = {name: write(tmp_path / "a.csv", month=["1995-01"], holiday=[name]) for name in ("", "Moon Day")}
    with pytest.warns(TextgenWarning, match="'Moon Day', which training has not seen"):
        write(tmp_path / "a.csv", month=["1995-01"], holiday=["Moon Day"])
        strange = model.predict(table, future=ahead["Moon Day"])[0]
    write(tmp_path / "a.csv", month=["1995-01"], holiday=['""'])
    assert np.array_equal(strange.values, model.predict(table, future=ahead[""])[0].values)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    sales(place / "x.csv", 60, 0)
    columns = {"target_column": ["sales"], "future_column": ["price"], "horizon": 4}
    folder = textgen.train(place / "x.csv", output_dir=str(place / "run"), **columns, **SMALL)
    return textgen.load(folder), folder


def test_rows_without_a_target_and_a_file_of_future_values_are_the_same(model, tmp_path, capsys):
    forecaster, folder = model
    short, long = sales(tmp_path / "x.csv", 60), sales(tmp_path / "y.csv", 60, 4)
    (wanted,) = forecaster.predict(long)
    whole = write(tmp_path / "all.csv", month=months(64), price=prices(64))  # overlaps with the table
    rest = write(tmp_path / "rest.csv", price=prices(64)[60:], month=months(64)[60:])
    for future in (whole, rest):
        (found,) = forecaster.predict(short, future=future)
        assert found.times == wanted.times == ["1995-01", "1995-02", "1995-03", "1995-04"]
        assert np.array_equal(found.values, wanted.values) and np.array_equal(found.paths, wanted.paths)
    assert main(["predict", "-m", str(folder), str(short), "--future", str(rest)]) == 0
    shown = capsys.readouterr().out
    assert main(["predict", "-m", str(folder), str(long)]) == 0
    assert capsys.readouterr().out == shown


def test_missing_future_values_get_one_sentence(model, tmp_path, capsys):
    forecaster, folder = model
    with pytest.raises(TextgenError, match="series 'sales' has no value of 'price' for 1995-03") as caught:
        forecaster.predict(sales(tmp_path / "x.csv", 60, 2))
    assert "rows with this column and an empty target" in caught.value.hint
    holes = write(tmp_path / "f.csv", month=months(64)[60:], price=[1, "", 2, 3])
    with pytest.raises(TextgenError, match="'price' for 1995-02"):
        forecaster.predict(sales(tmp_path / "x.csv", 60), future=holes)
    words = write(tmp_path / "f.csv", month=months(64)[60:], price=[1, "high", 2, 3])
    with pytest.raises(TextgenError, match=r"row 2 of .*: column 'price' holds 'high', which is not a number"):
        forecaster.predict(sales(tmp_path / "x.csv", 60), future=words)
    assert main(["predict", "-m", str(folder), str(tmp_path / "x.csv")]) == 1
    assert "--future FILE" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no column 'price'"):
        forecaster.predict(tmp_path / "x.csv", future=write(tmp_path / "n.csv", month=["1995-01"], cost=[3]))


def test_a_model_without_future_columns_takes_no_future_table(tmp_path):
    table = write(tmp_path / "x.csv", month=months(40), y=wave(40))
    forecaster = textgen.load(textgen.train(table, output_dir=str(tmp_path / "run"), **SMALL))
    assert forecaster.design.known == () and forecaster.design.columns.known == []
    with pytest.raises(UsageError, match="future gives the next values of future columns, and this model has none"):
        forecaster.predict(table, future=table)


def test_new_rows_alone_continue_what_is_known(model, tmp_path):
    forecaster, _ = model
    newer = sales(tmp_path / "x.csv", 66, 4)
    (wanted,) = forecaster.predict(newer)
    lines = newer.read_text().splitlines()
    (tmp_path / "new.csv").write_text("\n".join([lines[0], *lines[61:]]) + "\n")
    (found,) = forecaster.predict(tmp_path / "new.csv")
    assert found.times == wanted.times and np.allclose(found.values, wanted.values)
    report = forecaster.evaluate(tmp_path / "new.csv", horizon=2)
    assert report.windows == 5 and report.continued == 1


def test_gaps_hold_the_last_number_and_no_word(tmp_path):
    table = write(
        tmp_path / "x.csv", month=months(40), y=wave(40), price=["" if k in (3, 4) else k for k in range(40)],
        day=["May" if k % 12 == 4 else "" for k in range(40)],
    )  # fmt: skip
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:17] + lines[18:]) + "\n")  # without the row of step 16, in May
    data = prepared(table, tmp_path, future_column=["price", "day"], target_column=["y"])
    (series,) = data.series
    assert series.known[:7, 0].tolist() == [0, 1, 2, 2, 2, 5, 6] and series.known[16].tolist() == [15, -1]
    assert series.known[4, 1] == 0 and series.known[5, 1] == -1


def long_table(path, regions=("north", "south"), sizes=(3, 5), length=40):
    rows = {"shop": [], "month": [], "y": [], "region": [], "size": []}
    for k, (region, size) in enumerate(zip(regions, sizes, strict=True)):
        for month, value in zip(months(length), wave(length, seed=k), strict=True):
            for name, cell in zip(rows, (f"s{k}", month, value, region, size), strict=True):
                rows[name].append(cell)
    return write(path, **rows)


STATIC = {"series_column": "shop", "target_column": ["y"], "static_column": ["region", "size"]}


def test_static_columns_are_read_at_every_step(tmp_path):
    data = prepared(long_table(tmp_path / "x.csv"), tmp_path, **STATIC, horizon=3)
    for rows, wanted in zip(data.rows, ([1, 0, -1], [0, 1, 1]), strict=True):
        assert np.allclose(rows.calendar[:, -3:], wanted) and len(rows.calendar) == 43
        assert np.allclose(rows.inputs[:, -3:], wanted)


def test_forecasts_of_a_new_series_know_its_static_columns(tmp_path):
    run = textgen.train(long_table(tmp_path / "x.csv"), output_dir=str(tmp_path / "run"), **STATIC, **SMALL)
    forecaster = textgen.load(run)
    assert {each.series for each in forecaster.predict_rows(forecaster.kept(), ForecastRequest(2))} == {"s0", "s1"}
    found = forecaster.read(long_table(tmp_path / "y.csv", ("south", "west"), (4, 3)))
    assert [rows.calendar[0, -3:].tolist() for rows in found] == [[0, 1, 0], [0, 0, -1]]


def test_mistakes_in_static_columns_get_one_sentence(tmp_path):
    path = long_table(tmp_path / "x.csv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:5], lines[5].replace("north", "south"), *lines[6:]]) + "\n")
    with pytest.raises(TextgenError, match=r"row 5 of .*: static column 'region' holds 'south', but 'north' before it"):
        prepared(path, tmp_path, **STATIC)
    path.write_text("\n".join([lines[0], *(line.replace("south", "") for line in lines[1:])]) + "\n")
    with pytest.raises(TextgenError, match="static column 'region' is empty for series 's1'"):
        prepared(path, tmp_path, **STATIC)


def test_too_many_words_and_empty_columns_are_refused(tmp_path):
    many = write(tmp_path / "x.csv", month=months(150), y=wave(150), name=[f"n{k}" for k in range(150)])
    with pytest.raises(TextgenError, match="'name' holds 150 different words, such as 'n0', but at most 100"):
        prepared(many, tmp_path, future_column=["name"], target_column=["y"])
    empty = write(tmp_path / "x.csv", month=months(50), y=wave(50), name=["" for _ in range(50)])
    with pytest.raises(TextgenError, match="column 'name' is empty"):
        prepared(empty, tmp_path, future_column=["name"], target_column=["y"])
    with pytest.raises(UsageError, match="column 'y' is named twice"):
        prepared(empty, tmp_path, future_column=["y"], target_column=["y"])


def test_every_series_and_target_is_a_series(tmp_path):
    path = long_table(tmp_path / "x.csv")
    data = prepared(path, tmp_path, series_column="shop", target_column=["y", "size"], static_column=["region"])
    assert list(data.design.scales) == ["s0/y", "s1/y"]  # sizes are constant, and left out
    columns = {"a": wave(40), "b": wave(40, seed=2), "price": prices(40), "shop": ["x"] * 20 + ["y"] * 20}
    two = write(tmp_path / "y.csv", month=months(20) * 2, **columns)
    data = prepared(two, tmp_path, series_column="shop", target_column=["a", "b"], future_column=["price"])
    assert list(data.design.scales) == ["x/a", "x/b", "y/a", "y/b"]
    assert np.allclose(data.series[2].known[:, 0], prices(40)[20:])


def test_training_learns_from_what_is_known(tmp_path):
    """A series that is nothing but noise and yesterday's announcement of it."""
    draw = np.random.default_rng(0).normal(size=400)
    days = [str(np.datetime64("2020-01-01") + k) for k in range(400)]
    table = write(tmp_path / "x.csv", date=days, y=10 + draw, plan=draw)
    given = {**SMALL, "hidden_size": 8, "max_steps": 150, "target_column": ["y"], "learning_rate": 1e-2, "seed": 1}
    errors = []
    for known in ([], ["plan"]):
        run = textgen.train(table, future_column=known, output_dir=str(tmp_path / f"run{len(known)}"), **given)
        data = data_of(run)
        report = textgen.load(run).evaluate_rows(data.rows, data.ends, ForecastRequest(1, number=0))
        errors.append(math.sqrt(report.errors[MODEL].mean("square")))
    assert errors[1] < 0.5 * errors[0]


def test_numpy_and_torch_agree_and_the_folder_says_what_is_known(model):
    forecaster, folder = model
    other = textgen.load(folder, backend="torch")
    rows = forecaster.kept()
    rows = [prepare_series(each.series.slice(0, 50), forecaster.design) for each in rows]
    one, two = (each.predict_rows(rows, ForecastRequest(4, number=0))[0].values for each in (forecaster, other))
    assert np.allclose(one, two, rtol=1e-4)
    content = json.loads((folder / "forecast.json").read_text())
    assert content["columns"]["future"] == ["price"] and content["known"][0]["column"] == "price"
    del content["known"]
    content["columns"] = {name: content["columns"][name] for name in ("times", "targets", "extras", "series")}
    assert type(forecaster.design).from_json(content, "x").known == ()


def test_a_page_cannot_know_the_future(model, tmp_path, capsys):
    assert main(["export", str(model[1]), str(tmp_path / "page.html")]) == 1
    assert "a forecaster with future columns cannot be exported" in capsys.readouterr().err


def test_numbers_are_standardized_and_bounded():
    column = Known("x", False, None, (), 2.0, 0.5)
    found = known_inputs([column], np.array([[2.0], [3.0], [np.nan], [1e9]]), 5)
    assert found[:, 0].tolist() == [2.0, 0.0, 8.0, 0.0, 0.0] and found.dtype == np.float32
    assert torch.from_numpy(known_inputs([], np.zeros((0, 0)), 3)).shape == (3, 0)
