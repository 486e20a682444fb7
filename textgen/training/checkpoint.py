"""Run folders: what is stored where, and how it is read back.

A run folder is a model folder from the start: configuration, tokenizer and arguments are committed before step 1,
`model.safetensors` holds the best weights so far, and `checkpoint-N/` holds everything needed to continue. Weights and
training state are safetensors and JSON; nothing is pickled, and nothing that is read is executed.
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
    """Everything that training needs to continue after `step` steps."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    hidden: State
    state: dict[str, Any]
    average: dict[str, Tensor] = field(default_factory=dict)


class FolderTakenError(TextgenError):
    """The folder of a new run exists already."""


class Run:
    """A run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, contents: Mapping[str, bytes]) -> Run:
        """Commit a new run folder with everything known before step 1. Raises FolderTakenError if it exists."""
        try:
            with files.new_folder(folder) as new:
                for name, content in contents.items():
                    new.write(name, content)
        except FileExistsError:
            raise FolderTakenError(
                f"{str(folder)!r} exists already.",
                hint=f"--resume continues it, {named('overwrite_output_dir')} replaces it.",
            ) from None
        return cls(folder)

    def arguments(self) -> dict[str, Any]:
        """The content of training_args.json, verified against its checksum."""
        return sealed.parse_json(sealed.verified(self.folder, ARGUMENTS), str(self.folder / ARGUMENTS))

    def commit_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Replace the content of training_args.json atomically."""
        files.replace_in_folder(self.folder, ARGUMENTS, files.to_json(arguments))

    def publish(self, model: nn.Module) -> None:
        """Store these weights as the model of the folder."""
        files.replace_in_folder(self.folder, WEIGHTS, pack(model_tensors(model)))

    def best_weights(self) -> dict[str, Tensor]:
        """The weights published last."""
        return unpack(sealed.verified(self.folder, WEIGHTS), str(self.folder / WEIGHTS))

    def checkpoints(self) -> list[int]:
        """The steps of the committed checkpoints, oldest first."""
        found = (_CHECKPOINT.fullmatch(path.name) for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(match.group(1)) for match in found if match)

    def save(self, checkpoint: Checkpoint, keep: int) -> Path:
        """Commit a checkpoint and the metrics so far; then remove the oldest checkpoints beyond `keep`."""
        if (self.folder / METRICS).exists():
            files.append(self.folder / METRICS, b"", durable=True)
        folder = self.folder / f"checkpoint-{checkpoint.step}"
        hidden = {f"hidden/{k}": tensor for k, tensor in enumerate(checkpoint.hidden)}
        average = {f"{AVERAGE}{name}": tensor for name, tensor in checkpoint.average.items()}
        with files.new_folder(folder) as new:
            new.write(WEIGHTS, pack(checkpoint.weights))
            new.write(OPTIMIZER, pack({**checkpoint.optimizer, **average, **hidden}))
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
        names = sorted(key for key in tensors if key.startswith("hidden/"))
        hidden = tuple(tensors.pop(f"hidden/{k}") for k in range(len(names)))
        average = {key: tensors.pop(key) for key in list(tensors) if key.startswith(AVERAGE)}
        state = sealed.parse_json(read[STATE], str(folder / STATE))
        average = {key.removeprefix(AVERAGE): tensor for key, tensor in average.items()}
        return Checkpoint(step, unpack(read[WEIGHTS], str(folder / WEIGHTS)), tensors, hidden, state, average)

    def latest(self) -> tuple[Checkpoint | None, list[TextgenError]]:
        """The newest intact checkpoint, and the errors of newer, damaged ones."""
        wrong: list[TextgenError] = []
        for step in reversed(self.checkpoints()):
            try:
                return self.load(step), wrong
            except TextgenError as error:
                wrong.append(error)
        return None, wrong

    def go_back_to(self, step: int) -> None:
        """Drop everything after a step that will be repeated: damaged checkpoints, metrics (those of the end of the run
        included) and an incomplete last line. Call it only while holding the folder's lock.

        Raises TextgenError if there is a later intact checkpoint: another process has written it in the meantime.
        """
        for later in [found for found in self.checkpoints() if found > step]:
            try:
                self.load(later)
            except sealed.DamagedError:
                files.remove_folder(self.folder / f"checkpoint-{later}")
            else:
                raise TextgenError(
                    f"another process has continued the run in {str(self.folder)!r}.", hint="resume it again."
                )
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
