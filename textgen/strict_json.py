"""Strict JSON: duplicate keys, NaN and infinity are neither read nor written."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn


def finite(text: str) -> float:
    """The float that a JSON number stands for. Raises ValueError if it is too large."""
    number = float(text)
    return number if math.isfinite(number) else refuse_constant(text)


def refuse_constant(name: str) -> NoReturn:
    """Raise ValueError for NaN or Infinity."""
    raise ValueError(f"{name} is not a number")


class DuplicateKeyError(ValueError):
    """A key that occurs twice in a JSON object."""

    def __init__(self, key: str) -> None:
        super().__init__(f"duplicate key {key!r}")
        self.key = key


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object with these keys and values. Raises DuplicateKeyError."""
    table = dict(pairs)
    if len(table) < len(pairs):
        raise DuplicateKeyError(next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1))
    return table


def to_json(content: Any) -> bytes:
    """Strict JSON with the keys in the given order and a final newline; lone surrogates, as in file names, escaped."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")
