"""Exponential smoothing: a level, a damped trend, seasons within seasons, and what is carried over from the last error.

Each state moves toward the newest value by a rate of its own (Holt 1957, Winters 1960; damped trends by Gardner and
McKenzie 1985; two seasons and the carried error by Taylor 2003, "Short-term electricity demand forecasting using
double seasonal exponential smoothing"). The rates of a series are those that would have forecast it best so far, over
the whole horizon: a random search, refined around its best finds. The best settings are averaged.

Everything is computed for many lanes at once; a lane is one series with one setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from textgen.tasks.forecasting.scaling import Floats, Mask
from textgen.tasks.forecasting.times import Places

SETTINGS, ROUNDS = 48, 6
"""Settings that are tried for each series in a round of the search, and rounds."""

KEPT, PARENTS = 6, 6  # the settings that are averaged, and those that the next round varies
SHARPNESS = 12
"""Settings are averaged with weights in proportion to their mean square error to the power of -SHARPNESS, or of minus
half the number of forecasts it is the mean of, if that is less."""

MOST_ORIGINS = 48  # forecasts of several steps that a setting is judged by
MOST_LANES = 20_000  # at once
SEASONS = 3  # that a series needs, for its season to be smoothed

LIMITS = {"level": (1e-4, 1.0), "trend": (1e-5, 0.5), "damping": (0.8, 1.0), "carry": (0.0, 0.98)}
SEASON_LIMITS = (1e-4, 1.0)


@dataclass(frozen=True)
class Settings:
    """The settings of some lanes: the rates at which level and trend follow an error, the share of the trend that stays
    after a step (0: no trend), and the share of the last error that is carried over, (R,) each; and for each season
    (K, R) its rate and whether there is one."""

    level: Floats
    trend: Floats
    damping: Floats
    carry: Floats
    seasons: Floats
    seasonal: Mask

    def select(self, lanes: Places) -> Settings:
        """The settings of some lanes, which may repeat."""
        return Settings(*(getattr(self, each.name)[..., lanes] for each in fields(self)))

    @classmethod
    def concat(cls, parts: Sequence[Settings]) -> Settings:
        """Lanes beside each other."""
        names = [each.name for each in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in names))

    def __len__(self) -> int:
        return len(self.level)


@dataclass(frozen=True)
class States:
    """Where lanes are after a step: level, trend, what is carried over, (R,) each, and the last values of every season,
    by the step modulo its period: K arrays (period, R)."""

    level: Floats
    trend: Floats
    carried: Floats
    seasons: tuple[Floats, ...]

    def ahead(self, settings: Settings, step: int, horizon: int) -> Floats:
        """The forecasts (horizon, R) of the steps from `step` on."""
        powers = np.arange(1, horizon + 1)[:, None]
        found: Floats = self.level + np.cumsum(settings.damping**powers, axis=0) * self.trend
        found += settings.carry**powers * self.carried
        for season in self.seasons:
            found += season[(step + np.arange(horizon)) % len(season)]
        return found


@dataclass(frozen=True)
class Histories:
    """Some series (N, S) that end together, with NaN where there is no value, and the step at which each begins."""

    values: Floats
    begins: Places

    @classmethod
    def of(cls, series: Sequence[Floats], missing: Sequence[Mask]) -> Histories:
        """Series of any lengths, (n,) each, and their gaps."""
        length = max(map(len, series))
        values = np.full((length, len(series)), np.nan)
        for k, (each, gaps) in enumerate(zip(series, missing, strict=True)):
            values[length - len(each) :, k] = np.where(gaps, np.nan, each)
        return cls(values, np.array([length - len(each) for each in series]))

    def starting(self, periods: Sequence[int]) -> tuple[Floats, Floats, list[Floats], Places]:
        """The states to begin with, from the first half of each series at most: level, trend (S,), patterns (period, S)
        and the step from which forecasts are judged."""
        number = len(self.begins)
        level, trend, judged = np.zeros(number), np.zeros(number), np.zeros(number, dtype=np.intp)
        patterns = [np.zeros((period, number)) for period in periods]
        for k, begin in enumerate(self.begins):
            known = _filled(self.values[begin:, k])
            usable = [period for period in periods if SEASONS * period <= len(known)]
            window = _window(len(known), usable)
            part, judged[k] = known[:window], begin + window
            trend[k] = _slope(known, max(usable, default=1), window)
            rest = part - part.mean() - trend[k] * (np.arange(window) - (window - 1) / 2)
            level[k] = part.mean() - trend[k] * (window + 1) / 2
            for pattern, period in zip(patterns, periods, strict=True):
                if period <= window:
                    whole = rest[: window // period * period].reshape(-1, period).mean(axis=0)
                    pattern[(begin + np.arange(period)) % period, k] = whole
                    rest = rest - np.resize(whole, window)
        return level, trend, patterns, judged


def _filled(values: Floats) -> Floats:
    """Values with gaps filled by the last value before them, or the first after."""
    there = ~np.isnan(values)
    if there.all():
        return values
    last = np.maximum.accumulate(np.where(there, np.arange(len(values)), -1))
    filled: Floats = values[np.where(last < 0, np.argmax(there), last)]
    return filled


def _window(length: int, usable: Sequence[int]) -> int:
    """The steps that the first states are computed from: up to two of the longest season that leave most of the
    series."""
    if not usable:
        return max(1, min(length // 4, 10))
    longest = max(usable)
    return longest * max(1, min(2, length // 4 // longest))


def _slope(values: Floats, period: int, window: int) -> float:
    """The mean change per step, from season to season over twice the window, or its halves without a season."""
    if period == 1:
        half = min(len(values) // 2, max(2, window))
        return float((values[half : 2 * half].mean() - values[:half].mean()) / half) if half else 0.0
    means = values[: min(len(values), 2 * window) // period * period].reshape(-1, period).mean(axis=1)
    return float((means[-1] - means[0]) / ((len(means) - 1) * period)) if len(means) > 1 else 0.0


def run(histories: Histories, settings: Settings, periods: Sequence[int]) -> Iterator[tuple[int, States, Floats]]:
    """Read series with the settings of S x C lanes, those of a series next to each other. Yields, for every step, the
    number of the next one, the states after it, and the error of its forecast (R,); 0 where no value is known.

    The arrays of seasons are changed in place by the next step.
    """
    values, copies = histories.values, len(settings) // len(histories.begins)
    level_at, trend_at, patterns, _ = histories.starting(periods)
    level, trend, carried = (np.zeros(len(settings)) for _ in range(3))
    seasons = tuple(np.zeros((period, len(settings))) for period in periods)
    begins = np.repeat(histories.begins, copies)
    for step in range(len(values)):
        if step in histories.begins:
            new = np.flatnonzero(begins == step)
            level[new] = level_at[new // copies]
            trend[new] = trend_at[new // copies] * (settings.damping[new] > 0)
            for season, pattern, there in zip(seasons, patterns, settings.seasonal, strict=True):
                season[:, new] = pattern[:, new // copies] * there[new]
        value = np.repeat(values[step], copies)
        moved = settings.damping * trend
        base = level + moved
        for season in seasons:
            base = base + season[step % len(season)]
        error = value - base - settings.carry * carried
        error[np.isnan(error)] = 0.0
        level = level + moved + settings.level * error
        trend = moved + settings.trend * error
        for season, rate in zip(seasons, settings.seasons, strict=True):
            season[step % len(season)] += rate * error
        carried = settings.carry * carried + error
        yield step + 1, States(level, trend, carried, seasons), error


@np.errstate(over="ignore", invalid="ignore")
def scores(histories: Histories, settings: Settings, periods: Sequence[int], horizon: int) -> tuple[Floats, Floats]:
    """The mean square error (S, C) of forecasts over the horizon after the steps that the first states come from, and
    the number of independent forecasts (S,), which do not overlap, that it is the mean of. Infinite for settings that
    explode.

    One step ahead, all forecasts count; otherwise those from up to `MOST_ORIGINS` steps, half a horizon apart.
    """
    values, number = histories.values, len(histories.begins)
    judged = histories.starting(periods)[3]
    length, copies = len(values), len(settings) // number
    square, counted, origins = np.zeros((number, copies)), np.zeros(number), np.zeros(number)
    apart = max(1, horizon // 2)
    chosen = {length - horizon - apart * k for k in range(MOST_ORIGINS)} if horizon > 1 else set()
    for step, states, error in run(histories, settings, periods):
        if horizon == 1:
            here = (step - 1 >= judged) & ~np.isnan(values[step - 1])
            square += error.reshape(number, copies) ** 2 * here[:, None]
            counted, origins = counted + here, origins + here
        elif step in chosen:
            ahead = values[step : step + horizon]
            here = ~np.isnan(ahead) & (step >= judged)
            missed = states.ahead(settings, step, horizon).reshape(horizon, number, copies) - ahead[:, :, None]
            square += (np.where(here[:, :, None], missed, 0.0) ** 2).sum(axis=0)
            counted, origins = counted + here.sum(axis=0), origins + here.any(axis=0) * apart / horizon
    mean = np.where(counted[:, None] > 0, square / np.maximum(counted, 1)[:, None], 1.0)
    return np.where(np.isfinite(mean), mean, np.inf), origins


class Search:
    """The search for the settings of some series."""

    def __init__(self, histories: Histories, periods: Sequence[int], horizon: int) -> None:
        self.histories, self.periods, self.horizon = histories, periods, horizon
        self.random = np.random.default_rng(0)
        self.number = len(histories.begins)
        lengths = len(histories.values) - histories.begins
        self.possible = np.array([SEASONS * period <= lengths for period in periods], dtype=bool).reshape(
            len(periods), self.number
        )

    def best(self) -> tuple[Settings, Floats]:
        """The best settings of each series, S x KEPT lanes, and their weights (S, KEPT)."""
        tried, found, settings = [], [], self._first()
        for number in range(ROUNDS):
            score, counted = scores(self.histories, settings, self.periods, self.horizon)
            score = score * self._penalty(settings, counted)
            tried.append(settings)
            found.append(score)
            if number + 1 < ROUNDS:
                settings = self._varied(settings, score, 1 / (1 + number))
        return self._kept(tried, np.concatenate(found, axis=1), counted)

    def _first(self) -> Settings:
        """Settings all over the range, the same for every series."""
        draw, size = self.random, SETTINGS
        level = 10 ** draw.uniform(-3, 0, size)
        trended, carried = draw.random(size) < 0.6, draw.random(size) < 0.6
        damping = np.where(draw.random(size) < 0.5, 1.0, draw.uniform(*LIMITS["damping"], size)) * trended
        one = Settings(
            level,
            np.clip(level * draw.uniform(0, 0.3, size), *LIMITS["trend"]) * trended,
            damping,
            draw.uniform(*LIMITS["carry"], size) * carried,
            10 ** draw.uniform(-3, 0, (len(self.periods), size)),
            draw.random((len(self.periods), size)) < 0.8,
        )
        return self._allowed(one.select(np.tile(np.arange(size), self.number)))

    def _allowed(self, settings: Settings) -> Settings:
        """Settings without the seasons that a series is too short for."""
        seasonal = settings.seasonal & np.repeat(self.possible, len(settings) // self.number, axis=1)
        return Settings(
            settings.level, settings.trend, settings.damping, settings.carry, settings.seasons * seasonal, seasonal
        )

    def _penalty(self, settings: Settings, counted: Floats) -> Floats:
        """The factor by which an error is expected to grow on new values: e^(2 k / n) for k rates fitted to n forecasts
        (Akaike 1974)."""
        rates = 1 + 2.0 * (settings.damping > 0) + (settings.carry > 0) + settings.seasonal.sum(axis=0)
        growth: Floats = np.exp(np.minimum(2 * rates.reshape(self.number, -1) / np.maximum(counted, 1)[:, None], 50.0))
        return growth

    def _varied(self, settings: Settings, score: Floats, width: float) -> Settings:
        """New settings near the best of each series: about half of the rates of each change, in the same way for all
        series, so that none depends on the others."""
        random = self.random
        parents = np.argsort(score, axis=1, kind="stable")[:, :PARENTS]
        lanes = (np.arange(self.number)[:, None] * SETTINGS + parents)[:, np.arange(SETTINGS) % PARENTS].ravel()
        near = settings.select(lanes)

        def moved(rates: Floats, low: float, high: float) -> Floats:
            share = np.clip((rates - low) / (high - low), 1e-6, 1 - 1e-6)
            shape = (*rates.shape[:-1], SETTINGS)
            steps = np.tile(random.normal(0, width, shape) * (random.random(shape) < 0.5), self.number)
            return low + (high - low) / (1 + np.exp(-(np.log(share / (1 - share)) + steps)))

        def flipped(there: Mask) -> Mask:
            return there ^ np.tile(random.random((*there.shape[:-1], SETTINGS)) < 0.05, self.number)

        trended, carried = flipped(near.damping > 0), flipped(near.carry > 0)
        return self._allowed(
            Settings(
                moved(near.level, *LIMITS["level"]),
                moved(near.trend, *LIMITS["trend"]) * trended,
                moved(np.maximum(near.damping, LIMITS["damping"][0]), *LIMITS["damping"]) * trended,
                moved(near.carry, *LIMITS["carry"]) * carried,
                moved(near.seasons, *SEASON_LIMITS),
                flipped(near.seasonal),
            )
        )

    def _kept(self, tried: Sequence[Settings], score: Floats, counted: Floats) -> tuple[Settings, Floats]:
        best = np.argsort(score, axis=1, kind="stable")[:, :KEPT]
        rounds, places = np.divmod(best, SETTINGS)
        lanes = rounds * self.number * SETTINGS + np.arange(self.number)[:, None] * SETTINGS + places
        errors = np.take_along_axis(score, best, axis=1)
        ratio = errors / np.maximum(errors[:, :1], np.finfo(np.float64).tiny)
        weights = np.maximum(ratio, 1.0) ** -np.minimum(counted / 2, SHARPNESS)[:, None]
        weights = np.where(np.isfinite(errors), weights, 0.0) + np.array([1e-300] + [0.0] * (KEPT - 1))
        return Settings.concat(tried).select(lanes.ravel()), weights / weights.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Smoothed:
    """Some series that were read with their best settings: `weights` (S, C), and from step `start` on the level, the
    trend and what is carried over after each step, (T, S x C) each, and the values of every season, (period + T, S x C)
    each, the first of them from before `start`."""

    settings: Settings
    weights: Floats
    start: int
    level: Floats
    trend: Floats
    carried: Floats
    seasons: tuple[Floats, ...]

    @classmethod
    @np.errstate(over="ignore", invalid="ignore")
    def of(cls, histories: Histories, settings: Settings, weights: Floats, periods: Sequence[int], start: int) -> Self:
        """Read series and remember every step from `start` on."""
        steps, lanes = len(histories.values) - start, len(settings)
        level, trend, carried = (np.empty((steps, lanes)) for _ in range(3))
        seasons = tuple(np.zeros((period + steps, lanes)) for period in periods)
        for after, states, _ in run(histories, settings, periods):
            place = after - 1 - start
            if place >= 0:
                level[place], trend[place], carried[place] = states.level, states.trend, states.carried
            for found, season in zip(seasons, states.seasons, strict=True):
                period = len(season)
                if place == 0:  # a whole season up to here
                    found[: period + 1] = season[(after + np.arange(-period - 1, 0)) % period]
                elif place > 0:
                    found[period + place] = season[(after - 1) % period]
        return cls(settings, weights, start, level, trend, carried, seasons)

    def described(self, series: int, step: int) -> dict[str, Any]:
        """The settings of a series, their weights, and the states after a step, each by name; the values of every
        season begin with that of the next step."""
        copies, place = self.weights.shape[1], step - self.start
        lanes = series * copies + np.arange(copies)
        names = ("level", "trend", "damping", "carry")
        return {
            "rates": {name: getattr(self.settings, name)[lanes].tolist() for name in names},
            "season_rates": self.settings.seasons[:, lanes].tolist(),
            "weights": self.weights[series].tolist(),
            "level": self.level[place, lanes].tolist(),
            "trend": self.trend[place, lanes].tolist(),
            "carried": self.carried[place, lanes].tolist(),
            "seasons": [
                season[place + 1 : place + 1 + len(season) - len(self.level), lanes].tolist() for season in self.seasons
            ],
        }

    def forecasts(self, series: Places, steps: Places, horizon: int) -> Floats:
        """The forecasts (R, horizon) of some series after some steps (R,), the last ones that are read."""
        copies = self.weights.shape[1]
        lanes = series[:, None] * copies + np.arange(copies)
        place, settings = (steps - self.start)[:, None], self.settings.select(lanes)
        found = np.empty((len(series), horizon))
        level, trend, carried = (each[place, lanes] for each in (self.level, self.trend, self.carried))
        for ahead in range(horizon):
            trend, carried = settings.damping * trend, settings.carry * carried
            level = level + trend
            value = level + carried
            for season in self.seasons:
                period = len(season) - len(self.level)
                value = value + season[place + 1 + ahead % period, lanes]
            found[:, ahead] = (value * self.weights[series]).sum(axis=1)
        return found
