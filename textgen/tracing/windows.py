"""torch's operations on windows of a tensor and on places of it, in the words of the stored step.

A convolution, a pool or an unfold is made of slices: one for each place of its kernel. Places that are only known when
the step runs (a ring buffer's) are compared with every place of the axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from textgen.tracing.notes import Given, Notes, Rule, axis_of, by_name


def _padded(
    notes: Notes, x: Any, shape: list[int], like: Tensor, axis: int, front: int, back: int, value: float
) -> Any:
    """So many of a value put before and after an axis, or cut off where a number is negative. Changes `shape`."""
    start, stop = max(0, -front), shape[axis] - max(0, -back)
    if (start, stop) != (0, shape[axis]):
        shape[axis] = stop - start
        x = notes.note("slice", [x], like, shape, axis=axis, start=start, stop=stop, step=1)
    fills = []
    for count in (front, back):
        size = [*shape[:axis], max(0, count), *shape[axis + 1 :]]
        fills.append([notes.note("full", [], like, size, value=float(value))] if count > 0 else [])
    if any(fills):
        shape[axis] += max(0, front) + max(0, back)
        x = notes.note("cat", [*fills[0], x, *fills[1]], like, shape, axis=axis)
    return x


def _pad(notes: Notes, out: Tensor, given: Given) -> str:
    x, shape, pads = given["self"], list(given["self"].shape), given["pad"]
    value: Any = x
    for k in range(len(pads) // 2):
        axis = len(shape) - 1 - k
        value = _padded(notes, value, shape, out, axis, pads[2 * k], pads[2 * k + 1], given["value"])
    return notes.name(x) if value is x else str(value)


def _windows(
    notes: Notes, x: Any, shape: Sequence[int], like: Tensor, kernel: Sequence[int], out: Sequence[int],
    stride: Sequence[int], dilation: Sequence[int],
) -> Iterator[str]:  # fmt: skip
    """What each place of a kernel sees: the input (..., *sizes) cut to (..., *out), place after place."""
    lead = len(shape) - len(kernel)
    for places in itertools.product(*map(range, kernel)):
        part, sizes = x, list(shape)
        for k, place in enumerate(places):
            start = place * dilation[k]
            stop = start + (out[k] - 1) * stride[k] + 1
            sizes[lead + k] = out[k]
            part = notes.note("slice", [part], like, sizes, axis=lead + k, start=start, stop=stop, step=stride[k])
        yield part


def _every(values: Any, count: int, default: Any = 1) -> list[int]:
    """One number for each axis, from one for all, or from none."""
    values = [default] if values is None or values == [] else values
    given = [values] if isinstance(values, int) else list(values)
    return given * count if len(given) == 1 else given


def _convolution(notes: Notes, out: Tensor, given: Given) -> str | None:
    """A convolution with its kernel laid out as a matrix: (G, O / G, C / G * K) times (B, G, C / G * K, places)."""
    x, weight, bias, groups = given["input"], given["weight"], given["bias"], given["groups"]
    if given["transposed"] or 0 in out.shape:
        return None
    axes, kernel, shape, value = weight.dim() - 2, weight.shape[2:], list(x.shape), x
    for k, pad in enumerate(_every(given["padding"], axes)):
        value = _padded(notes, value, shape, out, 2 + k, pad, pad, 0.0)
    batch, places, inner = out.shape[0], math.prod(out.shape[2:]), weight.shape[1]
    strides, dilations = _every(given["stride"], axes), _every(given["dilation"], axes)
    parts = [
        notes.note("reshape", [part], out, [batch, groups, inner, 1, places])
        for part in _windows(notes, value, shape, out, kernel, out.shape[2:], strides, dilations)
    ]
    seen = notes.note("cat", parts, out, [batch, groups, inner, len(parts), places], axis=3)
    columns = notes.note("reshape", [seen], out, [batch, groups, inner * len(parts), places])
    matrix = notes.note("reshape", [weight], weight, [groups, len(weight) // groups, inner * len(parts)])
    product = notes.note("matmul", [matrix, columns], out, [batch, groups, len(weight) // groups, places])
    result = notes.note("reshape", [product], out)
    if bias is None:
        return result
    return notes.note("add", [result, notes.note("reshape", [bias], bias, [len(bias), *[1] * axes])], out)


def _pool(notes: Notes, out: Tensor, given: Given, op: str) -> str | None:
    """A pool over windows that lie inside the input, or over padding that never counts."""
    x, kernel = given["self"], given["kernel_size"]
    axes = len(kernel)
    pads = _every(given["padding"], axes, 0)
    counted = op == "add" and (any(pads) or given.get("divisor_override"))
    if given["ceil_mode"] or counted or 0 in out.shape:
        return None
    shape, value = list(x.shape), x
    for k, pad in enumerate(pads):
        value = _padded(notes, value, shape, out, x.dim() - axes + k, pad, pad, -math.inf)
    strides = given["stride"] or kernel
    size, dilations = out.shape[out.dim() - axes :], _every(given.get("dilation"), axes)
    total, *others = _windows(notes, value, shape, out, kernel, size, strides, dilations)
    for part in others:
        total = notes.note(op, [total, part], out)
    return notes.note("multiply", [total, 1 / math.prod(kernel)], out) if op == "add" else total


def _unfold(notes: Notes, out: Tensor, given: Given) -> str:
    x, axis = given["self"], axis_of(given["self"], given["dimension"])
    shape = [*x.shape[:axis], out.shape[axis], *x.shape[axis + 1 :]]
    parts = []
    for place in range(given["size"]):
        stop = place + (out.shape[axis] - 1) * given["step"] + 1
        part = notes.note("slice", [x], x, shape, axis=axis, start=place, stop=stop, step=given["step"])
        parts.append(notes.note("reshape", [part], x, [*shape, 1]))
    return notes.note("cat", parts, out, axis=out.dim() - 1)


# --- places that are known when the step runs ---


def _here(notes: Notes, index: Any, shape: Sequence[int], axis: int, size: int, rank: int) -> str:
    """Whether each place of an axis is the one that the index names: `shape`, of the index, has 1 there."""
    flags, numbers = (
        torch.empty(0, dtype=torch.bool),
        torch.arange(size).view([size if k == axis else 1 for k in range(rank)]),
    )
    wanted = [size if k == axis else length for k, length in enumerate(shape)]
    return notes.note("equal", [index, numbers], flags, wanted)


def _gather(notes: Notes, out: Tensor, given: Given) -> str | None:
    """Each number is a sum in which one place of the axis counts; the place is compared on an axis of its own."""
    x, index, axis = given["self"], given["index"], axis_of(given["self"], given["dim"])
    if x.dim() != index.dim() or any(
        a != b for k, (a, b) in enumerate(zip(x.shape, index.shape, strict=True)) if k != axis
    ):
        return None
    apart = [*index.shape[: axis + 1], 1, *index.shape[axis + 1 :]]
    wide = [*index.shape[: axis + 1], x.shape[axis], *index.shape[axis + 1 :]]
    there = notes.note("reshape", [index], index, apart)
    here = _here(notes, there, apart, axis + 1, x.shape[axis], x.dim() + 1)
    values = notes.note("reshape", [x], x, [*x.shape[:axis], 1, *x.shape[axis:]])
    chosen = notes.note("where", [here, values, 0], out, wide)
    return notes.note("sum", [chosen], out, axes=[axis + 1], keep=False)


def _scatter(notes: Notes, out: Tensor, given: Given) -> str | None:
    """Place after place of the index's axis, what is there is written where it says."""
    x, index, axis = given["self"], given["index"], axis_of(given["self"], given["dim"])
    if x.dim() != index.dim() or any(
        a != b for k, (a, b) in enumerate(zip(x.shape, index.shape, strict=True)) if k != axis
    ):
        return None
    source = given.get("src", given.get("value"))
    one = [1 if k == axis else length for k, length in enumerate(index.shape)]
    value: Any = x
    for place in range(index.shape[axis]):
        cut = {"axis": axis, "start": place, "stop": place + 1, "step": 1}
        there = notes.note("slice", [index], index, one, **cut)
        part = notes.note("slice", [source], source, one, **cut) if isinstance(source, Tensor) else source
        value = notes.note("where", [_here(notes, there, one, axis, x.shape[axis], x.dim()), part, value], out)
    return notes.name(x) if value is x else str(value)


def _index_put(notes: Notes, out: Tensor, given: Given) -> str | None:
    """Values written at the places (N,) of one axis."""
    x, values = given["self"], given["values"]
    (axis, index), *others = [(axis, index) for axis, index in enumerate(given["indices"]) if index is not None]
    if others or index.dim() != 1 or index.dtype != torch.int64 or given["accumulate"]:
        return None
    count, lead = len(index), [1] * x.dim()
    full = [count if k == axis else length for k, length in enumerate(x.shape)]
    spread = notes.note("expand", [values], x, full)
    where, value = wrapped(notes, index, x.shape[axis]), x
    one = [1 if k == axis else length for k, length in enumerate(x.shape)]
    for place in range(count):
        cut = notes.note("slice", [where], index, [1], axis=0, start=place, stop=place + 1, step=1)
        there = notes.note("reshape", [cut], index, lead)
        part = notes.note("slice", [spread], x, one, axis=axis, start=place, stop=place + 1, step=1)
        value = notes.note("where", [_here(notes, there, lead, axis, x.shape[axis], x.dim()), part, value], out)
    return notes.name(x) if value is x else str(value)


def wrapped(notes: Notes, index: Tensor, size: int) -> str:
    """Places counted from the front: those below zero count from the end of an axis of this size."""
    flags = torch.empty(0, dtype=torch.bool)
    behind = notes.note("less", [index, 0], flags, index.shape)
    return notes.note("where", [behind, notes.note("add", [index, size], index), index], index)


def _pooled(op: str, results: int) -> Rule:
    def rule(notes: Notes, out: Any, given: Given) -> Any:
        name = _pool(notes, out[0] if results == 2 else out, given, op)
        return [name, notes.note("full", [], out[1], value=0.0)] if results == 2 else name  # places: not to be used

    return rule


WINDOWS = by_name({
    "convolution": _convolution, "constant_pad_nd": _pad, "unfold unfold_copy": _unfold,
    "avg_pool1d avg_pool2d avg_pool3d": _pooled("add", 1),
    "max_pool2d_with_indices max_pool3d_with_indices": _pooled("maximum", 2),
    "gather": _gather, "scatter.src scatter.value": _scatter, "index_put": _index_put,
})  # fmt: skip
"""By the name of torch's operation, with its overload where these differ."""
