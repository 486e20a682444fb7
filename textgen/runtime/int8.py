"""Weights in eight bits: a matrix as whole numbers from -127 to 127, and a scale for each of its rows.

A quarter of the memory, so that a step limited by memory bandwidth runs faster. Each row w of a matrix becomes
round(w / s) with s = max|w| / 127 (symmetric, rounded to nearest). Small weights, such as biases and norms, stay as
they are.

Products are taken by onnxruntime, which is imported when the first matrix is laid out for it. Its operator
MatMulNBits rounds each row of x, in blocks, to eight bits too and sums whole numbers, so that a row of the result
depends on no other row. The part of the ONNX format (a protocol buffer) that one such operator takes is written
here; no other package is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from textgen import threads
from textgen.errors import TextgenError, needed
from textgen.runtime.graph import TensorSpec
from textgen.runtime.ops import Array
from textgen.runtime.plan import Plan
from textgen.storage import DamagedError

BLOCKS = (128, 64, 32)
"""Elements of a row that are rounded together: the first size that divides its length, else 16."""
_FLOAT, _UINT8, _INTEGER = 1, 2, 2
_ZERO, _ROUNDED_TO_INT8 = 128, 4


class OnnxProduct:
    """x (..., K) times the transpose of codes (N, K) with scales (N,), plus a bias (N,) if there is one."""

    def __init__(self, codes: Array, scales: Array) -> None:
        with needed("onnxruntime", instead="--backend numpy, which computes in float32."):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads.chosen() or 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        content = product_model(codes, scales)
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._outputs = len(codes)

    def __call__(self, x: Array, bias: Array | None = None) -> Array:
        flat = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
        y: Array = self._session.run(None, {"x": flat})[0] if len(flat) else np.empty((0, self._outputs), np.float32)
        if bias is not None:
            np.add(y, bias, out=y)
        return y if x.ndim == 2 else y.reshape(*x.shape[:-1], self._outputs)


def product_model(codes: Array, scales: Array) -> bytes:
    """An ONNX model from x (B, K) to y (B, N), for codes (N, K) and scales (N,)."""
    outputs, inputs = codes.shape
    block = next((size for size in BLOCKS if inputs % size == 0), 16)
    blocks = -(-inputs // block)
    shifted = np.full((outputs, blocks * block), _ZERO, np.uint8)
    shifted[:, :inputs] = codes.view(np.uint8) ^ _ZERO
    settings = {"K": inputs, "N": outputs, "bits": 8, "block_size": block, "accuracy_level": _ROUNDED_TO_INT8}
    node = [*_texts(1, "x", "codes", "scales"), *_texts(2, "y"), *_texts(4, "MatMulNBits"), *_texts(7, "com.microsoft")]
    node += [_bytes(5, _texts(1, name)[0] + _number(3, n) + _number(20, _INTEGER)) for name, n in settings.items()]
    graph = [_bytes(1, b"".join(node)), *_texts(2, "product")]
    graph.append(_bytes(5, _tensor("codes", _UINT8, shifted.reshape(outputs, blocks, block))))
    graph.append(_bytes(5, _tensor("scales", _FLOAT, scales.repeat(blocks))))
    graph += [_bytes(11, _value("x", inputs)), _bytes(12, _value("y", outputs))]
    sets = [_texts(1, domain)[0] + _number(2, version) for domain, version in (("", 17), ("com.microsoft", 1))]
    return b"".join([_number(1, 8), _bytes(7, b"".join(graph)), *(_bytes(8, each) for each in sets)])


def _tensor(name: str, data_type: int, array: Array) -> bytes:
    dims = b"".join(_number(1, size) for size in array.shape)
    return dims + _number(2, data_type) + _texts(8, name)[0] + _bytes(9, array.tobytes())


def _value(name: str, width: int) -> bytes:
    """A float32 matrix of any number of rows."""
    shape = _bytes(1, _texts(2, "B")[0]) + _bytes(1, _number(1, width))
    return _texts(1, name)[0] + _bytes(2, _bytes(1, _number(1, _FLOAT) + _bytes(2, shape)))


def _texts(field: int, *texts: str) -> list[bytes]:
    return [_bytes(field, text.encode()) for text in texts]


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


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
