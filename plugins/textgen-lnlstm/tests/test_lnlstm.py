"""The conformance suite, and the paper's equations once more, in numpy."""

import numpy as np
import torch
from textgen_lnlstm import LayerNormLSTM

from textgen.testing import parametrize_with_checks


@parametrize_with_checks([LayerNormLSTM])
def test_conformance(check):
    check()


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def layer_norm(a, gain, bias):
    return gain * (a - a.mean()) / np.sqrt(((a - a.mean()) ** 2).mean() + 1e-5) + bias


def paper(x, h, c, weight, recurrent, past_gain, input_gain, cell_gain, cell_bias, bias):
    """The supplement's equations, the sum of their three gate biases in the last of them."""
    a = layer_norm(recurrent @ h, past_gain, 0.0) + layer_norm(weight @ x, input_gain, 0.0) + bias
    i, f, g, o = np.split(a, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(layer_norm(c, cell_gain, cell_bias)), c


def test_it_is_the_paper():
    torch.manual_seed(1)
    cell = LayerNormLSTM(3, 5).double()
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter)
    parameters = (
        *(cell.weight_ih, cell.weight_hh, cell.norm_past.weight, cell.norm_input.weight),
        *(cell.norm_cell.weight, cell.norm_cell.bias, cell.gate_bias),
    )
    weights = [p.detach().numpy() for p in parameters]
    assert len(weights) == len(list(cell.parameters()))
    xs, state = torch.randn(20, 2, 3).double(), tuple(torch.randn(2, 2, 5).double())
    with torch.no_grad():
        ys, end = cell(xs, state)
    for row in range(2):
        h, c = (s[row].numpy() for s in state)
        for x, y in zip(xs[:, row].numpy(), ys[:, row].numpy(), strict=True):
            h, c = paper(x, h, c, *weights)
            np.testing.assert_allclose(y, h, rtol=1e-10, atol=1e-10)
        for ours, theirs in zip(end, (h, c), strict=True):
            np.testing.assert_allclose(ours[row], theirs, rtol=1e-10, atol=1e-10)


def test_the_scale_of_the_input_weights_is_forgotten():
    cell = LayerNormLSTM(3, 8).double()
    xs = torch.randn(9, 2, 3).double()
    before, _ = cell(xs)
    with torch.no_grad():
        cell.weight_ih *= 100
    torch.testing.assert_close(cell(xs)[0], before, rtol=1e-3, atol=1e-3)
