"""Which learning rate a cell runs at: a small grid around the planned one, and on while the best is at its edge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

FACTORS = (1.0, 2.0, 0.5)
MOST = 7
"""Rates tried for one cell at most."""

SHARE = 0.2
"""The length of a trial, as a part of a run."""

FEWEST_STEPS = 200
"""A run no longer than this is tried whole: short trials favour high rates."""

Tried = Mapping[float, float | None]
"""The held-out loss that a trial at a rate ended with, None where it failed."""


def trial_steps(steps: int) -> int:
    """The steps of a trial for a run of so many."""
    return min(steps, max(FEWEST_STEPS, round(SHARE * steps)))


def fewest(given: Sequence[float] = ()) -> int:
    """How many trials a cell has at least."""
    return len(FACTORS) if not given else len(given) if len(given) > 1 else 0


def next_rate(planned: float, tried: Tried, given: Sequence[float] = ()) -> float | None:
    """The rate to try next; None when enough is known.

    Without rates that are given, the grid is extended by factors of two on the side where the best one lies.

    Example:
        >>> next_rate(0.01, {0.01: 1.3, 0.02: 1.2, 0.005: 1.5})
        0.04
    """
    if given:
        return next((rate for rate in given if rate not in tried), None) if len(given) > 1 else None
    for factor in FACTORS:
        if _rounded(planned * factor) not in tried:
            return _rounded(planned * factor)
    found = best(tried)
    if len(tried) >= MOST:
        return None
    if found is None or found == min(tried):
        return _rounded(min(tried) / 2)
    return _rounded(2 * found) if found == max(tried) else None


def best(tried: Tried) -> float | None:
    """The rate with the lowest loss, of equals the lower; None if every trial failed."""
    loss, rate = min((math.inf if loss is None else loss, rate) for rate, loss in tried.items())
    return rate if math.isfinite(loss) else None


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")
