"""The order in which texts are learned from: a pure function of (seed, step).

Texts of alike length are read side by side. Those of more than `seq_length` symbols are read in several steps, one
after another with the state carried, so that memory does not grow with a text; each of these steps asks for the label
in the light of all that was read by then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]

JITTER = 0.5
"""By how much of their length texts are mixed with longer ones, so that batches are not the same in every epoch."""


@dataclass(frozen=True)
class Place:
    """What a step reads: the numbers of its texts, at most `batch_size`, and which window of theirs, from 0."""

    texts: Places
    window: int


@dataclass(frozen=True)
class Batches:
    """Texts of these lengths in symbols, (N,), each at least 1, in batches of `batch_size`."""

    lengths: Places
    batch_size: int
    seq_length: int
    seed: int
    _drawn: dict[int, tuple[Places, Places, Places]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def _windows(self) -> Places:
        """Windows of each text, (N,)."""
        return -(-self.lengths // self.seq_length)

    @cached_property
    def _steps(self) -> Places:
        """Steps of each batch: the windows of its longest text. Batches hold texts in the order of their windows, so
        that this is the same in every epoch."""
        ordered = np.sort(self._windows)
        ends = np.minimum(np.arange(1, -(-len(ordered) // self.batch_size) + 1) * self.batch_size, len(ordered))
        steps: Places = ordered[ends - 1]
        return steps

    @property
    def steps_per_epoch(self) -> int:
        return int(self._steps.sum())

    def place(self, step: int) -> Place:
        """The texts and the window of a step (from 0)."""
        epoch, within = divmod(step, self.steps_per_epoch)
        texts, batches, ends = self._epoch(epoch)
        at = int(np.searchsorted(ends, within, side="right"))
        batch = int(batches[at])
        first = int(ends[at]) - int(self._steps[batch])
        return Place(texts[batch * self.batch_size : (batch + 1) * self.batch_size], within - first)

    def _epoch(self, epoch: int) -> tuple[Places, Places, Places]:
        """The texts of an epoch in order, its batches in order, and after how many steps each of these is over."""
        if epoch not in self._drawn:
            random: Any = np.random.default_rng([self.seed, epoch, 2])
            noise = random.random(len(self.lengths))
            alike = np.where(self._windows > 1, noise, self.lengths * (1 + JITTER * noise))
            texts = np.lexsort((alike, self._windows))
            batches = random.permutation(len(self._steps))
            self._drawn.clear()
            self._drawn[epoch] = texts, batches, np.cumsum(self._steps[batches])
        return self._drawn[epoch]
