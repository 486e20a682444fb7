"""Laws of cells that look at a window of time: the last k inputs in the state, however it is written, can be stored."""

import pytest
import torch
from test_trace import hold_to_torch, made, numpy_stepper
from torch import nn
from torch.nn import functional as F

from textgen.cells import Cell
from textgen.testing.runner import LAWS, run_laws
from textgen.tracing import trace
from textgen.tracing.operations import Untraceable

K = 4


class Window(Cell):
    """The last K projected inputs: those before in the state, (B, K - 1, H), and `mix` makes the output of all."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.input = nn.Linear(input_size, hidden_size)
        self.weight = nn.Parameter(torch.randn(K, hidden_size) / 2)

    def initial_state(self, batch_size):
        return (self.weight.new_zeros(batch_size, K - 1, self.hidden_size),)

    def step(self, x, state):
        window = torch.cat([state[0], self.input(x).unsqueeze(1)], 1)
        return torch.tanh(self.mix(window)), (window[:, 1:].clone(),)

    def mix(self, window):
        return (window * self.weight).sum(1)

    @property
    def filters(self):
        return self.weight.t().unsqueeze(1)


class Convolved(Window):
    """torch's own convolution, channels first in the state."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.conv = nn.Conv1d(hidden_size, hidden_size, K)
        del self.weight

    def initial_state(self, batch_size):
        return (self.input.weight.new_zeros(batch_size, self.hidden_size, K - 1),)

    def step(self, x, state):
        window = torch.cat([state[0], self.input(x).unsqueeze(-1)], -1)
        return torch.tanh(self.conv(window).squeeze(-1)), (window[..., 1:].clone(),)


class Flat(Window):
    """A flat state (B, (K - 1) * H)."""

    def initial_state(self, batch_size):
        return (self.weight.new_zeros(batch_size, (K - 1) * self.hidden_size),)

    def step(self, x, state):
        window = torch.cat([state[0], self.input(x)], -1)
        return torch.tanh(self.mix(window.unflatten(-1, (K, -1)))), (window[:, self.hidden_size :].clone(),)


class Rolled(Window):
    """K inputs in the state, moved by roll; the newest is written over the oldest."""

    def initial_state(self, batch_size):
        return (self.weight.new_zeros(batch_size, K, self.hidden_size),)

    def step(self, x, state):
        window = state[0].roll(-1, 1)
        window = torch.cat([window[:, :-1], self.input(x).unsqueeze(1)], 1)
        return torch.tanh(self.mix(window)), (window,)


class Several(Window):
    """K - 1 states, one for each input."""

    def initial_state(self, batch_size):
        return tuple(self.weight.new_zeros(batch_size, self.hidden_size) for _ in range(K - 1))

    def step(self, x, state):
        window = torch.stack([*state, self.input(x)], 1)
        return torch.tanh(self.mix(window)), tuple(part.clone() for part in window.unbind(1)[1:])


class Ring(Window):
    """A ring buffer, and where in it the next input goes."""

    def initial_state(self, batch_size):
        start = torch.zeros(batch_size, dtype=torch.int64, device=self.weight.device)
        return self.weight.new_zeros(batch_size, K, self.hidden_size), start

    def write(self, window, place, new):
        return torch.where((torch.arange(K, device=new.device) == place.unsqueeze(1)).unsqueeze(-1), new, window)

    def step(self, x, state):
        window, place = state
        window = self.write(window, place, self.input(x).unsqueeze(1))
        oldest = window.gather(1, ((place + 1) % K).view(-1, 1, 1).expand(-1, 1, self.hidden_size)).squeeze(1)
        return torch.tanh(self.mix(window) + oldest), (window, (place + 1) % K)


class Scattered(Ring):
    def write(self, window, place, new):
        return window.scatter(1, place.view(-1, 1, 1).expand_as(new), new)


CELLS = [Window, Convolved, Flat, Rolled, Several, Ring, Scattered]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
def test_a_cell_that_keeps_the_last_inputs_keeps_every_law(cell):
    laws = {law.name for law in LAWS if not law.slow} - {"constant_memory", "constant_time", "finite"}
    results = list(run_laws(cell, laws=laws))
    assert {(r.law, r.detail) for r in results if r.status == "failed"} == set()
    assert next(r for r in results if r.law == "stored_step").status == "passed"


MIXES = {
    "einsum": lambda self, w: torch.einsum("bkd,kd->bd", w, self.weight),
    "depthwise": lambda self, w: F.conv1d(w.transpose(1, 2), self.filters, groups=self.hidden_size).squeeze(-1),
    "two groups": lambda self, w: F.conv1d(
        w.transpose(1, 2), self.filters.expand(-1, self.hidden_size // 2, -1), groups=2
    ).squeeze(-1),
    "padded": lambda self, w: F.conv1d(w.transpose(1, 2), self.filters, self.weight[0], padding=2, groups=6).sum(-1),
    "strided": lambda self, w: F.conv1d(w.transpose(1, 2), self.filters[..., :2], stride=2, groups=6).amax(-1),
    "dilated": lambda self, w: F.conv1d(w.transpose(1, 2), self.filters[..., :2], dilation=2, groups=6).mean(-1),
    "same": lambda self, w: F.conv1d(w.transpose(1, 2), self.filters[..., :3], padding="same", groups=6).sum(-1),
    "in two dimensions": lambda self, w: F.conv2d(w.unsqueeze(1), self.weight[None, None, :, :1]).flatten(1),
    "mean pool": lambda self, w: F.avg_pool1d(w.transpose(1, 2), 2).sum(-1),
    "max pool": lambda self, w: F.max_pool1d(w.transpose(1, 2), 3, stride=1, padding=1).sum(-1),
    "max pool in two dimensions": lambda self, w: F.max_pool2d(w.unsqueeze(1), (2, 1), dilation=(2, 1)).sum((1, 2)),
    "unfold": lambda self, w: (w.unfold(1, 3, 1) * self.weight[0, :3]).sum((1, 3)),
    "pad": lambda self, w: F.pad(w, (0, 0, 1, -2), value=0.5).mean(1),
    "pad both axes": lambda self, w: F.pad(w, (1, 1, 2, 0))[..., 1:-1].cumsum(1).mean(1),
    "pad nothing": lambda self, w: F.pad(w, (0, 0)).sum(1),
    "places from the end": lambda self, w: w[:, [0, -1, -2]].sum(1),
    "gather": lambda self, w: w.gather(1, (w[:, :1] > 0).long() * 2).squeeze(1),
    "gather on the last axis": lambda self, w: w[:, 0].gather(1, (w[:, 1] > 0).long() + 1),
    "scatter a number": lambda self, w: w.scatter(1, (w[:, :2] > 0).long(), 0.7).sum(1),
    "index_copy": lambda self, w: w.index_copy(1, torch.tensor([2, 0]), w[:, 1:3] * 2).mean(1),
    "whole numbers": lambda self, w: w.sum(1) * ((w[:, 0] > 0).long() * 7 // 3 % 2) + ((w[:, 1] > 0).long() - 5) // 2,
    "remainder": lambda self, w: torch.remainder(w[:, 0] * 3, 0.7) + (w[:, 1] * 3 % -0.5),
    "attention": lambda self, w: F.scaled_dot_product_attention(w[:, -1:], w, w).squeeze(1),
}


@pytest.mark.parametrize("name", MIXES)
def test_whatever_is_done_with_a_window_is_stored(name):
    model = made(type("Mixed", (Window,), {"mix": MIXES[name]}), num_layers=1, hidden_size=6, embedding_size=6)
    stepper = numpy_stepper(model)
    for batch in (1, 3):
        hold_to_torch(model, stepper, batch)


REFUSED = {
    "a transposed convolution": (
        lambda self, w: F.conv_transpose1d(w.transpose(1, 2), self.filters[..., :1].expand(-1, 6, -1)).sum(-1),
        "not supported by the numpy runtime",
    ),
    "one_hot": (
        lambda self, w: w.sum(1) * F.one_hot((w[:, 0] > 0).long(), 2).float().sum(-1),
        r"compare with torch\.arange and choose with torch\.where instead",
    ),
    "rows by number": (lambda self, w: w[torch.arange(len(w)), 0], r"gather and scatter select within each row"),
    "as_strided": (lambda self, w: w.as_strided((len(w), 6), (w.stride(0), 1)), "use slices, unfold or reshape"),
    "a mask as an index": (lambda self, w: w.sum(1) + w[w > 0].sum(), r"choose with torch\.where, gather or"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_stored_says_how_to_write_it(name):
    mix, reason = REFUSED[name]
    with pytest.raises(Untraceable, match=reason):
        trace(made(type("Mixed", (Window,), {"mix": mix}), num_layers=1, hidden_size=6, embedding_size=6))
