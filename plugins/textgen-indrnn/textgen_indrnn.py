"""IndRNN: each unit depends only on its own previous value, through one recurrent weight."""

from typing import Literal

import torch
from torch import Tensor, nn

import textgen
from textgen import State


class IndRNN(textgen.GatedCell):
    """h(t) = f(W·x(t) + u * h(t-1) + b), with one weight u per unit and f = relu or tanh.

    Li et al. 2018, "Independently recurrent neural network (IndRNN): building a longer and deeper RNN" (arXiv
    1803.04831). The paper clips |u| to 2**(1 / T), so that T steps at most double a value; here
    u = 2**(1 / horizon) * tanh(self.raw_u), which stays within the limit and always has a gradient. `horizon` 0 means
    no limit on the sequence length: |u| < 1. Initially, u is uniform between its limits.
    """

    gates = 1
    recurrent = None
    bias = "input"

    def __init__(
        self, input_size: int, hidden_size: int, nonlinearity: Literal["relu", "tanh"] = "relu", horizon: int = 0
    ) -> None:
        super().__init__(input_size, hidden_size)
        if horizon < 0:
            raise ValueError(f"horizon must be 0 or more steps, not {horizon}")
        if nonlinearity not in ("relu", "tanh"):
            raise ValueError(f"nonlinearity must be relu or tanh, not {nonlinearity!r}")
        self.squash = torch.relu if nonlinearity == "relu" else torch.tanh
        self.limit = 2 ** (1 / horizon) if horizon else 1.0
        self.raw_u = nn.Parameter(torch.empty(hidden_size).uniform_(-0.999, 0.999).atanh())

    def activate(self, wx: Tensor, rh: Tensor, state: State) -> tuple[Tensor, State]:
        h = self.squash(wx + self.limit * torch.tanh(self.raw_u) * state[0])
        return h, (h,)


@textgen.hookimpl
def register_cells(register: textgen.Register) -> None:
    register("indrnn", IndRNN)
