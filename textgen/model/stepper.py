"""What generation and evaluation drive: a model's step on arrays, and the one loop that feeds y(t) back as x(t+1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from textgen.data.tokenizers.base import Ids

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


Chosen = TypeVar("Chosen")


def closed_loop(
    step: Callable[[Array, Any], tuple[Array, Any]],
    outputs: Array,
    state: Any,
    choose: Callable[[Array], Chosen],
    feed: Callable[[Chosen], Array],
) -> Iterator[tuple[Chosen, Any]]:
    """Yield what is chosen from the outputs of each time step, with the state that the outputs came with, without end.

    `choose` picks from outputs; `feed` turns what was picked into the next inputs. The first outputs and their state
    are given. A step is only computed once the caller asks for what follows it.
    """
    while True:
        chosen = choose(outputs)
        yield chosen, state
        outputs, state = step(feed(chosen), state)
