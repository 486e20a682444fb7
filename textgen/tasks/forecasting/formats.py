"""Time formats: patterns in strptime notation, which read and write times the same way on every platform.

Beyond strptime, a pattern may contain `%-d` (no leading zero; also `%-m`, `%-H`, `%-I`, `%-Y`), `%q` (the quarter),
`%^b` (capitals), `%P` (am, pm), `%3f` (milliseconds), `%:z` (+02:00) and `%-z` (+02).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import NamedTuple

from textgen.errors import UsageError
from textgen.options import named

DAY = 86_400
CYCLE, CYCLE_DAYS = 400, 146_097  # the years after which the calendar repeats, and their days
EPOCH = date(1970, 1, 1).toordinal()
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_TOKEN = re.compile(r"%([-^:]?\d?[A-Za-z])|(%%)|([^%]+)")
_ZONE = r"Z|UTC|[+-][01]\d(?::?[0-5]\d)?"
_HALF = r"[AaPp][Mm]"
_TAIL = re.compile(
    r"(?P<tail>(?P<gap>T|,? +)(?P<hour>\d{1,2})"
    r"(?::(?P<minute>\d\d)(?::(?P<second>\d\d)(?P<point>[.,])?(?(point)(?P<fraction>\d{1,9})))?)?"
    rf"(?:(?P<before_half> ?)(?P<half>{_HALF}))?(?:(?P<before_zone> ?)(?P<zone>{_ZONE}))?)?"
)
"""A time of day after a date, with or without a UTC offset."""

_TAIL_PATTERN = re.compile(r"(?:(?:T|,? +)%-?[HI](?::%M(?::%S(?:[.,]%\d?f)?)?)?(?: ?%[pP])? ?(?:%[:-]?z|Z|UTC)?)?$")
_SHORT = {"%F": "%Y-%m-%d", "%T": "%H:%M:%S", "%R": "%H:%M", "%D": "%m/%d/%y", "%h": "%b", "%e": "%-d"}
_WIDTHS = {"Y": 4, "G": 4, "j": 3, "q": 1, "u": 1, "y": 2, "V": 2, "m": 2, "d": 2, "H": 2, "I": 2, "M": 2, "S": 2}
"""The digits of numeric directives."""


def _names(names: Sequence[str]) -> str:
    return "|".join(f"(?i:{name})" for name in names)


_READ = {
    "Y": ("year", r"\d{4,6}"), "-Y": ("year", r"\d{1,4}"), "y": ("short_year", r"\d\d"), "G": ("iso_year", r"\d{4}"),
    "m": ("month", r"\d{1,2}"), "b": ("month_name", _names([name[:3] for name in MONTHS])),
    "B": ("month_name", _names(MONTHS)), "q": ("quarter", "[1-4]"), "V": ("week", r"\d{1,2}"),
    "d": ("day", r"\d{1,2}"), "u": ("weekday", "[1-7]"), "j": ("day_of_year", r"\d{3}"),
    "a": ("weekday_name", _names([name[:3] for name in WEEKDAYS])), "A": ("weekday_name", _names(WEEKDAYS)),
    "H": ("hour", r"\d{1,2}"), "I": ("hour", r"\d{1,2}"), "M": ("minute", r"\d{1,2}"), "S": ("second", r"\d{1,2}"),
    "f": ("fraction", r"\d{1,9}"), "p": ("half", _HALF), "P": ("half", _HALF), "z": ("zone", _ZONE),
}  # fmt: skip
"""The field that each directive reads, and its pattern."""

_WORDS = {
    "Y": "year", "y": "year", "G": "year", "m": "month", "b": "month", "B": "month", "q": "quarter", "V": "week",
    "d": "day", "j": "day of the year", "u": "weekday", "a": "weekday", "A": "weekday", "H": "hour", "I": "hour",
    "M": "minute", "S": "second", "f": "fraction", "p": "AM/PM", "P": "am/pm", "z": "UTC offset",
}  # fmt: skip


class Moment(NamedTuple):
    """A time: seconds since 1970 in local time, and the seconds by which that is ahead of UTC, None if unknown."""

    local: int
    offset: int | None


def days_of(year: int, month: int, day: int) -> int:
    """Days since 1970. Raises ValueError for a date that does not exist."""
    cycles = max(0, (year - 9600) // CYCLE)
    return date(year - CYCLE * cycles, month, day).toordinal() + CYCLE_DAYS * cycles - EPOCH


def date_of(days: int) -> tuple[int, date]:
    """The year of a day since 1970, which may be after 9999, and the same day in an equivalent year up to 9999."""
    cycles = max(0, (days - days_of(9600, 1, 1)) // CYCLE_DAYS)
    found = date.fromordinal(days + EPOCH - CYCLE_DAYS * cycles)
    return found.year + CYCLE * cycles, found


@dataclass(frozen=True)
class TimeFormat:
    """The format of the times of a table, as a pattern.

    The time of day at the end of a pattern may be missing in a text, or have more digits: many programs omit 00:00.
    """

    pattern: str

    @classmethod
    def asked(cls, text: str) -> TimeFormat:
        """The format that a user asks for, in strptime notation or as YYYYMMDD. Raises UsageError if it is not a date
        format."""
        pattern = text if "%" in text else _spelled(text)
        for short, long in _SHORT.items():
            pattern = pattern.replace(short, long)
        found = cls(pattern)
        names = [_plain(name) for name in _directives(pattern)]
        unknown = next((name for name in names if name not in _READ), None)
        read = [_READ[name][0] for name in names if name in _READ]
        hint = "formats look like %d/%m/%Y, %Y-%m-%d %H:%M or %b %Y."
        if unknown is not None:
            raise UsageError(f"{named('date_format')} {text!r} has the unknown directive '%{unknown}'.", hint=hint)
        if len(set(read)) < len(read) or "%" in _TOKEN.sub("", pattern):
            raise UsageError(f"{named('date_format')} {text!r} is not a date format.", hint=hint)
        if not {"year", "short_year", "iso_year"} & set(read) or ("iso_year" in read) != ("week" in read):
            raise UsageError(f"{named('date_format')} {text!r} does not read a year.", hint=hint)
        return found

    def read(self, text: str) -> Moment | None:
        """The moment of a text, or None if this format does not read it."""
        found = _compiled(self.pattern).fullmatch(text)
        return None if found is None else _moment(found.groupdict(""))

    def write(self, local: int, offset: int | None = None) -> str:
        """The text of a moment."""
        days, second = divmod(local, DAY)
        template, names = _template(self.pattern)
        return template % _values(names, days, second, offset or 0)

    def as_in(self, texts: Sequence[str]) -> TimeFormat:
        """This format with the leading zeros, capitals and time of day of some texts, all of which it reads."""
        matches = map(_compiled(self.pattern).fullmatch, dict.fromkeys(texts))
        found = [match.groupdict("") for match in matches if match is not None]
        date_part, tail = _divided(self.pattern)
        lenient = _is_lenient(date_part)
        pattern = "".join(_adapted(name, other, found) for name, *other in _TOKEN.findall(date_part))
        if not lenient:
            return TimeFormat(pattern + tail)
        longest = max(found, key=lambda each: len(each["tail"]), default=None)
        return TimeFormat(pattern + (_tail_of(longest, found) if longest and longest["gap"] else tail))

    @property
    def words(self) -> str:
        """The format in words, 'day/month/year', or the pattern itself if nothing separates its numbers."""
        date_part, tail = _divided(self.pattern)
        if re.search(r"%-?[YmdHM]%", date_part):
            return self.pattern
        spaced = re.sub(r"^T", " ", re.sub(r" ?(%[:-]?z|Z|UTC)$", r" %z", tail))
        tokens = _TOKEN.findall(date_part + spaced)
        return "".join(_WORDS[_plain(name)] if name else literal for name, _, literal in tokens)

    @property
    def coarse(self) -> int:
        """The resolution of this format in months: 12, 3 or 1; 0 if it includes the day."""
        names = {_READ[_plain(name)][0] for name in _directives(self.pattern)}
        if names & {"day", "day_of_year", "week"}:
            return 0
        return 1 if names & {"month", "month_name"} else 3 if "quarter" in names else 12


def _directives(pattern: str) -> list[str]:
    return [name for name, _, _ in _TOKEN.findall(pattern) if name]


def _plain(name: str) -> str:
    """A directive without its flags: 'd' for '-d'."""
    return name.lstrip("-^:0123456789")


def _spelled(text: str) -> str:
    """The pattern of a format such as YYYYMMDD or dd.mm.yyyy HH:mm. An m after the hour is a minute."""
    if not re.fullmatch(r"(?:YYYY|yyyy|YY|yy|MM|mm|DD|dd|HH|hh|SS|ss|T|[^A-Za-z])+", text):
        return text
    pattern, hours = "", False
    for run in re.findall(r"([Yy]+|[Mm]+|[Dd]+|[Hh]+|[Ss]+|[^YyMmDdHhSs]+)", text):
        letter = run[0].lower()
        hours = hours or letter == "h"
        known = {"y": "%y" if len(run) == 2 else "%Y", "m": "%M" if hours else "%m", "d": "%d", "h": "%H", "s": "%S"}
        pattern += known.get(letter, run)
    return pattern


def _divided(pattern: str) -> tuple[str, str]:
    """The pattern of the date, and that of the time of day and the offset after it."""
    found = _TAIL_PATTERN.search(pattern)
    cut = found.start() if found else len(pattern)
    return pattern[:cut], pattern[cut:]


def _is_lenient(date_part: str) -> bool:
    """Whether any time of day may follow: after a day, unless the pattern has one elsewhere."""
    names = {_READ[_plain(name)][0] for name in _directives(date_part)}
    return bool(names & {"day", "day_of_year", "weekday"}) and not names & {"hour", "minute", "second", "zone"}


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    date_part, tail = _divided(pattern)
    if not _is_lenient(date_part):
        date_part, tail = pattern, ""
    else:
        tail = _TAIL.pattern
    tokens = _TOKEN.findall(date_part)
    parts = []
    for place, (name, _, literal) in enumerate(tokens):
        if not name:
            parts.append(re.escape(literal or "%"))
            continue
        key, read = _READ[name if name == "-Y" else _plain(name)]
        beside = tokens[max(0, place - 1) : place] + tokens[place + 1 : place + 2]
        if any(each[0] and _is_number(each[0]) for each in beside) and _is_number(name):
            read = {r"\d{1,2}": r"\d\d", r"\d{4,6}": r"\d{4}"}.get(read, read)
        parts.append(f"(?P<{key}>{read})")
    return re.compile("".join(parts) + tail)


def _is_number(name: str) -> bool:
    return _READ[_plain(name)][1].startswith((r"\d", "["))


def _moment(found: dict[str, str]) -> Moment | None:
    try:
        days = _days(found)
    except ValueError:
        return None
    hour, minute, second = int(found.get("hour") or 0), int(found.get("minute") or 0), int(found.get("second") or 0)
    half = found.get("half", "").lower()
    if half:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half.startswith("p") else 0)
    if hour * 3600 + minute * 60 + second > DAY or minute > 59 or second > 59:  # 24:00 is the end of a day
        return None
    nearest = int((found.get("fraction") or "0")[0] >= "5")
    zone = found.get("zone", "")
    return Moment(days * DAY + hour * 3600 + minute * 60 + second + nearest, offset_of(zone) if zone else None)


def _days(found: dict[str, str]) -> int:
    """Days since 1970 of the fields found. Raises ValueError for a date that does not exist."""
    if "iso_year" in found:
        week, weekday = int(found["week"]), int(found.get("weekday", 1))
        return date.fromisocalendar(int(found["iso_year"]), week, weekday).toordinal() - EPOCH
    if "short_year" in found:
        short = int(found["short_year"])
        year = short + (1900 if short >= 69 else 2000)
    else:
        year = int(found["year"])
    if "day_of_year" in found:
        days = days_of(year, 1, 1) + int(found["day_of_year"]) - 1
        if not days_of(year, 1, 1) <= days < days_of(year + 1, 1, 1):
            raise ValueError("there is no such day")
        return days
    month = int(found.get("month", 1))
    if "month_name" in found:
        month = 1 + [name[:3].lower() for name in MONTHS].index(found["month_name"][:3].lower())
    if "quarter" in found:
        month = 3 * int(found["quarter"]) - 2
    return days_of(year, month, int(found.get("day", 1)))


def offset_of(zone: str) -> int:
    """The seconds of an offset: +02:00, +0200, +02, Z or UTC."""
    if zone in ("Z", "UTC"):
        return 0
    digits = zone[1:].replace(":", "")
    seconds = int(digits[:2]) * 3600 + int(digits[2:] or 0) * 60
    return -seconds if zone.startswith("-") else seconds


@cache
def _template(pattern: str) -> tuple[str, frozenset[str]]:
    """A pattern as a template for `%`, and the names in it."""
    parts, names = [], set()
    for name, _, literal in _TOKEN.findall(pattern):
        if not name:
            parts.append(literal or "%%")
            continue
        key, width = name, ""
        if name[-1] in _WIDTHS:
            key, width = name[-1], "d" if name.startswith("-") else f"0{_WIDTHS[name[-1]]}d"
        names.add(key)
        parts.append(f"%({key}){width or 's'}")
    return "".join(parts), frozenset(names)


def _values(names: frozenset[str], days: int, second: int, offset: int) -> dict[str, int | str]:
    """The value of each name in a template."""
    year, like = date_of(days)
    hour = second // 3600
    values: dict[str, int | str] = {
        "Y": year, "y": year % 100, "m": like.month, "d": like.day, "q": (like.month + 2) // 3, "H": hour,
        "I": (hour + 11) % 12 + 1, "M": second // 60 % 60, "S": second % 60, "p": "AM" if hour < 12 else "PM",
        "P": "am" if hour < 12 else "pm",
    }  # fmt: skip
    if names & {"G", "V", "u", "j"}:
        iso = like.isocalendar()
        values |= {"G": iso.year + year - like.year, "V": iso.week, "u": iso.weekday, "j": like.timetuple().tm_yday}
    for name in names - values.keys():
        values[name] = _zone_text(name, offset) if name[-1] == "z" else _word(name, like)
    return values


def _word(name: str, like: date) -> str:
    """The name of a month or weekday, or the zeros of a fraction of a second."""
    if name[-1] == "f":
        return "0" * int(name[:-1] or 6)
    word = MONTHS[like.month - 1] if name[-1] in "bB" else WEEKDAYS[like.weekday()]
    word = word[:3] if name[-1] in "ba" else word
    return word.upper() if name.startswith("^") else word


def _zone_text(name: str, offset: int) -> str:
    hours, minutes = divmod(abs(offset) // 60, 60)
    start = f"{'-' if offset < 0 else '+'}{hours:02}"
    if name == "-z" and not minutes:
        return start
    return f"{start}{':' if name == ':z' else ''}{minutes:02}"


def _adapted(name: str, other: Sequence[str], found: Sequence[dict[str, str]]) -> str:
    """A token of a pattern, without leading zeros or in capitals if the texts that it read are so."""
    if not name:
        return "".join(other)
    read = [each[_READ[_plain(name)][0]] for each in found]
    if name[-1] in "mdHI":
        if any(len(text) == 1 for text in read):
            return f"%-{name[-1]}"
        beside = [each.get(key, "") for each in found for key in ("day", "month")]
        bare = name.startswith("-") or any(len(text) == 1 for text in beside)
        return f"%-{name[-1]}" if bare and not any(text.startswith("0") for text in read) else f"%{name[-1]}"
    if name[-1] in "bB" and read and all(text.isupper() for text in read):
        return f"%^{name[-1]}"
    return f"%{name}"


def _tail_of(longest: dict[str, str], found: Sequence[dict[str, str]]) -> str:
    """The pattern of the time of day and the offset of a text; all texts decide about leading zeros of hours."""
    hours = [each["hour"] for each in found if each["hour"]]
    hour = "I" if longest["half"] else "H"
    pattern = longest["gap"] + (f"%-{hour}" if any(len(text) == 1 for text in hours) else f"%{hour}")
    pattern += (":%M" if longest["minute"] else "") + (":%S" if longest["second"] else "")
    if longest["fraction"]:
        pattern += f"{longest['point']}%{len(longest['fraction'])}f"
    if longest["half"]:
        pattern += longest["before_half"] + ("%P" if longest["half"].islower() else "%p")
    zones = [each["zone"] for each in found if each["zone"]]
    if not zones:
        return pattern
    written = next((zone for zone in zones if zone not in ("Z", "UTC")), zones[0])
    names = {1: written, 3: "%-z" if written != "UTC" else written, 5: "%z", 6: "%:z"}
    return pattern + longest["before_zone"] + names[len(written)]


DATES = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%d-%m-%Y", "%m/%d/%Y", "%m-%d-%Y", "%d.%m.%y",
    "%d/%m/%y", "%d-%m-%y", "%m/%d/%y", "%m-%d-%y", "%y/%m/%d", "%y-%m-%d", "%d %b %Y", "%d-%b-%Y", "%d/%b/%Y",
    "%d %B %Y", "%d-%B-%Y", "%d. %b %Y", "%d. %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y", "%d %b %y",
    "%d-%b-%y", "%Y-%b-%d", "%Y %b %d", "%Y-%m", "%Y/%m", "%Y.%m", "%m/%Y", "%m-%Y", "%m.%Y", "%b %Y", "%b-%Y",
    "%B %Y", "%B-%Y", "%Y-%b", "%Y %b", "%Y-%B", "%Y %B", "%b-%y", "%b %y", "%YM%m", "%-Y-%m", "%-Y/%m", "%YQ%q",
    "%Y-Q%q", "%Y Q%q", "Q%q %Y", "Q%q-%Y", "Q%q/%Y", "%Yq%q", "%G-W%V", "%GW%V", "%G-W%V-%u", "%Y-%j",
    "%Y%m%dT%H%M%SZ", "%Y%m%dT%H%M%S", "%Y%m%dT%H%M", "%Y%m%d %H%M%S", "%Y%m%d", "%Y%m", "%Y", "%Y%m%d%H",
    "%Y%m%d%H%M", "%Y%m%d%H%M%S",
)  # fmt: skip
"""Known date formats by priority: of two that suit a table equally, the earlier one is used, so that the day comes
before the month. With dots the day always comes first."""
