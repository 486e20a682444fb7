"""What generation and evaluation drive: a model behind numpy arrays, whichever runtime executes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from textgen.text.tokenizer import Ids

Array = npt.NDArray[Any]
Logits = npt.NDArray[np.floating]


class Stepper(Protocol):
    """A model that advances a batch of independent rows by one time step. The state is opaque to the caller."""

    def initial_state(self, batch_size: int) -> Any:
        """The state before the first time step."""

    def step(self, inputs: Array, state: Any, /) -> tuple[Array, Any]:
        """Inputs (B, ...) and a state to outputs (B, O) and the next state."""

    def select(self, state: Any, indices: npt.NDArray[np.intp]) -> Any:
        """The state whose row k is row indices[k] of a state; rows may be left out or repeated."""

    def concat(self, states: Sequence[Any]) -> Any:
        """The state that has the rows of several states, in order."""


class TokenStepper(Stepper, Protocol):
    """A stepper whose inputs are token ids, (B,), and whose outputs are logits, (B, V)."""

    def step(self, ids: Ids, state: Any, /) -> tuple[Logits, Any]:
        """Ids (B,) and a state to logits (B, V) and the next state."""

    def forward(self, ids: Ids, state: Any) -> tuple[Logits, Any]:
        """Ids (B, T) and a state to the logits after the last of them, (B, V), and the state there."""

    def outputs(self, ids: Ids, state: Any) -> tuple[Logits, Any]:
        """Ids (B, T), T >= 1, and a state to the outputs at every time step, (T, B, V), and the state at the end."""

    def score(self, ids: Ids, targets: Ids, state: Any) -> tuple[npt.NDArray[np.float64], Any]:
        """Ids and targets (B, T) to the log-probability of each target, (B, T) in nats, and the state at the end."""

    def arrays(self, state: Any) -> list[Array]:
        """A state as arrays, each (B, ...)."""

    def from_arrays(self, arrays: Sequence[Array]) -> Any:
        """The inverse of `arrays`, for one row. Raises TextgenError for arrays of other shapes or types than those of
        this model."""
