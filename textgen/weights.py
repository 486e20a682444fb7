"""A model's weights: initialised from a configuration, saved as safetensors, and loaded from a model folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from textgen import cell_options, plugins, sealed
from textgen.cell import Cell
from textgen.config import ModelConfig
from textgen.errors import TextgenError
from textgen.model import Model, build_model
from textgen.model_folder import CONFIG, LARGEST_HEADER, WEIGHTS, require_weights


def make_model(config: ModelConfig) -> Model:
    """A newly initialised model of this configuration.

    Raises TextgenError if its cell is not available, and UsageError if the cell refuses a size or an option.
    """
    if config.cell not in plugins.entries():
        package = f"{config.cell_distribution} {config.cell_version}".strip()
        raise TextgenError(f"the model needs cell {config.cell!r} ({package}), which is not installed.")
    cell = plugins.cell(config.cell)
    options: dict[str, Any] = {**cell_options.parse(cell, config.cell, config.cell_options)}

    def make_cell(input_size: int, hidden_size: int) -> Cell:
        return plugins.make(cell, config.cell, input_size, hidden_size, options)

    return build_model(config, make_cell)


def load_weights(folder: Path, manifest: Mapping[str, Any], config: ModelConfig) -> Model:
    """The model of a folder with its stored weights. Raises TextgenError if the folder is damaged or does not fit."""
    require_weights(folder, manifest)
    with torch.device("meta"):  # compares sizes before memory is allocated
        expected = model_tensors(make_model(config))
    largest = LARGEST_HEADER + sum(t.numel() * t.element_size() for t in expected.values())
    tensors = unpack(sealed.verified(folder, WEIGHTS, manifest, largest), str(folder / WEIGHTS))
    if any(tensor.dtype == torch.int8 for tensor in tensors.values()):
        raise TextgenError(
            f"{str(folder)!r} has int8 weights, which torch cannot run.",
            hint="use the folder that it was made from.",
        )
    sizes = {name: t.shape for name, t in expected.items()}
    if sizes != {name: t.shape for name, t in tensors.items()}:
        different = next(n for n in [*sizes, *tensors] if n not in tensors or sizes.get(n) != tensors[n].shape)
        raise sealed.DamagedError(f"{folder / WEIGHTS} does not fit {CONFIG}: {different!r} differs.")
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
        raise sealed.DamagedError(f"{name} is damaged: {error}.") from error


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
            raise sealed.DamagedError(f"{name} does not fit its configuration: only one of them has {key!r}.")
        found, expected = tensors[key], wanted[key]
        if not is_like(found, expected):
            raise sealed.DamagedError(
                f"{name} does not fit its configuration: {key!r} is {list(found.shape)} of {found.dtype}, "
                f"not {list(expected.shape)} of {expected.dtype}."
            )
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(tensors[key])


def is_like(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors have the same shape and dtype."""
    return found.shape == expected.shape and found.dtype == expected.dtype
