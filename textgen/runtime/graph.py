"""The stored step of a model, `step.json`: a small graph of array operations, read as untrusted data.

A graph says which weights it needs and of which shape, what the state is, and holds two programs: `initial`, from
nothing to the state before the first token, and `step`, from ids and a state to logits and the next state. A program
is a list of nodes in order; each names an operation of `textgen.runtime.ops`, its inputs, and the type and shape of
its outputs. All of that is inferred again when it is read, and must agree. Reading a node raises ValueError, whose
text completes the sentence "node 3 of its step program ...".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from textgen.runtime.ops import (
    DTYPES,
    LETTERS,
    OPERATIONS,
    Array,
    Operation,
    Shape,
    at_batch,
    parse_shape,
    stored_shape,
)
from textgen.storage import FORMAT_VERSION, DamagedError, check_version

FORMAT = "textgen step"
BATCHES = (2, 3)
LARGEST_NUMBER = float(np.finfo(np.float32).max)
LARGEST_VALUE = 1 << 24
"""Elements that one value may have per row of the batch."""
MOST_NODES, MOST_STATES = 20_000, 1024
MOST_CONSTANTS = 1 << 16
LARGEST_SUM = 1 << 26
"""Elements that all values of a program may have together, per row of the batch."""
FREE_WORK, WORK_A_WEIGHT = 1 << 22, 32
"""Elements that a program may compute, read or multiply per row of the batch, in total and for each weight: this bounds
its running time by the size of the model."""
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


TOKENS = TensorSpec("int64", (-1,))
"""The input of a model of tokens: ids (B,)."""


def input_name(spec: TensorSpec) -> str:
    """What a program calls the input of a step."""
    return "ids" if spec == TOKENS else "inputs"


@dataclass(frozen=True)
class Node:
    """One operation. Inputs are numbers or names: 'node.3', 'weight.encoder.weight', 'constant.0', 'state.1', and 'ids'
    or 'inputs'."""

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
        for batch in BATCHES:
            sizes = [() if each is None else at_batch(each.shape, batch) for each in specs]
            target = at_batch(spec.shape, batch)
            found = operation.shape(sizes, target, **({} if name == "full" else options))
            if found != target:
                raise ValueError(f"computes a result of shape {found}, not {target} as declared, with {batch} rows")
        inputs = tuple(
            each if isinstance(each, str) else _typed(each, dtype) for each, dtype in zip(given, dtypes, strict=True)
        )
        return cls(str(name), inputs, spec, options)


def work(node: Node, known: Mapping[str, TensorSpec]) -> int:
    """The work of a node per row of the batch: elements computed, read or multiplied."""
    specs = [known[each] for each in node.inputs if isinstance(each, str)]
    return OPERATIONS[node.op].work([at_batch(spec.shape, 1) for spec in specs], at_batch(node.spec.shape, 1))


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


@dataclass(frozen=True)
class Program:
    """Constant arrays ('constant.0', ...), nodes in order, and the names of the outputs."""

    constants: tuple[Array, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        constants = [stored_constant(array) for array in self.constants]
        nodes = [node.to_json() for node in self.nodes]
        return {"constants": constants, "nodes": nodes, "outputs": list(self.outputs)}

    @classmethod
    def from_json(
        cls, name: str, stored: Any, known: Mapping[str, TensorSpec], wanted: Sequence[TensorSpec]
    ) -> Program:
        """Parse a program that may use the `known` values; its outputs must be `wanted`. Raises ValueError."""
        entry, nodes = table(stored), []
        constants = tuple(map(_constant, items(entry.get("constants"), MOST_CONSTANTS)))
        if sum(array.size for array in constants) > MOST_CONSTANTS:
            raise ValueError(f"its {name} program has more than {MOST_CONSTANTS:,} constant numbers")
        specs = {f"constant.{k}": TensorSpec(str(array.dtype), array.shape) for k, array in enumerate(constants)}
        specs = {**known, **specs}
        for place, each in enumerate(items(entry.get("nodes"), MOST_NODES)):
            try:
                nodes.append(Node.from_json(each, specs))
            except ValueError as error:
                raise ValueError(f"node {place} of its {name} program {error}") from None
            specs[f"node.{place}"] = nodes[-1].spec
        if sum(node.spec.elements for node in nodes) > LARGEST_SUM:
            raise ValueError(f"its {name} program computes more than {LARGEST_SUM:,} numbers per row")
        weights = sum(spec.elements for place, spec in known.items() if place.startswith("weight."))
        if sum(work(node, specs) for node in nodes) > FREE_WORK + WORK_A_WEIGHT * weights:
            raise ValueError(f"its {name} program does more work than a model of {weights:,} weights needs")
        outputs = items(entry.get("outputs"), 1 + MOST_STATES)
        if any(not isinstance(output, str) or output not in specs for output in outputs):
            raise ValueError(f"an output of its {name} program does not exist")
        if [specs[output] for output in outputs] != list(wanted):
            raise ValueError(f"the outputs of its {name} program have other types or shapes than declared")
        return cls(constants, tuple(nodes), tuple(outputs))


@dataclass(frozen=True)
class StepGraph:
    """The content of `step.json`. `logits` (B, V) is the first output of the step; `input` is what it reads, ids (B,)
    or numbers (B, features); `int8` names the weights that are stored as int8."""

    weights: dict[str, TensorSpec]
    state: tuple[TensorSpec, ...]
    logits: TensorSpec
    initial: Program
    step: Program
    int8: tuple[str, ...] = ()
    input: TensorSpec = TOKENS

    @property
    def input_name(self) -> str:
        """What the step's program calls its input."""
        return input_name(self.input)

    def to_json(self) -> dict[str, Any]:
        """The content of `step.json`."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "weights": {name: spec.to_json() for name, spec in self.weights.items()},
            **({} if self.input == TOKENS else {"input": self.input.to_json()}),
            "state": [spec.to_json() for spec in self.state],
            "logits": self.logits.to_json(),
            "initial": self.initial.to_json(),
            "step": self.step.to_json(),
            **({"int8": list(self.int8)} if self.int8 else {}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], name: str = "step.json") -> StepGraph:
        """Parse and check everything. Raises DamagedError with `name`, and TextgenError for another format version."""
        version = content.get("version")
        if content.get("format") != FORMAT or type(version) is not int:
            raise DamagedError(f"{name} is damaged: it is not a stored step.")
        check_version(version, name)
        try:
            return cls._parsed(content)
        except ValueError as error:
            raise DamagedError(f"{name} is damaged: {error}.") from None

    @classmethod
    def _parsed(cls, content: Mapping[str, Any]) -> StepGraph:
        weights = {name: TensorSpec.from_json(spec) for name, spec in table(content.get("weights")).items()}
        state = tuple(map(TensorSpec.from_json, items(content.get("state"), MOST_STATES)))
        logits = TensorSpec.from_json(content.get("logits"))
        if not all(spec.fixed for spec in weights.values()):
            raise ValueError("the shape of a weight depends on the batch")
        if not all(spec.is_batched for spec in [logits, *state]) or logits.dtype != "float32" or len(logits.shape) != 2:
            raise ValueError("its logits and states do not have one row for each row of the batch")
        known = {f"weight.{name}": spec for name, spec in weights.items()}
        initial = Program.from_json("initial", content.get("initial"), known, state)
        read = TensorSpec.from_json(content.get("input", TOKENS.to_json()))
        if read != TOKENS and not (read.dtype == "float32" and read.is_batched and len(read.shape) == 2):
            raise ValueError("its input is neither ids nor numbers of each row")
        known |= {input_name(read): read, **{f"state.{place}": spec for place, spec in enumerate(state)}}
        step = Program.from_json("step", content.get("step"), known, [logits, *state])
        return cls(weights, state, logits, initial, step, _parse_int8(content.get("int8", []), weights), read)


def _parse_int8(stored: Any, weights: Mapping[str, TensorSpec]) -> tuple[str, ...]:
    names = tuple(items(stored, len(weights)))
    if any(type(name) is not str or name not in weights for name in names) or len({*names}) < len(names):
        raise ValueError("its list of int8 weights names an unknown weight, or one twice")
    if any(weights[name].dtype != "float32" or len(weights[name].shape) < 2 for name in names):
        raise ValueError("its list of int8 weights names one that is not a float32 matrix")
    return names


def _constant(stored: Any) -> Array:
    entry = table(stored)
    spec, values = TensorSpec.from_json(entry.get("is")), items(entry.get("values"), MOST_CONSTANTS)
    if not spec.fixed or math.prod(spec.shape) != len(values):
        raise ValueError("a constant has the wrong number of values for its shape")
    if spec.dtype == "float32":
        return np.array([number(value) for value in values], dtype=np.float32).reshape(spec.shape)
    low, high = (0, 1) if spec.dtype == "bool" else (-(2**63), 2**63 - 1)
    if any(type(value) is not int or not low <= value <= high for value in values):
        raise ValueError("a constant has values that its type cannot represent")
    return np.array(values, dtype=DTYPES[spec.dtype]).reshape(spec.shape)


def stored_constant(array: Array) -> dict[str, Any]:
    """The JSON of a constant."""
    numbers = array.reshape(-1).astype(np.int64) if array.dtype == np.bool_ else array.reshape(-1)
    spec = TensorSpec(str(array.dtype), array.shape)
    return {"is": spec.to_json(), "values": [stored_number(value) for value in numbers.tolist()]}
