"""A torch model behind arrays: what the loop and the evaluation drive. This is the reference for any other runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from textgen import threads
from textgen.errors import TextgenError
from textgen.model import Model
from textgen.recurrence import State
from textgen.stepper import Logits
from textgen.text.tokenizer import Ids


class TorchRows:
    """What every torch model behind arrays does with its state, a tuple of tensors (B, ...) that is opaque outside."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @property
    def _device(self) -> torch.device:
        return self._model.readout.linear.weight.device

    def initial_state(self, batch_size: int) -> State:
        with torch.inference_mode():
            return self._model.initial_state(batch_size)

    def select(self, state: State, indices: npt.NDArray[np.intp]) -> State:
        chosen = torch.from_numpy(indices).to(self._device)
        with torch.inference_mode():
            return tuple(part.index_select(0, chosen) for part in state)

    def concat(self, states: Sequence[State]) -> State:
        with torch.inference_mode():
            return tuple(torch.cat(parts) for parts in zip(*states, strict=True))

    @contextmanager
    def quiet(self, rows: int | None = None) -> Iterator[None]:
        """The model in eval mode, and no gradients; if it generates so many rows and they are few, in one thread."""
        limit = nullcontext() if rows is None else threads.few_rows(rows, with_torch=True)
        training = self._model.training
        self._model.eval()
        try:
            with torch.inference_mode(), limit:
                yield
        finally:
            self._model.train(training)


class TorchStepper(TorchRows):
    """`TokenStepper` over a torch model; ids come in and logits go out as numpy arrays, batch first."""

    def _ids(self, ids: Ids) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(ids.T, dtype=np.int32)).to(self._device)

    def step(self, ids: Ids, state: State) -> tuple[Logits, State]:
        with self.quiet(len(ids)):
            logits, state = self._model.step(self._ids(ids), state)
            return logits.float().cpu().numpy(), state

    def forward(self, ids: Ids, state: State) -> tuple[Logits, State]:
        with self.quiet(len(ids)):
            for chunk in self._ids(ids).split(1024):  # type: ignore[no-untyped-call]
                logits, state = self._model(chunk, state)
            return logits[-1].float().cpu().numpy(), state

    def outputs(self, ids: Ids, state: State) -> tuple[Logits, State]:
        """ids (B, T) and a state to the outputs at every time step, (T, B, V), and the state at the end."""
        with self.quiet():
            outputs, state = self._model(self._ids(ids), state)
            return outputs.float().cpu().numpy(), state

    def score(self, ids: Ids, targets: Ids, state: State) -> tuple[npt.NDArray[np.float64], State]:
        with self.quiet():
            logits, state = self._model(self._ids(ids), state)
            wanted = self._ids(targets).long()
            losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
            return -losses.view_as(wanted).t().cpu().double().numpy(), state

    def arrays(self, state: State) -> list[npt.NDArray[Any]]:
        return [tensor.cpu().numpy() for tensor in state]

    def from_arrays(self, arrays: Sequence[npt.NDArray[Any]]) -> State:
        wanted = [(array.shape, array.dtype) for array in self.arrays(self.initial_state(1))]
        if [(array.shape, array.dtype) for array in arrays] != wanted:
            raise TextgenError(f"a state of this model has {len(wanted)} tensors of other shapes or types.")
        return tuple(torch.from_numpy(array.copy()).to(self._device) for array in arrays)
