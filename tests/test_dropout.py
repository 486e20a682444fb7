"""Laws of dropout: masks depend on seed and step alone, keep the mean, and drop what they say."""

import math

import pytest
import torch

from textgen.model.stack import DropoutRates, keyed_seed


def test_a_seed_depends_on_every_part_of_its_key_and_fits_a_generator():
    keys = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), ("weights",), (0, "dropout"), (1, 1), (11,), ("1", 11)]
    seeds = {keyed_seed(*key) for key in keys}
    assert len(seeds) == len(keys) and all(0 <= seed < 2**63 for seed in seeds)


def test_a_dropped_symbol_is_gone_wherever_it_stands():
    ids = torch.randint(0, 50, (40, 6))
    embedded = torch.rand(50, 3)[ids] + 1
    dropped = DropoutRates(tokens=0.4).window(1, 2).tokens(embedded, ids, 50)
    for symbol in range(50):
        kept = (dropped[ids == symbol] / embedded[ids == symbol]).unique()
        assert len(kept) <= 1 or torch.allclose(kept, kept[0])
    ratio = dropped / embedded
    assert torch.allclose(ratio[ratio != 0], torch.tensor(1 / 0.6)) and 0.2 < ratio.eq(0).float().mean() < 0.6


def test_masks_keep_the_mean_and_each_draw_is_another():
    dropout = DropoutRates(units=0.3, weights=0.3).window(1, 2)
    weight = torch.ones(60, 50)
    first, second = dropout.weights(weight), dropout.weights(weight)
    assert first.unique().tolist() == pytest.approx([0, 1 / 0.7]) and math.isclose(first.mean(), 1, abs_tol=0.05)
    units = [dropout.units(torch.ones(1, 60, 50))[0] for _ in range(2)]
    masks = [first, second, *units]
    assert not any(torch.equal(a, b) for k, a in enumerate(masks) for b in masks[:k])


def test_masks_do_not_touch_or_read_the_random_numbers_of_others():
    def draw():
        dropout = DropoutRates(units=0.3, tokens=0.3, weights=0.3).window(5, 6)
        ones, ids = torch.ones(2, 3, 4), torch.zeros(2, 3, dtype=torch.long)
        return [dropout.units(ones), dropout.tokens(ones, ids, 9), dropout.weights(ones)]

    torch.manual_seed(1)
    first, after = draw(), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    assert all(map(torch.equal, draw(), first))


def test_each_seed_and_each_step_has_masks_of_its_own():
    windows = [(seed, step) for seed in range(3) for step in range(3)]
    masks = [DropoutRates(units=0.5).window(*window).units(torch.ones(1, 20, 20)) for window in windows]
    assert not any(torch.equal(a, b) for k, a in enumerate(masks) for b in masks[:k])
    again = [DropoutRates(units=0.5).window(*window).units(torch.ones(1, 20, 20)) for window in windows]
    assert all(map(torch.equal, masks, again))


def test_a_rate_of_zero_draws_nothing():
    assert DropoutRates().window(0, 0) is None
    dropout = DropoutRates(units=0.5).window(0, 0)
    xs, ids = torch.ones(2, 3, 4), torch.zeros(2, 3, dtype=torch.long)
    assert dropout.weights(xs) is None and dropout.tokens(xs, ids, 9) is xs
