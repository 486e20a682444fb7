"""Pooling of a model's outputs over the time steps of a text, whole or chunk by chunk.

The readout is linear: the mean of the outputs is the readout of the mean state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass
class Pool:
    """Pools the outputs of B texts incrementally; memory does not grow with their length."""

    pooling: str
    total: npt.NDArray[np.float64] | None = None
    steps: npt.NDArray[np.int64] | None = None

    def add(self, outputs: npt.NDArray[np.floating[Any]], lengths: npt.NDArray[np.int64]) -> None:
        """Add outputs (T, B, C), of which the first `lengths` (B,) steps count for each text; a length may be 0."""
        counted = (np.arange(len(outputs))[:, None] < lengths)[:, :, None]
        if self.total is None or self.steps is None:
            begin = -np.inf if self.pooling == "max" else 0.0
            self.total = np.full(outputs.shape[1:], begin, np.float64)
            self.steps = np.zeros(outputs.shape[1], np.int64)
        if self.pooling == "last":
            lanes = np.flatnonzero(lengths)
            self.total[lanes] = outputs[lengths[lanes] - 1, lanes]
        elif self.pooling == "max":
            self.total = np.maximum(self.total, np.where(counted, outputs, -np.inf).max(axis=0))
        else:
            self.total += np.where(counted, outputs, 0.0).sum(axis=0, dtype=np.float64)
        self.steps += lengths

    def pooled(self) -> npt.NDArray[np.float64]:
        """The pooled outputs (B, C)."""
        assert self.total is not None and self.steps is not None
        return self.total / self.steps[:, None] if self.pooling == "mean" else self.total
