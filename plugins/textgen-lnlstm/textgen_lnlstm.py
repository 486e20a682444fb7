"""Layer-normalized LSTM: the input term, the recurrent term and the cell state are each normalized."""

import torch
from torch import Tensor, nn

import textgen
from textgen import State


class LayerNormLSTM(textgen.GatedCell):
    """i, f, o = sigmoid, g = tanh of LN(W·x) + LN(R·h) + b;  c(t) = f * c(t-1) + i * g;  h(t) = o * tanh(LN(c(t))).

    Ba et al. 2016, "Layer normalization" (arXiv 1607.06450), as in its supplement: W·x and R·h are normalised over
    all four gates together, c on its own. The paper adds three biases to the gates, one in each norm and b; only
    their sum matters, which is b here. State: (h, c). Gates in torch's order; the forget gate's b starts at
    `forget_bias`.
    """

    gates = 4
    states = 2
    bias = "none"

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        self.norm_input = nn.LayerNorm(4 * hidden_size, bias=False)
        self.norm_past = nn.LayerNorm(4 * hidden_size, bias=False)
        self.norm_cell = nn.LayerNorm(hidden_size)
        self.gate_bias = nn.Parameter(torch.zeros(4 * hidden_size))
        nn.init.constant_(self.gate_bias[hidden_size : 2 * hidden_size], forget_bias)

    def activate(self, wx: Tensor, rh: Tensor, state: State) -> tuple[Tensor, State]:
        i, f, g, o = (self.norm_input(wx) + self.norm_past(rh) + self.gate_bias).chunk(4, dim=-1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        self.name_gates(input=i, forget=f, candidate=g, output=o)
        c = f * state[1] + i * g
        h = o * torch.tanh(self.norm_cell(c))
        return h, (h, c)


@textgen.hookimpl
def register_cells(register: textgen.Register) -> None:
    register("lnlstm", LayerNormLSTM)
