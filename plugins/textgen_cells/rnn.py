"""Elman's simple recurrent network: one layer of units that also reads its previous output."""

from typing import Literal

import torch
from torch import Tensor

import textgen
from textgen import State


class RNN(textgen.GatedCell):
    """h(t) = f(W·x(t) + R·h(t-1) + b), with f = tanh or relu.

    Elman 1990, "Finding structure in time".
    """

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, nonlinearity: Literal["tanh", "relu"] = "tanh") -> None:
        super().__init__(input_size, hidden_size)
        self.squash = {"tanh": torch.tanh, "relu": torch.relu}[nonlinearity]

    def activate(self, wx: Tensor, rh: Tensor, state: State) -> tuple[Tensor, State]:
        h = self.squash(wx + rh)
        return h, (h,)


@textgen.hookimpl
def register_cells(register: textgen.Register) -> None:
    register("rnn", RNN)
    register("elman", RNN)
