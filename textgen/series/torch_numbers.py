"""A torch model behind numpy arrays, for forecasting."""

from __future__ import annotations

import numpy as np
import torch

from textgen.recurrence import State
from textgen.series.inputs import Floats32
from textgen.torch_stepper import TorchRows


class TorchForecastStepper(TorchRows):
    """`textgen.stepper.Stepper` over a torch model: inputs (B, features) to outputs (B, outputs)."""

    def step(self, inputs: Floats32, state: State) -> tuple[Floats32, State]:
        with self.quiet():
            outputs, state = self._model.step(torch.from_numpy(np.ascontiguousarray(inputs)).to(self._device), state)
            return outputs.float().cpu().numpy(), state
