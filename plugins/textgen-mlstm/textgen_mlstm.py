"""mLSTM: a matrix memory that stores values under keys and is read with a query."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

import textgen
from textgen import State

CHUNK = 32
"""Time steps that `forward` computes at once."""


class MLSTM(textgen.Cell):
    """C(t) = f * C(t-1) + i * v·kᵀ;  n(t) = f * n(t-1) + i * k;  h(t) = o * C(t)·q / max(|n(t)ᵀ·q|, 1)
    in each head, where q, k, v = W·x + b (k divided by √d), o = sigmoid(W_o·x + b_o), and for each head one
    i = exp(w_i·x + b_i) and f = sigmoid(w_f·x + b_f) or exp of it.

    Beck et al. 2024, "xLSTM: extended long short-term memory" (arXiv 2405.04517), equations 19 to 27. `heads` must
    divide the hidden size (0: the largest divisor up to 8). State: C (B, heads, d, d), n (B, heads, d) and m
    (B, heads), where C and n are stored divided by exp(m). Here m >= 0, so that exp(-m), the 1 of the maximum, cannot
    overflow. The gates start with zero weights, input biases near 0, and forget biases from 4 in the first head to
    -2 in the last: long and short memories (the authors' code has 3 to 6).
    """

    def __init__(
        self, input_size: int, hidden_size: int, heads: int = 0, forget: Literal["sigmoid", "exp"] = "sigmoid"
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.heads = heads or next(k for k in range(8, 0, -1) if hidden_size % k == 0)
        if heads < 0 or hidden_size % self.heads:
            raise ValueError(f"heads must be 0 or a divisor of hidden_size {hidden_size}, not {heads}")
        if forget not in ("sigmoid", "exp"):
            raise ValueError(f"forget must be sigmoid or exp, not {forget!r}")
        self.forget = forget
        self.input = nn.Linear(input_size, 4 * hidden_size)
        self.gates = nn.Linear(input_size, 2 * self.heads)
        nn.init.zeros_(self.input.bias)
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            self.gates.bias[: self.heads].normal_(std=0.1)
            keep = torch.linspace(4, -2, self.heads)
            self.gates.bias[self.heads :] = keep if forget == "sigmoid" else logsigmoid(keep)

    def initial_state(self, batch_size: int) -> State:
        heads, width = self.heads, self.hidden_size // self.heads
        shapes = (batch_size, heads, width, width), (batch_size, heads, width), (batch_size, heads)
        return tuple(self.gates.bias.new_zeros(shape) for shape in shapes)

    def project(self, xs: Tensor) -> tuple[Tensor, ...]:
        """The projections of the input: q, k, v, o (..., heads, d); log i, log f (..., heads)."""
        q, k, v, o = (part.unflatten(-1, (self.heads, -1)) for part in self.input(xs).chunk(4, dim=-1))
        i, f = self.gates(xs).chunk(2, dim=-1)
        return q, k / math.sqrt(k.shape[-1]), v, torch.sigmoid(o), i, logsigmoid(f) if self.forget == "sigmoid" else f

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        q, k, v, o, log_i, log_f = self.project(x)
        memory, n, m = state
        kept = log_f + m
        m = torch.maximum(kept, torch.relu(log_i))
        i, f = torch.exp(log_i - m).unsqueeze(-1), torch.exp(kept - m).unsqueeze(-1)  # (B, heads, 1)
        self.name_gates(input=i, forget=f, output=o)
        memory = f.unsqueeze(-1) * memory + (i * v).unsqueeze(-1) * k.unsqueeze(-2)
        n = f * n + i * k
        scale = torch.maximum((n * q).sum(-1).abs(), _one(m)).unsqueeze(-1)
        y = o * (memory @ q.unsqueeze(-1)).squeeze(-1) / scale
        return y.flatten(-2), (memory, n, m)

    def forward(self, xs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `Cell.forward`, chunk by chunk: within a chunk, each step reads all earlier ones by matrix products."""
        state = self.initial_state(xs.shape[1]) if state is None else state
        if len(xs) == 0:
            return self._no_output(xs), state
        ys = []
        for projected in zip(*(torch.split(part, CHUNK) for part in self.project(xs)), strict=True):
            y, state = self._chunk(*projected, state=state)
            ys.append(y)
        return torch.cat(ys), state

    def _chunk(self, *projected: Tensor, state: State) -> tuple[Tensor, State]:
        """t steps: what `project` gives, (t, B, ...), and the state before; returns y (t, B, H) and the state after."""
        q, k, v, o, log_i, log_f = (part.movedim(0, 2) for part in projected)  # (B, heads, t, d) and (B, heads, t)
        memory, n, m = state
        faded = log_f.cumsum(-1)  # log of the remaining share of the state before
        level = torch.maximum(m.unsqueeze(-1), (torch.relu(log_i) - faded).cummax(-1).values)  # m(t) - faded(t)
        future = torch.ones(len(q[0, 0]), len(q[0, 0]), dtype=torch.bool, device=q.device).triu(1)
        logs = (log_i - faded).unsqueeze(-2) - level.unsqueeze(-1)
        weights = torch.exp(logs.masked_fill(future, -math.inf))  # (B, heads, t, s): of input s in state t
        before = torch.exp(m.unsqueeze(-1) - level).unsqueeze(-1)
        scores = weights * (q @ k.transpose(-2, -1))
        read = scores @ v + before * (q @ memory.transpose(-2, -1))
        found = scores.sum(-1, keepdim=True) + before * (q @ n.unsqueeze(-1))
        m = faded + level
        ys = o * read / torch.maximum(found.abs(), _one(m).unsqueeze(-1))
        last, left = weights[..., -1, :, None], before[..., -1, :]
        memory = left.unsqueeze(-1) * memory + (last * v).transpose(-2, -1) @ k
        n = left * n + (last * k).sum(-2)
        return ys.movedim(2, 0).flatten(-2), (memory, n, m[..., -1])


def _one(m: Tensor) -> Tensor:
    """The 1 of max(|nᵀ·q|, 1), divided by exp(m) as n is, with a lower bound above zero."""
    return torch.exp(-torch.clamp(m, max=60.0))


@textgen.hookimpl
def register_cells(register: textgen.Register) -> None:
    register("mlstm", MLSTM)
