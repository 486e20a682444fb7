"""The cells of a parquet column as Python values, with a sentence for times that Python cannot hold."""

from __future__ import annotations

import re
from typing import Any
from zoneinfo import ZoneInfo

from textgen.errors import TextgenError


def require_zone(kind: Any, column: str, name: str) -> None:
    """Raise TextgenError if a column of this Arrow type is in a time zone that this machine does not know."""
    zone = getattr(kind, "tz", None)
    if zone is None or zone == "UTC" or re.fullmatch(r"[+-]\d\d:\d\d", zone):
        return
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise TextgenError(
            f"column {column!r} of {name!r} is in the time zone {zone!r}, which is unknown here.",
            hint="if the name is right: pip install tzdata.",
        ) from None


def python_values(values: Any, column: str, name: str) -> list[Any]:
    """The values of an Arrow array. Raises TextgenError for a date that Python cannot hold."""
    import pyarrow
    from pyarrow import types

    kind = values.type
    if types.is_timestamp(kind) and kind.unit == "ns":  # Python counts microseconds
        values = values.cast(pyarrow.timestamp("us", kind.tz), safe=False)
    try:
        found: list[Any] = values.to_pylist()
    except OverflowError:
        found = []
    except ValueError as error:
        if isinstance(error, (pyarrow.ArrowException, UnicodeDecodeError)):
            raise
        found = []
    if len(found) < len(values):
        raise TextgenError(f"column {column!r} of {name!r} has a date outside the years 1 to 9999.")
    return found
