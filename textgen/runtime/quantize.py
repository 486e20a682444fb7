"""Quantizing a model folder: the same model with int8 matrices, at a quarter of the size."""

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
"""Files that are not copied: the weights are replaced, and an int8 model cannot be trained further."""


def quantize(folder: Path, output: Path, replace_output: bool = False) -> tuple[int, int]:
    """Write `output`, a copy of model folder `folder` with int8 weights. Returns both weight files' sizes in bytes.

    Raises TextgenError if `folder` has no stored step, is int8 already or is damaged, and if `output` exists and must
    not be replaced.
    """
    require_model(folder)
    manifest = sealed.read_manifest(folder)
    require_weights(folder, manifest)
    if STEP not in manifest["files"]:
        raise TextgenError(f"{str(folder)!r} holds no {STEP}; only torch can run it.")
    graph, weights = read_step(folder, manifest, read_config(folder, manifest).output_size)
    if graph.int8:
        raise TextgenError(f"{str(folder)!r} already has int8 weights.")
    names = tuple(name for name, spec in graph.weights.items() if suits(spec))
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
