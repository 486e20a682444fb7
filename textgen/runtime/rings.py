"""What of a step can be computed for many steps together, and what only in a loop; read off the graph.

States that depend on each other in a circle form a ring; the rings stand in an order in which each depends on earlier
ones alone. The calls of a ring must be looped. All others wait for the rings that they depend on, and are then run for
all steps together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textgen.runtime.graph import IDS
from textgen.runtime.plan import Call, Plan


@dataclass(frozen=True)
class Part:
    """Calls to run for all steps together (`states` is empty), or the ring of these states, by number.

    A state that does not depend on itself is a ring without a loop: what another place was a step before.
    """

    calls: list[Call]
    states: list[int]
    loop: bool = False


def arrange(plan: Plan, before: Sequence[int], after: Sequence[int]) -> tuple[list[Part], list[Call]]:
    """The parts in order, and the calls that no state depends on: what is only read out.

    `before` and `after` are the places of the states that a step takes and gives.
    """
    depends, feeds = _dependencies(plan, before), _contributions(plan, after)
    known = {plan.inputs[IDS], *plan.constants}
    waiting = [call for call in plan.calls if feeds[call.target]]
    parts = []
    for ring in _rings([depends[place] for place in after]):
        together = _ready(waiting, known)
        mask = sum(1 << state for state in ring)
        loop = any(depends[after[state]] & mask for state in ring)
        circle = [call for call in waiting if loop and depends[call.target] & mask and feeds[call.target] & mask]
        parts += [Part(together, []), Part(circle, ring, loop)]
        known.update(call.target for call in circle)
        known.update(before[state] for state in ring)
        waiting = [call for call in waiting if call.target not in known]
    parts.append(Part(_ready(waiting, known), []))
    return parts, [call for call in plan.calls if not feeds[call.target]]


def _ready(waiting: Sequence[Call], known: set[int]) -> list[Call]:
    """The calls for which everything is known, which then are known too."""
    found = []
    for call in waiting:
        if known.issuperset(call.sources):
            known.add(call.target)
            found.append(call)
    return found


def _dependencies(plan: Plan, before: Sequence[int]) -> dict[int, int]:
    """For each place the states that it depends on, as bits."""
    found = dict.fromkeys(range(plan.places), 0)
    found.update({place: 1 << state for state, place in enumerate(before)})
    for call in plan.calls:
        for source in call.sources:
            found[call.target] |= found[source]
    return found


def _contributions(plan: Plan, after: Sequence[int]) -> dict[int, int]:
    """For each place the next states that depend on it, as bits."""
    found = dict.fromkeys(range(plan.places), 0)
    for state, place in enumerate(after):
        found[place] |= 1 << state
    for call in reversed(plan.calls):
        for source in call.sources:
            found[source] |= found[call.target]
    return found


def _rings(depends: list[int]) -> list[list[int]]:
    """The rings of states, in order, where state k depends on those whose bits are set in depends[k]."""
    reach = [bits | 1 << state for state, bits in enumerate(depends)]
    for middle in range(len(reach)):
        for state, bits in enumerate(reach):
            if bits >> middle & 1:
                reach[state] |= reach[middle]
    rings: dict[int, list[int]] = {}
    for state, bits in enumerate(reach):
        rings.setdefault(bits, []).append(state)
    return [rings[bits] for bits in sorted(rings, key=lambda bits: (bits.bit_count(), bits))]
