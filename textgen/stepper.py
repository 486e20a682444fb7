"""What generation and evaluation drive: a model behind arrays, whichever runtime executes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from textgen.text.tokenizer import Ids

Logits = npt.NDArray[np.floating]


class Stepper(Protocol):
    """What the loop drives. The state is opaque."""

    def initial_state(self, batch_size: int) -> Any: ...

    def step(self, ids: Ids, state: Any) -> tuple[Logits, Any]:
        """ids (B,) and a state to logits (B, V) and the next state."""

    def forward(self, ids: Ids, state: Any) -> tuple[Logits, Any]:
        """ids (B, T) and a state to the logits after the last of them, (B, V), and the state there."""

    def outputs(self, ids: Ids, state: Any) -> tuple[Logits, Any]:
        """ids (B, T), T >= 1, and a state to the outputs at every time step, (T, B, V), and the state at the end."""

    def score(self, ids: Ids, targets: Ids, state: Any) -> tuple[npt.NDArray[np.float64], Any]:
        """ids and targets (B, T) to the log-probability of each target, (B, T) in nats, and the state at the end."""

    def rows(self, state: Any, indices: npt.NDArray[np.intp]) -> Any:
        """The state whose row k is row indices[k] of a state; rows may be left out, and may come several times."""

    def joined(self, states: Sequence[Any]) -> Any:
        """The state whose rows are those of several states, one after another."""

    def arrays(self, state: Any) -> list[npt.NDArray[Any]]:
        """A state as arrays, each (B, ...)."""

    def from_arrays(self, arrays: Sequence[npt.NDArray[Any]]) -> Any:
        """The inverse of `arrays`, for one row. Raises TextgenError if they are not like those of this model."""
