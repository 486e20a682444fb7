"""Products with an int8 matrix, computed by onnxruntime.

The operator MatMulNBits also rounds each row of x to int8, in blocks, and sums integers, so that each row of the result
depends on one row of x. The ONNX model with this one operator (a protocol buffer) is encoded here, without the onnx
package.
"""

from __future__ import annotations

import numpy as np

from textgen import threads
from textgen.dependencies import needed
from textgen.runtime.ops import Array

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
