"""Weights from the content of a safetensors file, as numpy arrays that share its memory.

The format: eight bytes with the size of a JSON table, the table (each tensor's type, shape and place), the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from textgen.model_folder import LARGEST_HEADER
from textgen.runtime.nodes import Kind
from textgen.runtime.ops import DTYPES, Array
from textgen.sealed import DamagedError, parse_json

_TYPES = {"float32": "F32", "int64": "I64", "bool": "BOOL", "int8": "I8"}
_DTYPES = {**DTYPES, "int8": np.int8}


def largest_file(wanted: Mapping[str, Kind]) -> int:
    """The most bytes that a file of these tensors has; one that is longer need not be read."""
    return LARGEST_HEADER + sum(map(_bytes, wanted.values()))


def read_weights(content: bytes, name: str, wanted: Mapping[str, Kind]) -> dict[str, Array]:
    """The tensors of a file's content. Raises DamagedError with its `name` unless they are those that are `wanted`."""
    size = int.from_bytes(content[:8], "little")
    if not 2 <= size <= len(content) - 8:
        raise DamagedError(f"{name} is damaged: it does not begin as a safetensors file does.")
    header = parse_json(content[8 : 8 + size], name)
    header.pop("__metadata__", None)
    begin, found = 8 + size, {}
    for key in [*wanted, *header]:
        if key not in header or key not in wanted:
            raise DamagedError(f"{name} does not fit the stored step: {key!r} is on one side only.")
        kind, entry = wanted[key], header[key]
        place = _place(entry, kind)
        if place is None or begin + place + _bytes(kind) > len(content):
            raise DamagedError(
                f"{name} does not fit the stored step: {key!r} is not {list(kind.shape)} of {kind.dtype}."
            )
        found[key] = np.frombuffer(content, _DTYPES[kind.dtype], math.prod(kind.shape), begin + place)
        found[key] = found[key].reshape(kind.shape)
    return found


def _bytes(kind: Kind) -> int:
    return math.prod(kind.shape) * int(np.dtype(_DTYPES[kind.dtype]).itemsize)


def _place(entry: object, kind: Kind) -> int | None:
    """Where a tensor begins, if it is of that kind."""
    if not isinstance(entry, dict) or entry.get("dtype") != _TYPES[kind.dtype] or entry.get("shape") != [*kind.shape]:
        return None
    places = entry.get("data_offsets")
    if not isinstance(places, list) or len(places) != 2 or not all(type(place) is int for place in places):
        return None
    begin, end = places
    return begin if 0 <= begin == end - _bytes(kind) else None
