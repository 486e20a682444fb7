"""Building the graph of a step, and what a tracing rule is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from textgen.errors import TextgenError
from textgen.runtime.ops import OPERATIONS

DTYPES = {torch.float32: "float32", torch.int64: "int64", torch.bool: "bool"}
_FIXED = {"f": torch.float32, "i": torch.int64, "b": torch.bool}
Given = dict[str, Any]


class Untraceable(TextgenError):
    """A step that cannot be stored; the message gives the reason."""


@dataclass(frozen=True)
class RecordedOp:
    """One operation, with its sizes at one batch size."""

    op: str
    inputs: list[str | float]
    dtype: str
    shape: list[int]
    options: dict[str, Any] = field(default_factory=dict)


class GraphBuilder:
    """Recorded operations, constants, and the name of every tensor seen.

    A tensor without a name that does not depend on a named one is a constant. An operand is a tensor, the name of a
    result, or a number.
    """

    def __init__(self, names: Mapping[str, Tensor]) -> None:
        self.ops: list[RecordedOp] = []
        self.constants: list[Tensor] = []
        self._names: dict[int, str | None] = {id(tensor): name for name, tensor in names.items()}
        self._tensors: list[Tensor] = list(names.values())  # keeps them alive, so that no id is used again
        self._types = {name: (tensor.dtype, list(tensor.shape)) for name, tensor in names.items()}

    def knows(self, tensor: Tensor) -> bool:
        """Whether a tensor has a name."""
        return id(tensor) in self._names

    def name(self, tensor: Tensor) -> str:
        """The name of a tensor. Raises Untraceable for one that no rule could name."""
        if id(tensor) not in self._names:
            self.remember(tensor, f"constant.{len(self.constants)}")
            wrapped = tensor.dim() == 0 and tensor.dtype == torch.float64
            self.constants.append(tensor.detach().float() if wrapped else tensor.detach())
        name = self._names[id(tensor)]
        if name is None:
            raise Untraceable("it uses a result of torch in a form that is not supported by the numpy runtime.")
        return name

    def transposed(self, tensor: Tensor) -> str | None:
        """The name of the matrix whose transpose this tensor is, if it is one."""
        name = self.name(tensor)
        if not name.startswith("node."):
            return None
        op = self.ops[int(name.removeprefix("node."))]
        return str(op.inputs[0]) if op.op == "permute" and op.options["axes"] == [1, 0] else None

    def add(
        self, op: str, operands: Sequence[Any], like: Tensor, shape: Sequence[int] | None = None, **options: Any
    ) -> str:
        """Add an operation; its result has the dtype of `like`, and the shape of `like` unless another is given."""
        inputs = [self.name(each) if isinstance(each, Tensor) else each for each in operands]
        operation = OPERATIONS[op]
        if not operation.typed:
            letters = operation.inputs
            wanted = [letters[min(place, len(letters) - 1)][0] for place in range(len(inputs))]
            common = {letter: self._common(inputs, wanted, letter) for letter in wanted}
            common[operation.output] = like.dtype
            inputs = [self._as(each, common[letter]) for each, letter in zip(inputs, wanted, strict=True)]
        return self._append(op, inputs, like.dtype, like.shape if shape is None else shape, options)

    def _common(self, inputs: list[Any], letters: list[str], letter: str) -> torch.dtype:
        """The dtype that all inputs with this letter are converted to."""
        if letter in _FIXED:
            return _FIXED[letter]
        own = [each for each, its in zip(inputs, letters, strict=True) if its == letter]
        dtypes = [self._types[each][0] for each in own if isinstance(each, str)] or [torch.float32]
        common = reduce(torch.promote_types, dtypes)
        fraction = any(isinstance(each, float) and not each.is_integer() for each in own)
        return torch.float32 if fraction and not common.is_floating_point else common

    def _as(self, operand: str | float, dtype: torch.dtype) -> str | float:
        if not isinstance(operand, str):
            return float(operand)
        before, shape = self._types[operand]
        if before == dtype:
            return operand
        op, others = ("not_equal", [0.0]) if dtype == torch.bool else ("cast", [])
        return self._append(op, [operand, *others], dtype, shape, {})

    def _append(
        self, op: str, inputs: list[str | float], dtype: torch.dtype, shape: Sequence[int], options: dict[str, Any]
    ) -> str:
        if dtype not in DTYPES:
            raise Untraceable(f"it computes in {str(dtype).removeprefix('torch.')}.")
        name = f"node.{len(self.ops)}"
        self.ops.append(RecordedOp(op, inputs, DTYPES[dtype], [*shape], options))
        self._types[name] = dtype, [*shape]
        return name

    def remember(self, result: Any, names: Any) -> None:
        """Give a tensor its name, or several tensors theirs; None for one that must not be used."""
        if isinstance(result, Tensor):
            result, names = [result], [names]
        for tensor, name in zip(result, names, strict=True):
            self._names[id(tensor)] = name
            self._tensors.append(tensor)
            if name is not None:
                self._types.setdefault(name, (tensor.dtype, [*tensor.shape]))

    def is_result(self, tensor: Any) -> bool:
        """Whether a tensor is the result of a recorded operation."""
        return isinstance(tensor, Tensor) and (self._names.get(id(tensor)) or "").startswith("node.")

    def rename(self, tensor: Tensor, name: str) -> None:
        """Name a tensor that was changed in place; other tensors in the same memory must not be used any more."""
        memory = tensor.untyped_storage().data_ptr()
        for other in self._tensors:
            if other.untyped_storage().data_ptr() == memory:
                self._names[id(other)] = None
        self._names[id(tensor)] = name


Rule = Callable[[GraphBuilder, Any, Given], Any]
"""Takes the graph, a call's result and its arguments by the names in torch's schema. Returns the name of the result in
the graph; for several results a list of names, with None for one that must not be used. None alone means that the call
is not supported."""


def axis_of(tensor: Tensor, axis: int) -> int:
    """An axis counted from the front."""
    return axis % max(1, tensor.dim())


def operands(op: str, *names: str) -> Rule:
    """The rule of an operation that exists under both names: its operands are the arguments with these names."""
    return lambda graph, out, given: graph.add(op, [given[name] for name in names], out)


def by_name(rules: dict[str, Rule]) -> dict[str, Rule]:
    """Rules by each of the names in their key."""
    return {name: rule for names, rule in rules.items() for name in names.split()}
