"""Writing down what a piece of torch code does to its tensors, call by call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from textgen.errors import TextgenError
from textgen.runtime.ops import OPERATIONS
from textgen.tracing.aten import RULES
from textgen.tracing.notes import Given
from textgen.tracing.shaping import NEW

DTYPES = {torch.float32: "float32", torch.int64: "int64", torch.bool: "bool"}
_FIXED = {"f": torch.float32, "i": torch.int64, "b": torch.bool}


class Untraceable(TextgenError):
    """A step that cannot be stored; the message says what is in the way."""


@dataclass(frozen=True)
class Record:
    """One operation as it was seen, its sizes those of one batch."""

    op: str
    inputs: list[str | float]
    dtype: str
    shape: list[int]
    options: dict[str, Any] = field(default_factory=dict)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records what is done inside its block to the tensors that it knows by name, as `textgen.tracing.notes.Notes`.

    A tensor that nobody named is a constant, if nothing that has a name led to it.
    """

    def __init__(self, names: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.records: list[Record] = []
        self.constants: list[Tensor] = []
        self._names: dict[int, str | None] = {id(tensor): name for name, tensor in names.items()}
        self._kept: list[Tensor] = list(names.values())  # a tensor's id is its own only while it lives
        self._shown = {name: (tensor.dtype, list(tensor.shape)) for name, tensor in names.items()}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Asked by torch, which else imports its compiler here: four seconds for nothing."""
        return False

    def record(self, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> list[str]:
        """Run a function of tensors; returns the names of its results. Changes in place are turned into values."""
        with torch.no_grad(), self:
            results = torch.func.functionalize(function)(*inputs)
        return [self.name(result) for result in results]

    # --- what rules ask for ---

    def name(self, tensor: Tensor) -> str:
        """The name of a tensor. Raises Untraceable for one that a rule could not name."""
        if id(tensor) not in self._names:
            self._remember(tensor, f"constant.{len(self.constants)}")
            wrapped = tensor.dim() == 0 and tensor.dtype == torch.float64
            self.constants.append(tensor.detach().float() if wrapped else tensor.detach())
        name = self._names[id(tensor)]
        if name is None:
            raise Untraceable("it uses a result of torch in a form that is not supported by the numpy runtime.")
        return name

    def turned(self, tensor: Tensor) -> str | None:
        """The name of the matrix whose transpose this is."""
        name = self.name(tensor)
        if not name.startswith("node."):
            return None
        record = self.records[int(name.removeprefix("node."))]
        matrix = record.op == "permute" and record.options["axes"] == [1, 0]
        return str(record.inputs[0]) if matrix else None

    def note(
        self, op: str, operands: Sequence[Any], like: Tensor, shape: Sequence[int] | None = None, **options: Any
    ) -> str:
        """Note an operation whose result has the type of `like`, and its shape unless another is given."""
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
        """The type that all inputs of a letter are brought to."""
        if letter in _FIXED:
            return _FIXED[letter]
        own = [each for each, its in zip(inputs, letters, strict=True) if its == letter]
        dtypes = [self._shown[each][0] for each in own if isinstance(each, str)] or [torch.float32]
        common = reduce(torch.promote_types, dtypes)
        fraction = any(isinstance(each, float) and not each.is_integer() for each in own)
        return torch.float32 if fraction and not common.is_floating_point else common

    def _as(self, operand: str | float, dtype: torch.dtype) -> str | float:
        if not isinstance(operand, str):
            return float(operand)
        before, shape = self._shown[operand]
        if before == dtype:
            return operand
        op, others = ("not_equal", [0.0]) if dtype == torch.bool else ("cast", [])
        return self._append(op, [operand, *others], dtype, shape, {})

    def _append(
        self, op: str, inputs: list[str | float], dtype: torch.dtype, shape: Sequence[int], options: dict[str, Any]
    ) -> str:
        if dtype not in DTYPES:
            raise Untraceable(f"it computes in {str(dtype).removeprefix('torch.')}.")
        name = f"node.{len(self.records)}"
        self.records.append(Record(op, inputs, DTYPES[dtype], [*shape], options))
        self._shown[name] = dtype, [*shape]
        return name

    # --- what torch calls ---

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket.__name__ if func.namespace == "aten" else str(func)
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise Untraceable(f"it draws noise ({func}).")
        known = any(id(tensor) in self._names for tensor in _tensors([args, kwargs]))
        if not known and packet not in NEW:
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            return self._changed(func, packet.removesuffix("_"), args, kwargs)
        rule = RULES.get(f"{packet}.{func._overloadname}") or RULES.get(packet)
        if rule is None:
            return self._taken_apart(func, args, kwargs)
        result = func(*args, **kwargs)
        if packet.startswith("unsafe_"):  # parts that count as tensors of their own, and may be changed in place
            result = [part.clone() for part in result]
        names = rule(self, result, _given(func, args, kwargs))
        if names is None:
            raise Untraceable(unsupported(func))
        self._remember(result, names)
        return result

    def _changed(self, func: Any, packet: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A change in place inside one of torch's own functions, as they make on what nobody else sees."""
        target, rule = args[0], RULES.get(packet)
        own = isinstance(target, Tensor) and (self._names.get(id(target)) or "").startswith("node.")
        if rule is None or not own or "out" in kwargs:
            raise Untraceable(f"it changes a tensor in place ({func}).")
        result = func(*args, **kwargs)
        name = rule(self, target, _given(func, args, kwargs))
        memory = target.untyped_storage().data_ptr()
        for other in self._kept:
            if other.untyped_storage().data_ptr() == memory:
                self._names[id(other)] = None
        self._names[id(target)] = name
        return result

    def _taken_apart(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result by torch's own decomposition, whose parts come back here."""
        from torch._decomp import decomposition_table

        with self:
            if func in decomposition_table:
                return decomposition_table[func](*args, **kwargs)
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            raise Untraceable(unsupported(func))
        return result

    def _remember(self, result: Any, names: Any) -> None:
        if isinstance(result, Tensor):
            result, names = [result], [names]
        for tensor, name in zip(result, names, strict=True):
            self._names[id(tensor)] = name
            self._kept.append(tensor)
            if name is not None:
                self._shown.setdefault(name, (tensor.dtype, [*tensor.shape]))


_REWRITES = {
    "_local_scalar_dense": "it takes a number out of a tensor (_local_scalar_dense: .item(), float(...), an `if` on "
    "values, one_hot); compare with torch.arange and choose with torch.where instead.",
    "nonzero": "it selects by a mask, so that sizes depend on values; choose with torch.where instead.",
    "index": "it selects by a mask, or by several tensors of places at once; choose with torch.where, gather or "
    "index_select instead.",
    "as_strided": "it reads memory by strides of its own (as_strided); use slices, unfold or reshape instead.",
}


def unsupported(func: Any) -> str:
    """That an operation cannot be stored, and how the step can be written without it where that is known."""
    known = _REWRITES.get(func.overloadpacket.__name__)
    return known or f"it uses {func}, which is not supported by the numpy runtime."


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _given(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Given:
    """The arguments of a call by their names."""
    given = {}
    for place, argument in enumerate(func._schema.arguments):
        value = argument.default_value if argument.has_default_value() else None
        given[argument.name] = args[place] if place < len(args) else kwargs.get(argument.name, value)
    return given
