"""What every export is made of: the stored step and the weights of a model folder."""

from __future__ import annotations

from pathlib import Path

from textgen import storage
from textgen.errors import TextgenError
from textgen.model import STEP, read_config, require_model, require_weights
from textgen.runtime import Weights, read_step
from textgen.runtime.graph import StepGraph


def read_model(folder: Path) -> tuple[StepGraph, Weights]:
    """The stored step and the weights of a model folder. Raises TextgenError if it holds none."""
    require_model(folder)
    manifest = storage.read_manifest(folder)
    require_weights(folder, manifest)
    if STEP not in manifest["files"]:
        raise TextgenError(f"{str(folder)!r} holds no {STEP}, of which every export is made; only torch can run it.")
    return read_step(folder, manifest, read_config(folder, manifest))
