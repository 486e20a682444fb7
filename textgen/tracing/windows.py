"""Rules for windows and for positions of a tensor that are only known when the step runs.

A convolution, a pool or an unfold is made of slices: one for each position of its kernel. Positions that are only known
when the step runs (a ring buffer's) are compared with every position of the axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from textgen.tracing.operations import Given, GraphBuilder, axis_of, by_name, wrapped


def _padded(
    graph: GraphBuilder, x: Any, shape: list[int], like: Tensor, axis: int, front: int, back: int, value: float
) -> Any:
    """Pad an axis with a value at both ends, or crop it where a number is negative. Updates `shape`."""
    start, stop = max(0, -front), shape[axis] - max(0, -back)
    if (start, stop) != (0, shape[axis]):
        shape[axis] = stop - start
        x = graph.add("slice", [x], like, shape, axis=axis, start=start, stop=stop, step=1)
    fills = []
    for count in (front, back):
        size = [*shape[:axis], max(0, count), *shape[axis + 1 :]]
        fills.append([graph.add("full", [], like, size, value=float(value))] if count > 0 else [])
    if any(fills):
        shape[axis] += max(0, front) + max(0, back)
        x = graph.add("cat", [*fills[0], x, *fills[1]], like, shape, axis=axis)
    return x


def _pad(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    x, shape, pads = given["self"], list(given["self"].shape), given["pad"]
    value: Any = x
    for k in range(len(pads) // 2):
        axis = len(shape) - 1 - k
        value = _padded(graph, value, shape, out, axis, pads[2 * k], pads[2 * k + 1], given["value"])
    return graph.name(x) if value is x else str(value)


def _windows(
    graph: GraphBuilder, x: Any, shape: Sequence[int], like: Tensor, kernel: Sequence[int], out: Sequence[int],
    stride: Sequence[int], dilation: Sequence[int],
) -> Iterator[str]:  # fmt: skip
    """What each kernel position sees: slices of the input (..., *sizes), each (..., *out)."""
    lead = len(shape) - len(kernel)
    for places in itertools.product(*map(range, kernel)):
        part, sizes = x, list(shape)
        for k, place in enumerate(places):
            start = place * dilation[k]
            stop = start + (out[k] - 1) * stride[k] + 1
            sizes[lead + k] = out[k]
            part = graph.add("slice", [part], like, sizes, axis=lead + k, start=start, stop=stop, step=stride[k])
        yield part


def _every(values: Any, count: int, default: Any = 1) -> list[int]:
    """One number for each axis, from one number for all axes or from nothing."""
    values = [default] if values is None or values == [] else values
    given = [values] if isinstance(values, int) else list(values)
    return given * count if len(given) == 1 else given


def _convolution(graph: GraphBuilder, out: Tensor, given: Given) -> str | None:
    """A convolution as a matrix product: (G, O / G, C / G * K) times (B, G, C / G * K, positions)."""
    x, weight, bias, groups = given["input"], given["weight"], given["bias"], given["groups"]
    if given["transposed"] or 0 in out.shape:
        return None
    axes, kernel, shape, value = weight.dim() - 2, weight.shape[2:], list(x.shape), x
    for k, pad in enumerate(_every(given["padding"], axes)):
        value = _padded(graph, value, shape, out, 2 + k, pad, pad, 0.0)
    batch, places, inner = out.shape[0], math.prod(out.shape[2:]), weight.shape[1]
    strides, dilations = _every(given["stride"], axes), _every(given["dilation"], axes)
    parts = [
        graph.add("reshape", [part], out, [batch, groups, inner, 1, places])
        for part in _windows(graph, value, shape, out, kernel, out.shape[2:], strides, dilations)
    ]
    seen = graph.add("cat", parts, out, [batch, groups, inner, len(parts), places], axis=3)
    columns = graph.add("reshape", [seen], out, [batch, groups, inner * len(parts), places])
    matrix = graph.add("reshape", [weight], weight, [groups, len(weight) // groups, inner * len(parts)])
    product = graph.add("matmul", [matrix, columns], out, [batch, groups, len(weight) // groups, places])
    result = graph.add("reshape", [product], out)
    if bias is None:
        return result
    return graph.add("add", [result, graph.add("reshape", [bias], bias, [len(bias), *[1] * axes])], out)


def _pool(op: str, graph: GraphBuilder, out: Tensor, given: Given) -> str | None:
    """Pooling over windows inside the input, or with padding that does not count."""
    x, kernel = given["self"], given["kernel_size"]
    axes = len(kernel)
    pads = _every(given["padding"], axes, 0)
    counted = op == "add" and (any(pads) or given.get("divisor_override"))
    if given["ceil_mode"] or counted or 0 in out.shape:
        return None
    shape, value = list(x.shape), x
    for k, pad in enumerate(pads):
        value = _padded(graph, value, shape, out, x.dim() - axes + k, pad, pad, -math.inf)
    strides = given["stride"] or kernel
    size, dilations = out.shape[out.dim() - axes :], _every(given.get("dilation"), axes)
    total, *others = _windows(graph, value, shape, out, kernel, size, strides, dilations)
    for part in others:
        total = graph.add(op, [total, part], out)
    return graph.add("multiply", [total, 1 / math.prod(kernel)], out) if op == "add" else total


def _unfold(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    x, axis = given["self"], axis_of(given["self"], given["dimension"])
    shape = [*x.shape[:axis], out.shape[axis], *x.shape[axis + 1 :]]
    parts = []
    for place in range(given["size"]):
        stop = place + (out.shape[axis] - 1) * given["step"] + 1
        part = graph.add("slice", [x], x, shape, axis=axis, start=place, stop=stop, step=given["step"])
        parts.append(graph.add("reshape", [part], x, [*shape, 1]))
    return graph.add("cat", parts, out, axis=out.dim() - 1)


def _here(graph: GraphBuilder, index: Any, shape: Sequence[int], axis: int, size: int, rank: int) -> str:
    """Whether each position of an axis equals the index, whose `shape` has size 1 on that axis."""
    flags, numbers = (
        torch.empty(0, dtype=torch.bool),
        torch.arange(size).view([size if k == axis else 1 for k in range(rank)]),
    )
    wanted = [size if k == axis else length for k, length in enumerate(shape)]
    return graph.add("equal", [index, numbers], flags, wanted)


def _differ_only_on(axis: int, x: Tensor, index: Tensor) -> bool:
    """Whether two tensors have the same shape apart from one axis."""
    sizes = enumerate(zip(x.shape, index.shape, strict=False))
    return x.dim() == index.dim() and all(a == b for k, (a, b) in sizes if k != axis)


def _gather(graph: GraphBuilder, out: Tensor, given: Given) -> str | None:
    """Each element is a sum over the axis with one nonzero term; indices are compared on an axis of their own."""
    x, index, axis = given["self"], given["index"], axis_of(given["self"], given["dim"])
    if not _differ_only_on(axis, x, index):
        return None
    apart = [*index.shape[: axis + 1], 1, *index.shape[axis + 1 :]]
    wide = [*index.shape[: axis + 1], x.shape[axis], *index.shape[axis + 1 :]]
    there = graph.add("reshape", [index], index, apart)
    here = _here(graph, there, apart, axis + 1, x.shape[axis], x.dim() + 1)
    values = graph.add("reshape", [x], x, [*x.shape[:axis], 1, *x.shape[axis:]])
    chosen = graph.add("where", [here, values, 0], out, wide)
    return graph.add("sum", [chosen], out, axes=[axis + 1], keep=False)


def _scatter(graph: GraphBuilder, out: Tensor, given: Given) -> str | None:
    """Write the slices along the index's axis one after another, each where its index says."""
    x, index, axis = given["self"], given["index"], axis_of(given["self"], given["dim"])
    if not _differ_only_on(axis, x, index):
        return None
    source = given.get("src", given.get("value"))
    one = [1 if k == axis else length for k, length in enumerate(index.shape)]
    value: Any = x
    for place in range(index.shape[axis]):
        cut = {"axis": axis, "start": place, "stop": place + 1, "step": 1}
        there = graph.add("slice", [index], index, one, **cut)
        part = graph.add("slice", [source], source, one, **cut) if isinstance(source, Tensor) else source
        value = graph.add("where", [_here(graph, there, one, axis, x.shape[axis], x.dim()), part, value], out)
    return graph.name(x) if value is x else str(value)


def _index_put(graph: GraphBuilder, out: Tensor, given: Given) -> str | None:
    """Write values at the positions (N,) of one axis."""
    x, values = given["self"], given["values"]
    (axis, index), *others = [(axis, index) for axis, index in enumerate(given["indices"]) if index is not None]
    if others or index.dim() != 1 or index.dtype != torch.int64 or given["accumulate"]:
        return None
    count, lead = len(index), [1] * x.dim()
    full = [count if k == axis else length for k, length in enumerate(x.shape)]
    spread = graph.add("expand", [values], x, full)
    where, value = wrapped(graph, index, x.shape[axis]), x
    one = [1 if k == axis else length for k, length in enumerate(x.shape)]
    for place in range(count):
        cut = graph.add("slice", [where], index, [1], axis=0, start=place, stop=place + 1, step=1)
        there = graph.add("reshape", [cut], index, lead)
        part = graph.add("slice", [spread], x, one, axis=axis, start=place, stop=place + 1, step=1)
        value = graph.add("where", [_here(graph, there, lead, axis, x.shape[axis], x.dim()), part, value], out)
    return graph.name(x) if value is x else str(value)


def _max_pool(graph: GraphBuilder, out: tuple[Tensor, Tensor], given: Given) -> list[str | None]:
    """The second result, the indices, is a placeholder."""
    return [_pool("maximum", graph, out[0], given), graph.add("full", [], out[1], value=0.0)]


RULES = by_name({
    "convolution": _convolution, "constant_pad_nd": _pad, "unfold unfold_copy": _unfold,
    "avg_pool1d avg_pool2d avg_pool3d": partial(_pool, "add"),
    "max_pool2d_with_indices max_pool3d_with_indices": _max_pool,
    "gather": _gather, "scatter.src scatter.value": _scatter, "index_put": _index_put,
})  # fmt: skip
"""By the name of torch's operation, with its overload where overloads differ."""
