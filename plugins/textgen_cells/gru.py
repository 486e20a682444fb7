"""The gated recurrent unit: two gates and one state, as torch defines it."""

import torch
from torch import Tensor

import textgen
from textgen import State


class GRU(textgen.GatedCell):
    """r, z = sigmoid of W·x + R·h;  n = tanh(W_n·x + r * R_n·h);  h(t) = (1 - z) * n + z * h(t-1).

    Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", in the form in which the reset
    gate r comes after the product (its bias included), as in `torch.nn.GRU` and cuDNN. Gates in torch's order.
    """

    gates = 3

    def activate(self, wx: Tensor, rh: Tensor, state: State) -> tuple[Tensor, State]:
        wx_rz, wx_n = wx.tensor_split([2 * self.hidden_size], dim=-1)
        rh_rz, rh_n = rh.tensor_split([2 * self.hidden_size], dim=-1)
        r, z = torch.sigmoid(wx_rz + rh_rz).chunk(2, dim=-1)
        n = torch.tanh(torch.addcmul(wx_n, r, rh_n))
        self.name_gates(reset=r, update=z, candidate=n)
        h = torch.lerp(n, state[0], z)
        return h, (h,)


@textgen.hookimpl
def register_cells(register: textgen.Register) -> None:
    register("gru", GRU)
