"""Rows of parquet files."""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO
from zoneinfo import ZoneInfo

from textgen.dependencies import needed
from textgen.errors import TextgenError
from textgen.text.header import Choose, Header, Row, named_columns

PARQUET = "parquet"
PARQUET_ROWS = 128  # at a time; few, since a row may hold a whole book


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
