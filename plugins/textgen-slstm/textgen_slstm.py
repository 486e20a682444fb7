"""sLSTM: exponential gates that can overwrite the memory, in heads with block-diagonal recurrence."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import textgen
from textgen import State

EMPTY = -1e4
"""The initial stabiliser: so far below any input gate that the first input fully determines the state."""


class SLSTM(textgen.GatedCell):
    """i = exp(a_i);  f = sigmoid(a_f) or exp(a_f);  z = tanh(a_z);  o = sigmoid(a_o), where a = W·x + R·h + b;
    c(t) = f * c(t-1) + i * z;  n(t) = f * n(t-1) + i;  h(t) = o * c(t) / n(t).

    Beck et al. 2024, "xLSTM: extended long short-term memory" (arXiv 2405.04517), equations 8 to 17. R is
    block-diagonal, one block for each of `heads` (0: the largest divisor of the hidden size up to 4). State:
    (h, c, n, m), where c and n are stored divided by exp(m) so that no exponential overflows. In each head the forget
    gate's bias starts at 5 - 12 * r**0.3 for r from 0 to 1, as in the authors' code: from long to short memories.
    """

    gates = 4
    states = 4
    bias = "input"

    def __init__(
        self, input_size: int, hidden_size: int, heads: int = 0, forget: Literal["sigmoid", "exp"] = "sigmoid"
    ) -> None:
        self.recurrent = heads or next(k for k in range(4, 0, -1) if hidden_size % k == 0)
        if heads < 0 or hidden_size % self.recurrent:
            raise ValueError(f"heads must be 0 or a divisor of hidden_size {hidden_size}, not {heads}")
        super().__init__(input_size, hidden_size)
        if forget not in ("sigmoid", "exp"):
            raise ValueError(f"forget must be sigmoid or exp, not {forget!r}")
        self.forget = forget
        assert self.bias_ih is not None
        keep = 5 - 12 * torch.linspace(0, 1, hidden_size // self.recurrent) ** 0.3
        with torch.no_grad():
            keep = keep if forget == "sigmoid" else logsigmoid(keep)
            self.bias_ih[hidden_size : 2 * hidden_size] = keep.repeat(self.recurrent)

    def initial_state(self, batch_size: int) -> State:
        h, c, n, m = super().initial_state(batch_size)
        return h, c, n, m + EMPTY

    def activate(self, wx: Tensor, rh: Tensor, state: State) -> tuple[Tensor, State]:
        _, c, n, m = state
        i, f, z, o = (wx + rh).chunk(4, dim=-1)
        kept = (logsigmoid(f) if self.forget == "sigmoid" else f) + m
        m = torch.maximum(kept, i)
        i, f, z, o = torch.exp(i - m), torch.exp(kept - m), torch.tanh(z), torch.sigmoid(o)
        self.name_gates(input=i, forget=f, candidate=z, output=o)
        c = f * c + i * z
        n = f * n + i
        h = o * (c / n)
        return h, (h, c, n, m)


@textgen.hookimpl
def register_cells(register: textgen.Register) -> None:
    register("slstm", SLSTM)
