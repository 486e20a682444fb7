"""Opening a model folder, whatever its model is for: what `textgen.load` is."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import arguments
from textgen.config import BACKENDS
from textgen.language_model import LanguageModel
from textgen.language_model import load as load_stored
from textgen.model_folder import task_of

OPENERS = {"classify": "textgen.labels.predict", "forecast": "textgen.series.forecaster"}
"""The tasks whose models do not write, and the module whose `load` opens one."""


def load(folder: str | os.PathLike[str], backend: str = "auto") -> Any:
    """Open a model folder. Runs no code from it.

    A model that writes comes as a `textgen.language_model.LanguageModel`, one that labels texts as a
    `textgen.labels.predict.Classifier`, one that forecasts as a `textgen.series.forecaster.Forecaster`.

    With `backend` 'numpy' the step that is stored in the folder is run, with neither torch nor the cell's plugin; with
    'torch' the model is built of its cell, which must be installed; with 'int8' the stored step is run with weights in
    eight bits, by onnxruntime; 'auto' takes the stored step, as it is stored, where there is one. Raises TextgenError
    for a missing or damaged folder, naming the file, and for what the backend lacks.

    Example:
        >>> model = load("runs/demo")                                          # doctest: +SKIP
        >>> textgen.generate(model, "Once", max_new_tokens=20, seed=1)         # doctest: +SKIP
    """
    path = arguments.path("folder", folder)
    arguments.choice("backend", backend, BACKENDS)
    module = OPENERS.get(task_of(path))
    return import_module(module).load(path, backend) if module else load_language_model(path, backend)


def load_language_model(folder: Path, backend: str = "auto") -> LanguageModel:
    """Open the folder of a language model, which then finds the text that it was trained on. Raises as `load`, and for
    a model that predicts no tokens."""

    def training_ids() -> npt.NDArray[np.integer]:
        from textgen.training.train import training_ids_of

        return training_ids_of(folder)

    return replace(load_stored(folder, backend), training_ids=training_ids)
