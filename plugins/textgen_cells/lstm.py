"""Long short-term memory: gates write, retain and read a cell state."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

import textgen
from textgen import State

LARGEST_FUSED_ROUNDED = 512
"""The most units for which torch's fused kernel is fast in bfloat16 on a CPU (AMD EPYC, torch 2.13)."""


class LSTM(textgen.GatedCell):
    """i, f, o = sigmoid, g = tanh of W·x + R·h + b;  c(t) = f * c(t-1) + i * g;  h(t) = o * tanh(c(t)).

    Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000, whose bias starts at 1 (Jozefowicz
    et al. 2015). State: (h, c). Gates in torch's order: i, f, g, o.
    """

    gates = 4
    states = 2
    planned_rate = 1.5

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        assert self.bias_ih is not None
        nn.init.constant_(self.bias_ih[hidden_size : 2 * hidden_size], forget_bias)

    def activate(self, wx: Tensor, rh: Tensor, state: State) -> tuple[Tensor, State]:
        i, f, g, o = (wx + rh).chunk(4, dim=-1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        self.name_gates(input=i, forget=f, candidate=g, output=o)
        c = f * state[1] + i * g
        h = o * torch.tanh(c)
        return h, (h, c)

    def forward(
        self, xs: Tensor, state: State | None = None, recurrent_mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """As `GatedCell.forward`, with torch's fused kernel, which is faster than a loop of products on a CPU."""
        rounding = self.rounds_products(xs)
        if len(xs) == 0 or (rounding and self.hidden_size > LARGEST_FUSED_ROUNDED):
            return super().forward(xs, state, recurrent_mask)
        state = self.initial_state(xs.shape[1]) if state is None else state
        weights: list[Tensor] = list(self.parameters(recurse=False))  # W, R and the biases, in torch's order
        if recurrent_mask is not None:
            weights[1] = weights[1] * recurrent_mask
        with torch.autocast("cpu", torch.bfloat16) if rounding else nullcontext():
            ys, h, c = torch.lstm(
                xs, (state[0].unsqueeze(0), state[1].unsqueeze(0)), weights, True, 1, 0.0, True, False, False
            )
        return ys.to(xs), (h[0].to(xs), c[0].to(xs))


@textgen.hookimpl
def register_cells(register: textgen.Register) -> None:
    register("lstm", LSTM)
