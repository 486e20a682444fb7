"""Shapes as rules: what each operation makes of the shapes of its inputs, before anything is computed.

A shape holds sizes from 0 up, and -k for k times the batch size B. Rules are applied at two batch sizes; all of
them being products and equalities of sizes, what holds at two holds at every one. A rule raises ValueError, whose text
completes the sentence "node 3 (add) ...".
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

Shape = tuple[int, ...]

_SIZE = re.compile(r"([1-9]\d{0,8})?B")
MOST_AXES = 8
LARGEST_SIZE = 1 << 30


def parse_shape(stored: Any) -> Shape:
    """A shape as JSON has it, a list of sizes and of 'B' or '4B'. Raises ValueError."""
    if not isinstance(stored, list) or len(stored) > MOST_AXES:
        raise ValueError(f"has a shape that is none: {stored!r:.80}")
    return tuple(map(_parse_size, stored))


def _parse_size(stored: Any) -> int:
    if type(stored) is int and 0 <= stored <= LARGEST_SIZE:
        return stored
    match = _SIZE.fullmatch(stored) if isinstance(stored, str) else None
    if match is None:
        raise ValueError(f"has a size that is none: {stored!r:.80}")
    return -int(match.group(1) or 1)


def stored_shape(shape: Shape) -> list[int | str]:
    """The inverse of `parse_shape`."""
    return [size if size >= 0 else f"{-size if size < -1 else ''}B" for size in shape]


def at_batch(shape: Shape, batch: int) -> Shape:
    """The shape at a batch size."""
    return tuple([size if size >= 0 else -size * batch for size in shape])


def broadcast(inputs: Sequence[Shape], target: Shape) -> Shape:
    """Of pointwise operations."""
    try:
        return np.broadcast_shapes(*inputs)
    except ValueError:
        raise ValueError(f"combines shapes that do not fit: {', '.join(map(str, inputs))}") from None


def same(inputs: Sequence[Shape], target: Shape, **options: Any) -> Shape:
    """Of operations that leave the shape as it is."""
    return inputs[0]


def chosen(inputs: Sequence[Shape], target: Shape) -> Shape:
    """Of `full`: any shape."""
    return target


def reshaped(inputs: Sequence[Shape], target: Shape) -> Shape:
    """Of `reshape`: any shape with as many elements."""
    if math.prod(inputs[0]) != math.prod(target):
        raise ValueError(f"cannot reshape {inputs[0]} to {target}")
    return target


def expanded(inputs: Sequence[Shape], target: Shape) -> Shape:
    """Of `expand`: any shape that the input can be repeated to."""
    if broadcast([inputs[0], target], target) != target:
        raise ValueError(f"cannot expand {inputs[0]} to {target}")
    return target


def linear(inputs: Sequence[Shape], target: Shape) -> Shape:
    """Of x (..., K), a matrix (N, K) and perhaps a bias (N,): (..., N)."""
    x, weight, *bias = inputs
    if len(x) < 1 or len(weight) != 2 or x[-1] != weight[1] or bias not in ([], [weight[:1]]):
        raise ValueError(f"has a linear map that does not fit: {', '.join(map(str, inputs))}")
    return (*x[:-1], weight[0])


def matmul(inputs: Sequence[Shape], target: Shape) -> Shape:
    """Of (..., M, K) and (..., K, N): (..., M, N), the leading axes broadcast."""
    a, b = inputs
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        raise ValueError(f"multiplies matrices that do not fit: {a} and {b}")
    return (*broadcast([a[:-2], b[:-2]], target), a[-2], b[-1])


def embedding(inputs: Sequence[Shape], target: Shape) -> Shape:
    """Of a table (V, D) and ids (...): (..., D)."""
    table, ids = inputs
    if len(table) != 2 or not table[0]:
        raise ValueError(f"looks up rows of a table of shape {table}")
    return (*ids, table[1])


def normalized(inputs: Sequence[Shape], target: Shape, axes: int, eps: float) -> Shape:
    """Of `layer_norm` over so many last axes, with a weight and bias of their shape."""
    x, *affine = inputs
    if not 1 <= axes <= len(x) or any(shape != x[len(x) - axes :] for shape in affine) or 0 in x:
        raise ValueError(f"normalises {axes} axes of {x} with {affine}")
    return x


def reduced(inputs: Sequence[Shape], target: Shape, axes: list[int], keep: bool) -> Shape:
    """Of `sum`, `mean`, `amax`, `amin` over some axes, which stay with size 1 if `keep`."""
    sizes = inputs[0]
    if 0 in sizes:
        raise ValueError("reduces nothing")
    left = [1 if axis in axes else size for axis, size in enumerate(sizes) if keep or axis not in axes]
    return tuple(left)


def permuted(inputs: Sequence[Shape], target: Shape, axes: list[int]) -> Shape:
    """Of `permute`: axis k is axis axes[k] of the input."""
    if len(axes) != len(inputs[0]):
        raise ValueError(f"permutes {inputs[0]} by {axes}")
    return tuple(inputs[0][axis] for axis in axes)


def sliced(inputs: Sequence[Shape], target: Shape, axis: int, start: int, stop: int, step: int) -> Shape:
    """Of every step-th place from `start` to before `stop` of an axis."""
    sizes = inputs[0]
    if not 0 <= start <= stop <= sizes[axis] or step < 1:
        raise ValueError(f"takes {start}:{stop}:{step} of an axis of size {sizes[axis]}")
    return (*sizes[:axis], len(range(start, stop, step)), *sizes[axis + 1 :])


def joined(inputs: Sequence[Shape], target: Shape, axis: int) -> Shape:
    """Of `cat` along an axis."""
    first = inputs[0]
    for other in inputs[1:]:
        if len(other) != len(first) or other[:axis] != first[:axis] or other[axis + 1 :] != first[axis + 1 :]:
            raise ValueError(f"joins shapes that do not fit: {first} and {other}")
    return (*first[:axis], sum(shape[axis] for shape in inputs), *first[axis + 1 :])


def taken(inputs: Sequence[Shape], target: Shape, axis: int) -> Shape:
    """Of `take`: places (N,) of an axis."""
    x, places = inputs
    if len(places) != 1 or not x[axis]:
        raise ValueError(f"takes places {places} of {x}")
    return (*x[:axis], places[0], *x[axis + 1 :])


def made(inputs: Sequence[Shape], target: Shape) -> int:
    """The work of most operations: as many numbers as come out."""
    return math.prod(target)


def read(inputs: Sequence[Shape], target: Shape) -> int:
    """The work of reductions: as many numbers as go in."""
    return math.prod(inputs[0])


def multiplied(inputs: Sequence[Shape], target: Shape) -> int:
    """The work of products: a multiplication for each number that comes out and each that goes into it."""
    return math.prod(target) * inputs[0][-1]
