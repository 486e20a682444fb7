"""The files of a model folder. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from textgen import sealed
from textgen.config import ModelConfig
from textgen.errors import TextgenError, did_you_mean
from textgen.text.reading import Reading

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
GENERATION = "generation_config.json"
STEP = "step.json"
_TRAIN = "train one: textgen train FILE"
LARGEST_HEADER = 4 << 20
"""The largest header of a weights file, in bytes."""


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


def require_model(folder: Path) -> None:
    """Raise TextgenError unless the folder exists and holds a model."""
    if not folder.is_dir():
        siblings = [each.name for each in sorted(folder.parent.glob("*")) if (each / CONFIG).is_file()]
        what = f"{str(folder)!r} is a file, not a model folder." if folder.exists() else None
        near = did_you_mean(folder.name, siblings)
        raise TextgenError(what or f"there is no model folder {str(folder)!r}.{near}", hint=_TRAIN)
    if not (folder / sealed.MANIFEST).exists():
        raise TextgenError(f"{str(folder)!r} is not a model folder (it has no {sealed.MANIFEST}).")
    if CONFIG not in sealed.read_manifest(folder)["files"]:
        raise TextgenError(f"{str(folder)!r} is not a model folder (it holds no {CONFIG}).")


def task_of(folder: Path) -> str:
    """The task of the model in a folder. Raises TextgenError for a folder without a model."""
    require_model(folder)
    return read_config(folder).task


def require_weights(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise TextgenError if a run folder holds no weights yet."""
    if WEIGHTS not in manifest["files"]:
        raise TextgenError(
            f"{str(folder)!r} holds no weights yet.", hint=f"go on training: textgen train --resume {folder}"
        )


def remembered_reading(folder: Path, asked: Mapping[str, Any]) -> Reading:
    """How the model in a folder reads text, overridden by what is asked. Without a model, or with a damaged one (which
    is reported when it is opened), only what is asked."""
    record: Mapping[str, Any] = {}
    with suppress(sealed.DamagedError):
        if (folder / CONFIG).is_file() and (folder / sealed.MANIFEST).is_file():
            record = read_config(folder).reading
    return Reading.of(record, asked)
