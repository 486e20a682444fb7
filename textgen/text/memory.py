"""Tables in memory: data frames of pandas and polars, tables of pyarrow, data sets of `datasets`.

Each is written once, in batches, to a temporary parquet file, and read from there like any other table.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from textgen.errors import TextgenError, UsageError
from textgen.parameters import displayed, named

ROWS = 10_000
"""Rows of a data set in memory at a time."""


class TableName(str):
    """What messages call a table in memory, with the file that holds it while the name is in use."""

    file: Path


def is_table(value: object) -> bool:
    """Whether a value is a table of one of these libraries."""
    return _is_pandas(value) or _is_dataset(value) or hasattr(value, "__arrow_c_stream__")


def _is_pandas(value: object) -> bool:
    return all(hasattr(value, each) for each in ("index", "to_pickle", "iloc"))


def _is_dataset(value: object) -> bool:
    return hasattr(value, "features") and hasattr(value, "with_format")


def corpora(name: str, value: object) -> list[str]:
    """The parameter `name`, one path or table or a list of them, as a list. Raises UsageError for anything else, and
    for an empty list."""
    one = isinstance(value, (str, os.PathLike)) or is_table(value)
    if one or isinstance(value, (bytes, bytearray, memoryview, Mapping)) or not isinstance(value, Iterable):
        return [_corpus(name, value)]
    found = [_corpus(name, each) for each in value]
    if not found:
        raise UsageError(f"{named(name)} must be a path or a table, or a list of those, not an empty list.")
    return found


def _corpus(name: str, value: object) -> str:
    if isinstance(value, TableName):
        return value
    if is_table(value):
        return spool(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    raise UsageError(f"{named(name)} must be a path or a table, or a list of those, not {displayed(value)}.")


def spool(table: object) -> TableName:
    """Write a table to a temporary file, which is removed when its name is no longer in use. Raises TextgenError for
    columns that a parquet file cannot hold."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise TextgenError("tables in memory need pyarrow.", hint="pip install pyarrow") from None
    name = TableName(f"the {type(table).__name__}")
    with tempfile.NamedTemporaryFile(prefix="textgen-", suffix=".parquet", delete=False) as file:
        name.file = Path(file.name)
        weakref.finalize(name, name.file.unlink, missing_ok=True)
        try:
            batches = _batches(table)
            first = next(batches, None)
            if first is None:
                raise TextgenError(f"{name} has no rows.")
            times = {"coerce_timestamps": "us", "allow_truncated_timestamps": True}
            with parquet.ParquetWriter(file, first.schema, **times) as writer:
                for batch in chain([first], batches):
                    writer.write_table(batch)
        except (pa.ArrowException, TypeError, ValueError) as error:
            if isinstance(error, TextgenError):
                raise
            reason = " ".join(str(error).split())[:300]
            raise TextgenError(f"{name} cannot be read as a table ({reason}).") from error
    return name


def _batches(table: Any) -> Iterator[Any]:
    """A table as pyarrow tables."""
    import pyarrow as pa

    if _is_pandas(table):
        yield pa.Table.from_pandas(_with_index(table), preserve_index=False)
    elif _is_dataset(table):
        yield from table.with_format("arrow").iter(batch_size=ROWS)
    else:
        yield pa.table(table)


def _with_index(frame: Any) -> Any:
    """A pandas data frame or series as a frame, whose index is a column if it has a name or holds times."""
    if not hasattr(frame, "columns"):
        frame = frame.to_frame("y" if frame.name is None else str(frame.name))
    if str(frame.index.dtype).startswith("period"):
        frame = frame.to_timestamp()
    levels = list(frame.index.names)
    if levels == [None] and getattr(frame.index.dtype, "kind", "") == "M" and "time" not in frame.columns:
        return frame.reset_index(names="time")
    return frame.reset_index() if any(level is not None for level in levels) else frame
