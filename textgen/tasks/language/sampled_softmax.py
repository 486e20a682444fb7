"""Training with a softmax over a sample of the tokens, for vocabularies so large that the readout dominates a step.

The candidates of a step are all targets in its window and `count` other tokens, drawn with probabilities p that follow
their frequencies (Bengio and Senécal 2003, Jean et al. 2015). The exp(logit) of a drawn token is weighted by 1/p, so
that the expected sum in the softmax is the sum over all tokens. Evaluation and sampling use the full softmax.
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
"""The probability of drawing a token is proportional to its frequency to this power (Mikolov et al. 2013)."""


class SampledSoftmax:
    """Draws the candidates of each step: a pure function of (seed, step) and of the step's targets."""

    def __init__(self, frequencies: npt.NDArray[Any], count: int, seed: int) -> None:
        """`frequencies` (V,) counts each token. Raises UsageError unless `count` is less than V."""
        refuse_few_tokens(count, len(frequencies))
        self.probabilities = inclusion(np.maximum(frequencies, 1) ** FLATTENED, count)
        self._ends = np.cumsum(self.probabilities)
        self._count, self._seed = count, seed

    def draw(self, step: int, targets: Tensor) -> tuple[Candidates, Tensor]:
        """The candidates of a step, and its targets (T, B) as indices into them."""
        shift = np.random.default_rng(keyed_seed(self._seed, step, "candidates")).random()
        right, places = np.unique(targets.cpu().numpy(), return_inverse=True)
        drawn = np.setdiff1d(self.at(shift), right)
        ids = np.concatenate([right, drawn])
        corrections = np.concatenate([np.zeros(len(right)), -np.log(self.probabilities[drawn])]).astype(np.float32)
        device = targets.device
        candidates = Candidates(torch.from_numpy(ids).to(device), torch.from_numpy(corrections).to(device))
        return candidates, torch.from_numpy(places.reshape(targets.shape)).to(device)

    def at(self, shift: float) -> npt.NDArray[np.intp]:
        """The tokens drawn for a number from 0 to 1: systematic sampling, which draws each token with its probability,
        at most once, and a proportional number from each frequency band (Madow 1949)."""
        found = np.searchsorted(self._ends, shift + np.arange(self._count), side="right")
        return np.unique(found[found < len(self._ends)])


def inclusion(weights: npt.NDArray[Any], count: int) -> npt.NDArray[np.float64]:
    """Probabilities (V,), at most 1, that sum to `count`; those below 1 are proportional to `weights` (V,)."""
    certain = np.zeros(len(weights), dtype=bool)
    while True:
        left = count - certain.sum()
        probabilities: npt.NDArray[np.float64] = np.where(certain, 1.0, left * weights / weights[~certain].sum())
        above = (probabilities >= 1) & ~certain
        if not above.any():
            return probabilities
        certain |= above


def refuse_few_tokens(count: int, tokens: int) -> None:
    """Raise UsageError unless the number of candidates is less than the number of tokens."""
    if count >= tokens:
        raise UsageError(
            f"{named('sampled_softmax', f'{count:,}')} must be less than the vocabulary size ({tokens:,}).",
            hint="omit it; it only pays for vocabularies above about ten thousand tokens.",
        )
