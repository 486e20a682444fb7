"""Strict JSON: keys that stand twice and numbers that are none are neither read nor written."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def finite(text: str) -> float:
    """A number as JSON writes it. Raises ValueError for one that is too large to be held."""
    number = float(text)
    return number if math.isfinite(number) else refuse_constant(text)


def refuse_constant(name: str) -> NoReturn:
    """What strict JSON does with NaN and Infinity. Raises ValueError."""
    raise ValueError(f"{name} is no number")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The table of these keys and values, as strict JSON wants it. Raises ValueError where a key stands twice."""
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key stands twice")
    return table


def to_json(content: Any) -> bytes:
    """Strict, stable JSON: sorted as given, no NaN, a final newline; what is no Unicode (as in a name) escaped."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")
