"""The files of a model folder that whoever uses a model reads. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textgen import sealed
from textgen.config import ModelConfig
from textgen.errors import TextgenError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
GENERATION = "generation_config.json"
STEP = "step.json"
LARGEST_HEADER = 4 << 20
"""Bytes that a file of weights may have besides its numbers."""


def read_config(folder: Path, manifest: Mapping[str, Any] | None = None) -> ModelConfig:
    """The configuration of a model folder. Raises TextgenError naming the file."""
    path = str(folder / CONFIG)
    try:
        return ModelConfig.from_json(
            sealed.parse_json(sealed.verified(folder, CONFIG, manifest, sealed.JSON_LIMIT), path)
        )
    except sealed.DamagedError:
        raise
    except TextgenError as error:
        raise TextgenError(f"{path}: {error}", hint=error.hint) from None


def task_of(folder: Path) -> str:
    """The task of the model in a folder, "lm" where there is none (which whoever opens it finds out)."""
    return read_config(folder).task if (folder / CONFIG).is_file() and (folder / sealed.MANIFEST).is_file() else "lm"


def require_weights(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise TextgenError if the folder of a run holds no weights yet."""
    if WEIGHTS not in manifest["files"]:
        raise TextgenError(
            f"{str(folder)!r} holds no weights yet.", hint=f"go on training: textgen train --resume {folder}"
        )
