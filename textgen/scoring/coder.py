"""A range coder in integers: symbols with their probabilities to nearly the fewest possible bytes, and back.

Each symbol takes its share of an interval of integers; the bytes name one number of the last interval. Interval ends
have 56 bits, and a carry propagates into bytes already written, so no range is given up to avoid carries. Frequencies
sum to at most 2^32 and the interval never falls below 2^48, so rounding costs at most 2^-16 of a symbol.

Range coding: Martin 1979; carries: Witten, Neal and Cleary 1987, "Arithmetic Coding for Data Compression".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from textgen.errors import TextgenError

Cumulative = npt.NDArray[np.uint64]

TOTAL = 1 << 32
_BITS = 56
_WHOLE = 1 << _BITS
_LOW_BYTES = _BITS - 8
_LEAST = 1 << _LOW_BYTES


class RangeEncoder:
    """Symbols in, bytes out."""

    def __init__(self) -> None:
        self._low = 0
        self._range = _WHOLE
        self._bytes = bytearray()

    def encode(self, start: int, size: int, total: int) -> None:
        """Code a symbol that has the frequencies from `start` to `start + size` out of `total` (2^32 at most)."""
        unit = self._range // total
        self._low += unit * start
        self._range = unit * size
        if self._low >= _WHOLE:
            self._carry()
        while self._range < _LEAST:
            self._bytes.append(self._low >> _LOW_BYTES)
            self._low = (self._low << 8) & (_WHOLE - 1)
            self._range <<= 8

    def finish(self) -> bytes:
        """All bytes: the fewest that, followed by zeros, name a number in the interval."""
        for kept in range(0, _BITS + 1, 8):
            step = 1 << (_BITS - kept)
            number = -(-self._low // step) * step
            if number < self._low + self._range:
                break
        self._low = number
        if self._low >= _WHOLE:
            self._carry()
        tail = self._low.to_bytes(_BITS // 8, "big")
        return bytes(self._bytes + tail).rstrip(b"\0")

    def _carry(self) -> None:
        self._low -= _WHOLE
        place = len(self._bytes) - 1
        while self._bytes[place] == 0xFF:
            self._bytes[place] = 0
            place -= 1
        self._bytes[place] += 1


class RangeDecoder:
    """Decodes the bytes of a `RangeEncoder`, given the same frequencies in the same order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = _BITS // 8
        self._code = int.from_bytes(data[: self._place].ljust(self._place, b"\0"), "big")
        self._range = _WHOLE
        self._unit = 1

    def target(self, total: int) -> int:
        """A number below `total` within the frequencies of the next symbol; then `take` that symbol."""
        self._unit = self._range // total
        return min(self._code // self._unit, total - 1)

    def take(self, start: int, size: int) -> None:
        """Advance past the symbol with these frequencies."""
        self._code -= self._unit * start
        self._range = self._unit * size
        while self._range < _LEAST:
            following = self._data[self._place] if self._place < len(self._data) else 0
            self._place += 1
            self._code = (self._code << 8) | following
            self._range <<= 8

    def uniform(self, total: int) -> int:
        """Decode one of `total` equally likely symbols."""
        symbol = self.target(total)
        self.take(symbol, 1)
        return symbol


def cumulative(logits: npt.NDArray[np.float32]) -> Cumulative:
    """Logits (B, V) to cumulative frequencies (B, V + 1): from 0 up to a total of at most 2^32, each symbol at least 1.

    The same logits give the same frequencies. Raises TextgenError if a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise TextgenError("the model's predictions are not finite.")
    rows, size = logits.shape
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    share = (TOTAL - size) / weights.sum(axis=1, keepdims=True)
    ends = np.zeros((rows, size + 1), dtype=np.uint64)
    np.cumsum((weights * share).astype(np.uint64) + np.uint64(1), axis=1, out=ends[:, 1:])
    return ends
