"""torch's operations in the words of the stored step: for each call that a cell makes, what it comes to."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from textgen.tracing.notes import Given, Notes, Rule, by_name
from textgen.tracing.shaping import NEW, SHAPING
from textgen.tracing.windows import WINDOWS


def _operands(op: str, *operands: str) -> Rule:
    return lambda notes, out, given: notes.note(op, [given[name] for name in operands], out)


def _scaled(notes: Notes, operand: Any, factor: float, like: Tensor) -> Any:
    if factor == 1:
        return operand
    if isinstance(operand, (int, float)):
        return operand * factor
    shape = operand.shape if isinstance(operand, Tensor) else like.shape
    return notes.note("multiply", [operand, factor], like, shape)


def _sum_of(op: str) -> Rule:
    def rule(notes: Notes, out: Tensor, given: Given) -> str:
        return notes.note(op, [given["self"], _scaled(notes, given["other"], given.get("alpha", 1), out)], out)

    return rule


def _reversed_difference(notes: Notes, out: Tensor, given: Given) -> str:
    return notes.note("subtract", [given["other"], _scaled(notes, given["self"], given["alpha"], out)], out)


def _quotient(notes: Notes, out: Tensor, given: Given) -> str | None:
    rounding = given.get("rounding_mode")
    if rounding == "floor" and not out.is_floating_point():
        return notes.note("floor_divide", [given["self"], given["other"]], out)
    quotient = notes.note("divide", [given["self"], given["other"]], out)
    return quotient if rounding is None else notes.note("floor", [quotient], out) if rounding == "floor" else None


def _power(notes: Notes, out: Tensor, given: Given) -> str:
    base, exponent = given["self"], given["exponent"]
    known = None if isinstance(exponent, Tensor) else exponent
    if known == 2:
        return notes.note("multiply", [base, base], out)
    return notes.note("sqrt", [base], out) if known == 0.5 else notes.note("power", [base, exponent], out)


def _inverse_root(notes: Notes, out: Tensor, given: Given) -> str:
    return notes.note("reciprocal", [notes.note("sqrt", [given["self"]], out)], out)


def _plus_product(op: str) -> Rule:
    def rule(notes: Notes, out: Tensor, given: Given) -> str:
        first, second = given["tensor1"], given["tensor2"]
        shape = np.broadcast_shapes(first.shape, second.shape)
        product = notes.note(op, [first, second], out, shape)
        if given["value"] != 1:
            product = notes.note("multiply", [product, given["value"]], out, shape)
        return notes.note("add", [given["self"], product], out)

    return rule


def _clamped(notes: Notes, out: Tensor, given: Given) -> str:
    value = given["self"]
    for bound, op in (("min", "maximum"), ("max", "minimum")):
        if given.get(bound) is not None:
            value = notes.note(op, [value, given[bound]], out)
    return notes.note("add", [value, 0], out) if value is given["self"] else str(value)


def _filled(notes: Notes, out: Tensor, given: Given) -> str:
    return notes.note("where", [given["mask"], given["value"], given["self"]], out)


# --- products ---


def _product(notes: Notes, a: Tensor, b: Tensor, like: Tensor) -> str:
    matrix = notes.turned(b)
    return notes.note("matmul", [a, b], like) if matrix is None else notes.note("linear", [a, matrix], like)


def _matmul(notes: Notes, out: Tensor, given: Given) -> str:
    return _product(notes, given["self"], given["mat2"], out)


def _plus_matmul(first: str, second: str) -> Rule:
    def rule(notes: Notes, out: Tensor, given: Given) -> str:
        product: Any = _product(notes, given[first], given[second], out)
        product = _scaled(notes, product, given["alpha"], out)
        if given["beta"] == 0:
            return str(product)
        return notes.note("add", [product, _scaled(notes, given["self"], given["beta"], out)], out)

    return rule


def _linear(notes: Notes, out: Tensor, given: Given) -> str:
    bias = [] if given["bias"] is None else [given["bias"]]
    return notes.note("linear", [given["input"], given["weight"], *bias], out)


def _layer_norm(notes: Notes, out: tuple[Tensor, ...], given: Given) -> list[str | None]:
    affine = [given[name] for name in ("weight", "bias") if given[name] is not None]
    if given["weight"] is None and affine:
        return [None, None, None]
    axes, eps = len(given["normalized_shape"]), given["eps"]
    return [notes.note("layer_norm", [given["input"], *affine], out[0], axes=axes, eps=eps), None, None]


def _log_sigmoid(notes: Notes, out: tuple[Tensor, Tensor], given: Given) -> list[str | None]:
    return [notes.note("log_sigmoid", [given["self"]], out[0]), None]


_BY_THE_SAME_NAME = (
    *("tanh", "exp", "expm1", "log", "log1p", "sqrt", "reciprocal", "sin", "cos", "floor", "ceil", "sign"),
    *("relu", "sigmoid", "erf", "logical_not"),
)
RULES = NEW | SHAPING | WINDOWS | by_name({
    **{name: _operands(name, "self") for name in _BY_THE_SAME_NAME},
    "neg": _operands("negative", "self"), "abs": _operands("absolute", "self"), "rsqrt": _inverse_root,
    "bitwise_not": _operands("logical_not", "self"), "log_sigmoid_forward": _log_sigmoid,
    "add": _sum_of("add"), "sub": _sum_of("subtract"), "rsub": _reversed_difference,
    "mul": _operands("multiply", "self", "other"), "remainder": _operands("remainder", "self", "other"),
    "floor_divide": _operands("floor_divide", "self", "other"),
    "div": _quotient, "pow": _power,
    "maximum max.other": _operands("maximum", "self", "other"),
    "minimum min.other": _operands("minimum", "self", "other"),
    "eq": _operands("equal", "self", "other"), "ne": _operands("not_equal", "self", "other"),
    "lt": _operands("less", "self", "other"), "le": _operands("less_equal", "self", "other"),
    "gt": _operands("greater", "self", "other"), "ge": _operands("greater_equal", "self", "other"),
    "logical_and bitwise_and": _operands("logical_and", "self", "other"),
    "logical_or bitwise_or": _operands("logical_or", "self", "other"),
    "logical_xor bitwise_xor": _operands("logical_xor", "self", "other"),
    "where": _operands("where", "condition", "self", "other"), "masked_fill": _filled,
    "lerp": _operands("lerp", "self", "end", "weight"), "clamp clamp_min clamp_max": _clamped,
    "addcmul": _plus_product("multiply"), "addcdiv": _plus_product("divide"),
    "mm bmm": _matmul, "addmm": _plus_matmul("mat1", "mat2"), "baddbmm": _plus_matmul("batch1", "batch2"),
    "linear": _linear, "embedding": _operands("embedding", "weight", "indices"),
    "native_layer_norm": _layer_norm,
})  # fmt: skip
"""By the name of torch's operation, with its overload where these differ."""
