"""From a number of parameters to hidden sizes: every cell as close to the budget as its sizes allow.

Hidden sizes are whole numbers, so small models come in coarse steps. Multiples of 16, 8, 4 and 2 are tried before odd
sizes: they are faster, and often divisible by a cell's number of heads. Where the steps are too coarse, the embedding
size, which is the same for all cells, is adjusted a little.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median_low

from textgen.config import LARGEST
from textgen.errors import UsageError
from textgen.parameters import named

Count = Callable[[int, int], int | None]
"""The parameters of a model by (hidden size, embedding size); None where its cell refuses them."""

CountAt = Callable[[int], int | None]
"""The same by hidden size alone."""

NEAR = 0.01
"""The relative distance from the budget that is close enough: then any two models agree within 2 %."""

EMBEDDINGS_TRIED = 64
SKIPPED = 256
"""How many consecutive sizes a cell may refuse before the search fails."""


@dataclass(frozen=True)
class Size:
    """A hidden size, and the parameters of the whole model with it."""

    hidden: int
    parameters: int

    def distance(self, target: int) -> float:
        """The relative distance from the budget."""
        return abs(self.parameters - target) / target


def nearest(count: CountAt, target: int, guess: int = 64) -> Size:
    """The size whose parameters are nearest to the target, on the coarsest lattice that is close enough.

    Raises ValueError for a cell that refuses too many consecutive sizes.
    """
    best: Size | None = None
    for lattice in (16, 8, 4, 2, 1):
        size = _nearest_multiple(count, lattice, target, best.hidden if best else guess)
        if best is None or size.distance(target) < best.distance(target):
            best = size
        if best.distance(target) <= NEAR:
            break
    assert best is not None
    return best


def _nearest_multiple(count: CountAt, lattice: int, target: int, guess: int) -> Size:
    """The best multiple of `lattice`, by galloping away from a guess and then bisecting."""
    known: dict[int, Size] = {}
    most = LARGEST["hidden_size"] // lattice

    def at_least(multiple: int) -> Size:
        if multiple not in known:
            known[multiple] = _first_accepted(count, multiple, most, lattice)
        return known[multiple]

    low, width = max(1, min(most - 1, guess // lattice)), 1
    high = low + 1
    while low > 1 and at_least(low).parameters > target:
        low, high, width = max(1, low - width), low, 2 * width
    while high < most and at_least(high).parameters <= target:
        low, high, width = high, min(most, high + width), 2 * width
    high = bisect_right(range(high), target, lo=low + 1, key=lambda multiple: at_least(multiple).parameters)
    return min((at_least(high - 1), at_least(high)), key=lambda size: (size.distance(target), size.hidden))


def _first_accepted(count: CountAt, multiple: int, most: int, lattice: int) -> Size:
    last = min(most, multiple + SKIPPED)
    for candidate in range(multiple, last + 1):
        parameters = count(candidate * lattice)
        if parameters is not None:
            return Size(candidate * lattice, parameters)
    raise ValueError(f"it accepts no hidden size from {multiple * lattice:,} to {last * lattice:,}")


def require_smallest(name: str, count: CountAt, target: int) -> None:
    """Raise UsageError if even the smallest size of a cell exceeds the budget."""
    least = _first_accepted(count, 1, LARGEST["hidden_size"], 1)
    if least.parameters > target and least.distance(target) > NEAR:
        raise UsageError(
            f"{named('budget')} params={target} is too small: {name!r} has {least.parameters:,} parameters at its "
            "smallest size."
        )


def agree(
    counts: Mapping[str, Count], target: int, default_embedding: Callable[[int], int]
) -> tuple[dict[str, Size], int]:
    """A size for every cell, and one embedding size for all: the median of the cells' defaults, or one near it with
    which every cell is close to the target.

    Raises ValueError for a cell that refuses too many consecutive sizes.
    """
    alone = {name: nearest(by_default(count, default_embedding), target) for name, count in counts.items()}
    middle = median_low(default_embedding(size.hidden) for size in alone.values())
    fixed = default_embedding(1) == default_embedding(LARGEST["hidden_size"])
    best = max(size.distance(target) for size in alone.values()) if fixed else math.inf
    found = alone, middle
    around = range(max(1, middle - EMBEDDINGS_TRIED // 2), middle + EMBEDDINGS_TRIED // 2 + 1)
    for embedding in () if fixed else sorted(around, key=lambda size: abs(size - middle)):
        sizes = _closer(counts, target, embedding, alone, best)
        if sizes is not None:
            best, found = max(size.distance(target) for size in sizes.values()), (sizes, embedding)
        if best <= NEAR:
            break
    return found


def _closer(
    counts: Mapping[str, Count], target: int, embedding: int, guesses: Mapping[str, Size], best: float
) -> dict[str, Size] | None:
    """The sizes with this embedding size if all are closer to the target than `best`, else None."""
    sizes: dict[str, Size] = {}
    for name, count in sorted(counts.items(), key=lambda each: guesses[each[0]].hidden):  # the coarsest steps first
        sizes[name] = nearest(by_default(count, lambda _: embedding), target, guesses[name].hidden)
        if sizes[name].distance(target) >= best:
            return None
    return sizes


def by_default(count: Count, default_embedding: Callable[[int], int]) -> CountAt:
    """The parameters by hidden size, if the embedding size is a function of it."""
    return lambda hidden: count(hidden, default_embedding(hidden))
