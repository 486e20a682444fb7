"""A torch model behind arrays, for the loop of forecasts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from textgen.model import Model
from textgen.recurrence import State

Floats32 = npt.NDArray[np.float32]


class TorchRows:
    """`textgen.series.loop.Stepper` over a torch model: numbers come in and go out as numpy arrays, batch first."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @property
    def _device(self) -> torch.device:
        return self._model.readout.linear.weight.device

    def initial_state(self, batch_size: int) -> State:
        with torch.inference_mode():
            return self._model.initial_state(batch_size)

    def step(self, inputs: Floats32, state: State) -> tuple[Floats32, State]:
        with self.quiet():
            outputs, state = self._model.step(torch.from_numpy(np.ascontiguousarray(inputs)).to(self._device), state)
            return outputs.float().cpu().numpy(), state

    def rows(self, state: State, indices: npt.NDArray[np.intp]) -> State:
        chosen = torch.from_numpy(indices).to(self._device)
        with torch.inference_mode():
            return tuple(part.index_select(0, chosen) for part in state)

    def joined(self, states: Sequence[State]) -> State:
        with torch.inference_mode():
            return tuple(torch.cat(parts) for parts in zip(*states, strict=True))

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """The model in eval mode, and no gradients."""
        training = self._model.training
        self._model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self._model.train(training)
