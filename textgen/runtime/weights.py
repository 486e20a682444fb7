"""Weights from the content of a safetensors file, as numpy arrays that share its memory.

The format: the size of a JSON header in eight bytes, the header (each tensor's type, shape and offsets), the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from textgen.model_folder import LARGEST_HEADER
from textgen.runtime.nodes import TensorSpec
from textgen.runtime.ops import DTYPES, Array
from textgen.sealed import DamagedError, parse_json

_TYPES = {"float32": "F32", "int64": "I64", "bool": "BOOL", "int8": "I8"}
_DTYPES = {**DTYPES, "int8": np.int8}


def largest_file(wanted: Mapping[str, TensorSpec]) -> int:
    """The largest size in bytes of a file with these tensors; larger files are not read."""
    return LARGEST_HEADER + sum(map(_bytes, wanted.values()))


def read_weights(content: bytes, name: str, wanted: Mapping[str, TensorSpec]) -> dict[str, Array]:
    """The tensors of a file's content. Raises DamagedError with its `name` unless they are the `wanted` ones."""
    size = int.from_bytes(content[:8], "little")
    if not 2 <= size <= len(content) - 8:
        raise DamagedError(f"{name} is damaged: it does not begin like a safetensors file.")
    header = parse_json(content[8 : 8 + size], name)
    header.pop("__metadata__", None)
    begin, found = 8 + size, {}
    for key in [*wanted, *header]:
        if key not in header or key not in wanted:
            raise DamagedError(f"{name} does not fit the stored step: only one of them has {key!r}.")
        spec, entry = wanted[key], header[key]
        place = _place(entry, spec)
        if place is None or begin + place + _bytes(spec) > len(content):
            raise DamagedError(
                f"{name} does not fit the stored step: {key!r} is not {list(spec.shape)} of {spec.dtype}."
            )
        found[key] = np.frombuffer(content, _DTYPES[spec.dtype], math.prod(spec.shape), begin + place)
        found[key] = found[key].reshape(spec.shape)
    return found


def _bytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * int(np.dtype(_DTYPES[spec.dtype]).itemsize)


def _place(entry: object, spec: TensorSpec) -> int | None:
    """The offset of a tensor, or None if its entry does not match the spec."""
    if not isinstance(entry, dict) or entry.get("dtype") != _TYPES[spec.dtype] or entry.get("shape") != [*spec.shape]:
        return None
    places = entry.get("data_offsets")
    if not isinstance(places, list) or len(places) != 2 or not all(type(place) is int for place in places):
        return None
    begin, end = places
    return begin if 0 <= begin == end - _bytes(spec) else None
