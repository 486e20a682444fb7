"""Dropout as a value: masks drawn once a window from a generator keyed by (seed, step), passed down explicitly.

Nothing is kept between windows, so there is no random state to save and a resumed run draws the same masks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def keyed_seed(*key: int | str) -> int:
    """A 63-bit seed that depends on each part of the key and on nothing else."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_noise(device: torch.device, *key: int | str) -> None:
    """Seed torch's own generators by a key, for cells that draw noise of their own. On a CPU its generator alone: to
    note the seed for devices that are not in use takes half a millisecond."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(keyed_seed(*key))
    else:
        torch.manual_seed(keyed_seed(*key))


@dataclass(frozen=True)
class DropoutRates:
    """The share of what is set to zero: units between layers, whole symbols, weights of R."""

    units: float = 0.0
    symbols: float = 0.0
    weights: float = 0.0

    def window(self, seed: int, step: int, lanes: Lanes = None) -> Dropout | None:
        """The masks for one training window, or None where every rate is 0."""
        return Dropout(self, seed, step, lanes) if self.units or self.symbols or self.weights else None


Lanes = tuple[int, slice] | None
"""The size of the whole batch and the lanes of it that are computed now; None for all of it."""


class Dropout:
    """The masks of one window. Each call draws the next mask; kept values are scaled up by 1 / (1 - rate).

    Masks are drawn for the whole batch even where only some of its lanes are computed, so that a batch in parts is
    dropped as it would be in one.
    """

    def __init__(self, rates: DropoutRates, seed: int, step: int, lanes: Lanes = None) -> None:
        self.rates = rates
        self._lanes = lanes
        self._generator = torch.Generator().manual_seed(keyed_seed(seed, step, "dropout"))

    def _mask(self, shape: tuple[int, ...], rate: float, like: Tensor) -> Tensor:
        keep = torch.rand(shape, generator=self._generator) >= rate
        return keep.to(like) / (1 - rate)

    def units(self, xs: Tensor) -> Tensor:
        """Locked dropout (Gal and Ghahramani 2016): xs (T, B, D), one mask for all T steps."""
        rate = self.rates.units
        if not rate:
            return xs
        batch, rows = self._lanes or (xs.shape[1], slice(None))
        return xs * self._mask((1, batch, *xs.shape[2:]), rate, xs)[:, rows]

    def symbols(self, embedded: Tensor, ids: Tensor, vocab_size: int) -> Tensor:
        """Embedding dropout (Gal and Ghahramani 2016): a dropped symbol is zero wherever it stands in ids (T, B)."""
        rate = self.rates.symbols
        return embedded * self._mask((vocab_size,), rate, embedded)[ids].unsqueeze(-1) if rate else embedded

    def weights(self, weight: Tensor) -> Tensor | None:
        """A mask for R (weight-drop, Merity et al. 2018), or None."""
        rate = self.rates.weights
        return self._mask(tuple(weight.shape), rate, weight) if rate else None
