"""Where in somebody's code an exception comes from: the innermost frame of the modules that are theirs."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_EXHAUSTED = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")

_PACKAGES: dict[type, str] = {}
"""The package, with its version, that brought a class, of those that are not ours."""


def brought(kind: type, package: str) -> None:
    """Remember which package a class comes from."""
    _PACKAGES[kind] = package


def origin(kind: type) -> str:
    """' of textgen-mycell 1.0' for a class that another package than ours brought, else nothing."""
    return f" of {_PACKAGES[kind]}" if kind in _PACKAGES else ""


@dataclass(frozen=True)
class Place:
    """A line of code. `module` is the one asked for that it belongs to, `entered` the first function of the same
    package on the way there."""

    module: str
    file: str
    line: int
    entered: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def place_of(error: BaseException, modules: Iterable[str]) -> Place | None:
    """The innermost frame of an exception that belongs to one of these modules, or to a package that one is part of.

    Where several belong to one package, the module with the longest part of its name in common is taken.
    """
    asked = [module.split(".") for module in modules]
    found: tuple[str, str, int] | None = None
    entered: dict[str, str] = {}
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = str(frame.f_globals.get("__name__", "")).split(".")
        own = [parts for parts in asked if parts[0] == name[0]]
        if own:
            best = ".".join(_nearest(own, name))
            entered.setdefault(name[0], frame.f_code.co_name)
            found = best, _shortened(frame.f_code.co_filename, name[0]), line
    return Place(*found, entered[found[0].split(".")[0]]) if found else None


def _nearest(modules: list[list[str]], name: list[str]) -> list[str]:
    """The module that has most parts, from the left, in common with this name."""

    def common(parts: list[str]) -> int:
        return next((k for k, pair in enumerate(zip(parts, name, strict=False)) if pair[0] != pair[1]), len(parts))

    return max(modules, key=common)


def _shortened(filename: str, package: str) -> str:
    """A file below its package: textgen_mycell/cells.py, or mycell.py where the package is one file."""
    parts = Path(filename).parts
    if package in parts[:-1]:
        start = len(parts) - 1 - parts[::-1].index(package)
        return "/".join(parts[start:])
    return parts[-1] if parts else filename


def summary_of(error: BaseException) -> str:
    """The type of an exception and what it says, on one line."""
    return ": ".join(filter(None, [type(error).__name__, text_of(error)]))


def text_of(error: BaseException) -> str:
    """What an exception says, on one line; nothing where its own code fails to say it."""
    try:
        return " ".join(str(error).split())
    except Exception:
        return ""


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there is not enough memory, as Python or torch says it."""
    return isinstance(error, MemoryError) or any(words in text_of(error).lower() for words in _EXHAUSTED)
