"""textgen: train a small recurrent language model on your own text and write more of it.

The public names below are imported when first used, so that `import textgen` costs nothing: torch, for one, takes
seconds.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textgen.cell import Cell, GatedCell, LinearCell
    from textgen.evaluate import evaluate
    from textgen.generate import generate, stream
    from textgen.hookspecs import Register, hookimpl
    from textgen.language_model import load
    from textgen.recurrence import State
    from textgen.train import train

_HOMES = {
    "Cell": "cell",
    "GatedCell": "cell",
    "LinearCell": "cell",
    "State": "recurrence",
    "Register": "hookspecs",
    "hookimpl": "hookspecs",
    "train": "train",
    "load": "language_model",
    "stream": "generate",
    "generate": "generate",
    "evaluate": "evaluate",
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
    "stream",
    "generate",
    "evaluate",
]


class _Package(ModuleType):
    """Keeps `textgen.generate` the function: importing the module of that name would put it in the function's place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'textgen' has no attribute {name!r}")
    value = getattr(import_module(f"textgen.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
