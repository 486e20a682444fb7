"""Cells beside torch's own, stacked, with weights dropped. The laws of a single cell are tried in test_testing.py."""

import math

import pytest
import torch
from torch import nn
from zoo import CELLS, WRITTEN

from textgen import plugins
from textgen.cells import Cell, GatedCell
from textgen.model.stack import DropoutRates, Stack
from textgen.model.weights import from_torch, to_torch

I, H = 3, 4
TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def inputs(cell, length, batch):
    xs = torch.randn(length, batch, cell.input_size, dtype=torch.double, requires_grad=True)
    state = tuple(torch.randn_like(s).requires_grad_() for s in cell.initial_state(batch))
    return xs, state


def outcome(run, cell, xs, state):
    """Outputs, final state and the gradients of everything, under weights that treat no entry alike."""
    ys, after = run(xs, state)
    results = [ys, *after]
    loss = sum((r * torch.linspace(-1, 1, r.numel(), dtype=r.dtype).view(r.shape)).sum() for r in results)
    wanted = [xs, *state, *cell.parameters()]
    grads = torch.autograd.grad(loss, wanted, allow_unused=True)
    return results, [torch.zeros_like(w) if g is None else g for g, w in zip(grads, wanted, strict=True)]


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_stack_equals_torch_given_its_weights(kind, layers):
    theirs = getattr(nn, kind.upper())(I, H, num_layers=layers).double()
    make = plugins.cell(kind)
    ours = Stack([make(I if layer == 0 else H, H) for layer in range(layers)]).double()
    ours.load_state_dict(from_torch(theirs.state_dict()))
    xs = torch.randn(9, 2, I, dtype=torch.double)
    for run in (ours, lambda x: Cell.forward(ours, x)):
        ys, _ = run(xs)
        expected, _ = theirs(xs)
        torch.testing.assert_close(ys, expected, **TIGHT)
        ours.zero_grad(), theirs.zero_grad()
        ys.pow(2).sum().backward(), expected.pow(2).sum().backward()
        gradients = {name: p.grad for name, p in ours.named_parameters()}
        torch.testing.assert_close(to_torch(gradients), {n: p.grad for n, p in theirs.named_parameters()}, **TIGHT)
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in to_torch(ours.state_dict()).items())


def test_relu_rnn_equals_torch():
    theirs = nn.RNN(I, H, nonlinearity="relu").double()
    ours = Stack([plugins.cell("rnn")(I, H, nonlinearity="relu")]).double()
    ours.load_state_dict(from_torch(theirs.state_dict()))
    xs = torch.randn(9, 2, I, dtype=torch.double)
    torch.testing.assert_close(ours(xs)[0], theirs(xs)[0], **TIGHT)


def test_the_converter_names_what_it_cannot_carry():
    with pytest.raises(ValueError, match="weight_ih_l0_reverse"):
        from_torch(nn.LSTM(I, H, bidirectional=True).state_dict())
    with pytest.raises(ValueError, match=r"norms\.0"):
        to_torch(Stack([plugins.cell("gru")(I, H)], layer_norm=True).state_dict())


def test_recurrent_weights_start_orthogonal_and_the_forget_gate_open():
    lstm = plugins.cell("lstm")(I, 8)
    for gate in lstm.weight_hh.chunk(4):
        torch.testing.assert_close(gate @ gate.t(), torch.eye(8))
    assert lstm.bias_ih.view(4, 8)[1].eq(1).all() and lstm.bias_hh.eq(0).all()


@pytest.mark.parametrize("name", [n for n, c in CELLS.items() if issubclass(c, GatedCell) and c.recurrent == "dense"])
def test_weight_drop_multiplies_r_and_nothing_else(name):
    made = CELLS[name](I, H).double()
    dropped = CELLS[name](I, H).double()
    mask = torch.randint(0, 2, made.weight_hh.shape).double()
    dropped.load_state_dict(made.state_dict())
    with torch.no_grad():
        dropped.weight_hh *= mask
    xs, state = inputs(made, 5, 2)
    torch.testing.assert_close(made(xs, state, recurrent_mask=mask), dropped(xs, state), **TIGHT)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_stack_is_a_cell(residual, layer_norm):
    made = [CELLS[name](I if k == 0 else H, H) for k, name in enumerate(["lstm", "Mgu", "MinGru"])]
    stack = Stack(made, residual=residual, layer_norm=layer_norm).double()
    xs, state = inputs(stack, 7, 2)
    fast = outcome(stack.forward, stack, xs, state)
    torch.testing.assert_close(fast, outcome(lambda x, s: Cell.forward(stack, x, s), stack, xs, state), **TIGHT)


def test_dropout_masks_depend_on_seed_and_step_alone():
    rates = DropoutRates(units=0.5, tokens=0.3, weights=0.2)
    stack = Stack([CELLS["gru"](I, H), CELLS["gru"](H, H)])
    xs = torch.randn(6, 3, I)

    def run(seed, step):
        return stack(xs, dropout=rates.window(seed, step))[0]

    assert torch.equal(run(1, 5), run(1, 5))
    assert not torch.equal(run(1, 5), run(1, 6)) and not torch.equal(run(1, 5), run(2, 5))


def test_locked_dropout_is_one_mask_for_all_time_and_keeps_the_mean():
    dropped = DropoutRates(units=0.25).window(3, 0).units(torch.ones(9, 40, 50))
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert math.isclose(dropped.mean(), 1, abs_tol=0.05)
    assert DropoutRates().window(3, 0) is None


@pytest.mark.parametrize("bad", [{"recurrent": 3}, {"recurrent": "sparse"}, {"bias": "some"}])
def test_a_wrong_declaration_is_a_value_error_that_shows_it(bad):
    broken = type("Broken", (WRITTEN["BlockDiagonal"],), bad)
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        broken(I, H)
