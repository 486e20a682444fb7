"""The order of training texts: a pure function of (seed, step).

Batches hold texts of similar length. A text of more than `seq_length` tokens is read in several consecutive steps with
the state carried over, so that memory does not grow with it; each step predicts the label from all read so far.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

JITTER = 0.5
"""Lengths are increased by up to this share before sorting, so that batches differ between epochs."""


@dataclass(frozen=True)
class TextBatch:
    """What a step reads: the indices of at most `batch_size` texts, and which window of them, from 0."""

    texts: Integers
    window: int


@dataclass(frozen=True)
class Batches:
    """Batches of `batch_size` texts, given the lengths of all texts in tokens, (N,), each at least 1."""

    lengths: Integers
    batch_size: int
    seq_length: int
    seed: int
    _drawn: dict[int, tuple[Integers, Integers, Integers]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def _windows(self) -> Integers:
        """Windows of each text, (N,)."""
        return -(-self.lengths // self.seq_length)

    @cached_property
    def _steps(self) -> Integers:
        """Steps of each batch: the windows of its longest text. Texts are sorted by number of windows first, so this is
        the same in every epoch."""
        ordered = np.sort(self._windows)
        ends = np.minimum(np.arange(1, -(-len(ordered) // self.batch_size) + 1) * self.batch_size, len(ordered))
        steps: Integers = ordered[ends - 1]
        return steps

    @property
    def steps_per_epoch(self) -> int:
        return int(self._steps.sum())

    def batch(self, step: int) -> TextBatch:
        """The texts and the window of a step, which counts from 0."""
        epoch, within = divmod(step, self.steps_per_epoch)
        texts, batches, ends = self._epoch(epoch)
        at = int(np.searchsorted(ends, within, side="right"))
        batch = int(batches[at])
        first = int(ends[at]) - int(self._steps[batch])
        return TextBatch(texts[batch * self.batch_size : (batch + 1) * self.batch_size], within - first)

    def _epoch(self, epoch: int) -> tuple[Integers, Integers, Integers]:
        """The texts of an epoch in order, its batches in order, and the number of steps after which each batch ends."""
        if epoch not in self._drawn:
            random: Any = np.random.default_rng([self.seed, epoch, 2])
            noise = random.random(len(self.lengths))
            by_length = np.where(self._windows > 1, noise, self.lengths * (1 + JITTER * noise))
            texts = np.lexsort((by_length, self._windows))
            batches = random.permutation(len(self._steps))
            self._drawn.clear()
            self._drawn[epoch] = texts, batches, np.cumsum(self._steps[batches])
        return self._drawn[epoch]
