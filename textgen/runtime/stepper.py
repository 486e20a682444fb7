"""A stored step behind the loop's protocol: what `textgen.load` gives where a model folder has `step.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import threads
from textgen.errors import TextgenError
from textgen.runtime.execution import Execution
from textgen.runtime.graph import IDS, StepGraph
from textgen.runtime.int8 import Int8Rows, in_int8
from textgen.runtime.nodes import Kind
from textgen.runtime.ops import Array
from textgen.runtime.plan import lower
from textgen.runtime.sequence import SequencePlan, State

Weights = Mapping[str, Array | Int8Rows]
LARGEST_LOGITS = 1 << 22
"""Numbers of the logits that are held at once while a text is scored."""


class NumpyStepper:
    """`textgen.stepper.TokenStepper` over a stored step and its weights, by numpy alone.

    A state is a tuple of arrays, (B, ...) each, never changed once it is given. Several threads may step at once.
    """

    def __init__(self, graph: StepGraph, weights: Weights, backend: str = "numpy") -> None:
        """`weights` by name, as the graph wants them; they are copied. With `backend` 'int8' those in eight bits are
        run as they are, by onnxruntime; else floats are made of them."""
        small = {name: weight for name, weight in weights.items() if isinstance(weight, Int8Rows)}
        with np.errstate(all="ignore"):  # what is not finite is found in the logits
            arrays = {f"weight.{name}": w.floats if isinstance(w, Int8Rows) else w for name, w in weights.items()}
        inputs = {IDS: Kind("int64", (-1,)), **{f"state.{number}": kind for number, kind in enumerate(graph.state)}}
        initial = lower(graph.initial, arrays, {})
        step = lower(graph.step, arrays, inputs, True, in_int8(small) if backend == "int8" else None)
        self._vocab_size = graph.logits.shape[1]
        self._initial, self._initial_places = Execution(initial, initial.calls), initial.outputs
        self._step, self._inputs, self._outputs = Execution(step, step.calls), [*step.inputs.values()], step.outputs
        self._sequence = SequencePlan(step, len(graph.state))

    def initial_state(self, batch_size: int) -> State:
        """The state (B, ...) before the first symbol."""
        values = self._initial.blank()
        with np.errstate(all="ignore"):
            self._initial.run(batch_size, values)
        return tuple(values[place] for place in self._initial_places)

    def step(self, ids: Array, state: State) -> tuple[Array, State]:
        """ids (B,) to logits (B, V) and the next state."""
        values = self._step.blank()
        for place, given in zip(self._inputs, (ids, *state), strict=True):
            values[place] = given
        with threads.few_rows(len(ids)), np.errstate(all="ignore"):
            self._step.run(len(ids), values)
        logits, *after = [values[place] for place in self._outputs]
        return logits, tuple(after)

    def forward(self, ids: Array, state: State) -> tuple[Array, State]:
        """ids (B, T), T >= 1, to the logits after the last of them, (B, V), and the state there."""
        if self._sequence.possible:
            with threads.few_rows(len(ids)), np.errstate(all="ignore"):
                return self._sequence.run(ids, state, all_logits=False)
        for column in ids.T:
            logits, state = self.step(column, state)
        return logits, state

    def outputs(self, ids: Array, state: State) -> tuple[Array, State]:
        """ids (B, T), T >= 1, to the outputs at every time step, (T, B, V), and the state at the end."""
        if self._sequence.possible:
            with threads.few_rows(len(ids)), np.errstate(all="ignore"):
                outputs, state = self._sequence.run(ids, state, all_logits=True)
            return outputs.reshape(ids.shape[1], len(ids), -1), state
        steps = []
        for column in ids.T:
            output, state = self.step(column, state)
            steps.append(output)
        return np.stack(steps), state

    def score(self, ids: Array, targets: Array, state: State) -> tuple[npt.NDArray[np.float64], State]:
        """ids and targets (B, T) to the log-probability of each target, (B, T) in nats, and the state at the end."""
        scores = np.empty(ids.shape)
        most = max(1, LARGEST_LOGITS // (len(ids) * self._vocab_size)) if self._sequence.possible else 1
        for start in range(0, ids.shape[1], most):
            piece, wanted = ids[:, start : start + most], targets[:, start : start + most]
            if self._sequence.possible:
                with threads.few_rows(len(ids)), np.errstate(all="ignore"):
                    logits, state = self._sequence.run(piece, state, all_logits=True)
            else:
                logits, state = self.step(piece[:, 0], state)
            scores[:, start : start + most] = _logprobs(logits, wanted.T.reshape(-1)).reshape(-1, len(ids)).T
        return scores, state

    def arrays(self, state: State) -> list[npt.NDArray[Any]]:
        """A state as arrays, (B, ...) each."""
        return list(state)

    def from_arrays(self, arrays: Sequence[npt.NDArray[Any]]) -> State:
        """The inverse of `arrays`, for one row. Raises TextgenError if they are not like those of this model."""
        wanted = [(array.shape, array.dtype) for array in self.initial_state(1)]
        if [(array.shape, array.dtype) for array in arrays] != wanted:
            raise TextgenError(f"a state of this model has {len(wanted)} tensors of other shapes or types.")
        return tuple(array.copy() for array in arrays)

    def select(self, state: State, indices: npt.NDArray[np.intp]) -> State:
        """The state whose row k is row indices[k] of a state."""
        return tuple(part[indices] for part in state)

    def concat(self, states: Sequence[State]) -> State:
        """The state whose rows are those of several states, one after another."""
        return tuple(np.concatenate(parts) for parts in zip(*states, strict=True))


def _logprobs(logits: Array, ids: Array) -> npt.NDArray[np.float64]:
    """The log-probability of each row's id: logits (N, V) and ids (N,) to (N,); NaN where logits are not finite."""
    highest = logits.max(axis=1)
    with np.errstate(all="ignore"):
        totals = np.exp(logits - highest[:, None]).sum(axis=1, dtype=np.float64)
        chosen = logits[np.arange(len(ids)), ids].astype(np.float64)
        result: npt.NDArray[np.float64] = chosen - highest - np.log(totals)
    return result
