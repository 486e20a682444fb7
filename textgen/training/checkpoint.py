"""Run folders and model folders: what is stored where, in which form, and how it is read back.

A run folder is a model folder from its first second: configuration, tokenizer and arguments are committed before step
1, the best weights replace each other in `model.safetensors`, and `checkpoint-N/` holds all that is needed to go on.
Weights and training state are safetensors and JSON; nothing is pickled and nothing that is read is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from textgen import cell_options, files, plugins, sealed
from textgen.cell import Cell
from textgen.config import ModelConfig
from textgen.errors import TextgenError, UsageError
from textgen.integrity import log_lines
from textgen.model import Model, build_model
from textgen.model_folder import CONFIG, LARGEST_HEADER, WEIGHTS, require_weights
from textgen.recurrence import State

ARGUMENTS = "training_args.json"
METRICS = "metrics.jsonl"
STATE = "trainer_state.json"
OPTIMIZER = "optimizer.safetensors"
AVERAGE = "average/"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def make_model(config: ModelConfig) -> Model:
    """A freshly initialised model of this configuration. Raises TextgenError where its cell cannot be had, UsageError
    where the cell refuses a size or an option."""
    if config.cell not in plugins.entries():
        package = f"{config.cell_distribution} {config.cell_version}".strip()
        raise TextgenError(f"the model needs cell {config.cell!r} ({package}), which is not installed.")
    cell = plugins.cell(config.cell)
    options: dict[str, Any] = {**cell_options.parse(cell, config.cell, config.cell_options)}

    def make_cell(input_size: int, hidden_size: int) -> Cell:
        try:
            return cell(input_size, hidden_size, **options)
        except ValueError as error:
            raise UsageError(f"cell {config.cell!r} refuses: {str(error).rstrip('.')}.") from error

    return build_model(config, make_cell)


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
    """A model's parameters and saved buffers by name, each once: tied weights under their first name."""
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
            raise sealed.DamagedError(f"{name} does not fit its configuration: {key!r} is on one side only.")
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
    """Whether two tensors agree in shape and type."""
    return found.shape == expected.shape and found.dtype == expected.dtype


@dataclass(frozen=True)
class Checkpoint:
    """All that training needs to go on after `step` steps."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    carry: State
    state: dict[str, Any]
    average: dict[str, Tensor] = field(default_factory=dict)


class FolderTakenError(TextgenError):
    """A run was to go where something is already."""


class Run:
    """A run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, contents: Mapping[str, bytes]) -> Run:
        """Commit a new run folder with all that is known before step 1. Raises FolderTakenError if it exists."""
        try:
            with files.new_folder(folder) as new:
                for name, content in contents.items():
                    new.write(name, content)
        except FileExistsError:
            raise FolderTakenError(
                f"{str(folder)!r} exists already.", hint="--resume goes on with it, --overwrite-output-dir replaces it."
            ) from None
        return cls(folder)

    def arguments(self) -> dict[str, Any]:
        """The content of training_args.json, held to its digest."""
        return sealed.parse_json(sealed.verified(self.folder, ARGUMENTS), str(self.folder / ARGUMENTS))

    def publish(self, model: nn.Module) -> None:
        """Make these weights the model that the folder holds."""
        files.replace_in_folder(self.folder, WEIGHTS, pack(model_tensors(model)))

    def best_weights(self) -> dict[str, Tensor]:
        """The weights that were published last."""
        return unpack(sealed.verified(self.folder, WEIGHTS), str(self.folder / WEIGHTS))

    def checkpoints(self) -> list[int]:
        """The steps of the committed checkpoints, oldest first."""
        found = (_CHECKPOINT.fullmatch(path.name) for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(match.group(1)) for match in found if match)

    def save(self, checkpoint: Checkpoint, keep: int) -> Path:
        """Commit a checkpoint, and the metrics until then; then remove the oldest ones beyond `keep`."""
        if (self.folder / METRICS).exists():
            files.append(self.folder / METRICS, b"", durable=True)
        folder = self.folder / f"checkpoint-{checkpoint.step}"
        carry = {f"carry/{k}": tensor for k, tensor in enumerate(checkpoint.carry)}
        average = {f"{AVERAGE}{name}": tensor for name, tensor in checkpoint.average.items()}
        with files.new_folder(folder) as new:
            new.write(WEIGHTS, pack(checkpoint.weights))
            new.write(OPTIMIZER, pack({**checkpoint.optimizer, **average, **carry}))
            new.write(STATE, files.to_json(checkpoint.state))
        for step in self.checkpoints()[:-keep]:
            files.remove_folder(self.folder / f"checkpoint-{step}")
        return folder

    def load(self, step: int) -> Checkpoint:
        """Read one checkpoint. Raises DamagedError naming the file."""
        folder = self.folder / f"checkpoint-{step}"
        manifest = sealed.read_manifest(folder)
        read = {name: sealed.verified(folder, name, manifest) for name in (WEIGHTS, OPTIMIZER, STATE)}
        tensors = unpack(read[OPTIMIZER], str(folder / OPTIMIZER))
        carried = sorted(key for key in tensors if key.startswith("carry/"))
        carry = tuple(tensors.pop(f"carry/{k}") for k in range(len(carried)))
        average = {key: tensors.pop(key) for key in list(tensors) if key.startswith(AVERAGE)}
        state = sealed.parse_json(read[STATE], str(folder / STATE))
        average = {key.removeprefix(AVERAGE): tensor for key, tensor in average.items()}
        return Checkpoint(step, unpack(read[WEIGHTS], str(folder / WEIGHTS)), tensors, carry, state, average)

    def latest(self) -> tuple[Checkpoint | None, list[TextgenError]]:
        """The newest checkpoint that is whole, and what is wrong with the newer ones that were passed over."""
        wrong: list[TextgenError] = []
        for step in reversed(self.checkpoints()):
            try:
                return self.load(step), wrong
            except TextgenError as error:
                wrong.append(error)
        return None, wrong

    def go_back_to(self, step: int) -> None:
        """Drop what comes after a step and is going to be repeated: damaged checkpoints and metrics, those of the
        end of the run included, and a last line that was cut short. Call it only while holding the folder's lock.

        Raises TextgenError if there is a later checkpoint that is whole: another process has made it meanwhile.
        """
        for later in [found for found in self.checkpoints() if found > step]:
            try:
                self.load(later)
            except sealed.DamagedError:
                files.remove_folder(self.folder / f"checkpoint-{later}")
            else:
                raise TextgenError(f"another process has gone on with {str(self.folder)!r}.", hint="resume it again.")
        path = self.folder / METRICS
        if lines := log_lines(path):
            files.write_file(path, b"".join(line for line in lines if _is_metric_up_to(step, line)))

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        files.append(self.folder / METRICS, json.dumps(metrics, allow_nan=False).encode() + b"\n")


def _is_metric_up_to(step: int, line: bytes) -> bool:
    try:
        metrics = json.loads(line)
        return line.endswith(b"\n") and metrics["step"] <= step and not metrics.get("final")
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def load_weights(folder: Path, manifest: Mapping[str, Any], config: ModelConfig) -> Model:
    """The model of a folder: built, then filled with the stored weights. Raises TextgenError naming what is wrong."""
    require_weights(folder, manifest)
    with torch.device("meta"):  # sizes are compared before any memory is taken for them
        expected = model_tensors(make_model(config))
    largest = LARGEST_HEADER + sum(t.numel() * t.element_size() for t in expected.values())
    tensors = unpack(sealed.verified(folder, WEIGHTS, manifest, largest), str(folder / WEIGHTS))
    if any(tensor.dtype == torch.int8 for tensor in tensors.values()):
        raise TextgenError(
            f"{str(folder)!r} holds weights in eight bits, which torch does not run.",
            hint="take the folder that it was made from.",
        )
    sizes = {name: t.shape for name, t in expected.items()}
    if sizes != {name: t.shape for name, t in tensors.items()}:
        different = next(n for n in [*sizes, *tensors] if n not in tensors or sizes.get(n) != tensors[n].shape)
        raise sealed.DamagedError(f"{folder / WEIGHTS} does not fit {CONFIG}: {different!r} differs.")
    model = make_model(config)
    load_tensors(model, tensors, str(folder / WEIGHTS))
    return model.eval()
