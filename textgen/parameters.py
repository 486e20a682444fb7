"""How messages name parameters. The library names them as Python does, `max_steps=3`; the command line says once, in
`spelled_as`, that it spells them as flags, `--max-steps 3`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Spelling = Callable[[str, str | None], str]
"""From a parameter's name, and its value if that is to be shown, to what a message says."""


def as_python(name: str, value: str | None) -> str:
    """`max_steps`, or `max_steps=3`."""
    return name if value is None else f"{name}={value}"


def as_flags(name: str, value: str | None) -> str:
    """`--max-steps`, or `--max-steps 3`."""
    spelled = "-o" if name == "cell_options" else flag(name)
    return spelled if value is None else f"{spelled} {value}"


def flag(name: str) -> str:
    """A parameter's name as the command line spells it."""
    return "--" + name.replace("_", "-")


_spelling: ContextVar[Spelling] = ContextVar("spelling", default=as_python)


def named(name: str, value: object = None) -> str:
    """A parameter, with its value if one is given, as whoever called spells it."""
    return _spelling.get()(name, None if value is None else str(value))


def displayed(value: object) -> str:
    """A wrong value as a message shows it: plain ones as they are typed, others by their kind."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**1000:
        return "a number of more than 1,000 digits"
    if value is None or isinstance(value, (bool, int, float, str, bytes, list, tuple, dict, set, os.PathLike)):
        return repr(value)
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"


@contextmanager
def spelled_as(spelling: Spelling) -> Iterator[None]:
    """Spell parameters in this way within the context."""
    before = _spelling.set(spelling)
    try:
        yield
    finally:
        _spelling.reset(before)
