"""The conformance suite, and the paper's equations once more, in numpy."""

import numpy as np
import pytest
import torch
from textgen_slstm import SLSTM

from textgen.testing import parametrize_with_checks


@parametrize_with_checks([SLSTM, (SLSTM, {"heads": 1, "forget": "exp"})])
def test_conformance(check):
    check()


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def paper(x, h, c, n, weight, blocks, bias, forget):
    """Equations 8 to 14, without a stabiliser. weight (4, H, I), blocks (K, 4, d, d), bias (4, H); gates i, f, z, o."""
    heads = list(zip(blocks, np.split(h, len(blocks)), strict=True))
    past = [np.concatenate([block[gate] @ head for block, head in heads]) for gate in range(4)]
    a = [weight[gate] @ x + past[gate] + bias[gate] for gate in range(4)]
    i, f = np.exp(a[0]), (np.exp if forget == "exp" else sigmoid)(a[1])
    c, n = f * c + i * np.tanh(a[2]), f * n + i
    return sigmoid(a[3]) * c / n, c, n


@pytest.mark.parametrize("forget", ["sigmoid", "exp"])
@pytest.mark.parametrize("heads", [1, 2, 3, 6])
def test_it_is_the_paper(heads, forget):
    torch.manual_seed(1)
    cell = SLSTM(3, 6, heads=heads, forget=forget).double()
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    weight = cell.weight_ih.detach().numpy().reshape(4, 6, 3)
    blocks = cell.weight_hh.detach().numpy().reshape(heads, 4, 6 // heads, 6 // heads)
    bias = cell.bias_ih.detach().numpy().reshape(4, 6)
    xs = torch.randn(20, 2, 3).double()
    with torch.no_grad():
        ys, end = cell(xs)
    for row in range(2):
        h = c = n = np.zeros(6)
        for x, y in zip(xs[:, row].numpy(), ys[:, row].numpy(), strict=True):
            h, c, n = paper(x, h, c, n, weight, blocks, bias, forget)
            np.testing.assert_allclose(y, h, rtol=1e-10, atol=1e-10)
        scale = np.exp(end[3][row].numpy())
        for ours, theirs in zip(end[:3], (h, c / scale, n / scale), strict=True):
            np.testing.assert_allclose(ours[row], theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("forget", ["sigmoid", "exp"])
@pytest.mark.parametrize("gate", [0, 1])
@pytest.mark.parametrize("size", [-300.0, 300.0])
def test_gates_far_beyond_what_exp_can_hold_stay_finite(gate, size, forget):
    cell = SLSTM(3, 4, forget=forget)
    torch.nn.init.constant_(cell.bias_ih[4 * gate : 4 * gate + 4], size)
    ys, state = cell(torch.randn(50, 2, 3))
    ys.sum().backward()
    assert all(t.isfinite().all() for t in (ys, *state, *(p.grad for p in cell.parameters())))


@pytest.mark.parametrize(("size", "heads"), [(1, 1), (7, 1), (10, 2), (9, 3), (128, 4)])
def test_heads_fit_any_size_by_themselves(size, heads):
    assert len(SLSTM(3, size).weight_hh) == heads


@pytest.mark.parametrize("heads", [-1, 3, 16])
def test_heads_that_do_not_fit_are_refused(heads):
    with pytest.raises(ValueError, match=f"divisor of hidden_size 8, not {heads}"):
        SLSTM(3, 8, heads=heads)


def test_an_unknown_forget_gate_is_refused():
    with pytest.raises(ValueError, match="sigmoid or exp, not 'relu'"):
        SLSTM(3, 4, forget="relu")
