"""How strongly training is regularized: it follows how often a model of what size reads a corpus.

A model that reads a text once cannot memorize it, and needs no regularization; one that reads it thirty times needs as
much as it bears (Merity et al. 2018). Wide models bear more dropout than narrow ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Regularization:
    """Values of the options of the same names."""

    dropout: float = 0.0
    embedding_dropout: float = 0.0
    weight_drop: float = 0.0
    weight_decay: float = 0.01
    average_weights: float = 0.0

    def fill(self, options: Any) -> Any:
        """The training options with these values where none are given."""
        missing = [f.name for f in fields(self) if getattr(options, f.name) is None]
        return replace(options, **{name: getattr(self, name) for name in missing})


FREE_EPOCHS, FULL_EPOCHS = 2.0, 30
"""Epochs up to which a text needs no regularization, and from which it needs as much as it bears."""

FULL = Regularization(dropout=0.6, embedding_dropout=0.1, weight_drop=0.4, weight_decay=0.1)
"""The strongest regularization of a model of `USUAL_SIZE` units (fitted on texts of 38 kB to 1.1 MB)."""

USUAL_SIZE, MORE_FOR_WIDE = 384, 0.4
MOST_DROPOUT = 0.75

FULL_WEIGHTS, BY_WEIGHTS = 5.0, 0.7
"""Weights per character from which a model can memorize a text, and how regularization falls below that."""


def of_text(hidden_size: int, epochs: float, weights: float = FULL_WEIGHTS) -> Regularization:
    """The regularization of a language model with so many `weights` per character of its text: stronger with the
    logarithm of the epochs, and for wider models."""
    strength = min(1.0, max(0.0, math.log(epochs / FREE_EPOCHS) / math.log(FULL_EPOCHS / FREE_EPOCHS)))
    strength *= min(1.0, weights / FULL_WEIGHTS) ** BY_WEIGHTS
    wide: float = (hidden_size / USUAL_SIZE) ** MORE_FOR_WIDE

    def rate(full: float) -> float:
        return float(round(min(MOST_DROPOUT, full * strength * wide), 2))

    slight = Regularization.weight_decay
    return Regularization(
        rate(FULL.dropout),
        rate(FULL.embedding_dropout),
        rate(FULL.weight_drop),
        round(slight + (FULL.weight_decay - slight) * strength, 3),
    )
