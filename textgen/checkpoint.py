"""Run folders and model folders: what is stored where, in which form, and how it is read back.

A run folder is a model folder from its first second: configuration, tokenizer and arguments are committed before step
1, the best weights replace each other in `model.safetensors`, and `checkpoint-N/` holds all that is needed to go on.
Weights and training state are safetensors and JSON; nothing is pickled and nothing that is read is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from textgen import cell_options, files, plugins
from textgen.config import ModelConfig
from textgen.errors import TextgenError
from textgen.model import Model, build_model
from textgen.recurrence import State

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
ARGUMENTS = "training_args.json"
GENERATION = "generation_config.json"
METRICS = "metrics.jsonl"
STATE = "trainer_state.json"
OPTIMIZER = "optimizer.safetensors"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def make_model(config: ModelConfig) -> Model:
    """A freshly initialised model of this configuration. Raises UsageError or PluginError for its cell."""
    cell = plugins.cell(config.cell)
    options: dict[str, Any] = {**cell_options.parse(cell, config.cell, config.cell_options)}
    return build_model(config, lambda input_size, hidden_size: cell(input_size, hidden_size, **options))


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as the content of a safetensors file."""
    return safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def unpack(content: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file's content. Raises DamagedError naming the file."""
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise files.DamagedError(f"{name} is damaged: {error}.") from error


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
            raise files.DamagedError(f"{name} does not fit its configuration: {key!r} is on one side only.")
        found, expected = tensors[key], wanted[key]
        if found.shape != expected.shape or found.dtype != expected.dtype:
            raise files.DamagedError(
                f"{name} does not fit its configuration: {key!r} is {list(found.shape)} of {found.dtype}, "
                f"not {list(expected.shape)} of {expected.dtype}."
            )
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(tensors[key])


def named_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors as 'parameter/kind', so that they are found again whatever the order."""
    return {
        f"{name}/{kind}": value
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `named_optimizer_state`."""
    for name, parameter in model.named_parameters():
        kinds = {key.rpartition("/")[2]: t for key, t in tensors.items() if key.rpartition("/")[0] == name}
        optimizer.state[parameter] = {
            kind: t.to(parameter.device) if kind != "step" else t for kind, t in kinds.items()
        }


@dataclass(frozen=True)
class Checkpoint:
    """All that training needs to go on after `step` steps."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    carry: State
    state: dict[str, Any]


class Run:
    """A run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, contents: Mapping[str, bytes]) -> Run:
        """Commit a new run folder with all that is known before step 1. Raises TextgenError if the folder exists."""
        try:
            with files.new_folder(folder) as new:
                for name, content in contents.items():
                    new.write(name, content)
        except FileExistsError:
            raise TextgenError(
                f"{str(folder)!r} exists already.", hint="--resume goes on with it, --overwrite-output-dir replaces it."
            ) from None
        files.write_file(folder.parent / "latest", (folder.name + "\n").encode())
        return cls(folder)

    def arguments(self) -> dict[str, Any]:
        """The content of training_args.json, held to its digest."""
        return files.parse_json(files.verified(self.folder, ARGUMENTS), str(self.folder / ARGUMENTS))

    def publish(self, model: nn.Module) -> None:
        """Make these weights the model that the folder holds."""
        files.replace_in_folder(self.folder, WEIGHTS, pack(model_tensors(model)))

    def best_weights(self) -> dict[str, Tensor]:
        """The weights that were published last."""
        return unpack(files.verified(self.folder, WEIGHTS), str(self.folder / WEIGHTS))

    def checkpoints(self) -> list[int]:
        """The steps of the committed checkpoints, oldest first."""
        found = (_CHECKPOINT.fullmatch(path.name) for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(match.group(1)) for match in found if match)

    def save(self, checkpoint: Checkpoint, keep: int) -> Path:
        """Commit a checkpoint, then remove the oldest ones beyond `keep`."""
        folder = self.folder / f"checkpoint-{checkpoint.step}"
        if not folder.exists():
            carry = {f"carry/{k}": tensor for k, tensor in enumerate(checkpoint.carry)}
            with files.new_folder(folder) as new:
                new.write(WEIGHTS, pack(checkpoint.weights))
                new.write(OPTIMIZER, pack({**checkpoint.optimizer, **carry}))
                new.write(STATE, files.to_json(checkpoint.state))
        for step in self.checkpoints()[:-keep]:
            files.remove_folder(self.folder / f"checkpoint-{step}")
        return folder

    def load(self, step: int) -> Checkpoint:
        """Read one checkpoint. Raises DamagedError naming the file."""
        folder = self.folder / f"checkpoint-{step}"
        manifest = files.read_manifest(folder)
        read = {name: files.verified(folder, name, manifest) for name in (WEIGHTS, OPTIMIZER, STATE)}
        tensors = unpack(read[OPTIMIZER], str(folder / OPTIMIZER))
        carried = sorted(key for key in tensors if key.startswith("carry/"))
        carry = tuple(tensors.pop(f"carry/{k}") for k in range(len(carried)))
        state = files.parse_json(read[STATE], str(folder / STATE))
        return Checkpoint(step, unpack(read[WEIGHTS], str(folder / WEIGHTS)), tensors, carry, state)

    def latest(self) -> tuple[Checkpoint | None, list[TextgenError]]:
        """The newest checkpoint that is whole, and what is wrong with the newer ones that were passed over."""
        wrong: list[TextgenError] = []
        for step in reversed(self.checkpoints()):
            try:
                return self.load(step), wrong
            except TextgenError as error:
                wrong.append(error)
        return None, wrong

    def keep_metrics_up_to(self, step: int) -> None:
        """Drop metrics of steps that are going to be repeated, and a last line that was cut short."""
        path = self.folder / METRICS
        if not path.exists():
            return
        kept = []
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                if json.loads(line)["step"] <= step and line.endswith(b"\n"):
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue
        files.write_file(path, b"".join(kept))

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with open(self.folder / METRICS, "ab") as file:
            file.write(json.dumps(metrics, allow_nan=False).encode() + b"\n")


def read_config(folder: Path, manifest: Mapping[str, Any] | None = None) -> ModelConfig:
    """The configuration of a model folder. Raises TextgenError naming the file."""
    path = str(folder / CONFIG)
    try:
        return ModelConfig.from_json(files.parse_json(files.verified(folder, CONFIG, manifest), path))
    except files.DamagedError:
        raise
    except TextgenError as error:
        raise TextgenError(f"{path}: {error}", hint=error.hint) from None


def load_weights(folder: Path, manifest: Mapping[str, Any], config: ModelConfig) -> Model:
    """The model of a folder: built, then filled with the stored weights. Raises TextgenError naming what is wrong."""
    if WEIGHTS not in manifest["files"]:
        raise TextgenError(
            f"{str(folder)!r} holds no weights yet.", hint=f"go on training: textgen train --resume {folder}"
        )
    tensors = unpack(files.verified(folder, WEIGHTS, manifest), str(folder / WEIGHTS))
    with torch.device("meta"):  # sizes are compared before any memory is taken for them
        sizes = {name: t.shape for name, t in model_tensors(make_model(config)).items()}
    if sizes != {name: t.shape for name, t in tensors.items()}:
        different = next(n for n in [*sizes, *tensors] if n not in tensors or sizes.get(n) != tensors[n].shape)
        raise files.DamagedError(f"{folder / WEIGHTS} does not fit {CONFIG}: {different!r} differs.")
    model = make_model(config)
    load_tensors(model, tensors, str(folder / WEIGHTS))
    return model.eval()
