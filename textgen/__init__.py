"""textgen: train a small recurrent language model on your own text and write more of it.

The public names below are imported when first used, so that `import textgen` costs nothing: torch, for one, takes
seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textgen.cells import Cell, GatedCell, LinearCell
    from textgen.cells.engine import State
    from textgen.errors import TextgenError
    from textgen.estimator import TextClassifier
    from textgen.evaluation import evaluate
    from textgen.forecasting import Forecaster
    from textgen.generation.generate import generate, stream
    from textgen.hookspecs import Register, hookimpl
    from textgen.loading import load
    from textgen.training.start import train

_HOMES = {
    "Cell": "cells",
    "GatedCell": "cells",
    "LinearCell": "cells",
    "State": "cells.engine",
    "Register": "hookspecs",
    "hookimpl": "hookspecs",
    "train": "training.start",
    "load": "loading",
    "TextClassifier": "estimator",
    "stream": "generation.generate",
    "generate": "generation.generate",
    "evaluate": "evaluation",
    "Forecaster": "forecasting",
    "TextgenError": "errors",
}

__version__ = "0.1.0"
__all__ = [  # noqa: RUF022 - in the order in which a reader meets them
    "Cell",
    "GatedCell",
    "LinearCell",
    "State",
    "Register",
    "hookimpl",
    "train",
    "load",
    "TextClassifier",
    "stream",
    "generate",
    "evaluate",
    "Forecaster",
    "TextgenError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'textgen' has no attribute {name!r}")
    value = getattr(import_module(f"textgen.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
