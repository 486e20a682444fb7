"""From a number of parameters to hidden sizes: every cell as near to the budget as its sizes allow.

Sizes are whole numbers, so small models come in coarse steps. Multiples of 16, 8, 4 and 2 are tried before odd sizes:
processors like them, and a cell whose number of heads divides its size keeps that number. Where steps are too coarse,
the width of a symbol's vector, which is one and the same for all cells, gives way a little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median_low

from textgen.config import LARGEST
from textgen.errors import UsageError
from textgen.parameters import named

Count = Callable[[int, int], int | None]
"""Parameters of a model at (hidden size, embedding size); None where its cell refuses them."""

CountAt = Callable[[int], int | None]
"""The same by hidden size alone."""

NEAR = 0.01
"""How far a model may be from the budget, as a part of it: then any two agree within 2 %."""

EMBEDDINGS_TRIED = 64
SKIPPED = 256
"""Sizes in a row that a cell may refuse before it is given up."""


@dataclass(frozen=True)
class Size:
    """A hidden size and the parameters of the whole model at it."""

    hidden: int
    parameters: int

    def distance(self, target: int) -> float:
        """How far from the budget, as a part of it."""
        return abs(self.parameters - target) / target


def nearest(count: CountAt, target: int, guess: int = 64) -> Size:
    """The size whose parameters are nearest to the target, on the coarsest lattice that comes near enough.

    Raises ValueError for a cell that refuses too many sizes in a row.
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
    """Among multiples of `lattice`, by galloping away from a guess and then halving."""
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
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at_least(middle).parameters <= target else (low, middle)
    return min((at_least(low), at_least(high)), key=lambda size: (size.distance(target), size.hidden))


def _first_accepted(count: CountAt, multiple: int, most: int, lattice: int) -> Size:
    last = min(most, multiple + SKIPPED)
    for candidate in range(multiple, last + 1):
        parameters = count(candidate * lattice)
        if parameters is not None:
            return Size(candidate * lattice, parameters)
    raise ValueError(f"it takes no hidden size from {multiple * lattice:,} to {last * lattice:,}")


def smallest(name: str, count: CountAt, target: int) -> None:
    """Raise UsageError for a budget that even the smallest size of a cell exceeds."""
    least = _first_accepted(count, 1, LARGEST["hidden_size"], 1)
    if least.parameters > target and least.distance(target) > NEAR:
        raise UsageError(
            f"{named('budget')} params={target} is too small: {name!r} has {least.parameters:,} parameters at its "
            "smallest size."
        )


def agree(
    counts: Mapping[str, Count], target: int, default_embedding: Callable[[int], int]
) -> tuple[dict[str, Size], int]:
    """A size for every cell, and one embedding size for all: the median of what each alone would be given by default,
    or one near it with which all come near to the target.

    Raises ValueError for a cell that refuses too many sizes.
    """
    alone = {name: nearest(by_default(count, default_embedding), target) for name, count in counts.items()}
    middle = median_low(default_embedding(size.hidden) for size in alone.values())
    fixed = default_embedding(1) == default_embedding(LARGEST["hidden_size"])
    best = max(size.distance(target) for size in alone.values()) if fixed else math.inf
    found = alone, middle
    for embedding in () if fixed else _outwards(middle):
        sizes = _closer(counts, target, embedding, alone, best)
        if sizes is not None:
            best, found = max(size.distance(target) for size in sizes.values()), (sizes, embedding)
        if best <= NEAR:
            break
    return found


def _closer(
    counts: Mapping[str, Count], target: int, embedding: int, guesses: Mapping[str, Size], best: float
) -> dict[str, Size] | None:
    """The sizes with this embedding if all are nearer to the target than `best`; None as soon as one is not."""
    sizes: dict[str, Size] = {}
    for name in sorted(counts, key=lambda name: guesses[name].hidden):  # the coarsest steps first
        sizes[name] = nearest(_with_embedding(counts[name], embedding), target, guesses[name].hidden)
        if sizes[name].distance(target) >= best:
            return None
    return sizes


def by_default(count: Count, default_embedding: Callable[[int], int]) -> CountAt:
    """The parameters by hidden size, where the embedding size follows from it."""
    return lambda hidden: count(hidden, default_embedding(hidden))


def _with_embedding(count: Count, embedding: int) -> CountAt:
    return lambda hidden: count(hidden, embedding)


def _outwards(middle: int) -> Iterator[int]:
    """A width and those around it, the nearest first."""
    yield middle
    for distance in range(1, EMBEDDINGS_TRIED // 2 + 1):
        if middle > distance:
            yield middle - distance
        yield middle + distance
