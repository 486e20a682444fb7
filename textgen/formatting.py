"""Numbers and tables as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from textgen.errors import showable


def count(number: float) -> str:
    """1234567 as 1,234,567."""
    return f"{number:,.0f}"


def figure(value: float | None, digits: int = 4) -> str:
    """A number with this many decimals, or "-" for None and NaN."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


SIGNIFICANT, MOST_DECIMALS, LARGEST, NEGLIGIBLE = 4, 9, 1e9, 1e-6


def aligned(values: Sequence[float | None]) -> list[str]:
    """The numbers of a column with the same number of decimals: enough for four significant digits of the smallest;
    "-" for None and NaN. Very small and very large numbers get an exponent; those below a millionth of the largest
    count as zero."""
    sizes = [abs(value) for value in values if value is not None and math.isfinite(value)]
    sizes = [size for size in sizes if size > NEGLIGIBLE * max(sizes)]
    decimals = max(0, SIGNIFICANT - 1 - math.floor(math.log10(min(sizes)))) if sizes else SIGNIFICANT
    plain = decimals <= MOST_DECIMALS and max(sizes, default=0.0) < LARGEST
    form = f".{decimals}f" if plain else f".{SIGNIFICANT - 1}e"
    return ["-" if value is None or math.isnan(value) else format(value, form) for value in values]


def plural(number: int, noun: str) -> str:
    """2 as 2 documents, 1 as 1 document."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def short(number: float) -> str:
    """1234567 as 1.2 M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """95 as 1 min 35 s."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """Rows under their column names, as wide as they need to be; control characters are escaped."""
    cells = [columns, *[[showable(str(row[column])) for column in columns] for row in rows]]
    widths = [max(len(line[k]) for line in cells) for k in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def listed(names: Iterable[str], word: str = "or") -> str:
    """'a, b or c'."""
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last
