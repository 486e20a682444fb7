"""Run a whole sequence at once, as far as a step's graph allows it.

States that depend on each other form a strongly connected component; components are ordered so that each depends on
earlier ones alone. The calls of a component must be looped. All others wait for the components that they depend on,
and then run for all steps together. So each layer of a stack of LSTMs computes W·x for the whole sequence in one
product, then its recurrent part in a loop, and in the end all logits in one product; the same holds for any cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgen.runtime.ops import DTYPES, Array
from textgen.runtime.plan import Call, Execution, Plan

MIN_ROWS, MAX_CHUNK_ELEMENTS = 256, 1 << 20
"""A sequence is processed in chunks of at least this many rows (steps times batch), and more while all values together
have at most this many elements, so that a chunk fits a processor's cache."""
State = tuple[Array, ...]


@dataclass(frozen=True)
class Segment:
    """Calls to run for all steps at once (`states` is empty), or the calls of one component of states, by number.

    A state that does not depend on itself is a component without a loop: the value of another place one step earlier.
    """

    calls: list[Call]
    states: list[int]
    loop: bool = False


def arrange(plan: Plan, before: Sequence[int], after: Sequence[int]) -> tuple[list[Segment], list[Call]]:
    """The segments in order, and the readout: the calls that no state depends on.

    `before` and `after` are the places of the states before and after a step.
    """
    depends, feeds = _dependencies(plan, before), _contributions(plan, after)
    known = {next(iter(plan.inputs.values())), *plan.constants}
    waiting = [call for call in plan.calls if feeds[call.target]]
    segments = []
    for component in strongly_connected_components([depends[place] for place in after]):
        batched = _ready(waiting, known)
        mask = sum(1 << state for state in component)
        loop = any(depends[after[state]] & mask for state in component)
        looped = [call for call in waiting if loop and depends[call.target] & mask and feeds[call.target] & mask]
        segments += [Segment(batched, []), Segment(looped, component, loop)]
        known.update(call.target for call in looped)
        known.update(before[state] for state in component)
        waiting = [call for call in waiting if call.target not in known]
    segments.append(Segment(_ready(waiting, known), []))
    return segments, [call for call in plan.calls if not feeds[call.target]]


def _ready(waiting: Sequence[Call], known: set[int]) -> list[Call]:
    """The calls whose inputs are known; their results then are known too."""
    found = []
    for call in waiting:
        if known.issuperset(call.sources):
            known.add(call.target)
            found.append(call)
    return found


def _dependencies(plan: Plan, before: Sequence[int]) -> dict[int, int]:
    """For each place, a bit mask of the states that it depends on."""
    found = dict.fromkeys(range(plan.places), 0)
    found.update({place: 1 << state for state, place in enumerate(before)})
    for call in plan.calls:
        for source in call.sources:
            found[call.target] |= found[source]
    return found


def _contributions(plan: Plan, after: Sequence[int]) -> dict[int, int]:
    """For each place, a bit mask of the next states that depend on it."""
    found = dict.fromkeys(range(plan.places), 0)
    for state, place in enumerate(after):
        found[place] |= 1 << state
    for call in reversed(plan.calls):
        for source in call.sources:
            found[source] |= found[call.target]
    return found


def strongly_connected_components(depends: list[int]) -> list[list[int]]:
    """The components in topological order, where state k depends on the states whose bits are set in depends[k]."""
    reach = [bits | 1 << state for state, bits in enumerate(depends)]
    for middle in range(len(reach)):
        for state, bits in enumerate(reach):
            if bits >> middle & 1:
                reach[state] |= reach[middle]
    components: dict[int, list[int]] = {}
    for state, bits in enumerate(reach):
        components.setdefault(bits, []).append(state)
    return [components[bits] for bits in sorted(components, key=lambda bits: (bits.bit_count(), bits))]


@dataclass
class Chunk:
    """The values of all steps by place, (T * B, ...) step by step, and the states before and after."""

    batch: int
    length: int
    values: list[Any]
    before: State
    after: list[Array]


class Batched:
    """Calls that run for all steps at once."""

    def __init__(self, plan: Plan, segment: Segment) -> None:
        self._execution = Execution(plan, segment.calls)

    def run(self, chunk: Chunk) -> None:
        self._execution.run(chunk.batch * chunk.length, chunk.values)


class Loop:
    """Calls of a component, step by step. `takes` are the places that it reads, `leaves` those that others read."""

    def __init__(self, plan: Plan, segment: Segment, before: list[int], after: list[int], read: set[int]) -> None:
        self._execution = Execution(plan, segment.calls)
        self._carried = [(state, before[state], after[state]) for state in segment.states]
        made = {call.target for call in segment.calls} | {before[state] for state in segment.states}
        self.takes = {source for call in segment.calls for source in call.sources} - made - set(plan.constants)
        self.leaves = {place: plan.specs[place] for place in made & read}

    def run(self, chunk: Chunk) -> None:
        batch, total = chunk.batch, chunk.batch * chunk.length
        given = [(place, chunk.values[place]) for place in self.takes]
        left = {place: np.empty((total, *spec.shape[1:]), DTYPES[spec.dtype]) for place, spec in self.leaves.items()}
        state = {number: chunk.before[number] for number, _, _ in self._carried}
        for start in range(0, total, batch):
            values = self._execution.new_values()
            for place, whole in given:
                values[place] = whole[start : start + batch]
            for number, place, _ in self._carried:
                values[place] = state[number]
            self._execution.run(batch, values)
            for place, whole in left.items():
                whole[start : start + batch] = values[place]
            state = {number: values[place] for number, _, place in self._carried}
        for number, final in state.items():
            chunk.after[number] = final
        for place, whole in left.items():
            chunk.values[place] = whole


class Delay:
    """A state that is the value of another place one step earlier."""

    def __init__(self, state: int, before: int, after: int) -> None:
        self._state, self._before, self._after = state, before, after

    def run(self, chunk: Chunk) -> None:
        values, batch = chunk.values[self._after], chunk.batch
        chunk.values[self._before] = np.concatenate([chunk.before[self._state], values[:-batch]])
        chunk.after[self._state] = values[-batch:].copy()


class SequencePlan:
    """A step's plan arranged for sequences. If `possible` is false, it can only run step by step."""

    def __init__(self, plan: Plan) -> None:
        self._input, *before = plan.inputs.values()
        self._logits, *after = plan.outputs
        segments, readout = arrange(plan, before, after)
        self._stages: list[Batched | Loop | Delay] = []
        for segment in segments:
            read = _read([*readout, *(call for other in segments if other is not segment for call in other.calls)])
            read |= set(plan.outputs)
            if segment.loop:
                self._stages.append(Loop(plan, segment, before, after, read))
            elif segment.calls:
                self._stages.append(Batched(plan, segment))
            delayed = [state for state in segment.states if not segment.loop or before[state] in read]
            self._stages += [Delay(state, before[state], after[state]) for state in delayed]
        self._readout = Execution(plan, readout)
        self._read_out = (_read(readout) | {self._logits}) - {call.target for call in readout} - set(plan.constants)
        loops = [stage for stage in self._stages if isinstance(stage, Loop)]
        crossing = self._read_out.union(*[{*loop.takes, *loop.leaves} for loop in loops])
        self.possible = all(plan.specs[place].is_batched for place in crossing)
        self._width = 1 + sum(call.spec.elements for call in plan.calls)

    def run(self, ids: Array, state: State, all_logits: bool) -> tuple[Array, State]:
        """Read ids (B, T) or inputs (B, T, features), T >= 1. The logits of all steps, (T * B, V) step by step, or of
        the last, (B, V)."""
        most = max(1, max(MIN_ROWS, MAX_CHUNK_ELEMENTS // self._width) // len(ids))
        chunks = []
        for start in range(0, ids.shape[1], most):
            logits, state = self._chunk(ids[:, start : start + most], state, all_logits)
            chunks.append(logits)
        return np.concatenate(chunks) if all_logits else chunks[-1], state

    def _chunk(self, ids: Array, state: State, all_logits: bool) -> tuple[Array, State]:
        batch, length = ids.shape[:2]
        chunk = Chunk(batch, length, self._readout.new_values(), state, list(state))
        chunk.values[self._input] = np.swapaxes(ids, 0, 1).reshape(-1, *ids.shape[2:])
        for stage in self._stages:
            stage.run(chunk)
        values = chunk.values
        if not all_logits:
            for place in self._read_out:
                values[place] = values[place][-batch:]
        self._readout.run(batch * length if all_logits else batch, values)
        return values[self._logits], tuple(chunk.after)


def _read(calls: Sequence[Call]) -> set[int]:
    return {source for call in calls for source in call.sources}
