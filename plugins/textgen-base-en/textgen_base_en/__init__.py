"""A small LSTM that knows English from 172 books and modern texts."""

from collections.abc import Callable
from pathlib import Path

import textgen


@textgen.hookimpl
def register_models(register: Callable[[str, Path], None]) -> None:
    """Offer the model folder of this package."""
    register("base-en", Path(__file__).parent / "model")
