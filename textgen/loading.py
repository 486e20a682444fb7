"""Opening model folders of any task: `textgen.load`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import options
from textgen.generation import language_model
from textgen.generation.language_model import LanguageModel
from textgen.model import BACKENDS, find_model
from textgen.tasks import task_of_model


def load(folder: str | os.PathLike[str], backend: str = "auto") -> Any:
    """Open a model folder: its path, the name of a run in `runs`, or the name of an installed model. Runs no code from
    the folder.

    The model's task decides the type of the result: a `textgen.generation.language_model.LanguageModel` if it generates
    text, a `textgen.tasks.classification.model.Classifier` if it classifies, a
    `textgen.tasks.forecasting.forecaster.ForecastModel` if it forecasts, and the class of another package's task.

    `backend` 'numpy' runs the step stored in the folder, without torch or the cell's plugin; 'torch' builds the model
    from its cell, which must be installed; 'int8' runs the stored step with int8 weights, using onnxruntime; 'auto'
    uses the stored step unchanged if there is one. Raises TextgenError for a missing or damaged folder, naming the
    file, and if the backend cannot run the model.

    Example:
        >>> model = load("runs/demo")                                          # doctest: +SKIP
        >>> textgen.generate(model, "Once", max_new_tokens=20, seed=1)         # doctest: +SKIP
    """
    path = find_model(options.path("folder", folder))
    model = task_of_model(path).load(path, options.choice("backend", backend, BACKENDS))
    return _with_training_text(model, path) if isinstance(model, LanguageModel) else model


def load_language_model(folder: Path, backend: str = "auto") -> LanguageModel:
    """Open the folder of a language model. Raises as `load`, and for a model of another kind."""
    return _with_training_text(language_model.load(folder, backend), folder)


def _with_training_text(model: LanguageModel, folder: Path) -> LanguageModel:
    """The model with access to its training text, which is read only when needed."""

    def training_ids() -> npt.NDArray[np.integer]:
        from textgen.training.stored_data import training_ids_of

        return training_ids_of(folder)

    return replace(model, training_ids=training_ids)
