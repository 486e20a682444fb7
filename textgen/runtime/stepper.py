"""A stepper that runs a stored step: what `textgen.load` uses if a model folder has `step.json`."""

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
from textgen.runtime.nodes import TensorSpec
from textgen.runtime.ops import Array
from textgen.runtime.plan import lower
from textgen.runtime.sequence import SequencePlan, State

Weights = Mapping[str, Array | Int8Rows]
LARGEST_LOGITS = 1 << 22
"""Elements of the logits that are in memory at once while a text is scored."""


class NumpyStepper:
    """A `textgen.stepper.TokenStepper` that runs a stored step with numpy.

    A state is a tuple of arrays, (B, ...) each, that are never changed in place. Several threads may step at once.
    """

    def __init__(self, graph: StepGraph, weights: Weights, backend: str = "numpy") -> None:
        """`weights` by name; they are copied. With `backend` 'int8', int8 weights are used as they are, by onnxruntime;
        otherwise they are converted to float32."""
        int8 = {name: weight for name, weight in weights.items() if isinstance(weight, Int8Rows)}
        with np.errstate(all="ignore"):  # NaN and infinity are detected in the logits
            arrays = {f"weight.{name}": w.floats if isinstance(w, Int8Rows) else w for name, w in weights.items()}
        inputs = {
            IDS: TensorSpec("int64", (-1,)),
            **{f"state.{number}": spec for number, spec in enumerate(graph.state)},
        }
        initial = lower(graph.initial, arrays, {})
        step = lower(graph.step, arrays, inputs, True, in_int8(int8) if backend == "int8" else None)
        self._vocab_size = graph.logits.shape[1]
        self._initial, self._initial_places = Execution(initial, initial.calls), initial.outputs
        self._step, self._inputs, self._outputs = Execution(step, step.calls), [*step.inputs.values()], step.outputs
        self._sequence = SequencePlan(step, len(graph.state))

    def initial_state(self, batch_size: int) -> State:
        """The state (B, ...) before the first token."""
        values = self._initial.new_values()
        with np.errstate(all="ignore"):
            self._initial.run(batch_size, values)
        return tuple(values[place] for place in self._initial_places)

    def step(self, ids: Array, state: State) -> tuple[Array, State]:
        """ids (B,) to logits (B, V) and the next state."""
        values = self._step.new_values()
        for place, given in zip(self._inputs, (ids, *state), strict=True):
            values[place] = given
        with threads.few_rows(len(ids)), np.errstate(all="ignore"):
            self._step.run(len(ids), values)
        logits, *after = [values[place] for place in self._outputs]
        return logits, tuple(after)

    def forward(self, ids: Array, state: State) -> tuple[Array, State]:
        """ids (B, T), T >= 1, to the logits after the last of them, (B, V), and the state there."""
        return self._run(ids, state, all_logits=False)

    def outputs(self, ids: Array, state: State) -> tuple[Array, State]:
        """ids (B, T), T >= 1, to the outputs at every time step, (T, B, V), and the state at the end."""
        outputs, state = self._run(ids, state, all_logits=True)
        return outputs.reshape(ids.shape[1], len(ids), -1), state

    def _run(self, ids: Array, state: State, all_logits: bool) -> tuple[Array, State]:
        """The logits of all steps, (T * B, V) step by step, or of the last, (B, V), and the state at the end."""
        if self._sequence.possible:
            with threads.few_rows(len(ids)), np.errstate(all="ignore"):
                return self._sequence.run(ids, state, all_logits)
        steps: list[Array] = []
        for column in ids.T:
            logits, state = self.step(column, state)
            if not all_logits:
                steps.clear()
            steps.append(logits)
        return np.concatenate(steps), state

    def score(self, ids: Array, targets: Array, state: State) -> tuple[npt.NDArray[np.float64], State]:
        """ids and targets (B, T) to the log-probability of each target, (B, T) in nats, and the state at the end."""
        scores = np.empty(ids.shape)
        most = max(1, LARGEST_LOGITS // (len(ids) * self._vocab_size))
        for start in range(0, ids.shape[1], most):
            chunk = slice(start, start + most)
            logits, state = self._run(ids[:, chunk], state, all_logits=True)
            scores[:, chunk] = _logprobs(logits, targets[:, chunk].T.reshape(-1)).reshape(-1, len(ids)).T
        return scores, state

    def arrays(self, state: State) -> list[npt.NDArray[Any]]:
        """A state as arrays, (B, ...) each."""
        return list(state)

    def from_arrays(self, arrays: Sequence[npt.NDArray[Any]]) -> State:
        """The inverse of `arrays`, for one row. Raises TextgenError for arrays that do not fit this model."""
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
