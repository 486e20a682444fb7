"""Times as whole numbers: how what a table says is read, and the step from one row to the next.

Times are counted in seconds since 1970, in months since the year 0, or in rows where there is no time. A series is a
regular grid of such numbers, so that a gap is a number of steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
import numpy.typing as npt

from textgen.errors import TextgenError

SECOND, MONTH, ROW = "second", "month", "row"
HOUR, DAY, WEEK = 3600, 86_400, 604_800
PARTS = ("year", "month", "day", "hour", "minute", "second")
_EPOCH = datetime(1970, 1, 1)

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Clock:
    """How a series is timed: the unit it counts in, and how many of them make a step."""

    unit: str
    step: int

    def season(self) -> int:
        """Steps after which a series of this step usually resembles itself; 1 where nothing is known.

        A day for what is measured more often than daily, a week of days, a year of weeks, months or quarters.
        """
        if self.unit == MONTH:
            return 12 // self.step if 12 % self.step == 0 else 1
        if self.unit == ROW or self.step > 8 * DAY:
            return 1
        period = DAY if self.step < DAY else WEEK if self.step < WEEK else 364 * DAY
        return max(1, round(period / self.step)) if period % self.step == 0 else 1

    def label(self, time: int) -> str | int:
        """A time as it is written in a forecast: a date, a date with its hour, or the number of a row."""
        if self.unit == ROW:
            return int(time)
        if self.unit == MONTH:
            return f"{time // 12:04}-{time % 12 + 1:02}"
        moment = np.datetime64(int(time), "s").astype(datetime)
        return f"{moment:%Y-%m-%d}" if self.step % DAY == 0 and not time % DAY else moment.isoformat(sep=" ")

    def described(self) -> str:
        """A step in words: '1 hour'."""
        if self.unit == SECOND:
            for size, noun in ((WEEK, "week"), (DAY, "day"), (HOUR, "hour"), (60, "minute"), (1, "second")):
                if self.step % size == 0:
                    return _plural(self.step // size, noun)
        if self.unit == MONTH and self.step % 12 == 0:
            return _plural(self.step // 12, "year")
        return _plural(self.step, self.unit)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _pattern(pattern: str, order: str) -> Callable[[str], datetime | None]:
    """A reader of dates of one form; `order` names the groups: y, m, d; a time of day may follow."""
    whole = re.compile(pattern + r"(?:[ T]+(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?)?")

    def read(text: str) -> datetime | None:
        found = whole.fullmatch(text)
        if found is None:
            return None
        groups = found.groups()
        parts = {key: int(value) for key, value in zip(order, groups, strict=False)}
        hour, minute, second = (int(value or 0) for value in groups[len(order) :])
        try:
            return datetime(parts["y"], parts["m"], parts.get("d", 1), hour, minute, second)
        except ValueError:
            return None

    return read


def _iso(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _quarter(text: str) -> datetime | None:
    found = re.fullmatch(r"(\d{4})[- ]?[Qq]([1-4])", text)
    return datetime(int(found[1]), 3 * int(found[2]) - 2, 1) if found and int(found[1]) else None


_YEAR_MONTH = _pattern(r"(\d{1,4})[-/.](\d{1,2})", "ym")
_NUMBER = re.compile(r"-?\d{1,15}")
_YEAR = re.compile(r"[12]\d{3}")
FORMS: tuple[Callable[[str], datetime | None], ...] = (
    _iso,
    _YEAR_MONTH,
    _pattern(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})", "ymd"),
    _pattern(r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})", "mdy"),
    _pattern(r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})", "dmy"),
    _quarter,
)
"""The forms of dates, each tried on a whole column: 2016-07-01 14:00, 1949-01 (and 1-01, the first year's), 2016/7/1,
7/1/2016, 1.7.2016, 2016Q3."""


def moments(values: Sequence[object], where: Sequence[str], column: str) -> list[datetime] | Integers:
    """Every value of a column as a moment, or as a number where the column counts.

    A form is right if it reads the whole column; of two (a day or a month first?), the one whose times rise in fewer
    different steps. Raises TextgenError naming the row of a value that is no time.
    """
    if values and all(isinstance(value, date) for value in values):
        return [_plain(value) for value in values if isinstance(value, date)]
    texts = [str(value).strip() if value is not None else "" for value in values]
    if all(_NUMBER.fullmatch(text) for text in texts) and not all(len(text) == 8 for text in texts):
        numbers = np.array([int(text) for text in texts], dtype=np.int64)
        years = all(_YEAR.fullmatch(text) for text in texts)
        return [datetime(int(number), 1, 1) for number in numbers] if years else numbers
    readings = [_read_all(form, texts) for form in FORMS]
    whole = [read for read in readings if len(read) == len(texts)]
    if not whole:
        wrong = max(len(read) for read in readings)
        shown = f"the time {texts[wrong]!r}" if texts[wrong] else "an empty cell"
        raise TextgenError(
            f"{where[wrong]}: column {column!r} has {shown}, which is no date that can be read.",
            hint="dates look like 2016-07-01, 2016-07-01 14:00, 2016-07, 1.7.2016 or 7/1/2016, the same in every row.",
        )
    return min(whole, key=_disorder)


def _read_all(form: Callable[[str], datetime | None], texts: Sequence[str]) -> list[datetime]:
    """What a form reads, until the first text that it cannot."""
    read = []
    for text in texts:
        moment = form(text)
        if moment is None:
            break
        read.append(moment)
    return read


def _plain(value: date) -> datetime:
    if not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day)
    return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value


def _disorder(times: Sequence[datetime]) -> tuple[int, int]:
    steps = np.diff(np.array(times, dtype="datetime64[s]").astype(np.int64))
    return int((steps < 0).sum()), len(np.unique(steps))


def counted(times: list[datetime] | Integers) -> tuple[str, Integers]:
    """The unit that suits these times, and the times in it: months where every one begins a month."""
    if isinstance(times, np.ndarray):
        return ROW, times
    monthly = all(t.day == 1 and not (t.hour or t.minute or t.second) for t in times)
    apart = {(t.year, t.month) for t in times}
    if monthly and len(apart) > 1:
        return MONTH, np.array([t.year * 12 + t.month - 1 for t in times], dtype=np.int64)
    return SECOND, np.array([round((t - _EPOCH).total_seconds()) for t in times], dtype=np.int64)


def joined(names: Sequence[str], cells: Sequence[object]) -> object:
    """The cells of several time columns as one value: by their names year, month, day ..., else a date and a time."""
    lower = [name.strip().lower() for name in names]
    if len(names) == 1:
        return cells[0]
    if "year" not in lower or not set(lower) <= set(PARTS):
        return " ".join(str(cell) for cell in cells)
    found = {name: str(cell).strip().removesuffix(".0") for name, cell in zip(lower, cells, strict=True)}
    day = f"{found['year']}-{found.get('month', '1'):0>2}-{found.get('day', '1'):0>2}"
    return f"{day} {found.get('hour', '0'):0>2}:{found.get('minute', '0'):0>2}:{found.get('second', '0'):0>2}"
