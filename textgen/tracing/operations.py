"""The graph that tracing builds, and the rules that translate torch's operations into those of the stored step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
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
    """Recorded operations, constants, the names of the outputs, and the name of every tensor seen.

    A tensor without a name that does not depend on a named one is a constant. An operand is a tensor, the name of a
    result, or a number.
    """

    def __init__(self, names: Mapping[str, Tensor]) -> None:
        self.ops: list[RecordedOp] = []
        self.constants: list[Tensor] = []
        self.outputs: list[str] = []
        self._names: dict[int, str | None] = {id(tensor): name for name, tensor in names.items()}
        self._tensors: list[Tensor] = list(names.values())  # keeps them alive, so that no id is used again
        self._types = {name: (tensor.dtype, list(tensor.shape)) for name, tensor in names.items()}

    def knows(self, value: Any) -> bool:
        """Whether a value is a tensor that has a name."""
        return id(value) in self._names

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


def wrapped(graph: GraphBuilder, index: Tensor, size: int) -> str:
    """Indices counted from the front; negative ones count from the end of an axis of this size."""
    flags = torch.empty(0, dtype=torch.bool)
    behind = graph.add("less", [index, 0], flags, index.shape)
    return graph.add("where", [behind, graph.add("add", [index, size], index), index], index)


def _along(op: str) -> Rule:
    return lambda graph, out, given: graph.add(op, [given["self"]], out, axis=axis_of(given["self"], given["dim"]))


def _reduction(op: str) -> Rule:
    def rule(graph: GraphBuilder, out: Tensor, given: Given) -> str:
        x, dims = given["self"], given.get("dim")
        dims = [dims] if isinstance(dims, int) else dims or range(x.dim())
        axes = sorted(axis_of(x, dim) for dim in dims)
        return graph.add(op, [x], out, axes=axes, keep=bool(given.get("keepdim", False)))

    return rule


def _variance(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    x, correction = given["self"], given.get("correction", int(given.get("unbiased", True)))
    axes = sorted(axis_of(x, dim) for dim in (given["dim"] or range(x.dim())))
    small = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    centred = graph.add("subtract", [x, graph.add("mean", [x], x, small, axes=axes, keep=True)], x)
    squares = graph.add("multiply", [centred, centred], x)
    total = graph.add("sum", [squares], out, axes=axes, keep=bool(given["keepdim"]))
    count = math.prod(x.shape[axis] for axis in axes) - (1 if correction is None else correction)
    return graph.add("multiply", [total, 1 / count if count else math.inf], out)


def _turned(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    x = given["self"]
    axes = list(range(x.dim()))
    if "dims" in given:
        axes = [axis_of(x, dim) for dim in given["dims"]]
    elif x.dim() > 1:
        first, second = axis_of(x, given.get("dim0", 0)), axis_of(x, given.get("dim1", 1))
        axes[first], axes[second] = second, first
    return graph.add("permute", [x], out, axes=axes)


def _cut(graph: GraphBuilder, x: Tensor, axis: int, start: int, stop: int, step: int = 1) -> str:
    shape = list(x.shape)
    shape[axis] = len(range(start, stop, step))
    return graph.add("slice", [x], x, shape, axis=axis, start=start, stop=stop, step=step)


def _slice(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    x, axis = given["self"], axis_of(given["self"], given["dim"])
    start, stop, step = slice(given["start"], given["end"], given["step"]).indices(x.shape[axis])
    whole = (start, stop, step) == (0, x.shape[axis], 1)
    return graph.name(x) if whole else _cut(graph, x, axis, start, max(start, stop), step)


def _select(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    x, axis = given["self"], axis_of(given["self"], given["dim"])
    place = given["index"] % x.shape[axis]
    return graph.add("reshape", [_cut(graph, x, axis, place, place + 1)], out)


def _split(graph: GraphBuilder, out: Sequence[Tensor], given: Given) -> list[str]:
    x, axis, start, names = given["self"], axis_of(given["self"], given["dim"]), 0, []
    for part in out:
        names.append(_cut(graph, x, axis, start, start + part.shape[axis]))
        start += part.shape[axis]
    return names


def _cat(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    parts = [part for part in given["tensors"] if part.dim() == out.dim()]
    return graph.add("cat", parts, out, axis=axis_of(out, given["dim"]))


def _stack(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    axis = axis_of(out, given["dim"])
    shape = (*out.shape[:axis], 1, *out.shape[axis + 1 :])
    return graph.add("cat", [graph.add("reshape", [x], out, shape) for x in given["tensors"]], out, axis=axis)


def _repeat(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    times = given["repeats"]
    sizes = [1] * (len(times) - given["self"].dim()) + list(given["self"].shape)
    apart = graph.add("reshape", [given["self"]], out, [n for size in sizes for n in (1, size)])
    pairs = [n for count, size in zip(times, sizes, strict=True) for n in (count, size)]
    return graph.add("reshape", [graph.add("expand", [apart], out, pairs)], out)


def _index(graph: GraphBuilder, out: Tensor, given: Given) -> str | None:
    indices = [(axis, index) for axis, index in enumerate(given["indices"]) if index is not None]
    (axis, index), *others = indices
    if others or index.dim() != 1 or index.dtype != torch.int64:
        return None
    return graph.add("take", [given["self"], wrapped(graph, index, given["self"].shape[axis])], out, axis=axis)


def _flip(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    name: Any = given["self"]
    for dim in given["dims"]:
        axis = axis_of(out, dim)
        name = graph.add("take", [name, torch.arange(out.shape[axis] - 1, -1, -1)], out, axis=axis)
    return str(name)


def _scattered(graph: GraphBuilder, out: Tensor, given: Given) -> str | None:
    """Part of a tensor replaced by another: the tensor before it, the other tensor, the tensor behind it."""
    x, part, axis = given["self"], given["src"], axis_of(given["self"], given["dim"])
    if "index" in given:
        start = given["index"] % x.shape[axis]
        stop, step = start + 1, 1
        part = graph.add("reshape", [part], x, (*x.shape[:axis], 1, *x.shape[axis + 1 :]))
    else:
        start, stop, step = slice(given["start"], given["end"], given["step"]).indices(x.shape[axis])
    before = [_cut(graph, x, axis, 0, start)] if start else []
    behind = [_cut(graph, x, axis, stop, x.shape[axis])] if stop < x.shape[axis] else []
    if not (before or behind) and isinstance(part, Tensor):
        return graph.name(part)
    return graph.add("cat", [*before, part, *behind], out, axis=axis) if step == 1 else None


def _same(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    x = given["self"]
    if out.dtype == x.dtype:
        return graph.name(x)
    return graph.add("not_equal", [x, 0], out) if out.dtype == torch.bool else graph.add("cast", [x], out)


def _copy(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    name = _same(graph, out, {"self": given["src"]}) if given["src"].dtype != out.dtype else given["src"]
    return graph.add("expand", [name], out)


def _full(value: float | None = None) -> Rule:
    def rule(graph: GraphBuilder, out: Tensor, given: Given) -> str:
        number: Any = given.get("fill_value", given.get("value")) if value is None else value
        return graph.add("full", [], out, value=float(number))

    return rule


NEW = by_name({
    "zeros new_zeros zeros_like empty new_empty empty_like new_empty_strided empty_strided": _full(0.0),
    "ones new_ones ones_like": _full(1.0),
    "full new_full full_like fill": _full(),
})  # fmt: skip
"""Operations that fill a new tensor with one number; its size may depend on the batch."""

SHAPING = by_name({
    "_softmax": _along("softmax"), "_log_softmax": _along("log_softmax"), "cumsum": _along("cumsum"),
    "sum": _reduction("sum"), "mean": _reduction("mean"), "amax": _reduction("amax"), "amin": _reduction("amin"),
    "max.dim": lambda graph, out, given: [_reduction("amax")(graph, out[0], given), None],
    "var": _variance, "std": lambda graph, out, given: graph.add("sqrt", [_variance(graph, out, given)], out),
    "var_mean": lambda graph, out, given: [_variance(graph, out[0], given), _reduction("mean")(graph, out[1], given)],
    "view _unsafe_view reshape unsqueeze squeeze view_copy unsqueeze_copy squeeze_copy": operands("reshape", "self"),
    "t transpose permute t_copy transpose_copy permute_copy": _turned,
    "expand expand_copy": operands("expand", "self"),
    "slice slice_copy": _slice, "select select_copy": _select,
    "unbind unbind_copy": lambda graph, out, given:
        [_select(graph, part, {**given, "index": place}) for place, part in enumerate(out)],
    "split split_with_sizes unsafe_split split_copy split_with_sizes_copy": _split, "cat": _cat, "stack": _stack,
    "repeat": _repeat, "index": _index, "flip": _flip,
    "index_select": lambda graph, out, given:
        graph.add("take", [given["self"], given["index"]], out, axis=axis_of(given["self"], given["dim"])),
    "slice_scatter select_scatter": _scattered, "copy": _copy,
    "alias detach clone lift lift_fresh contiguous _to_copy lift_fresh_copy detach_copy alias_copy positive": _same,
})  # fmt: skip
"""By the name of torch's operation, with its overload where overloads differ."""


def _scaled(graph: GraphBuilder, operand: Any, factor: float, like: Tensor) -> Any:
    if factor == 1:
        return operand
    if isinstance(operand, (int, float)):
        return operand * factor
    shape = operand.shape if isinstance(operand, Tensor) else like.shape
    return graph.add("multiply", [operand, factor], like, shape)


def _sum_of(op: str) -> Rule:
    def rule(graph: GraphBuilder, out: Tensor, given: Given) -> str:
        return graph.add(op, [given["self"], _scaled(graph, given["other"], given.get("alpha", 1), out)], out)

    return rule


def _quotient(graph: GraphBuilder, out: Tensor, given: Given) -> str | None:
    rounding = given.get("rounding_mode")
    if rounding == "floor" and not out.is_floating_point():
        return graph.add("floor_divide", [given["self"], given["other"]], out)
    quotient = graph.add("divide", [given["self"], given["other"]], out)
    return quotient if rounding is None else graph.add("floor", [quotient], out) if rounding == "floor" else None


def _power(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    base, exponent = given["self"], given["exponent"]
    known = None if isinstance(exponent, Tensor) else exponent
    if known == 2:
        return graph.add("multiply", [base, base], out)
    return graph.add("sqrt", [base], out) if known == 0.5 else graph.add("power", [base, exponent], out)


def _plus_product(op: str) -> Rule:
    def rule(graph: GraphBuilder, out: Tensor, given: Given) -> str:
        first, second = given["tensor1"], given["tensor2"]
        shape = np.broadcast_shapes(first.shape, second.shape)
        product = graph.add(op, [first, second], out, shape)
        if given["value"] != 1:
            product = graph.add("multiply", [product, given["value"]], out, shape)
        return graph.add("add", [given["self"], product], out)

    return rule


def _clamped(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    value = given["self"]
    for bound, op in (("min", "maximum"), ("max", "minimum")):
        if given.get(bound) is not None:
            value = graph.add(op, [value, given[bound]], out)
    return graph.add("add", [value, 0], out) if value is given["self"] else str(value)


def _product(graph: GraphBuilder, a: Tensor, b: Tensor, like: Tensor) -> str:
    matrix = graph.transposed(b)
    return graph.add("matmul", [a, b], like) if matrix is None else graph.add("linear", [a, matrix], like)


def _plus_matmul(first: str, second: str) -> Rule:
    def rule(graph: GraphBuilder, out: Tensor, given: Given) -> str:
        product: Any = _product(graph, given[first], given[second], out)
        product = _scaled(graph, product, given["alpha"], out)
        if given["beta"] == 0:
            return str(product)
        return graph.add("add", [product, _scaled(graph, given["self"], given["beta"], out)], out)

    return rule


def _linear(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    bias = [] if given["bias"] is None else [given["bias"]]
    return graph.add("linear", [given["input"], given["weight"], *bias], out)


def _layer_norm(graph: GraphBuilder, out: tuple[Tensor, ...], given: Given) -> list[str | None]:
    affine = [given[name] for name in ("weight", "bias") if given[name] is not None]
    if given["weight"] is None and affine:
        return [None, None, None]
    axes, eps = len(given["normalized_shape"]), given["eps"]
    return [graph.add("layer_norm", [given["input"], *affine], out[0], axes=axes, eps=eps), None, None]


_SAME_NAME = (
    *("tanh", "exp", "expm1", "log", "log1p", "sqrt", "reciprocal", "sin", "cos", "floor", "ceil", "sign"),
    *("relu", "sigmoid", "erf", "logical_not"),
)
RULES = NEW | SHAPING | by_name({
    **{name: operands(name, "self") for name in _SAME_NAME},
    "neg": operands("negative", "self"), "abs": operands("absolute", "self"),
    "rsqrt": lambda graph, out, given: graph.add("reciprocal", [graph.add("sqrt", [given["self"]], out)], out),
    "bitwise_not": operands("logical_not", "self"),
    "log_sigmoid_forward": lambda graph, out, given: [graph.add("log_sigmoid", [given["self"]], out[0]), None],
    "add": _sum_of("add"), "sub": _sum_of("subtract"), "rsub": lambda graph, out, given:
        graph.add("subtract", [given["other"], _scaled(graph, given["self"], given["alpha"], out)], out),
    "mul": operands("multiply", "self", "other"), "remainder": operands("remainder", "self", "other"),
    "floor_divide": operands("floor_divide", "self", "other"),
    "div": _quotient, "pow": _power,
    "maximum max.other": operands("maximum", "self", "other"),
    "minimum min.other": operands("minimum", "self", "other"),
    "eq": operands("equal", "self", "other"), "ne": operands("not_equal", "self", "other"),
    "lt": operands("less", "self", "other"), "le": operands("less_equal", "self", "other"),
    "gt": operands("greater", "self", "other"), "ge": operands("greater_equal", "self", "other"),
    "logical_and bitwise_and": operands("logical_and", "self", "other"),
    "logical_or bitwise_or": operands("logical_or", "self", "other"),
    "logical_xor bitwise_xor": operands("logical_xor", "self", "other"),
    "where": operands("where", "condition", "self", "other"), "masked_fill": operands("where", "mask", "value", "self"),
    "lerp": operands("lerp", "self", "end", "weight"), "clamp clamp_min clamp_max": _clamped,
    "addcmul": _plus_product("multiply"), "addcdiv": _plus_product("divide"),
    "mm bmm": lambda graph, out, given: _product(graph, given["self"], given["mat2"], out),
    "addmm": _plus_matmul("mat1", "mat2"), "baddbmm": _plus_matmul("batch1", "batch2"),
    "linear": _linear, "embedding": operands("embedding", "weight", "indices"),
    "native_layer_norm": _layer_norm,
})  # fmt: skip
"""By the name of torch's operation, with its overload where overloads differ."""
