"""Encoded texts, concatenated in one array, and the log-probabilities that a model gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen.labels.pooling import Pool
from textgen.stepper import TokenStepper
from textgen.text.symbols import Ids
from textgen.writing.sampling import log_softmax

Integers = npt.NDArray[np.int64]

BATCH = 64
CHUNK = 512
"""Texts per batch, and tokens of each that are read at a time."""


@dataclass(frozen=True)
class Texts:
    """N texts of at least one token: all ids (S,), and where each text ends among them, (N,)."""

    ids: npt.NDArray[Any]
    ends: Integers
    pad: int = 0

    @classmethod
    def of(cls, texts: Sequence[Ids]) -> Texts:
        """Concatenate arrays of ids, one for each text."""
        return cls(np.concatenate(texts), np.cumsum([len(ids) for ids in texts], dtype=np.int64))

    @property
    def lengths(self) -> Integers:
        """Tokens of each text, (N,)."""
        lengths: Integers = np.diff(self.ends, prepend=0)
        return lengths

    def window(self, texts: Integers, start: int, length: int) -> tuple[Ids, Integers]:
        """Up to `length` tokens of some texts (B,), from token `start` of each: ids (T, B), padded at the end, and how
        many of the T steps belong to each text, (B,), which may be 0."""
        begins = self.ends[texts] - self.lengths[texts] + start
        counts: Integers = np.clip(self.ends[texts] - begins, 0, length)
        steps = np.arange(counts.max())[:, None]
        positions = np.minimum(begins + steps, len(self.ids) - 1)
        return np.where(steps < counts, self.ids[positions], self.pad).astype(np.int32), counts


def log_probabilities(
    stepper: TokenStepper, texts: Texts, pooling: str, chosen: Integers | None = None
) -> npt.NDArray[np.float64]:
    """The log-probability of each label for all texts, or for those chosen (N,): (N, C) in nats.

    Memory does not grow with the length of a text.
    """
    chosen = np.arange(len(texts.ends)) if chosen is None else chosen
    lengths = texts.lengths
    by_length = np.argsort(lengths[chosen], kind="stable")
    batches = []
    for first in range(0, len(chosen), BATCH):
        lanes = chosen[by_length[first : first + BATCH]]
        pool, state = Pool(pooling), stepper.initial_state(len(lanes))
        for start in range(0, int(lengths[lanes].max()), CHUNK):
            ids, counts = texts.window(lanes, start, CHUNK)
            outputs, state = stepper.outputs(ids.T, state)
            pool.add(outputs, counts)
        batches.append(log_softmax(pool.pooled()).astype(np.float64))
    found: npt.NDArray[np.float64] = np.concatenate(batches)[np.argsort(by_length)]
    return found
