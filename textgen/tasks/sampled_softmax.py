"""Training with a softmax over a sample of the symbols, for vocabularies so large that reading out is most of a step.

A step compares the right symbols with all that are right somewhere in its window and with `count` others, drawn with
probabilities p that follow how frequent they are (Bengio and Senécal 2003, Jean et al. 2015). A drawn symbol stands for
1/p of its kind: its exp(logit) counts 1/p times, so that the sum under the softmax is, on average, the sum over all
symbols. Evaluating and sampling take the whole softmax.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from textgen.dropout import keyed_seed
from textgen.errors import UsageError
from textgen.model import Candidates
from textgen.parameters import named

FLATTENED = 0.75
"""The power of a symbol's frequency to which its probability of being drawn is proportional (Mikolov et al. 2013)."""


class SampledSoftmax:
    """Draws the candidates of each step: a pure function of (seed, step) and of the step's targets."""

    def __init__(self, frequencies: npt.NDArray[Any], count: int, seed: int) -> None:
        """`frequencies` (V,) says how often each symbol occurs. Raises UsageError unless `count` is fewer than V."""
        refuse_few_symbols(count, len(frequencies))
        self.probabilities = inclusion(np.maximum(frequencies, 1) ** FLATTENED, count)
        self._ends = np.cumsum(self.probabilities)
        self._count, self._seed = count, seed

    def draw(self, step: int, targets: Tensor) -> tuple[Candidates, Tensor]:
        """The candidates of a step, and targets (T, B) as places among them."""
        shift = np.random.default_rng(keyed_seed(self._seed, step, "candidates")).random()
        right, places = np.unique(targets.cpu().numpy(), return_inverse=True)
        drawn = np.setdiff1d(self.at(shift), right)
        ids = np.concatenate([right, drawn])
        corrections = np.concatenate([np.zeros(len(right)), -np.log(self.probabilities[drawn])]).astype(np.float32)
        device = targets.device
        candidates = Candidates(torch.from_numpy(ids).to(device), torch.from_numpy(corrections).to(device))
        return candidates, torch.from_numpy(places.reshape(targets.shape)).to(device)

    def at(self, shift: float) -> npt.NDArray[np.intp]:
        """The symbols drawn for a number from 0 to 1: systematic sampling, by which each comes with its probability,
        never twice, and as many from each band of frequencies as belong to it (Madow 1949)."""
        found = np.searchsorted(self._ends, shift + np.arange(self._count), side="right")
        return np.unique(found[found < len(self._ends)])


def inclusion(weights: npt.NDArray[Any], count: int) -> npt.NDArray[np.float64]:
    """Probabilities (V,), none above 1, that sum to `count` and below 1 are in the proportions of `weights` (V,)."""
    certain = np.zeros(len(weights), dtype=bool)
    while True:
        left = count - certain.sum()
        probabilities: npt.NDArray[np.float64] = np.where(certain, 1.0, left * weights / weights[~certain].sum())
        above = (probabilities >= 1) & ~certain
        if not above.any():
            return probabilities
        certain |= above


def refuse_few_symbols(count: int, symbols: int) -> None:
    """Raise UsageError where so many candidates are no sample of so many symbols."""
    if count >= symbols:
        raise UsageError(
            f"{named('sampled_softmax', f'{count:,}')} must be fewer than the corpus has symbols ({symbols:,}).",
            hint="leave it out; it pays from about ten thousand symbols on.",
        )
