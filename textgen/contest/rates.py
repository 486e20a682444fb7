"""The search for a learning rate: a small grid around the planned one, extended while the best is at its edge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

FACTORS = (1.0, 2.0, 0.5)
MOST = 7
"""The maximum number of rates tried per cell."""

SHARE = 0.2
"""The length of a trial, as a fraction of a run."""

FEWEST_STEPS = 200
"""Trials are never shorter than this, unless the run is: short trials favour high rates."""

Losses = Mapping[float, float | None]
"""The held-out loss at the end of the trial of each rate, None where it failed."""


def trial_steps(steps: int) -> int:
    """The number of steps of a trial, from that of a run."""
    return min(steps, max(FEWEST_STEPS, round(SHARE * steps)))


def fewest(given: Sequence[float] = ()) -> int:
    """The minimum number of trials per cell."""
    return len(FACTORS) if not given else len(given) if len(given) > 1 else 0


def next_rate(planned: float, tried: Losses, given: Sequence[float] = ()) -> float | None:
    """The rate to try next; None when the search is over.

    If no rates are given, the grid is extended by factors of two on the side where the best one lies.

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


def best(tried: Losses) -> float | None:
    """The rate with the lowest loss, the lower one of a tie; None if every trial failed."""
    loss, rate = min((math.inf if loss is None else loss, rate) for rate, loss in tried.items())
    return rate if math.isfinite(loss) else None


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")
