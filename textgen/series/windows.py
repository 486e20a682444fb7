"""The windows that training reads: pieces of series, a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from textgen.series.design import Rows

WARM = 4
"""The share of a window, one in so many, that only warms the state where it begins inside a series."""

Floats32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Windows:
    """`batch_size` pieces of `seq_length` steps of series, each drawn with a chance in proportion to its length.

    A piece begins afresh; where it begins inside a series, its first quarter only warms the state. `ends` are the
    numbers of steps of each series that belong to the training part.
    """

    rows: Sequence[Rows]
    ends: Sequence[int]
    batch_size: int
    seq_length: int
    seed: int

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """The steps of each series from which the next, still in the training part, is predicted."""
        return np.array([end - 1 for end in self.ends])

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which as many time steps are read as there are."""
        return max(1, int(self.counts.sum()) // (self.batch_size * self.seq_length))

    def window(self, step: int) -> tuple[Floats32, Floats32]:
        """Inputs (T, B, width) and targets (T, B, 2) of a step: what is to be said, and whether it counts (1 or 0)."""
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
            piece = slice(start, start + length)
            inputs[:length, lane] = rows.inputs[piece]
            targets[:length, lane, 0] = rows.residuals[piece]
            targets[:length, lane, 1] = rows.counted[piece]
            if start:
                targets[:warm, lane, 1] = 0.0
        return inputs, targets
