"""Recording the operations of torch code, call by call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from textgen.tracing.aten import RULES
from textgen.tracing.notes import Given, GraphBuilder, Untraceable
from textgen.tracing.shaping import NEW


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records into `graph` what its block does to the tensors that have names."""

    def __init__(self, names: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = GraphBuilder(names)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Asked by torch, which would otherwise import its compiler here and waste four seconds."""
        return False

    def record(self, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> list[str]:
        """Run a function of tensors; returns the names of its results. In-place changes become new values."""
        with torch.no_grad(), self:
            results = torch.func.functionalize(function)(*inputs)
        return [self.graph.name(result) for result in results]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket.__name__ if func.namespace == "aten" else str(func)
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise Untraceable(f"it draws random numbers ({func}).")
        if packet not in NEW and not any(map(self.graph.knows, _tensors([args, kwargs]))):
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            return self._in_place(func, packet.removesuffix("_"), args, kwargs)
        rule = RULES.get(f"{packet}.{func._overloadname}") or RULES.get(packet)
        if rule is None:
            return self._decomposed(func, args, kwargs)
        result = func(*args, **kwargs)
        if packet.startswith("unsafe_"):  # parts that count as independent tensors, and may be changed in place
            result = [part.clone() for part in result]
        names = rule(self.graph, result, _given(func, args, kwargs))
        if names is None:
            raise Untraceable(unsupported(func))
        self.graph.remember(result, names)
        return result

    def _in_place(self, func: Any, packet: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A change in place inside one of torch's own functions, to a tensor that nobody else sees."""
        target, rule = args[0], RULES.get(packet)
        if rule is None or not self.graph.is_result(target) or "out" in kwargs:
            raise Untraceable(f"it changes a tensor in place ({func}).")
        result = func(*args, **kwargs)
        self.graph.rename(target, rule(self.graph, target, _given(func, args, kwargs)))
        return result

    def _decomposed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result by torch's own decomposition, whose operations are recorded in turn."""
        from torch._decomp import decomposition_table

        with self:
            if func in decomposition_table:
                return decomposition_table[func](*args, **kwargs)
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            raise Untraceable(unsupported(func))
        return result


_REWRITES = {
    "_local_scalar_dense": "it takes a number out of a tensor (_local_scalar_dense: .item(), float(...), an `if` on "
    "values, one_hot); compare with torch.arange and choose with torch.where instead.",
    "nonzero": "it selects by a mask, so its sizes depend on values; choose with torch.where instead.",
    "index": "it selects by a mask, or by several index tensors at once; choose with torch.where, gather or "
    "index_select instead.",
    "as_strided": "it reads memory with custom strides (as_strided); use slices, unfold or reshape instead.",
}


def unsupported(func: Any) -> str:
    """Why an operation cannot be stored and, where known, how to write the step without it."""
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
    """The arguments of a call by name."""
    given = {}
    for place, argument in enumerate(func._schema.arguments):
        value = argument.default_value if argument.has_default_value() else None
        given[argument.name] = args[place] if place < len(args) else kwargs.get(argument.name, value)
    return given
