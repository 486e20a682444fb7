"""The conformance suite, and the paper's equations once more, in numpy."""

import numpy as np
import pytest
import torch
from textgen_mogrifier import Mogrifier

from textgen.testing import parametrize_with_checks


@parametrize_with_checks([Mogrifier, (Mogrifier, {"rounds": 4, "rank": 1})])
def test_conformance(check):
    check()


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def paper(x, h, c, products, weights, biases):
    """Section 2: products (after, before) for each round, then the LSTM, weights (4, H, I + H) of i, f, g, o."""
    for k, product in enumerate(products, start=1):
        if k % 2 == 1:
            x = 2 * sigmoid(product @ h) * x
        else:
            h = 2 * sigmoid(product @ x) * h
    i, f, g, o = (w @ np.concatenate([x, h]) + b for w, b in zip(weights, biases, strict=True))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def whole(product):
    factors = [p.detach().numpy() for p in product.parameters()]
    return factors[0] if len(factors) == 1 else factors[1] @ factors[0]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("rounds", [0, 1, 2, 5, 6])
def test_it_is_the_paper(rounds, rank):
    torch.manual_seed(1)
    cell = Mogrifier(3, 5, rounds=rounds, rank=rank).double()
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter)
    products = [whole(product) for product in cell.rounds]
    weights, biases = (np.split(p.detach().numpy(), 4) for p in (cell.gates.weight, cell.gates.bias))
    xs, state = torch.randn(20, 2, 3).double(), tuple(torch.randn(2, 2, 5).double())
    with torch.no_grad():
        ys, end = cell(xs, state)
    for row in range(2):
        h, c = (s[row].numpy() for s in state)
        for x, y in zip(xs[:, row].numpy(), ys[:, row].numpy(), strict=True):
            h, c = paper(x, h, c, products, weights, biases)
            np.testing.assert_allclose(y, h, rtol=1e-10, atol=1e-10)
        for ours, theirs in zip(end, (h, c), strict=True):
            np.testing.assert_allclose(ours[row], theirs, rtol=1e-10, atol=1e-10)


def test_without_rounds_it_is_an_lstm():
    cell, lstm = Mogrifier(3, 5, rounds=0).double(), torch.nn.LSTM(3, 5).double()
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(cell.gates.weight[:, :3])
        lstm.weight_hh_l0.copy_(cell.gates.weight[:, 3:])
        lstm.bias_ih_l0.copy_(cell.gates.bias)
        lstm.bias_hh_l0.zero_()
    xs = torch.randn(9, 2, 3).double()
    torch.testing.assert_close(cell(xs)[0], lstm(xs)[0])


def test_a_rank_saves_weights_or_is_not_used():
    def size(rank):
        return sum(p.numel() for p in Mogrifier(40, 60, rank=rank).rounds.parameters())

    assert size(0) == size(24) == 5 * 40 * 60
    assert size(23) == 5 * 23 * (40 + 60)


@pytest.mark.parametrize("option", ["rounds", "rank"])
def test_a_negative_number_is_refused(option):
    with pytest.raises(ValueError, match=f"{option} must be 0 or more, not -1"):
        Mogrifier(3, 4, **{option: -1})
