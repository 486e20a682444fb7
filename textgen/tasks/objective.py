"""Training objectives: the windows of each step, the loss, and how a model is evaluated.

Models have outputs at every time step, (T, B, outputs); an objective chooses which of them count.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from textgen.cells.engine import State
from textgen.evaluation import Metrics as Metrics
from textgen.model.stack import Candidates, Model


class Objective(ABC):
    """How a model is trained and evaluated."""

    columns: tuple[str, ...] = ("loss",)
    """The names of the metrics in the training table."""

    @property
    def guessing_loss(self) -> float | None:
        """The held-out loss of a uniform guess; None if there is no such loss."""
        return None

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the training part."""

    @property
    @abstractmethod
    def tokens_per_step(self) -> float:
        """Tokens, or time steps, that a step reads."""

    def fresh(self, step: int) -> Tensor | None:
        """The lanes, (B,) of bool, that start from the initial state in this step; None for all of them."""
        return None

    def window_state(self, step: int, initial: State, before: State) -> State:
        """The state at the start of a window: that after the previous one, and the initial state in fresh lanes."""
        fresh = self.fresh(step)
        if not before or fresh is None:
            return initial
        if not fresh.any():
            return before
        wide = [fresh.to(old.device).view(-1, *[1] * (old.dim() - 1)) for old in before]
        return tuple(torch.where(*each) for each in zip(wide, initial, before, strict=True))

    @abstractmethod
    def window(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs (T, B, ...) and targets (K, B, ...) of a step, a pure function of the seed and the step."""

    def candidates(self, step: int, targets: Tensor) -> tuple[Candidates | None, Tensor]:
        """The tokens that outputs are computed for in a step, None for all, and the targets as indices into them."""
        return None, targets

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss, a scalar, of outputs (T, B, O) over the targets that count."""

    def share(self, targets: Tensor, lanes: slice) -> float:
        """The share of a batch's loss that some of its lanes contribute: by default, their share of the lanes."""
        return len(range(targets.shape[1])[lanes]) / targets.shape[1]

    @abstractmethod
    def evaluate(self, model: Model, quick: bool) -> Metrics | None:
        """The metrics on the held-out part; None if there is none. A quick evaluation may use only some of it."""

    def warnings(self) -> list[str]:
        """Warnings about the data before training, one sentence each."""
        return []

    def sample(self, model: Model) -> str | None:
        """A line that shows what the model can do so far; None if there is nothing to show."""
        return None
