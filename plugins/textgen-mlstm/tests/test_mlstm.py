"""The conformance suite, and the paper's equations once more, in numpy."""

import numpy as np
import pytest
import torch
from textgen_mlstm import CHUNK, MLSTM

from textgen.cells import Cell
from textgen.testing import parametrize_with_checks


@parametrize_with_checks([MLSTM, (MLSTM, {"heads": 1, "forget": "exp"})])
def test_conformance(check):
    check()


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def paper(x, memory, n, weights, biases, gates, gate_biases, forget):
    """Equations 19 to 27 for one head, without a stabiliser. weights (4, d, I) of q, k, v, o; gates (2, I) of i, f."""
    q, k, v, o = (weight @ x + bias for weight, bias in zip(weights, biases, strict=True))
    k = k / np.sqrt(len(k))
    i, f = (gate @ x + bias for gate, bias in zip(gates, gate_biases, strict=True))
    i, f = np.exp(i), (np.exp if forget == "exp" else sigmoid)(f)
    memory, n = f * memory + i * np.outer(v, k), f * n + i * k
    return sigmoid(o) * (memory @ q) / max(abs(n @ q), 1), memory, n


@pytest.mark.parametrize("forget", ["sigmoid", "exp"])
@pytest.mark.parametrize("heads", [1, 2, 3])
def test_it_is_the_paper(heads, forget):
    torch.manual_seed(1)
    d = 6 // heads
    cell = MLSTM(3, 6, heads=heads, forget=forget).double()
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    weights, biases, gates, gate_biases = (
        p.detach().numpy() for p in (cell.input.weight, cell.input.bias, cell.gates.weight, cell.gates.bias)
    )
    xs = torch.randn(CHUNK + 9, 2, 3).double()
    with torch.no_grad():
        ys, (memories, ns, ms) = cell(xs)
    for row in range(2):
        for head in range(heads):
            own = slice(head * d, head * d + d)
            memory, n = np.zeros((d, d)), np.zeros(d)
            mine = (
                *(weights.reshape(4, 6, 3)[:, own], biases.reshape(4, 6)[:, own]),
                *(gates.reshape(2, heads, 3)[:, head], gate_biases.reshape(2, heads)[:, head]),
            )
            for x, y in zip(xs[:, row].numpy(), ys[:, row, own].numpy(), strict=True):
                h, memory, n = paper(x, memory, n, *mine, forget)
                np.testing.assert_allclose(y, h, rtol=1e-10, atol=1e-10)
            scale = np.exp(ms[row, head].numpy())
            np.testing.assert_allclose(memories[row, head], memory / scale, rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(ns[row, head], n / scale, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("forget", ["sigmoid", "exp"])
@pytest.mark.parametrize("gate", [0, 1])
@pytest.mark.parametrize("size", [-300.0, 300.0])
@pytest.mark.parametrize("run", [MLSTM.forward, Cell.forward])
def test_gates_far_beyond_what_exp_can_hold_stay_finite(run, gate, size, forget):
    cell = MLSTM(3, 4, heads=2, forget=forget)
    torch.nn.init.constant_(cell.gates.bias[2 * gate : 2 * gate + 2], size)
    ys, state = run(cell, torch.randn(50, 2, 3))
    ys.sum().backward()
    assert all(t.isfinite().all() for t in (ys, *state, *(p.grad for p in cell.parameters())))


@pytest.mark.parametrize(("size", "heads"), [(1, 1), (11, 1), (10, 5), (9, 3), (128, 8)])
def test_heads_fit_any_size_by_themselves(size, heads):
    assert MLSTM(3, size).initial_state(2)[0].shape == (2, heads, size // heads, size // heads)


@pytest.mark.parametrize("heads", [-1, 3, 16])
def test_heads_that_do_not_fit_are_refused(heads):
    with pytest.raises(ValueError, match=f"divisor of hidden_size 8, not {heads}"):
        MLSTM(3, 8, heads=heads)


def test_an_unknown_forget_gate_is_refused():
    with pytest.raises(ValueError, match="sigmoid or exp, not 'relu'"):
        MLSTM(3, 4, forget="relu")
