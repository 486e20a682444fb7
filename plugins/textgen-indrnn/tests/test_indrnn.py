"""The conformance suite, and the paper's equation once more, in numpy."""

import numpy as np
import pytest
import torch
from textgen_indrnn import IndRNN

from textgen.testing import parametrize_with_checks


@parametrize_with_checks([IndRNN, (IndRNN, {"nonlinearity": "tanh", "horizon": 30})])
def test_conformance(check):
    check()


SQUASH = {"relu": lambda a: np.maximum(a, 0), "tanh": np.tanh}


@pytest.mark.parametrize(("horizon", "limit"), [(0, 1.0), (1, 2.0), (2, 2**0.5)])
@pytest.mark.parametrize("nonlinearity", SQUASH)
def test_it_is_the_paper(nonlinearity, horizon, limit):
    torch.manual_seed(1)
    cell = IndRNN(3, 5, nonlinearity=nonlinearity, horizon=horizon).double()
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter)
    weight, bias, raw_u = (p.detach().numpy() for p in (cell.weight_ih, cell.bias_ih, cell.raw_u))
    u = limit * np.tanh(raw_u)
    xs, h0 = torch.randn(20, 2, 3).double(), torch.randn(2, 5).double()
    with torch.no_grad():
        ys, (end,) = cell(xs, (h0,))
    for row in range(2):
        h = h0[row].numpy()
        for x, y in zip(xs[:, row].numpy(), ys[:, row].numpy(), strict=True):
            h = SQUASH[nonlinearity](weight @ x + u * h + bias)
            np.testing.assert_allclose(y, h, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(end[row], h, rtol=1e-10, atol=1e-10)


def test_a_memory_at_most_doubles_within_the_horizon():
    cell = IndRNN(1, 4, horizon=100).double()
    torch.nn.init.constant_(cell.raw_u, 50.0)
    ys, _ = cell(torch.zeros(200, 1, 1).double(), (torch.ones(1, 4).double(),))
    torch.testing.assert_close(ys[99] - ys[99].new_tensor(2), torch.zeros(1, 4).double(), rtol=0, atol=1e-6)


def test_weights_start_all_over_what_is_allowed():
    torch.manual_seed(1)
    own = torch.tanh(IndRNN(1, 1000).raw_u)
    assert -1 < own.min() < -0.95 and 0.95 < own.max() < 1 and own.mean().abs() < 0.1


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="relu or tanh, not 'sin'"):
        IndRNN(3, 4, nonlinearity="sin")
    with pytest.raises(ValueError, match="0 or more steps, not -2"):
        IndRNN(3, 4, horizon=-2)
