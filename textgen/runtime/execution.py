"""Running calls of a plan on arrays, at any batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from textgen.runtime.ops import Array
from textgen.runtime.plan import Call, Plan

MOST_BOUND = 256
BoundCalls = list[tuple[Callable[..., Array], tuple[int, ...], int]]


class Execution:
    """Some calls of a plan, in order, ready to run. It keeps nothing of what it computes."""

    def __init__(self, plan: Plan, calls: Sequence[Call]) -> None:
        self._calls = calls
        self._blank: list[Any] = [None] * plan.places
        for place, array in plan.constants.items():
            self._blank[place] = array
        self._bound: dict[int, BoundCalls] = {}

    def blank(self) -> list[Any]:
        """A list for values, with those that are known in their places."""
        return self._blank.copy()

    def run(self, batch: int, values: list[Any]) -> None:
        """Put into the list what these calls give for so many rows."""
        for function, sources, target in self._bound.get(batch) or self._bind(batch):
            values[target] = function(*[values[source] for source in sources])

    def _bind(self, batch: int) -> BoundCalls:
        if len(self._bound) >= MOST_BOUND:
            self._bound = {}
        bound = self._bound[batch] = [(call.bound(batch), call.sources, call.target) for call in self._calls]
        return bound
