"""Finding which calls of a step can run for many steps at once, and which only in a loop.

States that depend on each other are one strongly connected component of the dependency graph; the components are in
topological order. The calls of a component must run in a loop over time. All other calls run for all steps at once,
after the components that they depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textgen.runtime.graph import IDS
from textgen.runtime.plan import Call, Plan


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
    known = {plan.inputs[IDS], *plan.constants}
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
