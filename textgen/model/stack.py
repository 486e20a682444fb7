"""Stacks of cells with dropout; a whole model is a cell, too: encoder, stack, readout.

Both have the verbs of a cell: `step` for one time step and `forward` for a sequence, time-major. Their state is the
layers' states one after another, as one flat tuple.

Dropout is a value: masks drawn once a window from a generator keyed by (seed, step), passed down explicitly. Nothing
is kept between windows, so a resumed run draws the same masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from textgen import plugins
from textgen.cells import Cell, GatedCell
from textgen.cells.engine import State
from textgen.cells.matmul import linear
from textgen.model import ModelConfig

CellFactory = Callable[[int, int], Cell]
"""Makes a cell of (input_size, hidden_size)."""
Lanes = tuple[int, slice] | None
"""The size of the whole batch, and the lanes of it that are computed now; None for the whole batch."""


TIED_LENGTH = 3.0
"""The length of a new token embedding that the readout uses, too: as long as logits permit."""


def keyed_seed(*key: int | str) -> int:
    """A 63-bit seed that depends only on the parts of the key."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_noise(device: torch.device, *key: int | str) -> None:
    """Seed torch's global generators by a key, for cells that draw random numbers. On a CPU only the CPU generator:
    seeding unused devices takes half a millisecond."""
    seed = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
    seed(keyed_seed(*key))


@dataclass(frozen=True)
class DropoutRates:
    """Dropout rates of units between layers, of whole tokens, and of weights of R."""

    units: float = 0.0
    tokens: float = 0.0
    weights: float = 0.0

    def window(self, seed: int, step: int, lanes: Lanes = None) -> Dropout | None:
        """The masks for one training window, or None where every rate is 0."""
        return Dropout(self, seed, step, lanes) if self.units or self.tokens or self.weights else None


class Dropout:
    """The masks of one window. Each call samples the next mask; remaining values are scaled by 1 / (1 - rate).

    Masks are always sampled for the whole batch, so that results do not depend on how it is split into lanes.
    """

    def __init__(self, rates: DropoutRates, seed: int, step: int, lanes: Lanes = None) -> None:
        self.rates = rates
        self._lanes = lanes
        self._generator = torch.Generator().manual_seed(keyed_seed(seed, step, "dropout"))

    def _mask(self, shape: tuple[int, ...], rate: float, like: Tensor) -> Tensor:
        keep = torch.rand(shape, generator=self._generator) >= rate
        return keep.to(like) / (1 - rate)

    def units(self, xs: Tensor) -> Tensor:
        """Locked dropout (Gal and Ghahramani 2016): xs (T, B, D), one mask for all T steps."""
        rate = self.rates.units
        if not rate:
            return xs
        batch, rows = self._lanes or (xs.shape[1], slice(None))
        return xs * self._mask((1, batch, *xs.shape[2:]), rate, xs)[:, rows]

    def tokens(self, embedded: Tensor, ids: Tensor, vocab_size: int) -> Tensor:
        """Embedding dropout (Gal and Ghahramani 2016): a dropped token is zero everywhere in ids (T, B)."""
        rate = self.rates.tokens
        return embedded * self._mask((vocab_size,), rate, embedded)[ids].unsqueeze(-1) if rate else embedded

    def weights(self, weight: Tensor) -> Tensor | None:
        """A mask for R (weight-drop, Merity et al. 2018), or None."""
        rate = self.rates.weights
        return self._mask(tuple(weight.shape), rate, weight) if rate else None


class Stack(Cell):
    """Cells in layers. `residual` adds each layer's input to its output where the sizes are equal;
    `layer_norm` normalises each layer's input (Ba et al. 2016). Both help stacks of three or more layers.
    """

    def __init__(self, cells: Sequence[Cell], residual: bool = False, layer_norm: bool = False) -> None:
        if not cells:
            raise ValueError("a stack needs at least one cell")
        super().__init__(cells[0].input_size, cells[0].hidden_size, cells[-1].output_size)
        self.layers = nn.ModuleList(cells)
        self.norms = nn.ModuleList(nn.LayerNorm(cell.input_size) if layer_norm else nn.Identity() for cell in cells)
        self.residual = residual

    def _cells(self) -> list[Cell]:
        return [layer for layer in self.layers if isinstance(layer, Cell)]

    def _split(self, state: State) -> list[State]:
        """The flat state as one tuple per layer."""
        arities = [len(cell.initial_state(1)) for cell in self._cells()]
        if sum(arities) != len(state):
            raise ValueError(f"this stack has {sum(arities)} state tensors, not {len(state)}")
        ends = list(accumulate(arities))
        return [state[end - arity : end] for arity, end in zip(arities, ends, strict=True)]

    def _join(self, cell: Cell, x: Tensor, y: Tensor) -> Tensor:
        return x + y if self.residual and cell.input_size == cell.output_size else y

    def initial_state(self, batch_size: int) -> State:
        state: State = ()
        for cell in self._cells():
            with plugins.blamed(type(cell)):
                state += tuple(cell.initial_state(batch_size))
        return state

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        after: State = ()
        for cell, norm, before in zip(self._cells(), self.norms, self._split(state), strict=True):
            inputs = norm(x)
            with plugins.blamed(type(cell)):
                y, new = _checked(cell, inputs, before, cell.step(inputs, before))
            x, after = self._join(cell, x, y), after + new
        return x, after

    def forward(self, xs: Tensor, state: State | None = None, dropout: Dropout | None = None) -> tuple[Tensor, State]:
        """As `Cell.forward`, layer by layer; dropout applies to each layer's input and to R of gated cells."""
        state = self.initial_state(xs.shape[1]) if state is None else state
        after: State = ()
        for cell, norm, before in zip(self._cells(), self.norms, self._split(state), strict=True):
            inputs = norm(dropout.units(xs) if dropout else xs)
            ys, new = self._run(cell, inputs, before, dropout)
            xs, after = self._join(cell, xs, ys), after + new
        return xs, after

    def _run(self, cell: Cell, xs: Tensor, state: State, dropout: Dropout | None) -> tuple[Tensor, State]:
        mask = None
        if dropout and isinstance(cell, GatedCell) and cell.weight_hh is not None:
            mask = dropout.weights(cell.weight_hh)
        with plugins.blamed(type(cell)):
            result = cell(xs, state) if mask is None else cell(xs, state, recurrent_mask=mask)
            return _checked(cell, xs, state, result)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The cells' own groups, and the norms; `layer` counts layers from 1."""
        groups: list[dict[str, Any]] = []
        for layer, (cell, norm) in enumerate(zip(self._cells(), self.norms, strict=True), start=1):
            with plugins.blamed(type(cell)):
                groups += [{**group, "layer": layer} for group in cell.parameter_groups()]
            groups.append({"params": list(norm.parameters()), "decay": 0.0, "rate": 1.0, "layer": layer})
        return groups


def _checked(cell: Cell, x: Tensor, before: State, result: Any) -> tuple[Tensor, State]:
    """Check what a cell returned for inputs (..., D). Raises TypeError unless it is an output and a state."""
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"{type(cell).__name__} returns {_kind(result)}, not an output and a state")
    y, after = result
    if not isinstance(y, Tensor) or y.shape != (*x.shape[:-1], cell.output_size):
        wanted = (*x.shape[:-1], cell.output_size)
        raise TypeError(f"{type(cell).__name__} returns {_kind(y)} as its output, not a tensor of shape {wanted}")
    if not isinstance(after, tuple) or len(after) != len(before):
        raise TypeError(f"{type(cell).__name__} returns {_kind(after)} as its state, not a tuple of {len(before)}")
    return y, after


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__} of {len(value)}" if isinstance(value, (tuple, list)) else type(value).__name__


@dataclass(frozen=True)
class Candidates:
    """Some token ids (N,), and a correction to the logit of each, (N,)."""

    ids: Tensor
    corrections: Tensor


class Readout(nn.Module):
    """Hidden state to logits: a linear layer, after a projection if tied weights have another width."""

    def __init__(self, input_size: int, output_size: int, tied_to: nn.Embedding | None = None) -> None:
        super().__init__()
        width = input_size if tied_to is None else tied_to.embedding_dim
        self.project: nn.Module = nn.Identity() if width == input_size else nn.Linear(input_size, width, bias=False)
        self.linear = nn.Linear(width, output_size)
        nn.init.zeros_(self.linear.bias)
        if tied_to is not None:
            self.linear.weight = tied_to.weight

    def forward(self, ys: Tensor, candidates: Candidates | None = None) -> Tensor:
        """The logits of all tokens, or the corrected logits of some candidates."""
        weight: Tensor = self.linear.weight
        bias: Tensor = self.linear.bias
        if candidates is not None:
            weight = weight.index_select(0, candidates.ids)
            bias = bias.index_select(0, candidates.ids) + candidates.corrections
        return linear(self.project(ys), weight, bias)


class Model(Cell):
    """Encoder, stack and readout at every time step. A language model maps ids (B,) or (T, B) to logits (...,
    vocab_size); a model of numbers reads (B, features) or (T, B, features)."""

    def __init__(self, encoder: nn.Embedding | nn.Linear, stack: Stack, readout: Readout) -> None:
        input_size = encoder.num_embeddings if isinstance(encoder, nn.Embedding) else encoder.in_features
        super().__init__(input_size, stack.hidden_size, readout.linear.out_features)
        self.encoder = encoder
        self.stack = stack
        self.readout = readout

    @property
    def models(self) -> list[Model]:
        """The members of an ensemble; this model itself otherwise."""
        return [self]

    def initial_state(self, batch_size: int) -> State:
        return self.stack.initial_state(batch_size)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self.stack.step(self.encoder(x), state)
        return self.readout(y), state

    def forward(
        self,
        xs: Tensor,
        state: State | None = None,
        dropout: Dropout | None = None,
        candidates: Candidates | None = None,
    ) -> tuple[Tensor, State]:
        """ids (T, B) to logits (T, B, vocab_size) and the final state; with N candidates, to their logits (T, B, N)."""
        embedded = self.encoder(xs)
        if dropout and isinstance(self.encoder, nn.Embedding):
            embedded = dropout.tokens(embedded, xs, self.input_size)
        ys, state = self.stack(embedded, state, dropout)
        return self.readout(dropout.units(ys) if dropout else ys, candidates), state

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The cells' own groups; of encoder and readout, weight decay applies to matrices and not to biases.

        `layer` is 0 for the encoder and highest for the readout, also for embeddings that are both.
        """
        above = list(self.readout.parameters())
        below = [p for p in self.encoder.parameters() if all(p is not other for other in above)]
        ends = {0: below, len(self.stack.norms) + 1: above}
        return self.stack.parameter_groups() + [
            {
                "params": [p for p in params if (p.dim() >= 2) == (decay > 0)],
                "decay": decay,
                "rate": 1.0,
                "layer": layer,
            }
            for layer, params in ends.items()
            for decay in (1.0, 0.0)
        ]


def _embedding_scale(config: ModelConfig) -> float:
    """The standard deviation of new token embeddings.

    With very small inputs the gates hardly see them, and an LSTM, in which three gates multiply, loses its first
    epochs; large ones are memorized sooner. Models of few outputs learn little about tokens, and start small.
    """
    if config.outputs:
        return float(config.embedding_size**-0.5)
    return TIED_LENGTH * float(config.embedding_size**-0.5) if config.tie_word_embeddings else 0.5


def build_model(config: ModelConfig, make_cell: CellFactory) -> Model:
    """A freshly initialised model of these sizes, its cells made by `make_cell(input_size, hidden_size)`."""
    encoder: nn.Embedding | nn.Linear
    if config.features:
        encoder = nn.Linear(config.features, config.embedding_size)
    else:
        encoder = nn.Embedding(config.vocab_size, config.embedding_size)
        nn.init.normal_(encoder.weight, std=_embedding_scale(config))
    cells: list[Cell] = []
    for layer in range(config.num_layers):
        input_size = cells[-1].output_size if layer else config.embedding_size
        cells.append(make_cell(input_size, config.hidden_size))
    stack = Stack(cells, residual=config.residual, layer_norm=config.layer_norm)
    tied_to = encoder if config.tie_word_embeddings and isinstance(encoder, nn.Embedding) else None
    readout = Readout(stack.output_size, config.output_size, tied_to)
    if config.features:  # the output corrects a prediction, and starts at zero
        nn.init.zeros_(readout.linear.weight)
    return Model(encoder, stack, readout)
