"""The weights of the kinds of forecasts in a combination, from their errors on the held-out part.

The weights of a series are those that make the mean square error of the weighted mean smallest (Bates and Granger 1969,
"The combination of forecasts"). With few held-out forecasts, the errors of all series, and what is usual, count as
well. If a naive forecast alone is better than the weighted mean, it is the forecast: a model is never worse than a
naive forecast on the steps that it is judged by.

The interval of the recurrent model is moved to the combined forecast, and stretched so that it covers what it claims on
the held-out part (conformal prediction, Vovk et al. 2005).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from textgen.model.stepper import Stepper
from textgen.tasks.forecasting.combining import (
    KINDS,
    RECURRENT,
    RECURRENT_ONLY,
    REFITTED,
    SMOOTHED,
    Combination,
    CombinedLoop,
    Share,
)
from textgen.tasks.forecasting.design import Design, PreparedSeries
from textgen.tasks.forecasting.rolling import LAST, MOST_ORIGINS, SEASONAL, Origins, following, interval
from textgen.tasks.forecasting.scaling import Floats

TRUSTED = 20  # independent held-out forecasts whose errors count half
USUAL_SIZES = np.array([0.1, 0.0, 0.5, 0.5])
"""Logarithms of the usual errors of each kind, next to smoothing."""

FEW_STEPS = 5
"""With n time steps to learn from, the error of the recurrent model is usually e^(FEW_STEPS / n) times as large."""

USUAL_CORRELATION = 0.7
ENOUGH_JUDGED = 48  # forecasts to judge each short series by
JUDGED = 500  # held-out forecasts of all series together that the weights are computed from, at most
DRAWN, LEVEL = 100, 90.0  # sample paths of each held-out forecast, and the interval that is stretched
DRAWN_FOR = 200  # held-out forecasts that sample paths are drawn for, at most
FEWEST_COVERED, ENOUGH_COVERED = 5, 50  # held-out values that a stretch needs, and that one series needs for its own
NARROWEST, WIDEST = 0.2, 10.0  # what a stretch may be; few values never narrow an interval


EVENLY = Combination({}, Share((1 / len(KINDS),) * len(KINDS)))


def fitted(stepper: Stepper, rows: Sequence[PreparedSeries], design: Design, first: Sequence[int]) -> Combination:
    """The combination for series whose steps from `first` of each on are held out."""
    loop, after = CombinedLoop.over(stepper, rows, design, first, EVENLY)
    begin = [max(0, start - 1) for start in after]
    origins = _judged(loop, begin, [len(row) - design.horizon for row in loop.rows])
    if not origins:
        return RECURRENT_ONLY
    earlier = _judged(loop, [_earlier(row, start) for row, start in zip(loop.rows, begin, strict=True)], begin)
    usual = USUAL_SIZES + FEW_STEPS / max(1, sum(first)) * (np.array(KINDS) == RECURRENT)
    weights = best_weights(*_together(_moments(loop, earlier), _moments(loop, origins)), usual)
    names = [row.series.name for row in rows]
    others = Share(tuple(weights.mean(axis=0).tolist()))
    shares = {name: Share(tuple(found)) for name, found in zip(names, weights.tolist(), strict=True)}
    stretches, general = _stretches(replace(loop, combination=Combination(shares, others)), origins)
    stretched = {name: replace(shares[name], stretch=found) for name, found in zip(names, stretches, strict=True)}
    return Combination(stretched, replace(others, stretch=general))


def _earlier(row: PreparedSeries, begin: int) -> int:
    """The first step that kinds without training are judged from: if few steps are held out of a short series, some of
    the training part as well, since they forecast it from what was known at the time."""
    missing = ENOUGH_JUDGED - (len(row) - begin)
    return begin - max(0, min(begin // 2, missing)) if len(row) < REFITTED else begin


def _judged(loop: CombinedLoop, begin: Sequence[int], ends: Sequence[int]) -> list[Origins]:
    """At most about `JUDGED` origins, evenly over all from `begin` of each series to before `ends`."""
    total = sum(max(0, end - start) for start, end in zip(begin, ends, strict=True))
    if not total:
        return []
    stride, found = max(1, total // JUDGED), []
    for batch in loop.read(begin, MOST_ORIGINS, ends):
        chosen = np.flatnonzero((batch.steps - np.array(begin)[batch.series]) % stride == 0)
        if len(chosen):
            found.append(batch.select(loop.stepper, chosen))
    return found


def _moments(loop: CombinedLoop, origins: Sequence[Origins]) -> tuple[Floats, Floats]:
    """The mean products of the scaled errors of two kinds (S, K, K), and how many independent forecasts each series has
    (S,): those that do not overlap by more than half."""
    horizon, number = loop.design.horizon, len(loop.rows)
    moments, counted = np.zeros((number, len(KINDS), len(KINDS))), np.zeros(number)
    earliest, latest = np.full(number, np.inf), np.full(number, -np.inf)
    for some in origins:
        kinds = loop.kinds(some, horizon)
        for k in np.unique(some.series):
            here = some.series == k
            places, known = following(loop.rows[k], some.steps[here], horizon)
            actual = loop.rows[k].scaled[places]
            errors = np.stack([(kinds[kind][here] - actual)[known] for kind in KINDS])
            moments[k] += errors @ errors.T
            counted[k] += known.sum()
            earliest[k] = min(earliest[k], some.steps[here].min())
            latest[k] = max(latest[k], some.steps[here].max())
    independent = np.where(counted > 0, 2 * (latest - earliest) / (horizon + 1) + 1, 0.0)
    return moments / np.maximum(counted, 1)[:, None, None], independent


def _together(earlier: tuple[Floats, Floats], held_out: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Moments and counts of earlier steps and of the held-out ones as one. The recurrent model has learned the earlier
    ones, so its errors there are taken to be as much larger than on the held-out part as those of the other kinds."""
    (before, few), (moments, many) = earlier, held_out
    both = (before * few[:, None, None] + moments * many[:, None, None]) / np.maximum(few + many, 1)[:, None, None]
    (alike, sizes), (alike_held_out, sizes_held_out) = map(_correlations, (both, moments))
    place = KINDS.index(RECURRENT)
    others = np.arange(len(KINDS)) != place
    growth = np.log(sizes[:, others] / sizes_held_out[:, others]).mean(axis=1)
    sizes[:, place] = sizes_held_out[:, place] * np.exp(growth)
    alike[:, place], alike[:, :, place] = alike_held_out[:, place], alike_held_out[:, :, place]
    counts = np.where(others, (few + many)[:, None], many[:, None])
    return alike * sizes[:, :, None] * sizes[:, None], counts


def _correlations(moments: Floats) -> tuple[Floats, Floats]:
    """Mean products of errors (S, K, K) as correlations (S, K, K) and sizes (S, K)."""
    least = np.finfo(np.float64).tiny ** 0.5
    sizes = np.sqrt(np.maximum(np.diagonal(moments, axis1=1, axis2=2), least))
    return moments / (sizes[:, :, None] * sizes[:, None]), sizes


def best_weights(moments: Floats, independent: Floats, usual_sizes: Floats = USUAL_SIZES) -> Floats:
    """The weights of each kind (S, K), from the mean products of errors (S, K, K) over `independent` forecasts (S, K).

    Each series trusts its own errors as far as it has many, otherwise those of all series; these are trusted as far as
    all series together have many, otherwise what is usual.
    """
    usual = USUAL_CORRELATION + (1 - USUAL_CORRELATION) * np.eye(len(KINDS))
    some, (alike, sizes) = (independent > 0).any(axis=1), _correlations(moments)
    logs = np.log(sizes) - np.log(sizes[:, [KINDS.index(SMOOTHED)]])

    def trusted(counts: Floats, own: Floats, otherwise: Floats) -> Floats:
        """Each series' own, so far as it has enough, and otherwise those of all."""
        total = counts[some].sum(axis=0)
        mean = (own * counts)[some].sum(axis=0) / np.maximum(total, 1)
        general = (total * mean + TRUSTED * otherwise) / (total + TRUSTED)
        mixed: Floats = (counts * own + TRUSTED * general) / (counts + TRUSTED)
        return mixed

    sizes = np.exp(trusted(independent, logs, usual_sizes))
    alike = trusted(np.minimum(independent[:, :, None], independent[:, None]), alike, usual)
    found = np.array([_lightest(each) for each in alike * sizes[:, :, None] * sizes[:, None]])
    for k in np.flatnonzero(some):
        naive = min((LAST, SEASONAL), key=lambda kind: moments[k, KINDS.index(kind), KINDS.index(kind)])
        place = KINDS.index(naive)
        if found[k] @ moments[k] @ found[k] > moments[k, place, place]:
            found[k] = np.eye(len(KINDS))[place]
    return found


def _lightest(moments: Floats) -> Floats:
    """The weights (K,), none negative, whose mean square error under these moments (K, K) is smallest."""
    best, least = np.zeros(len(moments)), math.inf
    for size in range(1, len(moments) + 1):
        for chosen in map(list, itertools.combinations(range(len(moments)), size)):
            part = moments[np.ix_(chosen, chosen)]
            solved = np.linalg.lstsq(part, np.ones(size), rcond=None)[0]
            if solved.sum() <= 0 or solved.min() < 0:
                continue
            weights = solved / solved.sum()
            error = float(weights @ part @ weights)
            if 0 <= error < least * (1 - 1e-12):
                least, best = error, np.zeros(len(moments))
                best[chosen] = weights
    return best


def _stretches(loop: CombinedLoop, origins: Sequence[Origins]) -> tuple[list[float], float]:
    """The factor for the interval of each series, and of all together."""
    horizon = loop.design.horizon
    distances: list[list[Floats]] = [[] for _ in loop.rows]
    total = sum(map(len, origins))
    for some in origins:
        chosen = some.select(loop.stepper, np.arange(0, len(some), max(1, total // DRAWN_FOR)))
        centre = loop.forecasts(chosen, horizon)
        low, high = interval(loop.paths(chosen, horizon, DRAWN, 0), LEVEL)
        for k in np.unique(chosen.series):
            here = chosen.series == k
            places, known = following(loop.rows[k], chosen.steps[here], horizon)
            actual = loop.rows[k].scaled[places]
            away = actual - centre[here]
            room = np.where(away > 0, high[here] - centre[here], centre[here] - low[here])
            distances[k].append((np.abs(away) / np.maximum(room, np.finfo(np.float64).tiny))[known])
    each = [np.concatenate(found) if found else np.zeros(0) for found in distances]
    general = covering(np.concatenate(each), FEWEST_COVERED, 1.0)
    return [covering(found, ENOUGH_COVERED, general) for found in each], general


def covering(distances: Floats, fewest: int, otherwise: float) -> float:
    """The distance within which `LEVEL` percent of new values are expected, given that many (n,)."""
    if len(distances) < fewest:
        return otherwise
    place = min(math.ceil((len(distances) + 1) * LEVEL / 100), len(distances))
    narrowest = NARROWEST if len(distances) >= ENOUGH_COVERED else 1.0
    return float(np.clip(np.sort(distances)[place - 1], narrowest, WIDEST))
