"""The operations that a stored step may use: for each its types, shape inference and numpy implementation.

`types` gives the type of each input and of the result by a letter: f float32, i int64, b bool, n float32 or int64,
a any type. The same letter is the same type, `?` marks an optional input, `*` a repeated one. Nothing else is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen.runtime import shapes

Array = npt.NDArray[Any]
ShapeRule = Callable[..., shapes.Shape]

DTYPES: dict[str, Any] = {"float32": np.float32, "int64": np.int64, "bool": np.bool_}
LETTERS = {"f": ["float32"], "i": ["int64"], "b": ["bool"], "n": ["float32", "int64"], "a": list(DTYPES)}


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
    work: Callable[[Sequence[shapes.Shape], shapes.Shape], int] = shapes.made

    @property
    def inputs(self) -> list[str]:
        """The letters of the inputs."""
        return self.types.split("->")[0].split(",") if not self.types.startswith("->") else []

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


def _embedding(table: Array, ids: Array) -> Array:
    return table.take(ids, axis=0, mode="clip")


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


def _cumsum(x: Array, axis: int) -> Array:
    return np.cumsum(x, axis=axis, dtype=x.dtype)


def part_of(axis: int, start: int, stop: int, step: int) -> tuple[slice, ...]:
    """The index of a `slice`."""
    return (*[slice(None)] * axis, slice(start, stop, step))


def _slice(x: Array, **options: int) -> Array:
    part: Array = x[part_of(**options)]
    return part


def _lerp(start: Array, end: Array, weight: Array) -> Array:
    result: Array = start + (end - start) * weight
    return result


def _cat(*parts: Array, axis: int) -> Array:
    return np.concatenate(parts, axis=axis)


def _take(x: Array, places: Array, axis: int) -> Array:
    return x.take(places, axis=axis, mode="clip")


def _full(shape: shapes.Shape, dtype: Any, value: float) -> Array:
    return np.full(shape, value, dtype=dtype)


def _reshape(x: Array, shape: shapes.Shape) -> Array:
    return x.reshape(shape)


def _cast(x: Array, dtype: Any) -> Array:
    return x.astype(dtype)


def _relu(x: Array) -> Array:
    return np.maximum(x, np.float32(0))


def _permute(x: Array, axes: Sequence[int]) -> Array:
    return x.transpose(axes)


def _pointwise(types: str, run: Callable[..., Array]) -> Operation:
    return Operation(types, shapes.broadcast, run, scalars=True)


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
    "relu": _pointwise("f->f", _relu),
    "sigmoid": _pointwise("f->f", sigmoid),
    "log_sigmoid": _pointwise("f->f", log_sigmoid),
    "erf": _pointwise("f->f", erf),
    "where": _pointwise("b,a,a->a", np.where),
    "lerp": _pointwise("f,f,f->f", _lerp),
    "linear": Operation("f,f,f?->f", shapes.linear, _linear, work=shapes.multiplied),
    "matmul": Operation("f,f->f", shapes.matmul, np.matmul, work=shapes.multiplied),
    "embedding": Operation("f,i->f", shapes.embedding, _embedding),
    "layer_norm": Operation("f,f?,f?->f", shapes.normalized, _layer_norm, {"axes": "last axes", "eps": "number"}),
    "softmax": Operation("f->f", shapes.same, _softmax, _AXIS),
    "log_softmax": Operation("f->f", shapes.same, _log_softmax, _AXIS),
    "cumsum": Operation("n->n", shapes.same, _cumsum, _AXIS),
    "sum": Operation("n->n", shapes.reduced, _reduction(np.sum), _AXES, work=shapes.read),
    "mean": Operation("f->f", shapes.reduced, _reduction(np.mean), _AXES, work=shapes.read),
    "amax": Operation("n->n", shapes.reduced, _reduction(np.max), _AXES, work=shapes.read),
    "amin": Operation("n->n", shapes.reduced, _reduction(np.min), _AXES, work=shapes.read),
    "slice": Operation("a->a", shapes.sliced, _slice, _RANGE),
    "cat": Operation("a,a*->a", shapes.concatenated, _cat, _AXIS),
    "take": Operation("a,i->a", shapes.taken, _take, _AXIS),
    "permute": Operation("a->a", shapes.permuted, _permute, {"axes": "axes"}),
    "reshape": Operation("a->a", shapes.reshaped, _reshape, sized=True),
    "expand": Operation("a->a", shapes.expanded, np.broadcast_to, sized=True),
    "full": Operation("->a", shapes.chosen, _full, {"value": "number"}, sized=True, typed=True),
    "cast": Operation("a->n", shapes.same, _cast, typed=True),
}  # fmt: skip
"""Every operation of stored steps, by name."""
