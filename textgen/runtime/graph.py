"""The stored step of a model, `step.json`: a small graph of array operations, kept as data and read as untrusted data.

A graph says which weights it needs and of which shape, what the state is, and holds two programs: `initial`, from
nothing to the state before the first symbol, and `step`, from ids and a state to logits and the next state. A program
is a list of nodes in order; each names an operation of the fixed list in `textgen.runtime.ops`, what goes into it, and
the type and shape of what comes out. All of that is inferred again when it is read, and must agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgen.errors import TextgenError
from textgen.runtime.nodes import Kind, Node, items, number, stored_number, table, work
from textgen.runtime.ops import DTYPES, Array
from textgen.sealed import DamagedError

FORMAT, VERSION = "textgen step", 2
MOST_NODES, MOST_STATES = 20_000, 1024
MOST_CONSTANTS = 1 << 16
LARGEST_SUM = 1 << 26
"""Elements a row of the batch that all values of a program may have together."""
FREE_WORK, WORK_A_WEIGHT = 1 << 22, 32
"""Numbers that a program may make, read or multiply for a row of the batch, in all and for each weight: so that the
time it takes is in keeping with the size of the model."""
IDS = "ids"


@dataclass(frozen=True)
class Program:
    """Constant arrays ('constant.0', ...), nodes in order, and the names of what comes out."""

    constants: tuple[Array, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        constants = [stored_constant(array) for array in self.constants]
        nodes = [node.to_json() for node in self.nodes]
        return {"constants": constants, "nodes": nodes, "outputs": list(self.outputs)}

    @classmethod
    def from_json(cls, name: str, stored: Any, known: Mapping[str, Kind], wanted: Sequence[Kind]) -> Program:
        """Read a program that may use what is `known` and gives what is `wanted`. Raises ValueError."""
        entry, nodes = table(stored), []
        constants = tuple(map(_constant, items(entry.get("constants"), MOST_CONSTANTS)))
        if sum(array.size for array in constants) > MOST_CONSTANTS:
            raise ValueError(f"its {name} program has more than {MOST_CONSTANTS:,} constant numbers")
        kinds = {**known, **{f"constant.{k}": Kind(str(array.dtype), array.shape) for k, array in enumerate(constants)}}
        for place, each in enumerate(items(entry.get("nodes"), MOST_NODES)):
            try:
                nodes.append(Node.from_json(each, kinds))
            except ValueError as error:
                raise ValueError(f"node {place} of its {name} program {error}") from None
            kinds[f"node.{place}"] = nodes[-1].kind
        if sum(node.kind.elements for node in nodes) > LARGEST_SUM:
            raise ValueError(f"its {name} program makes more than {LARGEST_SUM:,} numbers a row")
        weights = sum(kind.elements for place, kind in known.items() if place.startswith("weight."))
        if sum(work(node, kinds) for node in nodes) > FREE_WORK + WORK_A_WEIGHT * weights:
            raise ValueError(f"its {name} program works more than a model of {weights:,} weights has to")
        outputs = items(entry.get("outputs"), 1 + MOST_STATES)
        if any(not isinstance(output, str) or output not in kinds for output in outputs):
            raise ValueError(f"an output of its {name} program is nothing that it has")
        if [kinds[output] for output in outputs] != list(wanted):
            raise ValueError(f"what its {name} program gives is not what is stated")
        return cls(constants, tuple(nodes), tuple(outputs))


@dataclass(frozen=True)
class StepGraph:
    """All that `step.json` holds. `logits` is the kind of what the step gives first, (B, V); `int8` names the weights
    that are stored in eight bits (format 2)."""

    weights: dict[str, Kind]
    state: tuple[Kind, ...]
    logits: Kind
    initial: Program
    step: Program
    int8: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The content of `step.json`."""
        return {
            "format": FORMAT,
            "version": VERSION if self.int8 else 1,
            "weights": {name: kind.to_json() for name, kind in self.weights.items()},
            "state": [kind.to_json() for kind in self.state],
            "logits": self.logits.to_json(),
            "initial": self.initial.to_json(),
            "step": self.step.to_json(),
            **({"int8": list(self.int8)} if self.int8 else {}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], name: str = "step.json") -> StepGraph:
        """Read and check everything. Raises DamagedError with `name`, and TextgenError for a later format."""
        version = content.get("version")
        if content.get("format") != FORMAT or type(version) is not int or version < 1:
            raise DamagedError(f"{name} is damaged: it is no stored step.")
        if version > VERSION:
            raise TextgenError(
                f"{name} has format {version}; this textgen reads up to {VERSION}.", hint="upgrade textgen-lm."
            )
        try:
            return cls._parsed(content)
        except ValueError as error:
            raise DamagedError(f"{name} is damaged: {error}.") from None

    @classmethod
    def _parsed(cls, content: Mapping[str, Any]) -> StepGraph:
        weights = {name: Kind.from_json(kind) for name, kind in table(content.get("weights")).items()}
        state = tuple(map(Kind.from_json, items(content.get("state"), MOST_STATES)))
        logits = Kind.from_json(content.get("logits"))
        if not all(kind.fixed for kind in weights.values()):
            raise ValueError("a weight of it depends on the batch")
        if not all(kind.by_row for kind in [logits, *state]) or logits.dtype != "float32" or len(logits.shape) != 2:
            raise ValueError("its logits and state are not one row for each of the batch")
        known = {f"weight.{name}": kind for name, kind in weights.items()}
        initial = Program.from_json("initial", content.get("initial"), known, state)
        known |= {IDS: Kind("int64", (-1,)), **{f"state.{place}": kind for place, kind in enumerate(state)}}
        step = Program.from_json("step", content.get("step"), known, [logits, *state])
        return cls(weights, state, logits, initial, step, _in_int8(content.get("int8", []), weights))


def _in_int8(stored: Any, weights: Mapping[str, Kind]) -> tuple[str, ...]:
    names = tuple(items(stored, len(weights)))
    if any(type(name) is not str or name not in weights for name in names) or len({*names}) < len(names):
        raise ValueError("it has something in eight bits that is no weight of it")
    if any(weights[name].dtype != "float32" or len(weights[name].shape) < 2 for name in names):
        raise ValueError("it has something in eight bits that is no matrix")
    return names


def _constant(stored: Any) -> Array:
    entry = table(stored)
    kind, values = Kind.from_json(entry.get("is")), items(entry.get("values"), MOST_CONSTANTS)
    if not kind.fixed or math.prod(kind.shape) != len(values):
        raise ValueError("a constant has a shape that does not fit its numbers")
    if kind.dtype == "float32":
        return np.array([number(value) for value in values], dtype=np.float32).reshape(kind.shape)
    low, high = (0, 1) if kind.dtype == "bool" else (-(2**63), 2**63 - 1)
    if any(type(value) is not int or not low <= value <= high for value in values):
        raise ValueError("a constant has numbers that do not fit its type")
    return np.array(values, dtype=DTYPES[kind.dtype]).reshape(kind.shape)


def stored_constant(array: Array) -> dict[str, Any]:
    """A constant as it is stored."""
    numbers = array.reshape(-1).astype(np.int64) if array.dtype == np.bool_ else array.reshape(-1)
    kind = Kind(str(array.dtype), array.shape)
    return {"is": kind.to_json(), "values": [stored_number(value) for value in numbers.tolist()]}
