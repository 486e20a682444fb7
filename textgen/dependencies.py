"""Packages that only some features need: which one is missing, what needs it, and how to install it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from textgen.errors import TextgenError

_NEEDED_FOR = {
    "torch": "training",
    "datasets": "reading data sets from the Hub",
    "huggingface_hub": "reading data sets from the Hub",
    "sentencepiece": "a subword tokenizer",
    "safetensors": "reading and writing weights",
    "pyarrow": "reading parquet and zstandard files",
    "matplotlib": "drawing a plot",
    "onnxruntime": "running weights in eight bits",
    "tensorboard": "--report-to tensorboard",
    "numpy": "running a model",
    "rich": "showing progress",
    "packaging": "comparing versions",
    "threadpoolctl": "setting the number of threads",
}
"""What needs each package, by its module name."""
_EXTRAS = {"matplotlib": "plot", "onnxruntime": "int8", "tensorboard": "tensorboard"}
"""Our extra that installs a package; others are installed by their own name."""


@contextmanager
def needed(package: str, purpose: str = "", instead: str = "") -> Iterator[None]:
    """A block that imports a package. Raises TextgenError with how to install it if that fails.

    `purpose` is what needs it, if not the usual feature; `instead` is an alternative.
    """
    try:
        yield
    except ImportError as error:
        raise _unusable(package, error, purpose, instead) from error


def require(package: str, purpose: str = "") -> None:
    """Raise TextgenError if a package is not installed. Imports nothing."""
    try:
        found = find_spec(package) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        raise _unusable(package, ModuleNotFoundError(name=package), purpose)


def missing(error: BaseException) -> TextgenError | None:
    """The error for a failed import, with how to install the package; None for any other error or package."""
    package = (error.name or "").split(".")[0] if isinstance(error, ImportError) else ""
    return _unusable(package, error) if package in _NEEDED_FOR else None


def _unusable(package: str, error: BaseException, purpose: str = "", instead: str = "") -> TextgenError:
    absent = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == package
    reason = " ".join(str(error).split()).removesuffix(".")
    state = "is not installed" if absent else f"cannot be imported ({reason})"
    extra = _EXTRAS.get(package)
    install = f"pip install 'textgen-lm[{extra}]'" if extra else f"pip install {package.replace('_', '-')}"
    return TextgenError(
        f"{purpose or _NEEDED_FOR[package]} needs {package.replace('_', '-')}, which {state}.",
        hint=f"{install}{f'; or {instead}' if instead else ''}",
    )
