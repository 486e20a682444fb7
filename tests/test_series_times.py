"""Calendar time: a table that is regular in some format is read in that format, in any order of rows, and a forecast
is labelled as the table would go on."""

import calendar
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_series import prepared, wave, write
from test_series_reading import table_of

import textgen
from textgen.errors import TextgenError, UsageError
from textgen.series.formats import DATES, TimeFormat
from textgen.series.settings import SeriesOptions
from textgen.series.times import BUSINESS_DAYS, DAY_UNIT, EVERY_DAY, MONTH, ROW, SECOND, Clock, Moments

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
    "ISO weeks": ([f"2020-W{k:02}" for k in range(40, 54)], "1 week", "2021-W01"),
    "business days": (weekdays("2020-01-01", 8), "1 business day", "2020-01-13"),
    "business days, holidays left out": (
        without(weekdays("2019-12-02", 34), "2019-12-25", "2019-12-26", "2020-01-01"), "1 business day", "2020-01-17"
    ),
    "closed on Sundays": (weekdays("2020-01-01", 40, range(6)), "1 day (Mon, Tue, Wed, Thu, Fri, Sat)", "2020-02-17"),
    "Sunday to Thursday": (weekdays("2020-01-01", 40, (6, 0, 1, 2, 3)), "1 day (Mon, Tue, Wed, Thu, Sun)", "2020-02-26"),
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
    if name != "midnight without a time":
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
    "1 week": by_seconds(7 * 86400), "1 business day": lambda start, k: np.busday_offset("2001-01-01", start + k).item(),
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


@settings(max_examples=150, deadline=None)
@given(
    grid=st.sampled_from(sorted(GRIDS)), form=st.sampled_from(FORMS), start=st.integers(0, 3000),
    length=st.integers(14, 60), order=st.sampled_from(["rising", "falling", "shuffled"]), seed=st.integers(0, 99),
)  # fmt: skip
@example(grid="1 month", form="%m/%d/%Y", start=0, length=14, order="shuffled", seed=1)
def test_a_regular_series_is_the_same_in_any_format_and_order(tmp_path_factory, grid, form, start, length, order, seed):
    """Fourteen rows or more: in so many, a day cannot be taken for a month."""
    texts, seconds = stamps_of(grid, form, start, length)
    rows = {"rising": np.arange(length), "falling": np.arange(length)[::-1],
            "shuffled": np.random.default_rng(seed).permutation(length)}[order]  # fmt: skip
    path = tmp_path_factory.mktemp("any") / "x.csv"
    path.write_text("date,y\n" + "".join(f"{texts[k]},{k}\n" for k in rows))
    table = table_of(path)
    (series,) = table.series
    times = series.start + table.clock.step * np.arange(length)
    assert table.clock.described() == grid.partition(",")[0]
    assert np.array_equal(table.clock.local(times), seconds)
    assert list(map(str, table.clock.labels(times))) == texts
    assert series.values.tolist() == list(range(length)) and not series.missing.any()


def test_of_two_regular_readings_the_day_is_first_and_the_plan_names_the_other(tmp_path):
    path = CASES / "month_dmy_10.csv"
    data = prepared(path, tmp_path)
    assert "time as day/month/year (01/01/2012 to 01/11/2012)" in data.described()
    assert data.described()[-1] == "month/day/year fits, too: --date-format %m/%d/%Y"
    other = prepared(path, tmp_path, date_format="%m/%d/%Y")
    assert "a step is 1 day" in other.described() and not other.notes


@pytest.mark.parametrize(
    ("form", "label"),
    [
        ("%Y-%m-%d", "2020-02-01"), ("%d/%m/%Y", "01/02/2020"), ("%-d/%-m/%Y", "1/2/2020"), ("%b %-d, %Y", "Feb 1, 2020"),
        ("%^B %Y", "FEBRUARY 2020"), ("%G-W%V", "2020-W05"), ("%Y-%j", "2020-032"), ("%y%m%d", "200201"),
        ("%I:%M %p", "01:30 PM"), ("%-I.%M %P", "1.30 pm"), ("%H:%M:%S.%3f", "13:30:00.000"), ("%z", "-0330"),
        ("%:z", "-03:30"), ("%A %a", "Saturday Sat"), ("100%%", "100%"), ("%-z", "-0330"),
    ],
)  # fmt: skip
def test_a_format_writes(form, label):
    moment = (date(2020, 2, 1).toordinal() - date(1970, 1, 1).toordinal()) * 86400 + 13 * 3600 + 1800
    assert TimeFormat(form).write(moment, -(3 * 3600 + 1800)) == label


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
