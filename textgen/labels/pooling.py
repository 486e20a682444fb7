"""From a model's outputs at every time step of a text to one answer, whole or window by window.

The readout is linear: the mean of the outputs is the readout of the mean state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Outputs = npt.NDArray[np.floating[Any]]


@dataclass
class Pool:
    """The answer of B texts so far, read window by window; memory does not grow with what was read.

    `add` takes outputs (T, B, C) and how many of the T steps count for each text, (B,), which may be 0.
    """

    pooling: str
    total: npt.NDArray[np.float64] | None = None
    read: npt.NDArray[np.int64] | None = None

    def add(self, outputs: Outputs, lengths: npt.NDArray[np.int64]) -> None:
        """Take in one window."""
        counted = (np.arange(len(outputs))[:, None] < lengths)[:, :, None]
        if self.total is None or self.read is None:
            begin = -np.inf if self.pooling == "max" else 0.0
            self.total = np.full(outputs.shape[1:], begin, np.float64)
            self.read = np.zeros(outputs.shape[1], np.int64)
        if self.pooling == "last":
            lanes = np.flatnonzero(lengths)
            self.total[lanes] = outputs[lengths[lanes] - 1, lanes]
        elif self.pooling == "max":
            self.total = np.maximum(self.total, np.where(counted, outputs, -np.inf).max(axis=0))
        else:
            self.total += np.where(counted, outputs, 0.0).sum(axis=0, dtype=np.float64)
        self.read += lengths

    def answer(self) -> npt.NDArray[np.float64]:
        """The pooled outputs (B, C)."""
        assert self.total is not None and self.read is not None
        return self.total / self.read[:, None] if self.pooling == "mean" else self.total
