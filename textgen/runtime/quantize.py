"""A model folder's small sister: the same model, its matrices in eight bits, a quarter of the weights' size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from textgen import files, sealed
from textgen.errors import TextgenError
from textgen.model_folder import STEP, WEIGHTS, read_config, require_model, require_weights
from textgen.runtime.folder import read_step
from textgen.runtime.int8 import SCALE, Int8Rows, suits
from textgen.runtime.ops import Array

LEFT_OUT = (WEIGHTS, "training_args.json")
"""Weights are written anew; and what says how to train is of no use to a folder that cannot be trained further."""


def quantize(folder: Path, output: Path, replace_output: bool = False) -> tuple[int, int]:
    """Write `output`, a model folder as `folder` with weights in eight bits. Returns the bytes of both weights' files.

    Raises TextgenError for a folder that holds no step, is in eight bits already, or is damaged, and where `output`
    exists and is not to be replaced.
    """
    require_model(folder)
    manifest = sealed.read_manifest(folder)
    require_weights(folder, manifest)
    if STEP not in manifest["files"]:
        raise TextgenError(f"{str(folder)!r} holds no {STEP}, without which its weights are run by torch alone.")
    graph, weights = read_step(folder, manifest, read_config(folder, manifest).output_size)
    if graph.int8:
        raise TextgenError(f"{str(folder)!r} holds weights in eight bits already.")
    names = tuple(name for name, kind in graph.weights.items() if suits(kind))
    tensors = {name: np.asarray(weight) for name, weight in weights.items()}
    for name in names:
        rows = Int8Rows.of(tensors[name], name)
        tensors |= {name: rows.codes, name + SCALE: rows.scales}
    content = _safetensors(tensors)
    try:
        with files.new_folder(output, replace_output) as new:
            for name in manifest["files"].keys() - {*LEFT_OUT, STEP}:
                new.write(name, sealed.verified(folder, name, manifest))
            new.write(STEP, files.to_json(replace(graph, int8=names).to_json()))
            new.write(WEIGHTS, content)
    except FileExistsError:
        raise TextgenError(f"{str(output)!r} exists already.", hint="choose another name, or remove it.") from None
    return manifest["files"][WEIGHTS]["size"], len(content)


def _safetensors(tensors: dict[str, Array]) -> bytes:
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(array) for name, array in tensors.items()})
