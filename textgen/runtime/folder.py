"""The stored step of a model folder, with the folder's weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textgen import files
from textgen.model_folder import STEP, WEIGHTS
from textgen.runtime.graph import StepGraph
from textgen.runtime.stepper import NumpyStepper
from textgen.runtime.weights import read_weights

LARGEST_STEP = 16 << 20
"""Bytes of the longest `step.json` that is read."""


def read_stepper(folder: Path, manifest: Mapping[str, Any], vocab_size: int) -> NumpyStepper:
    """What runs the model of a committed folder. Raises DamagedError naming the file."""
    path = folder / STEP
    if manifest["files"][STEP]["size"] > LARGEST_STEP:
        raise files.DamagedError(f"{path} is damaged: it has more than {LARGEST_STEP:,} bytes.")
    graph = StepGraph.from_json(files.parse_json(files.verified(folder, STEP, manifest), str(path)), str(path))
    if graph.logits.shape[1] != vocab_size:
        raise files.DamagedError(
            f"{path} is damaged: it gives {graph.logits.shape[1]:,} logits for {vocab_size:,} symbols."
        )
    weights = read_weights(files.verified(folder, WEIGHTS, manifest), str(folder / WEIGHTS), graph.weights)
    return NumpyStepper(graph, weights)
