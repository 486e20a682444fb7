"""Several models as one: they read the same text side by side, each learns for itself, and their outputs are averaged.

Members differ in their first weights and in their dropout masks, so their errors differ, and the average makes fewer.
Since an ensemble is a model like any other, it is trained, resumed, stored and run in one go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from textgen.cells import Cell
from textgen.cells.engine import State
from textgen.model.stack import Candidates, Dropout, Model, Readout, Stack

MEMBER = "members."
"""How the names of a member's weights begin; its number and their own names follow."""


class Ensemble(Model):
    """The mean of the outputs of K models. While training, `forward` returns the outputs of all of them side by side,
    (T, B, K * outputs), so that each has a loss of its own."""

    def __init__(self, members: Sequence[Model]) -> None:
        first = members[0]
        Cell.__init__(self, first.input_size, first.hidden_size, first.output_size)
        self.members = nn.ModuleList(members)

    @property
    def models(self) -> list[Model]:
        return [member for member in self.members if isinstance(member, Model)]

    @property
    def encoder(self) -> nn.Embedding | nn.Linear:  # type: ignore[override]
        """That of the first member."""
        return self.models[0].encoder

    @property
    def stack(self) -> Stack:  # type: ignore[override]
        """That of the first member."""
        return self.models[0].stack

    @property
    def readout(self) -> Readout:  # type: ignore[override]
        """That of the first member."""
        return self.models[0].readout

    def _split(self, state: State) -> list[State]:
        """The flat state as one tuple per member; members are alike."""
        size = len(state) // len(self.members)
        return (
            [state[start : start + size] for start in range(0, len(state), size)] if size else [()] * len(self.members)
        )

    def initial_state(self, batch_size: int) -> State:
        return tuple(tensor for model in self.models for tensor in model.initial_state(batch_size))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        results = [model.step(x, own) for model, own in zip(self.models, self._split(state), strict=True)]
        return _mean([outputs for outputs, _ in results]), tuple(tensor for _, after in results for tensor in after)

    def forward(
        self,
        xs: Tensor,
        state: State | None = None,
        dropout: Dropout | None = None,
        candidates: Candidates | None = None,
    ) -> tuple[Tensor, State]:
        """As `Model.forward`, with the mean of the members' outputs; all of them while training."""
        state = self.initial_state(xs.shape[1]) if state is None else state
        results = [
            model(xs, own, dropout, candidates) for model, own in zip(self.models, self._split(state), strict=True)
        ]
        outputs = [each for each, _ in results]
        joined = torch.cat(outputs, dim=-1) if self.training else _mean(outputs)
        return joined, tuple(tensor for _, after in results for tensor in after)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [group for model in self.models for group in model.parameter_groups()]


def _mean(outputs: Sequence[Tensor]) -> Tensor:
    total = outputs[0]
    for each in outputs[1:]:
        total = total + each
    return total / len(outputs)
