"""Shape inference: the shape of each operation's result from the shapes of its inputs.

A shape holds sizes from 0 up, and -k for k times the batch size B. Rules are applied at two batch sizes; since they
only multiply and compare sizes, what holds at two batch sizes holds at all. A rule raises ValueError, whose text
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


def chosen(inputs: Sequence[Shape], target: Shape) -> Shape:
    """`full`: any shape."""
    return target


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
