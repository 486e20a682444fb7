"""The stored step of a model, `step.json`: a small graph of array operations, stored as data and parsed as untrusted.

A graph declares its weights and state with their shapes, and holds two programs: `initial` computes the state before
the first token, and `step` computes logits and the next state from ids and a state. A program is a list of nodes in
order; each names an operation of `textgen.runtime.ops`, its inputs, and the type and shape of its result. Types and
shapes are inferred again when the file is read, and must agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgen.config import FORMAT_VERSION, check_version
from textgen.runtime.nodes import Node, TensorSpec, items, number, stored_number, table, work
from textgen.runtime.ops import DTYPES, Array
from textgen.sealed import DamagedError

FORMAT = "textgen step"
MOST_NODES, MOST_STATES = 20_000, 1024
MOST_CONSTANTS = 1 << 16
LARGEST_SUM = 1 << 26
"""Elements that all values of a program may have together, per row of the batch."""
FREE_WORK, WORK_A_WEIGHT = 1 << 22, 32
"""Elements that a program may compute, read or multiply per row of the batch, in total and for each weight: this bounds
its running time by the size of the model."""
IDS = "ids"


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
        specs = {
            **known,
            **{f"constant.{k}": TensorSpec(str(array.dtype), array.shape) for k, array in enumerate(constants)},
        }
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
    """The content of `step.json`. `logits` (B, V) is the first output of the step; `int8` names the weights that are
    stored as int8."""

    weights: dict[str, TensorSpec]
    state: tuple[TensorSpec, ...]
    logits: TensorSpec
    initial: Program
    step: Program
    int8: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The content of `step.json`."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "weights": {name: spec.to_json() for name, spec in self.weights.items()},
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
        known |= {IDS: TensorSpec("int64", (-1,)), **{f"state.{place}": spec for place, spec in enumerate(state)}}
        step = Program.from_json("step", content.get("step"), known, [logits, *state])
        return cls(weights, state, logits, initial, step, _parse_int8(content.get("int8", []), weights))


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
