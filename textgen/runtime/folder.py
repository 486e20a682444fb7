"""Reading the stored step and the weights of a model folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from textgen import sealed
from textgen.model_folder import STEP, WEIGHTS
from textgen.runtime.graph import StepGraph
from textgen.runtime.int8 import SCALE, Int8Rows, suits
from textgen.runtime.nodes import TensorSpec
from textgen.runtime.stepper import NumpyStepper, Weights
from textgen.runtime.weights import largest_file, read_weights

LARGEST_STEP = 16 << 20
"""The largest `step.json` that is read, in bytes."""


def read_stepper(folder: Path, manifest: Mapping[str, Any], outputs: int, backend: str = "auto") -> NumpyStepper:
    """A stepper for a committed model folder: 'numpy' computes in float32, 'int8' in int8, 'auto' as stored.

    Raises DamagedError naming the file.
    """
    graph, weights = read_step(folder, manifest, outputs)
    int8 = backend == "int8" or (backend == "auto" and bool(graph.int8))
    if int8 and not graph.int8:
        weights = {
            name: Int8Rows.of(np.asarray(weight), name) if suits(graph.weights[name]) else weight
            for name, weight in weights.items()
        }
    return NumpyStepper(graph, weights, "int8" if int8 else "numpy")


def read_step(folder: Path, manifest: Mapping[str, Any], outputs: int) -> tuple[StepGraph, Weights]:
    """The stored step and weights of a committed model folder. Raises as `read_stepper`."""
    path = folder / STEP
    graph = StepGraph.from_json(
        sealed.parse_json(sealed.verified(folder, STEP, manifest, LARGEST_STEP), str(path)), str(path)
    )
    if graph.logits.shape[1] != outputs:
        raise sealed.DamagedError(f"{path} is damaged: it computes {graph.logits.shape[1]:,} logits, not {outputs:,}.")
    weights_path, specs = str(folder / WEIGHTS), _stored_specs(graph)
    read = read_weights(sealed.verified(folder, WEIGHTS, manifest, largest_file(specs)), weights_path, specs)
    int8 = {name: Int8Rows.read(read[name], read.pop(name + SCALE), f"{weights_path}: {name!r}") for name in graph.int8}
    return graph, {**read, **int8}


def _stored_specs(graph: StepGraph) -> dict[str, TensorSpec]:
    """The tensors of the weights file: codes and scales for int8 weights."""
    specs = dict(graph.weights)
    for name in graph.int8:
        shape = graph.weights[name].shape
        specs |= {name: TensorSpec("int8", shape), name + SCALE: TensorSpec("float32", shape[:-1])}
    return specs
