"""The windows of series that training reads: a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from textgen.series.design import PreparedSeries
from textgen.series.inputs import Floats32

WARM = 4
"""A window that begins inside a series only warms up the state in its first 1 / WARM."""


@dataclass(frozen=True)
class Windows:
    """Windows of `seq_length` steps, `batch_size` per step; series are drawn in proportion to their lengths.

    A window begins with the initial state; inside a series, its first quarter only warms up the state. `ends` are the
    lengths of the training parts.
    """

    rows: Sequence[PreparedSeries]
    ends: Sequence[int]
    batch_size: int
    seq_length: int
    seed: int

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """The steps of each series whose next step is still in the training part."""
        return np.array([end - 1 for end in self.ends])

    @property
    def steps_per_epoch(self) -> int:
        """Training steps that read as many time steps as there are."""
        return max(1, int(self.counts.sum()) // (self.batch_size * self.seq_length))

    def window(self, step: int) -> tuple[Floats32, Floats32]:
        """Inputs (T, B, width) and targets (T, B, 2) of a step: the residual, and whether it counts (1 or 0)."""
        draw = np.random.default_rng([self.seed, step])
        chosen = draw.choice(len(self.rows), size=self.batch_size, p=self.counts / self.counts.sum())
        width = self.rows[0].inputs.shape[1]
        inputs = np.zeros((self.seq_length, self.batch_size, width), dtype=np.float32)
        targets = np.zeros((self.seq_length, self.batch_size, 2), dtype=np.float32)
        for lane, (k, where) in enumerate(zip(chosen, draw.random(self.batch_size), strict=True)):
            rows, count = self.rows[k], int(self.counts[k])
            warm = self.seq_length // WARM
            start = int(where * (max(0, count - self.seq_length) + warm + 1)) - warm
            start, length = max(0, start), min(self.seq_length, count)
            part = slice(start, start + length)
            inputs[:length, lane] = rows.inputs[part]
            targets[:length, lane, 0] = rows.residuals[part]
            targets[:length, lane, 1] = rows.counted[part]
            if start:
                targets[:warm, lane, 1] = 0.0
        return inputs, targets
