"""A torch model behind arrays of numbers, for the loop of forecasts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from textgen.recurrence import State
from textgen.torch_stepper import TorchRows

Floats32 = npt.NDArray[np.float32]


class TorchForecastStepper(TorchRows):
    """`textgen.series.loop.ForecastStepper` over a torch model: inputs (B, features) to outputs (B, outputs)."""

    def step(self, inputs: Floats32, state: State) -> tuple[Floats32, State]:
        with self.quiet():
            outputs, state = self._model.step(torch.from_numpy(np.ascontiguousarray(inputs)).to(self._device), state)
            return outputs.float().cpu().numpy(), state
