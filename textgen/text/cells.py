"""What a cell of a table holds, as text or as a name: of a label, or of a series."""

from __future__ import annotations

import datetime
import math
from typing import Any

from textgen.errors import TextgenError

LONGEST_NAME = 200
"""Characters; a longer cell is a text in the wrong column."""


def cell(value: Any, column: str, where: str) -> bytes:
    """The text of one cell, b'' for null. Raises TextgenError with the place for anything else."""
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
    """The name that a cell holds, of a label or whatever `what` says, without blanks around it.

    The same value gives the same name whatever the format: csv has only text, so `True` is `true`, and `1.0` is `1`.
    Raises TextgenError with row and column where there is none.
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
    """A truth value in lower case, and a whole number that is written as Python writes a float without its `.0`. All
    else stays as it is: 007, 1.50 and 1e+20 are names of their own."""
    if text.lower() in ("true", "false"):
        return text.lower()
    try:
        number = float(text) if text.endswith(".0") else None
    except ValueError:
        return text
    return str(int(number)) if number is not None and repr(number) == text else text
