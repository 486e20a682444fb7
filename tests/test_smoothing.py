"""Laws of exponential smoothing: it follows what it should follow exactly, knows nothing of what comes later or of its
neighbours, and its best settings do not depend on the unit."""

import numpy as np
import pytest

from textgen.tasks.forecasting.smoothing import KEPT, Histories, Search, Settings, Smoothed, run, scores

PERIODS = [(), (12,), (4, 12)]


def noisy(length, seed=0, period=12):
    draw = np.random.default_rng(seed)
    steps = np.arange(length)
    return np.sin(2 * np.pi * steps / period) + 0.01 * steps + draw.normal(0, 0.3, length)


def histories(*series, missing=None):
    return Histories.of(series, missing or [np.zeros(len(each), dtype=bool) for each in series])


def settings(lanes=1, level=0.3, trend=0.0, damping=0.0, carry=0.0, rates=(), seasonal=True):
    full = np.full
    return Settings(
        full(lanes, level), full(lanes, trend), full(lanes, damping), full(lanes, carry),
        np.array([full(lanes, rate) for rate in rates]).reshape(len(rates), lanes),
        full((len(rates), lanes), seasonal),
    )  # fmt: skip


def last(found, chosen, periods, horizon, end=None):
    """The forecasts (horizon, R) from step `end` on, by default after the last one."""
    wanted = end or len(found.values)
    return next(
        states.ahead(chosen, step, horizon) for step, states, _ in run(found, chosen, periods) if step == wanted
    )


def test_a_level_alone_is_the_weighted_mean_of_the_past():
    values = noisy(60)
    level = values[:10].mean()  # what it starts with
    for value in values:
        level += 0.3 * (value - level)
    ahead = last(histories(values), settings(), (), 5)
    assert np.allclose(ahead, level)


@pytest.mark.parametrize("damping", [1.0, 0.9])
def test_a_straight_line_goes_on(damping):
    line = 3.0 + 0.5 * np.arange(40)
    ahead = last(histories(line), settings(trend=0.1, damping=damping, level=0.5), (), 6)[:, 0]
    steps = np.diff(ahead)
    assert np.allclose(steps[1:], damping * steps[:-1])
    assert damping < 1 or np.allclose(ahead, 3.0 + 0.5 * np.arange(40, 46))


def test_seasons_within_seasons_repeat_exactly():
    day, week = np.random.default_rng(0).normal(size=4), np.random.default_rng(1).normal(size=12)
    values = np.resize(day, 60) + np.resize(week, 60)
    ahead = last(histories(values), settings(rates=(0.2, 0.1)), (4, 12), 24)[:, 0]
    assert np.allclose(ahead, np.resize(day, 84)[60:] + np.resize(week, 84)[60:])


def test_what_is_carried_over_fades():
    values = np.zeros(30)
    values[-1] = 1.0
    ahead = last(histories(values), settings(level=1e-9, carry=0.5), (), 3)[:, 0]
    assert np.allclose(ahead, [0.5, 0.25, 0.125], atol=1e-6)


def test_a_gap_changes_nothing_but_the_time():
    values, gaps = noisy(50), np.zeros(50, dtype=bool)
    gaps[30:33] = True
    spoiled = np.where(gaps, 1e6, values)
    chosen = settings(trend=0.1, damping=0.9, carry=0.4, rates=(0.2,))
    with_gap = [last(histories(each, missing=[gaps]), chosen, (12,), 8) for each in (values, spoiled)]
    assert np.array_equal(*with_gap)
    ahead = [last(histories(values, missing=[gaps]), chosen, (12,), 8, end)[:, 0] for end in (30, 31, 33)]
    assert np.allclose(ahead[1][:7], ahead[0][1:]) and np.allclose(ahead[2][:5], ahead[0][3:])


@pytest.mark.parametrize("periods", PERIODS)
@pytest.mark.parametrize("horizon", [1, 6])
def test_a_series_does_not_know_its_neighbours(periods, horizon):
    series = [noisy(length, seed) for seed, length in enumerate((50, 90, 71))]
    together, weights = Search(histories(*series), periods, horizon).best()
    ahead = last(histories(*series), together, periods, horizon).reshape(horizon, 3, KEPT)
    assert weights.shape == (3, KEPT) and np.allclose(weights.sum(axis=1), 1)
    again = Search(histories(*series[::-1]), periods, horizon).histories
    for k, each in enumerate(series):
        alone = histories(each)
        chosen = together.select(np.arange(k * KEPT, (k + 1) * KEPT))
        assert np.allclose(last(alone, chosen, periods, horizon), ahead[:, k])
        assert np.array_equal(again.values[again.begins[2 - k] :, 2 - k], each)


@pytest.mark.parametrize("periods", PERIODS)
def test_settings_do_not_depend_on_level_or_unit(periods):
    values = noisy(80)
    one, weights = Search(histories(values), periods, 3).best()
    other, others = Search(histories(8 * values + 64), periods, 3).best()
    ahead = (last(histories(values), one, periods, 9) * weights[0]).sum(axis=1)
    moved = (last(histories(8 * values + 64), other, periods, 9) * others[0]).sum(axis=1)
    assert np.allclose(moved, 8 * ahead + 64, rtol=1e-6)


@pytest.mark.parametrize("periods", PERIODS)
def test_reading_on_is_reading_again(periods):
    """Forecasts from remembered steps are those made at the time, whatever came later."""
    series = noisy(60), noisy(47, 1)
    found = histories(*series)
    chosen, weights = Search(found, periods, 2).best()
    smoothed = Smoothed.of(found, chosen, weights, periods, 40)
    for step in (40, 51, 59):
        for k, each in enumerate(series):
            end, own = len(each) - (59 - step), chosen.select(np.arange(k * KEPT, (k + 1) * KEPT))
            made = (last(histories(each), own, periods, 15, end) * weights[k]).sum(axis=1)
            assert np.allclose(smoothed.forecasts(np.array([k]), np.array([step]), 15)[0], made)


def test_the_search_finds_what_made_a_series():
    """A random walk is followed at once, a level with noise slowly, and a season is used where there is one."""
    draw = np.random.default_rng(3)
    walk, level = np.cumsum(draw.normal(size=400)), draw.normal(size=400)
    chosen, weights = Search(histories(walk, level), (), 1).best()
    rates = (chosen.level.reshape(2, KEPT) * weights).sum(axis=1)
    assert rates[0] > 0.8 and rates[1] < 0.15
    season = np.sin(np.arange(120) * np.pi / 6) + draw.normal(0, 0.1, 120)
    chosen, _ = Search(histories(season, draw.normal(size=120)), (12,), 1).best()
    assert chosen.seasonal[0, :KEPT].all()


def test_a_season_needs_three_of_its_kind():
    pattern = np.random.default_rng(0).normal(size=12)
    for length, there in ((30, False), (48, True)):
        chosen, _ = Search(histories(np.resize(pattern, length)), (12,), 1).best()
        assert chosen.seasonal.any() == there


def test_settings_that_explode_are_never_chosen():
    values = np.cumsum(np.random.default_rng(0).standard_cauchy(200))
    chosen, weights = Search(histories(values), (12,), 4).best()
    assert np.isfinite(last(histories(values), chosen, (12,), 50)).all() and np.isfinite(weights).all()
    for level in (50.0, 1e300):
        assert np.isinf(scores(histories(values), settings(level=level), (), 1)[0]).all()
