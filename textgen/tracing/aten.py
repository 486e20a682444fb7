"""Rules that translate torch's operations into those of the stored step."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from textgen.tracing.notes import Given, GraphBuilder, Rule, by_name, operands
from textgen.tracing.shaping import NEW, SHAPING
from textgen.tracing.windows import WINDOWS


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


def _reversed_difference(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    return graph.add("subtract", [given["other"], _scaled(graph, given["self"], given["alpha"], out)], out)


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


def _inverse_root(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    return graph.add("reciprocal", [graph.add("sqrt", [given["self"]], out)], out)


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


def _filled(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    return graph.add("where", [given["mask"], given["value"], given["self"]], out)


# --- products ---


def _product(graph: GraphBuilder, a: Tensor, b: Tensor, like: Tensor) -> str:
    matrix = graph.transposed(b)
    return graph.add("matmul", [a, b], like) if matrix is None else graph.add("linear", [a, matrix], like)


def _matmul(graph: GraphBuilder, out: Tensor, given: Given) -> str:
    return _product(graph, given["self"], given["mat2"], out)


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


def _log_sigmoid(graph: GraphBuilder, out: tuple[Tensor, Tensor], given: Given) -> list[str | None]:
    return [graph.add("log_sigmoid", [given["self"]], out[0]), None]


_SAME_NAME = (
    *("tanh", "exp", "expm1", "log", "log1p", "sqrt", "reciprocal", "sin", "cos", "floor", "ceil", "sign"),
    *("relu", "sigmoid", "erf", "logical_not"),
)
RULES = NEW | SHAPING | WINDOWS | by_name({
    **{name: operands(name, "self") for name in _SAME_NAME},
    "neg": operands("negative", "self"), "abs": operands("absolute", "self"), "rsqrt": _inverse_root,
    "bitwise_not": operands("logical_not", "self"), "log_sigmoid_forward": _log_sigmoid,
    "add": _sum_of("add"), "sub": _sum_of("subtract"), "rsub": _reversed_difference,
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
    "where": operands("where", "condition", "self", "other"), "masked_fill": _filled,
    "lerp": operands("lerp", "self", "end", "weight"), "clamp clamp_min clamp_max": _clamped,
    "addcmul": _plus_product("multiply"), "addcdiv": _plus_product("divide"),
    "mm bmm": _matmul, "addmm": _plus_matmul("mat1", "mat2"), "baddbmm": _plus_matmul("batch1", "batch2"),
    "linear": _linear, "embedding": operands("embedding", "weight", "indices"),
    "native_layer_norm": _layer_norm,
})  # fmt: skip
"""By the name of torch's operation, with its overload where overloads differ."""
