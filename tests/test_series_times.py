"""Calendar time: a table that is regular in some format is read in that format, in any order of rows, and a forecast
is labelled as the table would go on."""

import calendar
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from test_series import prepared, wave, write
from test_series_reading import table_of

import textgen
from textgen.errors import TextgenError, UsageError
from textgen.tasks.forecasting.columns import TimeCells, parse_times
from textgen.tasks.forecasting.formats import DATES, TimeFormat
from textgen.tasks.forecasting.times import BUSINESS_DAYS, DAY_UNIT, EVERY_DAY, MONTH, SECOND, Clock, Moments

CASES = Path(__file__).parent / "cases"


def next_labels(table, number=2):
    """What the first rows after a table are called."""
    series = table.series[0]
    return table.clock.labels(series.start + table.clock.step * (len(series) + np.arange(number)))


# Tables and how they go on


FILES = {
    "month_dmy": ("1 month", ["01/01/2020", "01/02/2020"]),
    "month_dot": ("1 month", ["01.01.2020", "01.02.2020"]),
    "month_dmy_10": ("1 month", ["01/12/2012", "01/01/2013"]),
    "slash": ("1 day", ["30/05/2024", "31/05/2024"]),
    "month_end": ("1 month", ["2020-01-31", "2020-02-29"]),
    "tz_fixed_daily": ("1 day", ["2022-12-29T00:00:00+02:00", "2022-12-30T00:00:00+02:00"]),
    "tz_daily": ("1 day", ["2022-12-29T00:00:00+01:00", "2022-12-30T00:00:00+01:00"]),
    "business": ("1 business day", ["2020-12-30", "2020-12-31"]),
    "descending": ("1 day", ["2022-12-29", "2022-12-30"]),
    "index1000": ("1 row", [1200, 1201]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_table_goes_on_as_it_began(name):
    step, labels = FILES[name]
    table = table_of(CASES / f"{name}.csv")
    assert table.clock.described() == step and next_labels(table) == labels
    assert not table.series[0].missing.any()


def days(start, number, step=1):
    return [date.fromisoformat(start) + timedelta(k * step) for k in range(number)]


def month_days(day, number, step=1, year=2019):
    """The same day of every month, or its last."""
    stamps = [(year + k * step // 12, k * step % 12 + 1) for k in range(number)]
    return [date(y, m, min(day, calendar.monthrange(y, m)[1])) for y, m in stamps]


def last_weekdays(number):
    found = month_days(31, number)
    return [each - timedelta(max(0, each.weekday() - 4)) for each in found]


def first_weekdays(number):
    return [each + timedelta((7 - each.weekday()) % 7 if each.weekday() > 4 else 0) for each in month_days(1, number)]


def weekdays(start, number, chosen=(0, 1, 2, 3, 4)):
    return [each for each in days(start, 4 * number) if each.weekday() in chosen][:number]


def local_hours(zone, start, number):
    first = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    return [(first + timedelta(hours=k)).astimezone(ZoneInfo(zone)) for k in range(number)]


def without(texts, *wanted):
    return [text for text in map(str, texts) if text not in wanted]


WRITTEN = {
    "quarter ends": (month_days(31, 30)[2::3], "1 quarter", "2021-09-30"),
    "every third month's end": (month_days(31, 10, 3), "1 quarter", "2021-07-31"),
    "quarter ends, the last days 30": (["2020-06-30", "2020-09-30"], "1 quarter", "2020-12-31"),
    "year ends": (month_days(31, 6, 12, year=2018), "1 year", "2024-01-31"),
    "december ends": ([f"{y}-12-31" for y in range(2010, 2020)], "1 year", "2020-12-31"),
    "february ends": ([f"{y}-02-{28 + (y % 4 == 0)}" for y in range(2017, 2023)], "1 year", "2023-02-28"),
    "mid-month": (month_days(15, 10), "1 month", "2019-11-15"),
    "the 30th": (month_days(30, 13), "1 month", "2020-02-29"),
    "the 29th": (month_days(29, 25), "1 month", "2021-02-28"),
    "two month ends": (["2020-01-31", "2020-02-29"], "1 month", "2020-03-31"),
    "last weekdays of months": (last_weekdays(10), "1 month", "2019-11-29"),
    "first weekdays of months": (first_weekdays(10), "1 month", "2019-11-01"),
    "weeks": (days("2020-01-06", 10, 7), "1 week", "2020-03-16"),
    "weeks, one left out": (without(days("2020-01-06", 10, 7), "2020-02-03"), "1 week", "2020-03-16"),
    "every other day": (days("2020-01-01", 9, 2), "2 days", "2020-01-19"),
    "Mondays, Wednesdays and Fridays": (
        weekdays("2020-01-01", 15, (0, 2, 4)), "1 day (Mon, Wed, Fri)", "2020-02-05"
    ),
    "ISO weeks": ([f"2020-W{k:02}" for k in range(40, 54)], "1 week", "2021-W01"),
    "business days": (weekdays("2020-01-01", 8), "1 business day", "2020-01-13"),
    "business days, holidays left out": (
        without(weekdays("2019-12-02", 34), "2019-12-25", "2019-12-26", "2020-01-01"), "1 business day", "2020-01-17"
    ),
    "closed on Sundays": (weekdays("2020-01-01", 40, range(6)), "1 day (Mon, Tue, Wed, Thu, Fri, Sat)", "2020-02-17"),
    "Sunday to Thursday": (
        weekdays("2020-01-01", 40, (6, 0, 1, 2, 3)), "1 day (Mon, Tue, Wed, Thu, Sun)", "2020-02-26"
    ),
    "month names": ([f"{m} 2020" for m in ("Oct", "Nov", "Dec")], "1 month", "Jan 2021"),
    "months in capitals": ([f"{m}-20" for m in ("OCT", "NOV", "DEC")], "1 month", "JAN-21"),
    "whole month names": (["November 2020", "December 2020"], "1 month", "January 2021"),
    "year and month name": ([f"2020-{m}" for m in ("Oct", "Nov", "Dec")], "1 month", "2021-Jan"),
    "days with month names": (["30-Dec-2020", "31-Dec-2020"], "1 day", "01-Jan-2021"),
    "without zeros": (["29.12.2016", "30.12.2016", "31.12.2016", "1.1.2017"], "1 day", "2.1.2017"),
    "years of two digits": (["30/12/99", "31/12/99"], "1 day", "01/01/00"),
    "month first": (["12/30/2016", "12/31/2016", "01/01/2017"], "1 day", "01/02/2017"),
    "am and pm": (["1/1/2020 10:00 AM", "1/1/2020 11:00 AM"], "1 hour", "1/1/2020 12:00 PM"),
    "hours alone": ([f"2020-01-01 {h:02}" for h in (22, 23)], "1 hour", "2020-01-02 00"),
    "midnight without a time": (["2020-01-01 23:00:00", "2020-01-02", "2020-01-02 01:00:00"], "1 hour",
                                "2020-01-02 02:00:00"),
    "thousandths": (["2020-01-01 00:00:00.000", "2020-01-02 00:00:00.000"], "1 day", "2020-01-03 00:00:00.000"),
    "the end of a day is the next": ([f"2020-01-01 {h}:00" for h in range(21, 25)], "1 hour", "2020-01-02 01:00"),
    "UTC without signs": (["20200101T000000Z", "20200101T010000Z"], "1 hour", "20200101T020000Z"),
    "UTC": (["2020-01-01T00:00:00Z", "2020-01-01T01:00:00Z"], "1 hour", "2020-01-01T02:00:00Z"),
    "compact dates": ([20200130, 20200131, 20200201], "1 day", 20200202),
    "compact months": ([202011, 202012, 202101], "1 month", 202102),
    "years": (range(1990, 2021), "1 year", 2021),
    "five digits of years": (["9998-01-01", "9999-01-01"], "1 year", "10000-01-01"),
    "days to the year 10000": (["9999-12-29", "9999-12-30", "9999-12-31"], "1 day", "10000-01-01"),
    "a counter like years": (range(1000, 1200), "1 row", 1200),
    "a counter like dates": (range(20200199, 20200220), "1 row", 20200220),
    "a counter of two years' width": (range(1500, 2500, 7), "7 rows", 2501),
    "quarters": (["2020Q3", "2020Q4"], "1 quarter", "2021Q1"),
    "quarters first": (["Q3 2020", "Q4 2020"], "1 quarter", "Q1 2021"),
    "summer ends, offsets": (
        [each.isoformat() for each in local_hours("Europe/Berlin", "2020-10-24", 60)], "1 hour",
        "2020-10-26T11:00:00+01:00",
    ),
    "summer begins, days": (
        [local_hours("Europe/Berlin", f"2020-03-{d}", 1)[0].isoformat(" ") for d in range(25, 32)], "1 day",
        "2020-04-01 00:00:00+02:00",
    ),
    "days at noon": ([f"2020-02-{d} 12:00" for d in (27, 28, 29)], "1 day", "2020-03-01 12:00"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_times_of_many_kinds_go_on(tmp_path, name):
    stamps, step, label = WRITTEN[name]
    stamps = list(stamps)
    path = tmp_path / "x.csv"
    path.write_text("when,y\n" + "".join(f'"{stamp}",{k}\n' for k, stamp in enumerate(stamps)))
    table = table_of(path, time_column=["when"])
    assert table.clock.described() == step
    assert next_labels(table, 1) == [label]
    history = table.clock.labels(table.series[0].start + table.clock.step * np.arange(len(table.series[0])))
    known = [h for h, gone in zip(history, table.series[0].missing, strict=True) if not gone]
    if name not in ("midnight without a time", "the end of a day is the next"):
        assert list(map(str, known)) == list(map(str, stamps))


def test_holidays_are_gaps_and_weekends_are_not(tmp_path):
    stamps = without(weekdays("2019-12-02", 34), "2019-12-25", "2020-01-01")
    table = table_of(write(tmp_path / "x.csv", date=stamps, y=wave(32)))
    assert np.flatnonzero(table.series[0].missing).tolist() == [17, 22] and len(table.series[0]) == 34
    assert table.clock.season() == 5


def test_the_hour_that_spring_skips_is_a_gap(tmp_path):
    stamps = [f"2020-03-29 {h:02}:00" for h in range(24) if h != 2]
    table = table_of(write(tmp_path / "x.csv", date=stamps, y=range(23)))
    assert np.flatnonzero(table.series[0].missing).tolist() == [2] and table.clock.described() == "1 hour"


# Any format, any order


def by_seconds(seconds):
    return lambda start, k: datetime(2001, 1, 1) + timedelta(days=start, seconds=seconds * k)


def by_months(months, day):
    return lambda start, k: month_days(day, k + 1, months, year=2000 + start % 20)[-1]


GRIDS = {
    "1 hour": by_seconds(3600), "15 minutes": by_seconds(900), "1 day": by_seconds(86400),
    "1 week": by_seconds(7 * 86400),
    "1 business day": lambda start, k: np.busday_offset("2001-01-01", start + k).item(),
    "1 month": by_months(1, 1), "1 month, the 15th": by_months(1, 15), "1 month, its end": by_months(1, 31),
    "1 quarter": by_months(3, 1), "1 quarter, its end": by_months(3, 31), "1 year": by_months(12, 1),
}  # fmt: skip
FORMS = [
    "%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%-d.%-m.%Y", "%-m/%-d/%Y", "%Y%m%d",
    "%d %b %Y", "%b %d %Y", "%d-%b-%y", "%B %-d %Y", "%d/%m/%y", "%Y.%m.%d",
]  # fmt: skip


def stamps_of(grid, form, start, length):
    moments = [GRIDS[grid](start, k) for k in range(length)]
    form += " %H:%M" if grid in ("1 hour", "15 minutes") else ""
    epoch = date(1970, 1, 1).toordinal()
    seconds = [
        (m.toordinal() - epoch) * 86400 + (m.hour * 3600 + m.minute * 60 if isinstance(m, datetime) else 0)
        for m in moments
    ]
    return [TimeFormat(form).write(each) for each in seconds], np.array(seconds)


DIALECTS = [
    {"separator": separator, "mark": mark, "encoding": encoding}
    for separator in (",", ";", "\t", "|")
    for mark in (".", ",")
    for encoding in ("utf-8", "utf-8-sig", "utf-16")
    if separator != mark
]
"""Separator, decimal mark and encoding of tables that are read."""


def write_table(path, stamps, values, separator, mark, encoding):
    rows = [
        f"date{separator}y",
        *(f"{s}{separator}{str(v).replace('.', mark)}" for s, v in zip(stamps, values, strict=True)),
    ]
    path.write_bytes(("\n".join(rows) + "\n").encode(encoding))
    return path


@settings(max_examples=150, deadline=None)
@given(
    grid=st.sampled_from(sorted(GRIDS)), form=st.sampled_from(FORMS), start=st.integers(0, 3000),
    length=st.integers(14, 60), order=st.sampled_from(["rising", "falling", "shuffled"]), seed=st.integers(0, 99),
    dialect=st.sampled_from(DIALECTS),
)  # fmt: skip
@example("1 hour", "%m/%d/%Y", 1, 14, "rising", 0, DIALECTS[0])
@example("1 month", "%m/%d/%Y", 0, 14, "shuffled", 1, DIALECTS[0])
def test_a_regular_series_is_the_same_in_any_format_and_order(
    tmp_path_factory, grid, form, start, length, order, seed, dialect
):
    """Where two formats are regular (all hours of one day), the note names the other, and that is right then."""
    texts, seconds = stamps_of(grid, form, start, length)
    assume("%y" not in form or seconds.max() < np.datetime64("2069-01-01", "s").astype(np.int64))  # then 69 is 1969
    rows = {"rising": np.arange(length), "falling": np.arange(length)[::-1],
            "shuffled": np.random.default_rng(seed).permutation(length)}[order]  # fmt: skip
    values = np.arange(length) + 0.5
    path = tmp_path_factory.mktemp("any") / "x.csv"
    table = table_of(write_table(path, [texts[k] for k in rows], values[rows], **dialect))
    notes = [note for note in table.notes if "fits, too" in note]
    if notes and table.clock.local(np.array([table.series[0].start]))[0] != seconds[0]:
        table = table_of(path, date_format=notes[0].partition("date_format=")[2].strip("'"))
    (series,) = table.series
    times = series.start + table.clock.step * np.arange(length)
    assert table.clock.described() == grid.partition(",")[0]
    assert np.array_equal(table.clock.local(times), seconds)
    assert list(map(str, table.clock.labels(times))) == texts
    assert series.values.tolist() == values.tolist() and not series.missing.any()
    moved = {"rising": 0, "falling": 1, "shuffled": 1}[order]
    assert len([note for note in table.notes if "rows" in note]) == moved


def test_of_two_regular_readings_the_day_is_first_and_the_plan_names_the_other(tmp_path):
    path = CASES / "month_dmy_10.csv"
    data = prepared(path, tmp_path)
    assert "time as day/month/year (01/01/2012 to 01/11/2012)" in data.described()
    assert data.described()[-1] == "month/day/year fits, too: date_format=%m/%d/%Y"
    other = prepared(path, tmp_path, date_format="%m/%d/%Y")
    assert "a step is 1 day" in other.described() and not other.notes


@pytest.mark.parametrize(
    ("form", "label"),
    [
        ("%Y-%m-%d", "2020-02-01"), ("%d/%m/%Y", "01/02/2020"), ("%-d/%-m/%Y", "1/2/2020"),
        ("%b %-d, %Y", "Feb 1, 2020"),
        ("%^B %Y", "FEBRUARY 2020"), ("%G-W%V", "2020-W05"), ("%Y-%j", "2020-032"), ("%y%m%d", "200201"),
        ("%I:%M %p", "01:30 PM"), ("%-I.%M %P", "1.30 pm"), ("%H:%M:%S.%3f", "13:30:00.000"), ("%z", "-0330"),
        ("%:z", "-03:30"), ("%A %a", "Saturday Sat"), ("100%%", "100%"), ("%-z", "-0330"),
    ],
)  # fmt: skip
def test_a_format_writes(form, label):
    moment = (date(2020, 2, 1).toordinal() - date(1970, 1, 1).toordinal()) * 86400 + 13 * 3600 + 1800
    assert TimeFormat(form).write(moment, -(3 * 3600 + 1800)) == label


@pytest.mark.parametrize(
    ("asked", "pattern"),
    [
        ("YYYYMMDD", "%Y%m%d"), ("dd.mm.yyyy HH:mm", "%d.%m.%Y %H:%M"), ("YYYY-MM-DDTHH:MM:SS", "%Y-%m-%dT%H:%M:%S"),
        ("%F %T", "%Y-%m-%d %H:%M:%S"), ("%m/%d/%Y", "%m/%d/%Y"),
    ],
)  # fmt: skip
def test_a_format_may_be_spelled_out(asked, pattern):
    assert TimeFormat.asked(asked).pattern == pattern


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ("%Q", "has the unknown directive '%Q'"), ("%d/%m", "does not read a year"), ("%Y %Y", "is not a date format"),
        ("%", "is not a date format"), ("", "does not read a year"), ("day", "does not read a year"),
        ("%G-%m", "does not read a year"),
    ],
)  # fmt: skip
def test_a_format_that_is_none_is_refused(tmp_path, asked, problem):
    with pytest.raises(UsageError, match=f"date_format '{asked}' {problem}"):
        table_of(CASES / "slash.csv", date_format=asked)


def test_a_time_in_another_format_than_asked_is_named():
    with pytest.raises(TextgenError, match=r"row 13 of .*'13/01/2024', which date_format '%m/%d/%Y' does not read"):
        table_of(CASES / "slash.csv", date_format="%m/%d/%Y")


def test_a_counter_is_dates_where_these_are_asked_for(tmp_path):
    path = write(tmp_path / "x.csv", time=range(1000, 1010), y=range(10))
    assert next_labels(table_of(path), 1) == [1010]
    years = table_of(path, date_format="%Y")
    assert years.clock.described() == "1 year" and next_labels(years, 1) == [1010]


@settings(deadline=None)
@given(pattern=st.sampled_from(DATES), days=st.integers(-40_000, 60_000))
def test_what_a_format_writes_it_reads(pattern, days):
    form = TimeFormat(pattern)
    text = form.write(days * 86400)
    again = form.read(text)
    assert again is not None and form.write(again.local) == text


@settings(deadline=None)
@given(
    unit=st.sampled_from([SECOND, DAY_UNIT, MONTH]), day=st.integers(1, 31), second=st.integers(0, 86399),
    week=st.sampled_from([EVERY_DAY, BUSINESS_DAYS, "1111110", "0000010"]), time=st.integers(-100_000, 100_000),
)  # fmt: skip
def test_a_clock_counts_what_it_tells(unit, day, second, week, time):
    clock = Clock(unit, 1, day, second, week if unit == DAY_UNIT or day in (1, 31) else EVERY_DAY)
    times = np.array([time, time + 1, time + 2])
    local = clock.local(times)
    counted = clock.count(Moments(local))
    assert counted is not None and np.array_equal(counted, times) and np.all(np.diff(local) > 0)


# Rows in any order, and times that come twice


def test_series_of_a_long_table_are_put_in_order_each(tmp_path):
    dates = days("2020-01-01", 20)
    rows = [(d, name, k + 100 * (name == "b")) for k, d in enumerate(dates) for name in "ab"][::-1]
    stamps, names, values = zip(*rows, strict=True)
    table = table_of(write(tmp_path / "x.csv", date=stamps, shop=names, y=values), series_column="shop")
    assert {s.name: s.values.tolist() for s in table.series} == {
        "a": list(range(20)), "b": list(range(100, 120)),
    }  # fmt: skip
    assert table.notes == ("rows are newest first and were reversed",)


def test_extra_columns_move_with_their_rows(tmp_path):
    path = write(tmp_path / "x.csv", date=days("2020-01-01", 9)[::-1], y=range(9), wind=range(9))
    (series,) = table_of(path, target_column=["y"], extra_column=["wind"]).series
    assert series.extras[:, 0].tolist() == series.values.tolist() == list(range(8, -1, -1))


HALF_HOURS = [f"2020-10-25 {h:02}:{m}" for h in (0, 1, 2, 2, 3, 4) for m in ("00", "30")]
TWICE = {
    "several series": (
        {"date": ["2020-01-01", "2020-01-01", "2020-01-02", "2020-01-02"], "y": range(4), "shop": list("abab")},
        "series_column=NAME says which of several series a row belongs to ('shop'?); otherwise remove one of the rows.",
    ),
    "a date and a time": (
        {"date": ["2020-01-01"] * 2, "time": ["10:00", "11:00"], "y": range(2)},
        "time_column=date time_column=time combines several columns into one time.",
    ),
    "a date and an hour": (
        {"date": ["2020-01-01"] * 2, "hour": [1, 2], "y": range(2)},
        "time_column=date time_column=hour combines several columns into one time.",
    ),
    "a year and a month": (
        {"year": [2020, 2020], "month": [1, 1], "y": range(2)},
        "time_column=year time_column=month combines several columns into one time.",
    ),
    "clocks set back": (
        {"date": HALF_HOURS, "y": range(12)},
        "where the clock was set back, times need their UTC offset: 2020-10-25 02:00+01:00.",
    ),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_time_that_comes_twice_gets_a_fitting_hint(tmp_path, name):
    columns, hint = TWICE[name]
    with pytest.raises(TextgenError, match="a second time") as caught:
        table_of(write(tmp_path / "x.csv", **columns), target_column=["y"])
    assert caught.value.hint == hint


def test_a_time_twice_in_one_of_many_series(tmp_path):
    path = write(tmp_path / "x.csv", date=["2020-01-01", "2020-01-01", "2020-01-01"], shop=list("aba"), y=range(3))
    with pytest.raises(TextgenError, match=r"row 3 of .*a second time; the first is in row 1 of") as caught:
        table_of(path, series_column="shop")
    assert caught.value.hint == "remove one of the rows, or add them up."


def test_columns_that_a_time_is_spread_over_are_named(tmp_path):
    path = write(tmp_path / "x.csv", date=["2020-01-01"] * 2, time=["10:00", "11:00"], y=range(2))
    with pytest.raises(UsageError, match="more than one column") as caught:
        table_of(path)
    assert "If a time has several columns: time_column=date time_column=time." in caught.value.hint


SPREAD = {
    "year and month": ({"year": [2019, 2019, 2020], "month": [11, 12, 1]}, "1 month", "2020-02"),
    "month before year": ({"month": [11, 12, 1], "year": [2019, 2019, 2020]}, "1 month", "2020-02"),
    "month names": ({"Year": [2019, 2019, 2020], "Month": ["Nov", "Dec", "Jan"]}, "1 month", "2020-Feb"),
    "quarters": ({"year": [2019, 2019, 2020], "quarter": ["Q3", "Q4", "Q1"]}, "1 quarter", "2020Q2"),
    "weeks": ({"year": [2020, 2020, 2021], "week": [52, 53, 1]}, "1 week", "2021-W02"),
    "days": ({"year": [2020] * 3, "month": [2] * 3, "day": [27, 28, 29]}, "1 day", "2020-03-01"),
    "hours": ({"year": [2020] * 3, "month": [2] * 3, "day": [28, 28, 28], "hour": [21, 22, 23]}, "1 hour",
              "2020-02-29 00:00"),
    "date and time": ({"date": ["31.1.2020"] * 3, "time": ["23:30", "23:40", "23:50"]}, "10 minutes", "1.2.2020 00:00"),
    "date and hour": ({"date": ["31.12.2020"] * 3, "hour": [21, 22, 23]}, "1 hour", "01.01.2021 00"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPREAD)
def test_a_time_may_be_spread_over_columns(tmp_path, name):
    columns, step, label = SPREAD[name]
    table = table_of(write(tmp_path / "x.csv", **columns, y=range(3)), time_column=list(columns))
    assert table.clock.described() == step and next_labels(table, 1) == [label]


def test_offsets_in_some_rows_only_are_refused(tmp_path):
    path = write(tmp_path / "x.csv", date=["2020-01-01 00:00+01:00", "2020-01-01 01:00"], y=range(2))
    with pytest.raises(TextgenError, match=r"row 2 of .*'2020-01-01 01:00' with no UTC offset, but the rows before it"):
        table_of(path)


# Tables that come with types


def parquet(path, stamps):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"date": stamps, "y": list(range(len(stamps)))}), path)
    return path


def arrow_times(seconds, unit="s", zone=None):
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.array(seconds, type=pyarrow.timestamp(unit, tz=zone))


def test_a_time_zone_is_kept(tmp_path):
    summer, hour = 1_603_490_400, 3600  # 2020-10-24 in Berlin
    hourly = table_of(
        parquet(tmp_path / "h.parquet", arrow_times(range(summer, summer + 40 * hour, hour), zone="Europe/Berlin"))
    )
    assert hourly.clock.described() == "1 hour" and next_labels(hourly, 1) == ["2020-10-25 15:00:00+01:00"]
    midnights = [summer + 24 * hour * k + (k > 1) * hour for k in range(5)]
    daily = table_of(parquet(tmp_path / "d.parquet", arrow_times(midnights, zone="Europe/Berlin")))
    assert daily.clock.described() == "1 day" and next_labels(daily, 1) == ["2020-10-29 00:00:00+01:00"]
    fixed = table_of(parquet(tmp_path / "f.parquet", arrow_times([0, 86400], zone="-03:30")))
    assert next_labels(fixed, 1) == ["1970-01-02 20:30:00-03:30"]


def test_an_unknown_time_zone_is_named(tmp_path):
    path = parquet(tmp_path / "x.parquet", arrow_times([0, 86400], zone="Mars/Olympus"))
    with pytest.raises(TextgenError, match=r"column 'date' of .*x.parquet' has the time zone 'Mars/Olympus', which"):
        table_of(path)


def test_dates_that_python_cannot_hold_are_named(tmp_path):
    path = parquet(tmp_path / "x.parquet", arrow_times([253_402_300_800, 253_402_387_200]))
    with pytest.raises(
        TextgenError, match=r"row 1 of .*x.parquet': column 'date' holds a timestamp.* that cannot be read"
    ):
        table_of(path)


def test_nanoseconds_are_seconds(tmp_path):
    path = parquet(tmp_path / "x.parquet", arrow_times([86_400_000_000_001 * k for k in range(4)], unit="ns"))
    assert next_labels(table_of(path), 1) == ["1970-01-05"]


# A model goes on as it was trained


def trained(path, place, **options):
    given = {"task": "forecast", "cell": "gru", "max_steps": 1, "hidden_size": 4, "threads": 1, "seed": 1, **options}
    return textgen.load(textgen.train(path, output_dir=str(place / "run"), **given))


def test_a_table_is_read_in_the_format_of_training(tmp_path):
    forecaster = trained(CASES / "slash.csv", tmp_path, horizon=2)
    assert forecaster.predict(CASES / "slash_one.csv")[0].times == ["04/06/2024", "05/06/2024"]
    other = write(tmp_path / "iso.csv", date=days("2024-06-01", 3), y=[1, 2, 3])
    assert forecaster.predict(other)[0].times == ["2024-06-04", "2024-06-05"]


def test_a_format_that_was_asked_for_stays_with_the_model(tmp_path):
    forecaster = trained(CASES / "month_dmy_10.csv", tmp_path, date_format="%m/%d/%Y")
    assert forecaster.predict(CASES / "month_dmy_10.csv")[0].times == ["01/12/2012"]
    assert forecaster.predict(write(tmp_path / "x.csv", date=["2/3/2012"], y=[1]))[0].times == ["2/4/2012"]


def test_forecasts_have_the_offset_of_the_table_at_hand(tmp_path):
    forecaster = trained(CASES / "tz_daily.csv", tmp_path)
    (found,) = forecaster.predict(CASES / "tz_daily.csv")
    assert found.times == ["2022-12-29T00:00:00+01:00"] and found.history_times[0] == "2022-08-01T00:00:00+02:00"
    later = write(tmp_path / "later.csv", date=["2023-06-01T00:00:00+02:00", "2023-06-02T00:00:00+02:00"], y=[20, 21])
    assert forecaster.predict(later)[0].times == ["2023-06-03T00:00:00+02:00"]


def test_times_without_an_offset_are_local_ones_where_training_had_one(tmp_path):
    stamps = [each.isoformat(" ") for each in local_hours("Europe/Berlin", "2020-07-01", 400)]
    forecaster = trained(write(tmp_path / "x.csv", date=stamps[:300], y=wave(300, 24)), tmp_path)
    newer = write(tmp_path / "y.csv", date=[stamp[:19] for stamp in stamps[200:]], y=wave(200, 24))
    assert forecaster.evaluate(newer, number=0).windows == 100
    assert forecaster.predict(newer, number=0)[0].times == ["2020-07-17 16:00:00"]


def test_a_few_rows_fit_the_clock_of_training(tmp_path):
    """On their own, four weekdays would be days, and the end of February the 29th."""
    business = trained(CASES / "business.csv", tmp_path / "b", horizon=2)
    few = write(tmp_path / "few.csv", date=days("2021-01-05", 4), y=range(4))
    assert business.predict(few)[0].times == ["2021-01-11", "2021-01-12"]
    month_end = trained(CASES / "month_end.csv", tmp_path / "m")
    one = write(tmp_path / "one.csv", date=["2020-02-29"], y=[1])
    assert month_end.predict(one)[0].times == ["2020-03-31"]


def test_evaluate_counts_business_days_as_training_did(tmp_path):
    stamps, values = weekdays("2020-01-01", 300), wave(300, 5)
    forecaster = trained(write(tmp_path / "x.csv", date=stamps[:250], y=values[:250]), tmp_path)
    newer = write(tmp_path / "y.csv", date=stamps[200:], y=values[200:])
    assert forecaster.evaluate(newer, number=0).windows == 50


def test_the_calendar_is_that_of_the_clock_on_the_wall(tmp_path):
    """The hours of the day are the same inputs before and after the clock changes."""
    stamps = [each.isoformat() for each in local_hours("Europe/Berlin", "2020-09-01", 24 * 90)]
    data = prepared(write(tmp_path / "x.csv", date=stamps, y=wave(24 * 90, 24)), tmp_path)
    hours = np.array([int(stamp[11:13]) for stamp in stamps])
    inputs = data.rows[0].inputs[:-1, -data.design.calendar.width :][:, :2]
    for hour in range(24):
        assert np.ptp(inputs[hours[1:] == hour], axis=0).max() < 1e-4


def test_business_days_know_their_weekday(tmp_path):
    data = prepared(write(tmp_path / "x.csv", date=weekdays("2018-01-01", 800), y=wave(800, 5)), tmp_path)
    width = data.design.calendar.width
    assert data.design.season == 5 and width == 6
    week = data.rows[0].inputs[:, -width:][:, :4]
    assert np.allclose(week[:5], week[5:10], atol=1e-4) and not np.allclose(week[0], week[1], atol=1e-2)


@settings(max_examples=300, deadline=None)
@given(
    cells=st.lists(st.text("0123456789-/.: TZQWapmJn+,", max_size=20), min_size=1, max_size=4),
    date_format=st.none() | st.text("%YmdHbqzGV-^: .TZ", max_size=12),
)
@example(cells=["999999-12-31", "999999-12-30"], date_format=None)
@example(cells=["0000-01-01"], date_format=None)
@example(cells=["999999999999999"], date_format=None)
@example(cells=["2020-01-01 00:00+99:99", "2020-01-02 00:00+99:99"], date_format=None)
def test_any_cells_are_times_or_refused_in_a_sentence(cells, date_format):
    """What is read can be written, and counted again."""
    times = TimeCells(cells, [f"row {k}" for k in range(len(cells))], [np.arange(len(cells))], "when")
    try:
        found = parse_times(times, date_format)
    except TextgenError:
        return
    ahead = found.stamps.max() + found.clock.step * np.arange(1, 4)
    labels = found.clock.labels(np.concatenate([found.stamps, ahead]))
    assert len(labels) == len(cells) + 3
    assert Clock.from_json(asdict(found.clock)) == found.clock
