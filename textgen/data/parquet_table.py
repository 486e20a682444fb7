"""Rows of parquet files, and tables that a Python program holds: pandas, polars, pyarrow and `datasets`.

A table in memory is written once, in batches, to a temporary parquet file, and read from there like any other table.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO
from zoneinfo import ZoneInfo

from textgen.data.tables import Choose, Header, Row, named_columns
from textgen.errors import TextgenError, UsageError, needed
from textgen.options import displayed, named

PARQUET = "parquet"
PARQUET_ROWS = 128  # at a time; few, since a row may hold a whole book
ROWS = 10_000  # of a data set in memory at a time


def parquet_rows(stream: BinaryIO, name: str, choose: Choose) -> Iterator[Row]:
    """The rows of a parquet file. A compressed one is decompressed to a temporary file, since its end is read first."""
    with needed("pyarrow", "reading parquet files"):
        import pyarrow
        from pyarrow import parquet
    with tempfile.TemporaryFile() as spool:
        if not (isinstance(stream, io.BufferedReader) and stream.seekable()):
            shutil.copyfileobj(stream, spool)
            stream = spool
        stream.seek(0)
        row = 0
        try:
            file = parquet.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
            columns = _chosen(file.schema_arrow, name, choose)
            for batch in file.iter_batches(PARQUET_ROWS, columns=list(dict.fromkeys(columns))):
                cells = [
                    _cells(batch.column(batch.schema.get_field_index(column)), column, row, name) for column in columns
                ]
                for values in zip(*cells, strict=True):
                    row += 1
                    yield f"row {row} of {name!r}", values
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise TextgenError(f"{name!r} is a damaged parquet file ({' '.join(str(error).split())[:200]}).") from None


def _chosen(schema: Any, name: str, choose: Choose) -> list[str]:
    """The chosen columns, by their names in the file."""
    from pyarrow import types

    fields = list(schema)
    places = named_columns([each.name for each in fields], name, lambda place: types.is_integer(fields[place].type))
    texts = [column for column, place in places.items() if _is_text(fields[place].type)]
    times = [column for column, place in places.items() if types.is_temporal(fields[place].type)]
    kinds = {column: str(fields[place].type) for column, place in places.items()}
    chosen = choose(Header(name, list(places), texts, times, kinds))
    for column in chosen:
        require_zone(fields[places[column]].type, column, name)
    return [fields[places[column]].name for column in chosen]


def require_zone(kind: Any, column: str, name: str) -> None:
    """Raise TextgenError if a column of this Arrow type has a time zone that this machine does not know."""
    zone = getattr(kind, "tz", None)
    if zone is None or zone == "UTC" or re.fullmatch(r"[+-]\d\d:\d\d", zone):
        return
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise TextgenError(
            f"column {column!r} of {name!r} has the time zone {zone!r}, which this machine does not know.",
            hint="if the name is correct: pip install tzdata.",
        ) from None


def _cells(column: Any, title: str, before: int, name: str) -> list[Any]:
    """The values of a column. 16- and 32-bit floats become the shortest decimals that represent them, as in csv.

    Raises TextgenError for a value that Python cannot hold, such as a year after 9999; `before` rows come before.
    """
    from pyarrow import ArrowException, timestamp, types

    if types.is_timestamp(column.type) and column.type.unit == "ns":  # Python counts microseconds
        column = column.cast(timestamp("us", column.type.tz), safe=False)
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError) as error:
        if isinstance(error, ArrowException):
            raise
        row = before + next(k for k in range(len(column)) if not _is_readable(column[k])) + 1
        raise TextgenError(
            f"row {row} of {name!r}: column {title!r} holds a {column.type} that cannot be read ({error})."
        ) from None
    if not (types.is_float32(column.type) or types.is_float16(column.type)):
        return values
    kept = column.to_numpy(zero_copy_only=False)
    return [None if value is None else float(str(number)) for value, number in zip(values, kept, strict=True)]


def _is_readable(scalar: Any) -> bool:
    try:
        scalar.as_py()
    except (ValueError, OverflowError):
        return False
    return True


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


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
        yield pa.Table.from_pandas(with_index(table), preserve_index=False)
    elif _is_dataset(table):
        yield from table.with_format("arrow").iter(batch_size=ROWS)
    else:
        yield _writable(pa.table(table))


def _writable(table: Any) -> Any:
    """A table of pyarrow whose categories are text as a parquet file holds it. Those of polars are views, which the
    writer refuses."""
    import pyarrow as pa

    for place, kind in enumerate(table.schema.types):
        if pa.types.is_dictionary(kind) and pa.types.is_string_view(kind.value_type):
            chunks = [
                pa.DictionaryArray.from_arrays(chunk.indices, chunk.dictionary.cast(pa.large_string()))
                for chunk in table.column(place).chunks
            ]
            column = pa.chunked_array(chunks, pa.dictionary(kind.index_type, pa.large_string()))
            table = table.set_column(place, table.schema.names[place], column)
    return table


def with_index(frame: Any) -> Any:
    """A pandas data frame or series as a frame, whose index is a column if it has a name or holds times."""
    if not hasattr(frame, "columns"):
        frame = frame.to_frame("y" if frame.name is None else str(frame.name))
    if str(frame.index.dtype).startswith("period"):
        frame = frame.to_timestamp()
    levels = list(frame.index.names)
    if levels == [None] and getattr(frame.index.dtype, "kind", "") == "M" and "time" not in frame.columns:
        return frame.reset_index(names="time")
    return frame.reset_index() if any(level is not None for level in levels) else frame
