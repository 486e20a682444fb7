"""base-en, a small LSTM that has read some two hundred English books: a start for models of short texts."""

from collections.abc import Callable
from pathlib import Path

import textgen


@textgen.hookimpl
def register_models(register: Callable[[str, Path], None]) -> None:
    """Offer the model folder of this package."""
    register("base-en", Path(__file__).parent / "model")
