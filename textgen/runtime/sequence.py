"""A whole sequence at once, as far as a step's graph allows it.

Of a stack of LSTMs each layer's W·x is computed for the whole sequence in one product, then its recurrent part in a
loop, and in the end all logits in one product: whatever the cell, as `textgen.runtime.rings` finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgen.runtime.execution import Execution
from textgen.runtime.graph import IDS
from textgen.runtime.ops import DTYPES, Array
from textgen.runtime.plan import Call, Plan
from textgen.runtime.rings import Part, arrange

FEWEST_ROWS, LARGEST_SEQUENCE = 256, 1 << 20
"""A sequence is cut into pieces of so many rows (steps times batch), or more while all their values together have at
most so many numbers: what then fits a processor's cache."""
State = tuple[Array, ...]


@dataclass
class Sequences:
    """The values of all steps, (T * B, ...) a step after the other, by place, and the state before and after."""

    batch: int
    length: int
    values: list[Any]
    before: State
    after: list[Array]


class Together:
    """Calls for all steps at once."""

    def __init__(self, plan: Plan, part: Part) -> None:
        self._execution = Execution(plan, part.calls)

    def run(self, sequences: Sequences) -> None:
        self._execution.run(sequences.batch * sequences.length, sequences.values)


class Loop:
    """Calls of a ring, a step after the other. Takes in the values of places elsewhere, and leaves its own."""

    def __init__(self, plan: Plan, part: Part, before: list[int], after: list[int], read: set[int]) -> None:
        self._execution = Execution(plan, part.calls)
        self._carried = [(state, before[state], after[state]) for state in part.states]
        made = {call.target for call in part.calls} | {before[state] for state in part.states}
        self.takes = {source for call in part.calls for source in call.sources} - made - set(plan.constants)
        self.leaves = {place: plan.kinds[place] for place in made & read}

    def run(self, sequences: Sequences) -> None:
        batch, total = sequences.batch, sequences.batch * sequences.length
        given = [(place, sequences.values[place]) for place in self.takes]
        left = {place: np.empty((total, *kind.shape[1:]), DTYPES[kind.dtype]) for place, kind in self.leaves.items()}
        state = {number: sequences.before[number] for number, _, _ in self._carried}
        for start in range(0, total, batch):
            values = self._execution.blank()
            for place, whole in given:
                values[place] = whole[start : start + batch]
            for number, place, _ in self._carried:
                values[place] = state[number]
            self._execution.run(batch, values)
            for place, whole in left.items():
                whole[start : start + batch] = values[place]
            state = {number: values[place] for number, _, place in self._carried}
        for number, final in state.items():
            sequences.after[number] = final
        for place, whole in left.items():
            sequences.values[place] = whole


class Delay:
    """A state that is what another place was a step before."""

    def __init__(self, state: int, before: int, after: int) -> None:
        self._state, self._before, self._after = state, before, after

    def run(self, sequences: Sequences) -> None:
        values, batch = sequences.values[self._after], sequences.batch
        sequences.values[self._before] = np.concatenate([sequences.before[self._state], values[:-batch]])
        sequences.after[self._state] = values[-batch:].copy()


class SequencePlan:
    """A step's plan arranged for sequences. Where `possible` is false it can only be run step by step."""

    def __init__(self, plan: Plan, states: int) -> None:
        before, self._ids = [plan.inputs[f"state.{number}"] for number in range(states)], plan.inputs[IDS]
        self._logits, *after = plan.outputs
        parts, readout = arrange(plan, before, after)
        self._stages: list[Together | Loop | Delay] = []
        for part in parts:
            read = _read([*readout, *(call for other in parts if other is not part for call in other.calls)])
            read |= set(plan.outputs)
            if part.loop:
                self._stages.append(Loop(plan, part, before, after, read))
            elif part.calls:
                self._stages.append(Together(plan, part))
            delayed = [state for state in part.states if not part.loop or before[state] in read]
            self._stages += [Delay(state, before[state], after[state]) for state in delayed]
        self._readout = Execution(plan, readout)
        self._read_out = (_read(readout) | {self._logits}) - {call.target for call in readout} - set(plan.constants)
        loops = [stage for stage in self._stages if isinstance(stage, Loop)]
        crossing = self._read_out.union(*[{*loop.takes, *loop.leaves} for loop in loops])
        self.possible = all(plan.kinds[place].by_row for place in crossing)
        self._width = 1 + sum(call.kind.elements for call in plan.calls)

    def run(self, ids: Array, state: State, all_logits: bool) -> tuple[Array, State]:
        """Read ids (B, T), T >= 1. The logits of all steps, (T * B, V), step after step, or of the last, (B, V)."""
        most = max(1, max(FEWEST_ROWS, LARGEST_SEQUENCE // self._width) // len(ids))
        pieces = []
        for start in range(0, ids.shape[1], most):
            logits, state = self._piece(ids[:, start : start + most], state, all_logits)
            pieces.append(logits)
        return np.concatenate(pieces) if all_logits else pieces[-1], state

    def _piece(self, ids: Array, state: State, all_logits: bool) -> tuple[Array, State]:
        batch, length = ids.shape
        sequences = Sequences(batch, length, self._readout.blank(), state, list(state))
        sequences.values[self._ids] = ids.T.reshape(-1)
        for stage in self._stages:
            stage.run(sequences)
        values = sequences.values
        if not all_logits:
            for place in self._read_out:
                values[place] = values[place][-batch:]
        self._readout.run(batch * length if all_logits else batch, values)
        return values[self._logits], tuple(sequences.after)


def _read(calls: Sequence[Call]) -> set[int]:
    return {source for call in calls for source in call.sources}
