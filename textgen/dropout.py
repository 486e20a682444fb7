"""Dropout as a value: masks sampled once per window by a generator keyed by (seed, step), and passed down explicitly.

There is no random state to save between windows, and a resumed run samples the same masks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def keyed_seed(*key: int | str) -> int:
    """A 63-bit seed that depends only on the parts of the key."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_noise(device: torch.device, *key: int | str) -> None:
    """Seed torch's global generators by a key, for cells that draw random numbers. On a CPU only the CPU generator:
    seeding unused devices takes half a millisecond."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(keyed_seed(*key))
    else:
        torch.manual_seed(keyed_seed(*key))


@dataclass(frozen=True)
class DropoutRates:
    """Dropout rates of units between layers, of whole tokens, and of weights of R."""

    units: float = 0.0
    tokens: float = 0.0
    weights: float = 0.0

    def window(self, seed: int, step: int, lanes: Lanes = None) -> Dropout | None:
        """The masks for one training window, or None where every rate is 0."""
        return Dropout(self, seed, step, lanes) if self.units or self.tokens or self.weights else None


Lanes = tuple[int, slice] | None
"""The size of the whole batch, and the lanes of it that are computed now; None for the whole batch."""


class Dropout:
    """The masks of one window. Each call samples the next mask; remaining values are scaled by 1 / (1 - rate).

    Masks are always sampled for the whole batch, so that results do not depend on how it is split into lanes.
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

    def tokens(self, embedded: Tensor, ids: Tensor, vocab_size: int) -> Tensor:
        """Embedding dropout (Gal and Ghahramani 2016): a dropped token is zero everywhere in ids (T, B)."""
        rate = self.rates.tokens
        return embedded * self._mask((vocab_size,), rate, embedded)[ids].unsqueeze(-1) if rate else embedded

    def weights(self, weight: Tensor) -> Tensor | None:
        """A mask for R (weight-drop, Merity et al. 2018), or None."""
        rate = self.rates.weights
        return self._mask(tuple(weight.shape), rate, weight) if rate else None
