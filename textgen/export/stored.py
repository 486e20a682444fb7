"""What every export is made of: the stored step and the weights of a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from textgen import storage
from textgen.errors import TextgenError
from textgen.loading import load
from textgen.model import STEP, read_config, require_model, require_weights
from textgen.options import named
from textgen.runtime import Weights, read_step
from textgen.runtime.graph import StepGraph, TensorSpec
from textgen.runtime.int8 import Int8Rows, suits
from textgen.runtime.ops import Array
from textgen.tasks.classification.model import Classifier
from textgen.tasks.classification.reading import LABELS


def read_model(folder: Path) -> tuple[StepGraph, Weights]:
    """The stored step and the weights of a model folder. Raises TextgenError if it holds none."""
    require_model(folder)
    manifest = storage.read_manifest(folder)
    require_weights(folder, manifest)
    if STEP not in manifest["files"]:
        raise TextgenError(f"{str(folder)!r} holds no {STEP}, of which every export is made; only torch can run it.")
    return read_step(folder, manifest, read_config(folder, manifest))


def facts_of(model: Any) -> dict[str, Any]:
    """What turns the outputs of a classifier into probabilities of labels; nothing for another model."""
    if not isinstance(model, Classifier):
        return {}
    facts = {"labels": list(model.labels), "pooling": model.pooling, "temperature": model.temperature}
    return {**facts, "multi_label": model.multi_label}


def facts_in(folder: Path) -> dict[str, Any]:
    """The same of a model folder; only a classifier is opened, since opening others may need more than is installed.
    Raises TextgenError for one that also has a linear model, which is no part of the step."""
    if LABELS not in storage.read_manifest(folder)["files"]:
        return {}
    model = load(folder)
    if isinstance(model, Classifier) and model.blend is not None:
        raise TextgenError(
            "this classifier adds the scores of a linear model of words, which an ONNX file cannot hold.",
            hint=f"export it as a page or as JavaScript, or train one with {named('ngrams', False)}.",
        )
    return facts_of(model)


def in_dtype(weight: Array | Int8Rows, spec: TensorSpec, name: str, dtype: str | None) -> Array | Int8Rows:
    """A weight as an export stores it: float32, float16 or int8 where that is asked for and it suits, by default as the
    model has it. Integers stay as they are."""
    if isinstance(weight, Int8Rows):
        if dtype in (None, "int8"):
            return weight
        weight = weight.floats
    if dtype == "int8" and suits(spec):
        return Int8Rows.of(weight, name)
    return weight.astype(np.float16) if dtype == "float16" and spec.dtype == "float32" else weight
