"""A model's weights: built from a configuration, packed as safetensors, read back, run, and converted.

`TorchStepper` puts a torch model behind arrays. It is the reference for any other runtime.

Weights convert from and to `torch.nn.RNN`, `LSTM` and `GRU`: the same matrices under two sets of names.

Example:
    >>> import torch
    >>> from textgen import plugins
    >>> from textgen.model.stack import Stack
    >>> theirs = torch.nn.GRU(3, 4, num_layers=2)
    >>> gru = plugins.cell("gru")
    >>> ours = Stack([gru(3, 4), gru(4, 4)])
    >>> ours.load_state_dict(from_torch(theirs.state_dict()))
    <All keys matched successfully>
    >>> sorted(to_torch(ours.state_dict())) == sorted(theirs.state_dict())
    True
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from textgen import cells, plugins, storage, threads
from textgen.cells import Cell
from textgen.cells.engine import State
from textgen.data.tokenizers.base import Ids
from textgen.errors import TextgenError
from textgen.model import CONFIG, LARGEST_HEADER, WEIGHTS, ModelConfig, require_weights
from textgen.model.ensemble import Ensemble
from textgen.model.stack import Model, build_model
from textgen.model.stepper import Logits


def make_model(config: ModelConfig) -> Model:
    """A newly initialised model of this configuration.

    Raises TextgenError if its cell is not available, and UsageError if the cell refuses a size or an option.
    """
    if config.cell not in plugins.entries():
        package = f"{config.cell_distribution} {config.cell_version}".strip()
        raise TextgenError(f"the model needs cell {config.cell!r} ({package}), which is not installed.")
    cell = plugins.cell(config.cell)
    options: dict[str, Any] = {**cells.parse(cell, config.cell, config.cell_options)}

    def make_cell(input_size: int, hidden_size: int) -> Cell:
        return plugins.make(cell, config.cell, input_size, hidden_size, options)

    if config.members > 1:
        return Ensemble([build_model(config, make_cell) for _ in range(config.members)])
    return build_model(config, make_cell)


def load_weights(folder: Path, manifest: Mapping[str, Any], config: ModelConfig) -> Model:
    """The model of a folder with its stored weights. Raises TextgenError if the folder is damaged or does not fit."""
    require_weights(folder, manifest)
    with torch.device("meta"):  # compares sizes before memory is allocated
        expected = model_tensors(make_model(config))
    largest = LARGEST_HEADER + sum(t.numel() * t.element_size() for t in expected.values())
    tensors = unpack(storage.verified(folder, WEIGHTS, manifest, largest), str(folder / WEIGHTS))
    if any(tensor.dtype == torch.int8 for tensor in tensors.values()):
        raise TextgenError(
            f"{str(folder)!r} has int8 weights, which torch cannot run.", hint="use the folder that it was made from."
        )
    tensors = {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}
    sizes = {name: t.shape for name, t in expected.items()}
    if sizes != {name: t.shape for name, t in tensors.items()}:
        different = next(n for n in [*sizes, *tensors] if n not in tensors or sizes.get(n) != tensors[n].shape)
        raise storage.DamagedError(f"{folder / WEIGHTS} does not fit {CONFIG}: {different!r} differs.")
    model = make_model(config)
    load_tensors(model, tensors, str(folder / WEIGHTS))
    return model.eval()


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as the content of a safetensors file."""
    return safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def unpack(content: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file's content. Raises DamagedError naming the file."""
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise storage.DamagedError(f"{name} is damaged: {error}.") from error


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters and saved buffers by name; tied weights only under their first name."""
    seen: dict[int, str] = {}
    tensors = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen[id(tensor)] = name
            tensors[name] = tensor
    return tensors


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Copy tensors into a model. Raises DamagedError naming the file and the first tensor that does not fit."""
    wanted = model_tensors(model)
    for key in [*wanted, *tensors]:
        if key not in tensors or key not in wanted:
            raise storage.DamagedError(f"{name} does not fit its configuration: only one of them has {key!r}.")
        found, expected = tensors[key], wanted[key]
        if not is_like(found, expected):
            raise storage.DamagedError(
                f"{name} does not fit its configuration: {key!r} is {list(found.shape)} of {found.dtype}, "
                f"not {list(expected.shape)} of {expected.dtype}."
            )
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(tensors[key])


def is_like(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors have the same shape and dtype."""
    return found.shape == expected.shape and found.dtype == expected.dtype


def from_torch(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a `Stack` of `rnn`, `lstm` or `gru` cells from that of the corresponding torch module.

    Raises ValueError for a bidirectional or projected module, which have no equivalent here.
    """
    pattern, name = r"((?:weight|bias)_(?:ih|hh))_l(\d+)", r"layers.\2.\1"
    return _renamed(state_dict, pattern, name, "a one-directional stack without projection")


def to_torch(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_torch`.

    Raises ValueError for parameters that torch's modules do not have, such as layer norms.
    """
    pattern, name = r"layers\.(\d+)\.((?:weight|bias)_(?:ih|hh))", r"\2_l\1"
    return _renamed(state_dict, pattern, name, "torch.nn.RNN, LSTM or GRU")


def _renamed(state_dict: Mapping[str, Tensor], pattern: str, new: str, module: str) -> dict[str, Tensor]:
    """The tensors under new names. Raises ValueError for a name that does not match the pattern."""
    renamed = {}
    for name, tensor in state_dict.items():
        match = re.fullmatch(pattern, name)
        if not match:
            raise ValueError(f"{name!r} has no equivalent in {module}")
        renamed[match.expand(new)] = tensor
    return renamed


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
