"""minGRU and minLSTM: gates depend on the input alone, so a whole sequence is one linear scan."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

import textgen


class MinGRU(textgen.LinearCell):
    """z = sigmoid(W_z·x + b_z);  n = g(W_n·x + b_n);  h(t) = (1 - z) * h(t-1) + z * n.

    Feng et al. 2024, "Were RNNs all we needed?" (arXiv 2410.01201). `candidate` chooses g: `linear` is the plain
    form of section 3.1; `positive` is appendix B's, g(a) = a + 0.5 where a >= 0, else sigmoid(a).
    Initially, z is near sigmoid(-forget_bias): a larger bias remembers longer.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        candidate: Literal["linear", "positive"] = "linear",
        forget_bias: float = 0.0,
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.candidate = _candidate(candidate)
        self.input = _projection(input_size, hidden_size, -forget_bias, 0.0)

    def coefficients(self, xs: Tensor) -> tuple[Tensor, Tensor]:
        z, n = self.input(xs).chunk(2, dim=-1)
        z, n = torch.sigmoid(z), self.candidate(n)
        self.name_gates(update=z, candidate=n)
        return 1 - z, z * n


class MinLSTM(textgen.LinearCell):
    """f, i = sigmoid of W·x + b;  n = g(W_n·x + b_n);  h(t) = f / (f + i) * h(t-1) + i / (f + i) * n.

    Feng et al. 2024, "Were RNNs all we needed?" (arXiv 2410.01201), with the two gates divided by their sum
    (section 3.2). `candidate` chooses g as in minGRU. The bias of f starts at `forget_bias`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        candidate: Literal["linear", "positive"] = "linear",
        forget_bias: float = 0.0,
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.candidate = _candidate(candidate)
        self.input = _projection(input_size, hidden_size, forget_bias, 0.0, 0.0)

    def coefficients(self, xs: Tensor) -> tuple[Tensor, Tensor]:
        f, i, n = self.input(xs).chunk(3, dim=-1)
        f = torch.sigmoid(logsigmoid(f) - logsigmoid(i))  # f / (f + i), exact where both gates are nearly shut
        n = self.candidate(n)
        self.name_gates(forget=f, input=1 - f, candidate=n)
        return f, (1 - f) * n


def _linear(a: Tensor) -> Tensor:
    return a


def _positive(a: Tensor) -> Tensor:
    return torch.where(a >= 0, a + 0.5, torch.sigmoid(a))


def _candidate(name: str) -> Callable[[Tensor], Tensor]:
    known = {"linear": _linear, "positive": _positive}
    if name not in known:
        raise ValueError(f"candidate must be {' or '.join(known)}, not {name!r}")
    return known[name]


def _projection(input_size: int, hidden_size: int, *biases: float) -> nn.Linear:
    """One product for all gates, (hidden_size) rows each, whose biases start at these values."""
    linear = nn.Linear(input_size, len(biases) * hidden_size)
    for gate, bias in zip(linear.bias.chunk(len(biases)), biases, strict=True):
        nn.init.constant_(gate, bias)
    return linear


@textgen.hookimpl
def register_cells(register: textgen.Register) -> None:
    register("mingru", MinGRU)
    register("minlstm", MinLSTM)
