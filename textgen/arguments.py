"""Arguments of the Python functions, held to what they may be: each error names the parameter and shows the value.

What means the same is taken for it: `plain` makes a number of numpy one of Python, a path a text.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

from textgen.errors import UsageError
from textgen.options import Declaration, check_value, plain
from textgen.parameters import displayed, named

Model = TypeVar("Model")


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """A whole number within limits. Raises UsageError."""
    found: int = check_value(named(name), plain(value), int, Declaration("", low=low, high=high))
    return found


def number(name: str, value: Any, above: float, high: float) -> float:
    """A finite number above one limit and at most another. Raises UsageError."""
    found: float = check_value(named(name), plain(value), float, Declaration("", above=above, high=high))
    return found


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of several words. Raises UsageError."""
    found: str = check_value(named(name), plain(value), str, Declaration("", choices=choices))
    return found


def flag(name: str, value: Any) -> bool:
    """True or false. Raises UsageError."""
    found: bool = check_value(named(name), plain(value), bool, Declaration(""))
    return found


def text(name: str, value: Any) -> str:
    """Text. Raises UsageError for anything else, bytes included."""
    if not isinstance(value, str):
        raise UsageError(f"{named(name)} must be text, not {displayed(value)}.")
    return str.__str__(value)


def utf8(name: str, value: Any) -> bytes:
    """Text, as UTF-8. Raises UsageError for anything else, and for half a character."""
    found = text(name, value)
    if bad := next((c for c in found if 0xD800 <= ord(c) <= 0xDFFF), None):
        raise UsageError(f"{named(name)} must be UTF-8 text, but holds half a character (U+{ord(bad):04X}).")
    return found.encode()


def content(name: str, value: Any) -> bytes:
    """Bytes, in any of the forms that Python has for them. Raises UsageError for anything else, text included."""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise UsageError(f"{named(name)} must be bytes, not {displayed(value)}.")
    return bytes(value)


def text_bytes(name: str, value: Any) -> bytes:
    """The bytes of a text. Raises UsageError for what is neither text nor bytes."""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise UsageError(f"{named(name)} must be text or a path, not {displayed(value)}.")
    return bytes(value)


def optional_text(name: str, value: Any) -> str | None:
    """Text or None. Raises UsageError."""
    return None if value is None else text(name, plain(value))


def path(name: str, value: Any) -> Path:
    """The path of a file or folder. Raises UsageError for anything else, and for what no path can hold."""
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{named(name)} must be a path, not {displayed(value)}.")
    found = plain(value)
    if not found or "\0" in found:
        raise UsageError(f"{named(name)} must be a path, not {found!r}.")
    return Path(found)


def writer(value: Model) -> Model:
    """A model that writes text. Raises UsageError for a model of another task, with what that is used with, and for
    what is no model."""
    if hasattr(value, "encode_prompt") and hasattr(value, "stepper"):
        return value
    uses = {"classify": 'classifier.classify(["..."])', "predict": "forecaster.predict(TABLE)"}
    use = next((use for method, use in uses.items() if hasattr(value, method)), None)
    if use is not None:
        raise UsageError(
            f"{named('model')} must be a model that writes text, not a {type(value).__name__}.",
            hint=f"{use} and .evaluate(TABLE) use that.",
        )
    is_path = isinstance(value, (str, os.PathLike))
    hint = "textgen.load(FOLDER) gives one." if is_path or value is None else None
    raise UsageError(
        f"{named('model')} must be a model that textgen.load has opened, not {displayed(value)}.", hint=hint
    )
