"""Numbers in tables: one strict grammar, with a decimal point or a decimal comma.

`1,234` is 1234 in one country and 1.234 in another. An option or the other cells of the table decide.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from textgen.errors import TextgenError, UsageError
from textgen.parameters import named

MISSING = ("", "na", "nan", "n/a", "null", "none", "?", "-")
LARGEST = 1e100
"""The largest magnitude of a number in a series; sums of squares of larger ones would overflow."""

POINT, COMMA = ".", ","
_PLAIN = r"[+-]?(?:[0-9]+(?:{0}[0-9]*)?|{0}[0-9]+)(?:[eE][+-]?[0-9]+)?"
_GROUPED = (
    r"[+-]?[1-9][0-9]{{0,2}}(?P<mark>[{1} \u00a0\u202f\u2009'\u2019])[0-9]{{3}}(?:(?P=mark)[0-9]{{3}})*(?:{0}[0-9]*)?"
)
_FORMS = {
    decimal: tuple(re.compile(form.format(re.escape(decimal), other)) for form in (_PLAIN, _GROUPED))
    for decimal, other in ((POINT, COMMA), (COMMA, POINT))
}
_SHOWN = 40


def read_number(text: str, decimal: str) -> float | None:
    """The number in a text with this decimal mark, with or without grouped thousands; None if it is not a number. Only
    the digits 0 to 9 count, and infinity is not a number."""
    plain, grouped = _FORMS[decimal]
    if plain.fullmatch(text):
        return float(text.replace(decimal, POINT))
    found = grouped.fullmatch(text)
    return float(text.replace(found["mark"], "").replace(decimal, POINT)) if found else None


@dataclass(frozen=True)
class NumberFormat:
    """The decimal mark of a table, and the doubtful marks: a cell with one of those that could be two different numbers
    is refused."""

    decimal: str = POINT
    doubtful: str = COMMA

    @classmethod
    def of(cls, cells: Iterable[tuple[str, object]], asked: str | None = None, points: bool = True) -> NumberFormat:
        """The format that an option gives (`asked`), or that cells imply that are numbers with one decimal mark only.

        `cells` come with their places. If none of them decides, `1.234` is 1.234 if the table is likely to have decimal
        `points`. Raises UsageError for cells that contradict each other.
        """
        if asked is not None:
            return cls(asked, "")
        telling: dict[str, tuple[str, str]] = {}
        for place, cell in cells:
            if isinstance(cell, str):
                text = cell.strip()
                readings = {decimal: read_number(text, decimal) for decimal in _FORMS}
                if None in readings.values():
                    telling |= {
                        d: (place, text) for d, number in readings.items() if number is not None and d not in telling
                    }
        if len(telling) > 1:
            (_, point), (there, comma) = telling[POINT], telling[COMMA]
            raise UsageError(
                f"{there} holds {comma!r}, a number with a decimal comma, but {telling[POINT][0]} holds {point!r} with "
                f"a decimal point.",
                hint=f"{named('decimal', ',')} or {named('decimal', '.')} decides.",
            )
        return cls(next(iter(telling)), "") if telling else cls(POINT, COMMA if points else COMMA + POINT)

    def number(self, value: object, where: str, column: str) -> float:
        """The number in a cell, NaN if it is empty. Raises TextgenError naming the row and column of anything else."""
        found: float | None = None
        if value is None:
            return math.nan
        if isinstance(value, str):
            text = value.strip()
            if text.lower() in MISSING:
                return math.nan
            found = self._read(text, where, column)
        elif isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
            found = _as_float(value)
        if found is None or (isinstance(value, float) and math.isinf(value)):
            mark = COMMA if self.decimal == POINT else POINT
            other = read_number(value.strip(), mark) if isinstance(value, str) else None
            hint = "correct the cell, or leave it empty if nothing was measured."
            if other is not None:
                hint = f"{named('decimal', mark)} reads it as {other:g}."
            raise TextgenError(f"{where}: column {column!r} holds {_shown(value)}, which is not a number.", hint=hint)
        if abs(found) > LARGEST:
            raise TextgenError(
                f"{where}: column {column!r} holds {_shown(value)}, which is too large: numbers range from "
                f"-{LARGEST:g} to {LARGEST:g}.",
                hint="leave the cell empty if nothing was measured, or use a larger unit.",
            )
        return found

    def _read(self, text: str, where: str, column: str) -> float | None:
        found = read_number(text, self.decimal)
        if found is None or not any(mark in text for mark in self.doubtful):
            return found
        other = read_number(text, COMMA if self.decimal == POINT else POINT)
        if other is not None and other != found:
            raise TextgenError(
                f"{where}: column {column!r} holds {_shown(text)}, which is {found:g} with a decimal point and "
                f"{other:g} with a decimal comma.",
                hint=f"{named('decimal', '.')} or {named('decimal', ',')} decides.",
            )
        return found


def _as_float(value: int | float | Decimal) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a whole number of about {round(value.bit_length() * math.log10(2)):,} digits"
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
