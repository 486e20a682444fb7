"""Cells of a table as text, or as the name of a label or a series."""

from __future__ import annotations

import datetime
import math
from typing import Any

from textgen.errors import TextgenError

LONGEST_NAME = 200
"""Characters; a longer cell must be a text, so the column is the wrong one."""


def cell(value: Any, column: str, where: str) -> bytes:
    """The text of one cell in UTF-8, b'' for null. Raises TextgenError naming the row and column of anything else."""
    if value is None:
        return b""
    if not isinstance(value, str):
        kind = {dict: "a table", list: "a list", bool: "true or false", int: "a number", float: "a number"}
        raise TextgenError(f"{where}: column {column!r} holds {kind.get(type(value), type(value).__name__)}, not text.")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(value[error.start]):04X}"
        raise TextgenError(f"{where}: column {column!r} has half a character ({half}).") from None


def name_in(value: Any, column: str, where: str, what: str) -> str:
    """The name in a cell, with surrounding spaces removed; `what` says what is named, for example a label.

    A value has the same name in every format. Since csv has only text, `True` becomes `true`, and `1.0` becomes `1`.
    Raises TextgenError naming the row and column of a cell that holds no name.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip():
        raise TextgenError(
            f"{where} has no {what} (column {column!r} is empty).", hint="fill the cell, or delete the row."
        )
    if isinstance(value, (list, dict, bytes, datetime.date)):
        raise TextgenError(f"{where}: column {column!r} holds a {type(value).__name__}, which is no {what}.")
    name = _canonical(str(value).strip())
    if len(name) > LONGEST_NAME:
        raise TextgenError(f"{where}: column {column!r} holds {len(name):,} characters, which are no {what}.")
    return name


def _canonical(text: str) -> str:
    """A boolean in lower case, and a whole number in Python's float notation without its `.0`. Everything else is
    kept: 007, 1.50 and 1e+20 are names in their own right."""
    if text.lower() in ("true", "false"):
        return text.lower()
    try:
        number = float(text) if text.endswith(".0") else None
    except ValueError:
        return text
    return str(int(number)) if number is not None and repr(number) == text else text
