"""What a stored program consists of, and how one entry of it is read: as untrusted data, everything inferred again.

Whoever reads raises ValueError, whose text completes the sentence "node 3 of its step program ...".
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
"""Elements a row of the batch that one value may have."""
BATCHES = (2, 3)
LARGEST_NUMBER = float(np.finfo(np.float32).max)
Number = np.float32 | np.int64 | np.bool_


@dataclass(frozen=True)
class Kind:
    """The type and shape of an array."""

    dtype: str
    shape: Shape

    def to_json(self) -> list[Any]:
        return [self.dtype, stored_shape(self.shape)]

    @classmethod
    def from_json(cls, stored: Any) -> Kind:
        """Raises ValueError for what is no type and shape."""
        if not isinstance(stored, list) or len(stored) != 2 or stored[0] not in [*DTYPES]:
            raise ValueError(f"has a type that is none: {stored!r:.80}")
        return cls(stored[0], parse_shape(stored[1]))

    @property
    def elements(self) -> int:
        """How many there are for each row of the batch."""
        return math.prod(at_batch(self.shape, 1))

    @property
    def fixed(self) -> bool:
        """Whether the shape is the same at every batch size."""
        return min(self.shape, default=0) >= 0

    @property
    def by_row(self) -> bool:
        """Whether it is one row for each of the batch."""
        return self.shape[:1] == (-1,) and min(self.shape[1:], default=0) >= 0


@dataclass(frozen=True)
class Node:
    """One operation. Inputs are numbers or names: 'node.3', 'weight.encoder.weight', 'constant.0', 'state.1', 'ids'."""

    op: str
    inputs: tuple[str | Number, ...]
    kind: Kind
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        options = {"options": {name: stored_number(value) for name, value in self.options.items()}}
        inputs = [each if isinstance(each, str) else stored_number(each.item()) for each in self.inputs]
        return {"op": self.op, "inputs": inputs, "is": self.kind.to_json(), **(options if self.options else {})}

    @classmethod
    def from_json(cls, stored: Any, known: Mapping[str, Kind]) -> Node:
        """Read a node that may use what is `known` before it. Raises ValueError."""
        entry = table(stored)
        name = entry.get("op")
        operation = OPERATIONS.get(name) if isinstance(name, str) else None
        if operation is None:
            raise ValueError(f"uses {name!r:.60}, which is no operation of the list")
        kind = Kind.from_json(entry.get("is"))
        if kind.elements > LARGEST_VALUE:
            raise ValueError(f"makes {kind.elements:,} numbers a row, more than {LARGEST_VALUE:,}")
        given = [_input(each, operation, known) for each in items(entry.get("inputs"), 1024)]
        kinds = [known[each] if isinstance(each, str) else None for each in given]
        options = _options(operation, entry.get("options", {}), kinds[0] if kinds else None)
        dtypes = _types(operation, [None if each is None else each.dtype for each in kinds], kind.dtype)
        _hold_shape(operation, kinds, kind, {} if name == "full" else options)
        inputs = tuple(
            each if isinstance(each, str) else _typed(each, dtype) for each, dtype in zip(given, dtypes, strict=True)
        )
        return cls(str(name), inputs, kind, options)


def work(node: Node, known: Mapping[str, Kind]) -> int:
    """How many numbers a node makes, reads or multiplies for each row of the batch."""
    kinds = [known[each] for each in node.inputs if isinstance(each, str)]
    return OPERATIONS[node.op].work([at_batch(kind.shape, 1) for kind in kinds], at_batch(node.kind.shape, 1))


def _hold_shape(operation: Operation, kinds: Sequence[Kind | None], kind: Kind, options: Mapping[str, Any]) -> None:
    for batch in BATCHES:
        sizes = [() if each is None else at_batch(each.shape, batch) for each in kinds]
        target = at_batch(kind.shape, batch)
        found = operation.shape(sizes, target, **options)
        if found != target:
            raise ValueError(f"gives {found} where {target} is stated, with {batch} rows")


def _input(stored: Any, operation: Operation, known: Mapping[str, Kind]) -> str | float:
    if isinstance(stored, str) and stored in known:
        return stored
    if not operation.scalars or (isinstance(stored, str) and stored.removeprefix("-") != "inf"):
        raise ValueError(f"takes {stored!r:.60}, which is nothing before it")
    return number(stored)


def _types(operation: Operation, dtypes: list[str | None], result: str) -> list[str]:
    """The type of each input, by the operation's letters; None is a number, which fits any. Raises ValueError."""
    letters = operation.inputs
    least = len([letter for letter in letters if letter[-1] not in "?*"])
    most = len(dtypes) if letters and letters[-1].endswith("*") else len(letters)
    if not least <= len(dtypes) <= most or (dtypes and not any(dtypes)):
        raise ValueError(f"takes {len(dtypes)} inputs")
    wanted = [letters[min(place, len(letters) - 1)][0] for place in range(len(dtypes))]
    bound: dict[str, str] = {}
    for letter, dtype in [*zip(wanted, dtypes, strict=True), (operation.output, result)]:
        if dtype is not None and (dtype not in LETTERS[letter] or bound.setdefault(letter, dtype) != dtype):
            raise ValueError(f"has types that do not fit: {', '.join(map(str, dtypes))} to {result}")
    return [bound.get(letter, LETTERS[letter][0]) for letter in wanted]


def _typed(value: float, dtype: str) -> Number:
    if dtype != "float32" and (not value.is_integer() or abs(value) > (1 if dtype == "bool" else 2**53)):
        raise ValueError(f"has the number {value} for one of {dtype}")
    typed: Number = DTYPES[dtype](value)
    return typed


def _options(operation: Operation, stored: Any, first: Kind | None) -> dict[str, Any]:
    given = table(stored)
    if given.keys() != operation.options.keys():
        raise ValueError(f"has other options than {', '.join(operation.options) or 'none'}")
    shape = () if first is None else first.shape
    return {name: _option(given[name], sort, shape) for name, sort in operation.options.items()}


def _option(value: Any, sort: str, shape: Shape) -> Any:
    """A setting of that sort: an axis is one of the first input's; an inner one is never the batch's."""
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
    """A number that float32 can hold; JSON's may be longer than that. Infinity is stored as text. Raises ValueError."""
    if stored in ("inf", "-inf"):
        return float(stored)
    if type(stored) not in (int, float) or not -LARGEST_NUMBER <= stored <= LARGEST_NUMBER:
        raise ValueError(f"has {stored!r:.60} where a number should be")
    return float(stored)


def stored_number(value: Any) -> Any:
    """The inverse of `number`; what is no number stays as it is."""
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def table(stored: Any) -> dict[str, Any]:
    """A JSON object. Raises ValueError."""
    if not isinstance(stored, dict):
        raise ValueError("is no table")
    return stored


def items(stored: Any, most: int) -> list[Any]:
    """A JSON list of at most so many. Raises ValueError."""
    if not isinstance(stored, list) or len(stored) > most:
        raise ValueError("has a list that is missing or too long")
    return stored
