"""Running calls of a plan on arrays, at any batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from textgen.runtime.ops import Array
from textgen.runtime.plan import Call, Plan

MAX_BATCH_SIZES = 256
BoundCalls = list[tuple[Callable[..., Array], tuple[int, ...], int]]


class Execution:
    """Some calls of a plan, in order, ready to run. Holds no results."""

    def __init__(self, plan: Plan, calls: Sequence[Call]) -> None:
        self._calls = calls
        self._initial: list[Any] = [None] * plan.places
        for place, array in plan.constants.items():
            self._initial[place] = array
        self._bound: dict[int, BoundCalls] = {}

    def new_values(self) -> list[Any]:
        """A list of values by place, with the constants filled in."""
        return self._initial.copy()

    def run(self, batch: int, values: list[Any]) -> None:
        """Run the calls for a batch size and store their results in the list."""
        for function, sources, target in self._bound.get(batch) or self._bind(batch):
            values[target] = function(*[values[source] for source in sources])

    def _bind(self, batch: int) -> BoundCalls:
        if len(self._bound) >= MAX_BATCH_SIZES:
            self._bound = {}
        bound = self._bound[batch] = [(call.bound(batch), call.sources, call.target) for call in self._calls]
        return bound
