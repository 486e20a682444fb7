"""Mogrifier LSTM: input and hidden state gate each other for a few rounds before an ordinary LSTM."""

import torch
from torch import Tensor, nn

import textgen
from textgen import State


class Mogrifier(textgen.Cell):
    """For k = 1 ... rounds: x = 2 * sigmoid(Q_k·h) * x where k is odd, h = 2 * sigmoid(R_k·x) * h where it is even.
    Then an LSTM: i, f, o = sigmoid, g = tanh of W·[x, h] + b;  c(t) = f * c(t-1) + i * g;  h(t) = o * tanh(c(t)).

    Melis et al. 2020, "Mogrifier LSTM" (arXiv 1909.01792). Q_k and R_k are products of two matrices of `rank`
    where that saves weights; 0 means full matrices. State: (h, c). Gates in torch's order, forget bias as given.
    """

    states = 2

    def __init__(
        self, input_size: int, hidden_size: int, rounds: int = 5, rank: int = 64, forget_bias: float = 1.0
    ) -> None:
        super().__init__(input_size, hidden_size)
        for name, value in (("rounds", rounds), ("rank", rank)):
            if value < 0:
                raise ValueError(f"{name} must be 0 or more, not {value}")
        sizes = (hidden_size, input_size)
        self.rounds = nn.ModuleList(_product(sizes[k % 2], sizes[1 - k % 2], rank) for k in range(rounds))
        self.gates = nn.Linear(input_size + hidden_size, 4 * hidden_size)
        nn.init.uniform_(self.gates.weight, -(input_size**-0.5), input_size**-0.5)
        for gate in self.gates.weight[:, input_size:].chunk(4):
            nn.init.orthogonal_(gate)
        nn.init.zeros_(self.gates.bias)
        nn.init.constant_(self.gates.bias[hidden_size : 2 * hidden_size], forget_bias)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, c = state
        for k, product in enumerate(self.rounds):
            if k % 2 == 0:
                x = 2 * torch.sigmoid(product(h)) * x
            else:
                h = 2 * torch.sigmoid(product(x)) * h
        i, f, g, o = self.gates(torch.cat([x, h], dim=-1)).chunk(4, dim=-1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        self.name_gates(input=i, forget=f, candidate=g, output=o)
        c = f * c + i * g
        h = o * torch.tanh(c)
        return h, (h, c)


def _product(before: int, after: int, rank: int) -> nn.Module:
    """A matrix (after, before), as two factors of this rank where that saves weights."""
    if rank == 0 or rank * (before + after) >= before * after:
        return nn.Linear(before, after, bias=False)
    return nn.Sequential(nn.Linear(before, rank, bias=False), nn.Linear(rank, after, bias=False))


@textgen.hookimpl
def register_cells(register: textgen.Register) -> None:
    register("mogrifier", Mogrifier)
