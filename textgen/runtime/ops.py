"""What a stored step may consist of: a fixed list of operations, each with its types, shape rule and numpy code.

`types` says what goes in and comes out, a letter each: f float32, i int64, b bool, n a number of any type, a
anything. The same letter is the same type, `?` is optional, `*` comes any number of times. Nothing outside the list
is run.

A shape holds sizes from 0 up, and -k for k times the batch size B. Rules are applied at two batch sizes; all of them
being products and equalities of sizes, what holds at two holds at every one. A rule raises ValueError, whose text
completes the sentence "node 3 (add) ...".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Shape = tuple[int, ...]
Array = npt.NDArray[Any]
ShapeRule = Callable[..., Shape]

DTYPES: dict[str, Any] = {"float32": np.float32, "int64": np.int64, "bool": np.bool_}
LETTERS = {"f": ["float32"], "i": ["int64"], "b": ["bool"], "n": ["float32", "int64"], "a": list(DTYPES)}
_SIZE = re.compile(r"([1-9]\d{0,8})?B")
MOST_AXES = 8
LARGEST_SIZE = 1 << 30


def parse_shape(stored: Any) -> Shape:
    """A shape from JSON: a list of sizes, 'B' and '4B'. Raises ValueError."""
    if not isinstance(stored, list) or len(stored) > MOST_AXES:
        raise ValueError(f"has an invalid shape: {stored!r:.80}")
    return tuple(map(_parse_size, stored))


def _parse_size(stored: Any) -> int:
    if type(stored) is int and 0 <= stored <= LARGEST_SIZE:
        return stored
    match = _SIZE.fullmatch(stored) if isinstance(stored, str) else None
    if match is None:
        raise ValueError(f"has an invalid size: {stored!r:.80}")
    return -int(match.group(1) or 1)


def stored_shape(shape: Shape) -> list[int | str]:
    """The inverse of `parse_shape`."""
    return [size if size >= 0 else f"{-size if size < -1 else ''}B" for size in shape]


def at_batch(shape: Shape, batch: int) -> Shape:
    """The shape at a batch size."""
    return tuple([size if size >= 0 else -size * batch for size in shape])


def broadcast(inputs: Sequence[Shape], target: Shape) -> Shape:
    """Pointwise operations."""
    try:
        return np.broadcast_shapes(*inputs)
    except ValueError:
        raise ValueError(f"combines incompatible shapes: {', '.join(map(str, inputs))}") from None


def same(inputs: Sequence[Shape], target: Shape, **options: Any) -> Shape:
    """Operations that preserve the shape."""
    return inputs[0]


def reshaped(inputs: Sequence[Shape], target: Shape) -> Shape:
    """`reshape`: any shape with as many elements."""
    if math.prod(inputs[0]) != math.prod(target):
        raise ValueError(f"cannot reshape {inputs[0]} to {target}")
    return target


def expanded(inputs: Sequence[Shape], target: Shape) -> Shape:
    """`expand`: any shape that the input broadcasts to."""
    if broadcast([inputs[0], target], target) != target:
        raise ValueError(f"cannot expand {inputs[0]} to {target}")
    return target


def linear(inputs: Sequence[Shape], target: Shape) -> Shape:
    """`linear`: x (..., K), a matrix (N, K) and perhaps a bias (N,) to (..., N)."""
    x, weight, *bias = inputs
    if len(x) < 1 or len(weight) != 2 or x[-1] != weight[1] or bias not in ([], [weight[:1]]):
        raise ValueError(f"has a linear map of incompatible shapes: {', '.join(map(str, inputs))}")
    return (*x[:-1], weight[0])


def matmul(inputs: Sequence[Shape], target: Shape) -> Shape:
    """`matmul`: (..., M, K) and (..., K, N) to (..., M, N); leading axes are broadcast."""
    a, b = inputs
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        raise ValueError(f"multiplies incompatible matrices: {a} and {b}")
    return (*broadcast([a[:-2], b[:-2]], target), a[-2], b[-1])


def embedding(inputs: Sequence[Shape], target: Shape) -> Shape:
    """`embedding`: a table (V, D) and ids (...) to (..., D)."""
    table, ids = inputs
    if len(table) != 2 or not table[0]:
        raise ValueError(f"looks up rows of a table of shape {table}")
    return (*ids, table[1])


def normalized(inputs: Sequence[Shape], target: Shape, axes: int, eps: float) -> Shape:
    """`layer_norm` over the last axes, with a weight and bias of their shape."""
    x, *affine = inputs
    if not 1 <= axes <= len(x) or any(shape != x[len(x) - axes :] for shape in affine) or 0 in x:
        raise ValueError(f"normalizes {axes} axes of {x} with {affine}")
    return x


def reduced(inputs: Sequence[Shape], target: Shape, axes: list[int], keep: bool) -> Shape:
    """`sum`, `mean`, `amax`, `amin` over some axes, which remain with size 1 if `keep`."""
    sizes = inputs[0]
    if 0 in sizes:
        raise ValueError("reduces an empty array")
    left = [1 if axis in axes else size for axis, size in enumerate(sizes) if keep or axis not in axes]
    return tuple(left)


def permuted(inputs: Sequence[Shape], target: Shape, axes: list[int]) -> Shape:
    """`permute`: axis k is axis axes[k] of the input."""
    if len(axes) != len(inputs[0]):
        raise ValueError(f"permutes {inputs[0]} by {axes}")
    return tuple(inputs[0][axis] for axis in axes)


def sliced(inputs: Sequence[Shape], target: Shape, axis: int, start: int, stop: int, step: int) -> Shape:
    """`slice`: every step-th position of an axis from `start` to before `stop`."""
    sizes = inputs[0]
    if not 0 <= start <= stop <= sizes[axis] or step < 1:
        raise ValueError(f"takes {start}:{stop}:{step} of an axis of size {sizes[axis]}")
    return (*sizes[:axis], len(range(start, stop, step)), *sizes[axis + 1 :])


def concatenated(inputs: Sequence[Shape], target: Shape, axis: int) -> Shape:
    """`cat` along an axis."""
    first = inputs[0]
    for other in inputs[1:]:
        if len(other) != len(first) or other[:axis] != first[:axis] or other[axis + 1 :] != first[axis + 1 :]:
            raise ValueError(f"concatenates incompatible shapes: {first} and {other}")
    return (*first[:axis], sum(shape[axis] for shape in inputs), *first[axis + 1 :])


def taken(inputs: Sequence[Shape], target: Shape, axis: int) -> Shape:
    """`take`: positions (N,) of an axis."""
    x, places = inputs
    if len(places) != 1 or not x[axis]:
        raise ValueError(f"takes positions {places} of {x}")
    return (*x[:axis], places[0], *x[axis + 1 :])


def made(inputs: Sequence[Shape], target: Shape) -> int:
    """The work of most operations: the elements of the result."""
    return math.prod(target)


def read(inputs: Sequence[Shape], target: Shape) -> int:
    """The work of reductions: the elements of the input."""
    return math.prod(inputs[0])


def multiplied(inputs: Sequence[Shape], target: Shape) -> int:
    """The work of products: the multiplications."""
    return math.prod(target) * inputs[0][-1]


@dataclass(frozen=True)
class Operation:
    """An operation. `options` maps each option to what it must be. `sized`: it is called with the result's shape;
    `typed`: with the result's type; `scalars`: numbers may replace arrays. `work` counts the elements computed, read or
    multiplied, from the shapes of the inputs and the result."""

    types: str
    shape: ShapeRule
    run: Callable[..., Array]
    options: Mapping[str, str] = field(default_factory=dict)
    sized: bool = False
    typed: bool = False
    scalars: bool = False
    work: Callable[[Sequence[Shape], Shape], int] = made

    @property
    def inputs(self) -> list[str]:
        """The letters of the inputs."""
        return [letter for letter in self.types.split("->")[0].split(",") if letter]

    @property
    def output(self) -> str:
        """The letter of the result."""
        return self.types.split("->")[1]


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)); accurate for large positive and negative x."""
    y = np.asarray(np.negative(x))
    np.exp(y, out=y)
    np.add(y, np.float32(1), out=y)
    result: Array = np.divide(np.float32(1), y, out=y)
    return result


def log_sigmoid(x: Array) -> Array:
    """log(sigmoid(x)) = min(x, 0) - log(1 + exp(-|x|))."""
    result: Array = np.minimum(x, np.float32(0)) - np.log1p(np.exp(-np.abs(x)))
    return result


def erf(x: Array) -> Array:
    """The error function within 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26)."""
    size = np.abs(x.astype(np.float64))
    t = 1 / (1 + 0.3275911 * size)
    tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    result: Array = np.copysign(1 - tail * np.exp(-size * size), x).astype(np.float32)
    return result


def _linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    y = np.matmul(x, weight.T)
    return y if bias is None else np.add(y, bias, out=y)


def product(x: Array, weight: Array, bias: Array) -> Array:
    """x (..., K) times a matrix stored as (K, N), plus a bias (N,)."""
    y = np.matmul(x, weight)
    return np.add(y, bias, out=y)


def _layer_norm(x: Array, *affine: Array, axes: int, eps: float) -> Array:
    last = tuple(range(x.ndim - axes, x.ndim))
    centred = x - x.mean(axis=last, keepdims=True)
    variance = np.mean(centred * centred, axis=last, keepdims=True)
    y: Array = np.divide(centred, np.sqrt(variance + np.float32(eps)), out=centred)
    for part, combine in zip(affine, (np.multiply, np.add), strict=False):
        combine(y, part, out=y)
    return y


def _softmax(x: Array, axis: int) -> Array:
    y: Array = np.exp(x - x.max(axis=axis, keepdims=True))
    y /= y.sum(axis=axis, keepdims=True)
    return y


def _log_softmax(x: Array, axis: int) -> Array:
    y: Array = x - x.max(axis=axis, keepdims=True)
    y -= np.log(np.exp(y).sum(axis=axis, keepdims=True))
    return y


def _reduction(reduce: Callable[..., Array]) -> Callable[..., Array]:
    def run(x: Array, axes: list[int], keep: bool) -> Array:
        return np.asarray(reduce(x, axis=tuple(axes), keepdims=keep))

    return run


def part_of(axis: int, start: int, stop: int, step: int) -> tuple[slice, ...]:
    """The index of a `slice`."""
    return (*[slice(None)] * axis, slice(start, stop, step))


def _pointwise(types: str, run: Callable[..., Array]) -> Operation:
    return Operation(types, broadcast, run, scalars=True)


_AXIS, _AXES = {"axis": "inner axis"}, {"axes": "inner axes", "keep": "flag"}
_RANGE = {"axis": "inner axis", "start": "count", "stop": "count", "step": "count"}

OPERATIONS: dict[str, Operation] = {
    **{name: _pointwise("f->f", getattr(np, name)) for name in
       ("tanh", "exp", "expm1", "log", "log1p", "sqrt", "reciprocal", "sin", "cos", "floor", "ceil")},
    **{name: _pointwise("n->n", getattr(np, name)) for name in ("negative", "absolute", "sign")},
    **{name: _pointwise("n,n->n", getattr(np, name)) for name in
       ("add", "subtract", "multiply", "maximum", "minimum", "remainder", "floor_divide")},
    **{name: _pointwise("f,f->f", getattr(np, name)) for name in ("divide", "power")},
    **{name: _pointwise("a,a->b", getattr(np, name)) for name in
       ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")},
    **{name: _pointwise("b,b->b", getattr(np, name)) for name in ("logical_and", "logical_or", "logical_xor")},
    "logical_not": _pointwise("b->b", np.logical_not),
    "relu": _pointwise("f->f", lambda x: np.maximum(x, np.float32(0))),
    "sigmoid": _pointwise("f->f", sigmoid),
    "log_sigmoid": _pointwise("f->f", log_sigmoid),
    "erf": _pointwise("f->f", erf),
    "where": _pointwise("b,a,a->a", np.where),
    "lerp": _pointwise("f,f,f->f", lambda start, end, weight: start + (end - start) * weight),
    "linear": Operation("f,f,f?->f", linear, _linear, work=multiplied),
    "matmul": Operation("f,f->f", matmul, np.matmul, work=multiplied),
    "embedding": Operation("f,i->f", embedding, lambda table, ids: table.take(ids, axis=0, mode="clip")),
    "layer_norm": Operation("f,f?,f?->f", normalized, _layer_norm, {"axes": "last axes", "eps": "number"}),
    "softmax": Operation("f->f", same, _softmax, _AXIS),
    "log_softmax": Operation("f->f", same, _log_softmax, _AXIS),
    "cumsum": Operation("n->n", same, lambda x, axis: np.cumsum(x, axis=axis, dtype=x.dtype), _AXIS),
    "sum": Operation("n->n", reduced, _reduction(np.sum), _AXES, work=read),
    "mean": Operation("f->f", reduced, _reduction(np.mean), _AXES, work=read),
    "amax": Operation("n->n", reduced, _reduction(np.max), _AXES, work=read),
    "amin": Operation("n->n", reduced, _reduction(np.min), _AXES, work=read),
    "slice": Operation("a->a", sliced, lambda x, **part: x[part_of(**part)], _RANGE),
    "cat": Operation("a,a*->a", concatenated, lambda *parts, axis: np.concatenate(parts, axis=axis), _AXIS),
    "take": Operation("a,i->a", taken, lambda x, places, axis: x.take(places, axis=axis, mode="clip"), _AXIS),
    "permute": Operation("a->a", permuted, lambda x, axes: x.transpose(axes), {"axes": "axes"}),
    "reshape": Operation("a->a", reshaped, lambda x, shape: x.reshape(shape), sized=True),
    "expand": Operation("a->a", expanded, np.broadcast_to, sized=True),
    "full": Operation("->a", lambda inputs, target: target, lambda shape, dtype, value: np.full(shape, value, dtype),
                      {"value": "number"}, sized=True, typed=True),
    "cast": Operation("a->n", same, lambda x, dtype: x.astype(dtype), typed=True),
}  # fmt: skip
"""Every operation of stored steps, by name."""
