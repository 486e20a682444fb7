"""The conformance suite, and the paper's equations once more, in numpy."""

import numpy as np
import pytest
import torch
from textgen_mingru import MinGRU, MinLSTM

from textgen.testing import parametrize_with_checks


@parametrize_with_checks([MinGRU, MinLSTM, (MinLSTM, {"candidate": "positive"})])
def test_conformance(check):
    check()


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def g(a, candidate):
    return np.where(a >= 0, a + 0.5, sigmoid(a)) if candidate == "positive" else a


def mingru(x, h, weights, biases, candidate):
    z = sigmoid(weights[0] @ x + biases[0])
    return (1 - z) * h + z * g(weights[1] @ x + biases[1], candidate)


def minlstm(x, h, weights, biases, candidate):
    f, i = (sigmoid(weights[k] @ x + biases[k]) for k in (0, 1))
    return f / (f + i) * h + i / (f + i) * g(weights[2] @ x + biases[2], candidate)


@pytest.mark.parametrize("candidate", ["linear", "positive"])
@pytest.mark.parametrize(("make", "gates", "paper"), [(MinGRU, 2, mingru), (MinLSTM, 3, minlstm)])
def test_it_is_the_paper(make, gates, paper, candidate):
    torch.manual_seed(1)
    cell = make(3, 5, candidate=candidate).double()
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter)
    weights, biases = (np.split(p.detach().numpy(), gates) for p in (cell.input.weight, cell.input.bias))
    xs, h0 = torch.randn(20, 2, 3).double(), torch.randn(2, 5).double()
    with torch.no_grad():
        ys, (end,) = cell(xs, (h0,))
    for row in range(2):
        h = h0[row].numpy()
        for x, y in zip(xs[:, row].numpy(), ys[:, row].numpy(), strict=True):
            h = paper(x, h, weights, biases, candidate)
            np.testing.assert_allclose(y, h, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(end[row], h, rtol=1e-10, atol=1e-10)


def test_gates_that_are_nearly_shut_keep_their_ratio():
    cell = MinLSTM(1, 1)
    torch.nn.init.constant_(cell.input.bias, -500.0)
    keep, _ = cell.coefficients(torch.zeros(1, 1))
    assert keep.item() == 0.5


@pytest.mark.parametrize("make", [MinGRU, MinLSTM])
def test_an_unknown_candidate_is_refused(make):
    with pytest.raises(ValueError, match="linear or positive, not 'cubic'"):
        make(3, 4, candidate="cubic")
