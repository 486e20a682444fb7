"""Int8 weights: a matrix as integers from -127 to 127, with a scale for each row.

They take a quarter of the memory, so a step that is limited by memory bandwidth runs faster. Each row w of a matrix
becomes round(w / s) with s = max|w| / 127 (symmetric, rounded to nearest). Small tensors (biases, norms) stay float32.
Products are computed by onnxruntime, which is imported when the first matrix is prepared for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from textgen.errors import TextgenError
from textgen.runtime.nodes import TensorSpec
from textgen.runtime.ops import Array
from textgen.runtime.plan import Plan
from textgen.sealed import DamagedError

LARGEST_CODE = 127
SMALLEST = 4096
"""The fewest elements for which a tensor is stored as int8."""
LARGEST_SCALE = float(np.finfo(np.float32).max) / 256
SCALE = ".scale"
"""The scales of tensor 'x' are stored as 'x.scale'."""


def suits(spec: TensorSpec) -> bool:
    """Whether a weight is stored as int8."""
    return spec.dtype == "float32" and len(spec.shape) >= 2 and spec.elements >= SMALLEST


@dataclass(frozen=True)
class Int8Rows:
    """A tensor (..., K): int8 codes times a float32 scale (...) for each row."""

    codes: Array
    scales: Array

    @classmethod
    def of(cls, array: Array, name: str) -> Int8Rows:
        """Quantize a float32 tensor (..., K). Raises TextgenError with its name for NaN or infinity."""
        if not np.isfinite(array).all():
            raise TextgenError(f"weight {name!r} contains NaN or infinity, which int8 cannot represent.")
        scales = (np.abs(array).max(axis=-1) / np.float32(LARGEST_CODE)).astype(np.float32)
        codes = np.rint(array / np.where(scales == 0, np.float32(1), scales)[..., None])
        return cls(codes.clip(-LARGEST_CODE, LARGEST_CODE).astype(np.int8), scales)

    @classmethod
    def read(cls, codes: Array, scales: Array, name: str) -> Int8Rows:
        """From stored codes and scales. Raises DamagedError with the name for invalid scales."""
        if not ((scales >= 0) & (scales <= LARGEST_SCALE)).all():
            raise DamagedError(f"{name} has a scale that is negative, too large or NaN.")
        return cls(codes.copy(), scales.copy())

    @cached_property
    def floats(self) -> Array:
        """The tensor in float32, (..., K)."""
        values: Array = self.codes.astype(np.float32)
        values *= self.scales[..., None]
        return values

    def take(self, ids: Array) -> Array:
        """Rows of a table (V, K) at ids (...): (..., K) in float32."""
        rows: Array = self.codes.take(ids, axis=0, mode="clip").astype(np.float32)
        rows *= self.scales.take(ids, mode="clip")[..., None]
        return rows


def in_int8(weights: Mapping[str, Int8Rows]) -> Callable[[Plan], None]:
    """A rewrite for plans whose constants are the `floats` of these weights: linear maps and embeddings use the codes.

    Raises TextgenError if onnxruntime is not installed.
    """
    from textgen.runtime.onnx_product import OnnxProduct

    tables = {id(rows.floats): rows for rows in weights.values()}
    products: dict[int, OnnxProduct] = {}

    def rewrite(plan: Plan) -> None:
        for number, call in enumerate(plan.calls):
            place = {"linear": 1, "embedding": 0}.get(call.op)
            weight = None if place is None else plan.constants.get(call.sources[place])
            rows = tables.get(id(weight))
            if rows is None or place is None:
                continue
            if call.op == "linear" and id(weight) not in products:
                products[id(weight)] = OnnxProduct(rows.codes, rows.scales)
            run: Callable[..., Any] = products[id(weight)] if call.op == "linear" else rows.take
            others = (*call.sources[:place], *call.sources[place + 1 :])
            plan.calls[number] = replace(call, op=f"int8 {call.op}", sources=others, options={"run": run})

    return rewrite
