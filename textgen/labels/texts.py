"""Encoded texts, one after another in one array, and what a model makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from textgen.labels.pooling import Pool
from textgen.text.symbols import Ids
from textgen.writing.sampling import log_softmax

Places = npt.NDArray[np.int64]

BATCH = 64
CHUNK = 512
"""Texts that are read side by side, and symbols of each at a time."""


class Reader(Protocol):
    """What reads symbols: a model by torch or by numpy. The state is opaque."""

    def initial_state(self, batch_size: int) -> Any: ...

    def outputs(self, ids: Ids, state: Any) -> tuple[npt.NDArray[np.floating[Any]], Any]:
        """ids (B, T) and a state to the outputs at every time step, (T, B, C), and the state at the end."""


@dataclass(frozen=True)
class Texts:
    """N texts of at least one symbol: all ids (S,), and where each text ends among them, (N,)."""

    ids: npt.NDArray[Any]
    ends: Places
    pad: int = 0

    @classmethod
    def of(cls, texts: Sequence[Ids]) -> Texts:
        """The texts of some arrays of ids."""
        return cls(np.concatenate(texts), np.cumsum([len(ids) for ids in texts], dtype=np.int64))

    @property
    def lengths(self) -> Places:
        """Symbols of each text, (N,)."""
        lengths: Places = np.diff(self.ends, prepend=0)
        return lengths

    def window(self, texts: Places, start: int, length: int) -> tuple[Ids, Places]:
        """Up to `length` symbols of some texts (B,), from symbol `start` of each on: ids (T, B), filled up behind, and
        how many of the T are each text's own, (B,), possibly none."""
        begins = self.ends[texts] - self.lengths[texts] + start
        own: Places = np.clip(self.ends[texts] - begins, 0, length)
        steps = np.arange(own.max())[:, None]
        places = np.minimum(begins + steps, len(self.ids) - 1)
        return np.where(steps < own, self.ids[places], self.pad).astype(np.int32), own


def log_probabilities(
    reader: Reader, texts: Texts, pooling: str, chosen: Places | None = None
) -> npt.NDArray[np.float64]:
    """What a model makes of texts, all or those chosen (N,): the log-probability of each label, (N, C) in nats.

    Memory does not grow with the length of a text.
    """
    chosen = np.arange(len(texts.ends)) if chosen is None else chosen
    lengths = texts.lengths
    alike = chosen[np.argsort(lengths[chosen], kind="stable")]
    answers: npt.NDArray[np.float64] | None = None
    for first in range(0, len(alike), BATCH):
        lanes = alike[first : first + BATCH]
        pool, state = Pool(pooling), reader.initial_state(len(lanes))
        for start in range(0, int(lengths[lanes].max()), CHUNK):
            ids, own = texts.window(lanes, start, CHUNK)
            outputs, state = reader.outputs(ids.T, state)
            pool.add(outputs, own)
        answer = log_softmax(pool.answer())
        answers = np.empty((len(texts.ends), answer.shape[1])) if answers is None else answers
        answers[lanes] = answer
    assert answers is not None
    return answers[chosen]
