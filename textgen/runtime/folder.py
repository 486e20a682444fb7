"""The stored step of a model folder, with the folder's weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textgen import sealed
from textgen.model_folder import STEP, WEIGHTS
from textgen.runtime.graph import StepGraph
from textgen.runtime.int8 import SCALE, Int8Rows, suits
from textgen.runtime.nodes import Kind
from textgen.runtime.stepper import NumpyStepper, Weights
from textgen.runtime.weights import largest_file, read_weights

LARGEST_STEP = 16 << 20
"""Bytes of the longest `step.json` that is read."""


def read_stepper(folder: Path, manifest: Mapping[str, Any], outputs: int, backend: str = "auto") -> NumpyStepper:
    """What runs the model of a committed folder: 'numpy' in floats, 'int8' in eight bits, 'auto' as it is stored.
    Raises DamagedError naming the file."""
    graph, weights = read_step(folder, manifest, outputs)
    small = backend == "int8" or (backend == "auto" and bool(graph.int8))
    if small and not graph.int8:
        chosen = {name for name, kind in graph.weights.items() if suits(kind)}
        weights = {
            name: Int8Rows.of(weight, name) if name in chosen and not isinstance(weight, Int8Rows) else weight
            for name, weight in weights.items()
        }
    return NumpyStepper(graph, weights, "int8" if small else "numpy")


def read_step(folder: Path, manifest: Mapping[str, Any], outputs: int) -> tuple[StepGraph, Weights]:
    """The stored step of a committed folder and its weights, as they are stored. Raises as `read_stepper`."""
    path = folder / STEP
    graph = StepGraph.from_json(
        sealed.parse_json(sealed.verified(folder, STEP, manifest, LARGEST_STEP), str(path)), str(path)
    )
    if graph.logits.shape[1] != outputs:
        raise sealed.DamagedError(
            f"{path} is damaged: it gives {graph.logits.shape[1]:,} logits for {outputs:,} symbols."
        )
    where, kinds = str(folder / WEIGHTS), _stored_kinds(graph)
    read = read_weights(sealed.verified(folder, WEIGHTS, manifest, largest_file(kinds)), where, kinds)
    small = {name: Int8Rows.read(read[name], read.pop(name + SCALE), f"{where}: {name!r}") for name in graph.int8}
    return graph, {**read, **small}


def _stored_kinds(graph: StepGraph) -> dict[str, Kind]:
    """What the file of weights holds: of those in eight bits the codes and the scales."""
    kinds = dict(graph.weights)
    for name in graph.int8:
        shape = graph.weights[name].shape
        kinds |= {name: Kind("int8", shape), name + SCALE: Kind("float32", shape[:-1])}
    return kinds
