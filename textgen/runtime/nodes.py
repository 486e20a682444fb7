"""The nodes of a stored program, parsed as untrusted data: types and shapes are inferred again.

Parsing raises ValueError, whose text completes the sentence "node 3 of its step program ...".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from textgen.runtime.ops import DTYPES, LETTERS, OPERATIONS, Operation
from textgen.runtime.shapes import Shape, at_batch, parse_shape, stored_shape

LARGEST_VALUE = 1 << 24
"""Elements that one value may have per row of the batch."""
BATCHES = (2, 3)
LARGEST_NUMBER = float(np.finfo(np.float32).max)
Number = np.float32 | np.int64 | np.bool_


@dataclass(frozen=True)
class TensorSpec:
    """The type and shape of an array."""

    dtype: str
    shape: Shape

    def to_json(self) -> list[Any]:
        return [self.dtype, stored_shape(self.shape)]

    @classmethod
    def from_json(cls, stored: Any) -> TensorSpec:
        """Raises ValueError for anything but a type and a shape."""
        if not isinstance(stored, list) or len(stored) != 2 or stored[0] not in [*DTYPES]:
            raise ValueError(f"has an unknown type: {stored!r:.80}")
        return cls(stored[0], parse_shape(stored[1]))

    @property
    def elements(self) -> int:
        """The number of elements per row of the batch."""
        return math.prod(at_batch(self.shape, 1))

    @property
    def fixed(self) -> bool:
        """Whether the shape is the same at every batch size."""
        return min(self.shape, default=0) >= 0

    @property
    def is_batched(self) -> bool:
        """Whether the first axis, and no other, is the batch."""
        return self.shape[:1] == (-1,) and min(self.shape[1:], default=0) >= 0


@dataclass(frozen=True)
class Node:
    """One operation. Inputs are numbers or names: 'node.3', 'weight.encoder.weight', 'constant.0', 'state.1', 'ids'."""

    op: str
    inputs: tuple[str | Number, ...]
    spec: TensorSpec
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        options = {"options": {name: stored_number(value) for name, value in self.options.items()}}
        inputs = [each if isinstance(each, str) else stored_number(each.item()) for each in self.inputs]
        return {"op": self.op, "inputs": inputs, "is": self.spec.to_json(), **(options if self.options else {})}

    @classmethod
    def from_json(cls, stored: Any, known: Mapping[str, TensorSpec]) -> Node:
        """Parse a node that may use the `known` values. Raises ValueError."""
        entry = table(stored)
        name = entry.get("op")
        operation = OPERATIONS.get(name) if isinstance(name, str) else None
        if operation is None:
            raise ValueError(f"uses an unknown operation: {name!r:.60}")
        spec = TensorSpec.from_json(entry.get("is"))
        if spec.elements > LARGEST_VALUE:
            raise ValueError(f"computes {spec.elements:,} numbers per row, more than {LARGEST_VALUE:,}")
        given = [_input(each, operation, known) for each in items(entry.get("inputs"), 1024)]
        specs = [known[each] if isinstance(each, str) else None for each in given]
        options = _options(operation, entry.get("options", {}), specs[0] if specs else None)
        dtypes = _types(operation, [None if each is None else each.dtype for each in specs], spec.dtype)
        _check_shape(operation, specs, spec, {} if name == "full" else options)
        inputs = tuple(
            each if isinstance(each, str) else _typed(each, dtype) for each, dtype in zip(given, dtypes, strict=True)
        )
        return cls(str(name), inputs, spec, options)


def work(node: Node, known: Mapping[str, TensorSpec]) -> int:
    """The work of a node per row of the batch: elements computed, read or multiplied."""
    specs = [known[each] for each in node.inputs if isinstance(each, str)]
    return OPERATIONS[node.op].work([at_batch(spec.shape, 1) for spec in specs], at_batch(node.spec.shape, 1))


def _check_shape(
    operation: Operation, specs: Sequence[TensorSpec | None], spec: TensorSpec, options: Mapping[str, Any]
) -> None:
    for batch in BATCHES:
        sizes = [() if each is None else at_batch(each.shape, batch) for each in specs]
        target = at_batch(spec.shape, batch)
        found = operation.shape(sizes, target, **options)
        if found != target:
            raise ValueError(f"computes a result of shape {found}, not {target} as declared, with {batch} rows")


def _input(stored: Any, operation: Operation, known: Mapping[str, TensorSpec]) -> str | float:
    if isinstance(stored, str) and stored in known:
        return stored
    if not operation.scalars or (isinstance(stored, str) and stored.removeprefix("-") != "inf"):
        raise ValueError(f"takes {stored!r:.60}, which is not an earlier value")
    return number(stored)


def _types(operation: Operation, dtypes: list[str | None], result: str) -> list[str]:
    """The type of each input by the operation's letters; None is a number, which fits any. Raises ValueError."""
    letters = operation.inputs
    least = len([letter for letter in letters if letter[-1] not in "?*"])
    most = len(dtypes) if letters and letters[-1].endswith("*") else len(letters)
    if not least <= len(dtypes) <= most or (dtypes and not any(dtypes)):
        raise ValueError(f"takes {len(dtypes)} inputs")
    wanted = [letters[min(place, len(letters) - 1)][0] for place in range(len(dtypes))]
    bound: dict[str, str] = {}
    for letter, dtype in [*zip(wanted, dtypes, strict=True), (operation.output, result)]:
        if dtype is not None and (dtype not in LETTERS[letter] or bound.setdefault(letter, dtype) != dtype):
            raise ValueError(f"has incompatible types: {', '.join(map(str, dtypes))} to {result}")
    return [bound.get(letter, LETTERS[letter][0]) for letter in wanted]


def _typed(value: float, dtype: str) -> Number:
    if dtype != "float32" and (not value.is_integer() or abs(value) > (1 if dtype == "bool" else 2**53)):
        raise ValueError(f"has the value {value} for type {dtype}")
    typed: Number = DTYPES[dtype](value)
    return typed


def _options(operation: Operation, stored: Any, first: TensorSpec | None) -> dict[str, Any]:
    given = table(stored)
    if given.keys() != operation.options.keys():
        raise ValueError(f"must have the options {', '.join(operation.options) or 'none'}")
    shape = () if first is None else first.shape
    return {name: _option(given[name], sort, shape) for name, sort in operation.options.items()}


def _option(value: Any, sort: str, shape: Shape) -> Any:
    """An option's value, checked: an axis is one of the first input; an inner axis is not the batch's."""
    if sort == "number":
        return number(value)
    whole, inner = type(value) is int, [axis for axis, size in enumerate(shape) if size >= 0]
    axes = value if isinstance(value, list) and all(type(axis) is int for axis in value) else None
    fits = {
        "flag": type(value) is bool,
        "count": whole and 0 <= value <= LARGEST_VALUE,
        "inner axis": whole and value in inner,
        "last axes": whole and 1 <= value <= len(shape) and min(shape[-value:]) >= 0,
        "inner axes": axes is not None and len({*axes}) == len(axes) and {*axes} <= {*inner},
        "axes": axes is not None and sorted(axes) == list(range(len(shape))),
    }
    if not fits[sort]:
        raise ValueError(f"has {value!r:.60} where {sort} should be")
    return value


def number(stored: Any) -> float:
    """A number that float32 can represent; infinity is stored as text. Raises ValueError."""
    if stored in ("inf", "-inf"):
        return float(stored)
    if type(stored) not in (int, float) or not -LARGEST_NUMBER <= stored <= LARGEST_NUMBER:
        raise ValueError(f"has {stored!r:.60} where a number should be")
    return float(stored)


def stored_number(value: Any) -> Any:
    """The inverse of `number`; other values are unchanged."""
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def table(stored: Any) -> dict[str, Any]:
    """A JSON object. Raises ValueError."""
    if not isinstance(stored, dict):
        raise ValueError("is not a JSON object")
    return stored


def items(stored: Any, most: int) -> list[Any]:
    """A JSON list of at most `most` items. Raises ValueError."""
    if not isinstance(stored, list) or len(stored) > most:
        raise ValueError("has a list that is missing or too long")
    return stored
