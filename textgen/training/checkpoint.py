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

from torch import Tensor, nn

from textgen import files, sealed
from textgen.errors import TextgenError
from textgen.integrity import log_lines
from textgen.model_folder import WEIGHTS
from textgen.parameters import named
from textgen.recurrence import State
from textgen.weights import model_tensors, pack, unpack

ARGUMENTS = "training_args.json"
METRICS = "metrics.jsonl"
STATE = "trainer_state.json"
OPTIMIZER = "optimizer.safetensors"
AVERAGE = "average/"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


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
                f"{str(folder)!r} exists already.",
                hint=f"--resume goes on with it, {named('overwrite_output_dir')} replaces it.",
            ) from None
        return cls(folder)

    def arguments(self) -> dict[str, Any]:
        """The content of training_args.json, held to its digest."""
        return sealed.parse_json(sealed.verified(self.folder, ARGUMENTS), str(self.folder / ARGUMENTS))

    def commit_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Replace the content of training_args.json: all of it or nothing."""
        files.replace_in_folder(self.folder, ARGUMENTS, files.to_json(arguments))

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
