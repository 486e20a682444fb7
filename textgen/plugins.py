"""Finding plugins by entry point, loading them one by one, and naming the broken ones.

An entry point in group `textgen` gives one cell name (or alias) and the module that registers it. Listing reads
installed metadata only; a module is imported when one of its cells is asked for, and whatever it does then (fail to
import, exit, misspell a hook, claim a name that is taken) is that plugin's failure and nobody else's.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from textgen import hookspecs
from textgen.errors import TextgenError, UsageError, did_you_mean

if TYPE_CHECKING:
    from textgen.cell import Cell

GROUP = "textgen"
OWN_DISTRIBUTION = "textgen-lm"
RESTRICT = "TEXTGEN_LOAD_PLUGINS"


class PluginError(TextgenError):
    """A plugin that cannot be used; the message names it and its package."""


@dataclass(frozen=True)
class Entry:
    """One entry point: a cell name, the module that registers it, and the package that brought both."""

    name: str
    module: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"plugin {self.name!r} ({self.distribution} {self.version})"

    @property
    def summary(self) -> str:
        """The first line of the module's docstring, read from its source without importing it."""
        try:
            path = _source(self.module)
            docstring = ast.get_docstring(ast.parse(path.read_bytes())) if path else None
        except (OSError, SyntaxError, ValueError, ImportError, AttributeError):
            docstring = None
        return docstring.strip().splitlines()[0] if docstring and docstring.strip() else ""


def _source(module: str) -> Path | None:
    """The source file of a module, found without importing it or its parents."""
    top, *rest = module.split(".")
    spec = util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    if not rest:
        return path
    below = path.parent.joinpath(*rest)
    return next((p for p in (below.with_suffix(".py"), below / "__init__.py") if p.is_file()), None)


def _allowed(entry: Entry) -> bool:
    """Ours always; others as TEXTGEN_LOAD_PLUGINS says (packages or cell names, by comma; empty means none)."""
    names = os.environ.get(RESTRICT)
    if names is None or entry.distribution == OWN_DISTRIBUTION:
        return True
    wanted = {name.strip() for name in names.split(",")}
    return entry.name in wanted or _normal(entry.distribution) in {_normal(name) for name in wanted}


def _installed() -> Iterable[Entry]:
    """Every entry point of the group. Of a package found twice the first counts, which is the one that is imported."""
    seen: set[str] = set()
    for distribution in metadata.distributions():
        try:
            points = distribution.entry_points.select(group=GROUP)
            if not points:
                continue
            name, version = distribution.metadata["Name"] or "an unnamed package", distribution.version or "?"
        except Exception:  # a package with unreadable metadata is not ours to judge
            continue
        if _normal(name) not in seen:
            seen.add(_normal(name))
            yield from (Entry(point.name, point.module, name, version) for point in points)


def _normal(package: str) -> str:
    """A package's name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", package).lower()


def entries() -> dict[str, list[Entry]]:
    """Every installed cell name with the packages that claim it, by name; imports nothing."""
    found: dict[str, list[Entry]] = {}
    for entry in sorted(_installed(), key=lambda e: (e.name, e.distribution)):
        if _allowed(entry):
            found.setdefault(entry.name, []).append(entry)
    return found


def owner(name: str) -> Entry:
    """The one plugin that a cell name belongs to. Raises UsageError if unknown, PluginError if two claim it.

    A built-in name stays ours, whoever else claims it.
    """
    found = entries()
    if name not in found:
        raise UsageError(f"no cell named {name!r}.{did_you_mean(name, found)}", hint=f"installed: {', '.join(found)}.")
    claims = found[name]
    own = [entry for entry in claims if entry.distribution == OWN_DISTRIBUTION]
    if len(claims) > 1 and not own:
        packages = " and ".join(f"{entry.distribution} {entry.version}" for entry in claims)
        raise PluginError(f"cell {name!r} is claimed by {packages}.", hint="uninstall one, or set " + RESTRICT + ".")
    return own[0] if own else claims[0]


def refused_claims() -> list[tuple[Entry, str]]:
    """Entries that can never be used because their name belongs to another package, with the reason."""
    refused = []
    for name, claims in entries().items():
        packages = [f"{entry.distribution} {entry.version}" for entry in claims]
        own = any(entry.distribution == OWN_DISTRIBUTION for entry in claims)
        for entry, package in zip(claims, packages, strict=True):
            if len(claims) > 1 and not (own and entry.distribution == OWN_DISTRIBUTION):
                others = " and ".join(other for other in packages if other != package)
                refused.append((entry, f"the name {name!r} is taken by {others}"))
    return refused


@cache
def load_module(module: str) -> dict[str, type[Cell]]:
    """Import a plugin module and collect what it registers. Raises whatever is wrong with it, as PluginError.

    What it prints goes to standard error: standard output is for results.
    """
    registered: dict[str, type[Cell]] = {}
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    try:
        with redirect_stdout(sys.stderr):
            manager.register(import_module(module))
            manager.check_pending()
            manager.hook.register_cells(register=_collector(registered))
    except (Exception, SystemExit) as error:
        raise PluginError(_reason(error)) from error
    if not registered:
        raise PluginError("it registers no cell (is @textgen.hookimpl above register_cells?)")
    return registered


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it exits with {error.code!r}"
    text, kind = " ".join(str(error).split()), type(error).__name__
    if not text:
        return kind
    return text if isinstance(error, (ImportError, TextgenError)) else f"{kind}: {text}"


def _collector(registered: dict[str, type[Cell]]) -> hookspecs.Register:
    def register(name: str, cell: type[Cell]) -> None:
        from textgen.cell import Cell

        if not isinstance(name, str) or not name:
            raise TypeError(f"a cell's name must be text, not {name!r}")
        if not (isinstance(cell, type) and issubclass(cell, Cell)):
            raise TypeError(f"{name!r} must be a subclass of textgen.Cell, not {cell!r}")
        if name in registered:
            raise ValueError(f"{name!r} is registered twice")
        registered[name] = cell

    return register


def load(entry: Entry) -> type[Cell]:
    """The cell class behind an entry point. Raises PluginError naming the plugin, its package and the reason."""
    try:
        registered = load_module(entry.module)
    except PluginError as error:
        raise PluginError(
            f"cell {entry.name!r} comes from {entry.distribution} {entry.version}, which failed to load: {error}"
            f"{'' if str(error).endswith('.') else '.'}",
            hint="textgen plugins shows every plugin; TEXTGEN_RAISE_ERRORS=1 shows where it failed.",
        ) from error
    if entry.name not in registered:
        raise PluginError(
            f"{entry.distribution} {entry.version} has an entry point {entry.name!r}, but {entry.module} "
            f"registers {', '.join(map(repr, registered))}."
        )
    return registered[entry.name]


def unlisted(module: str) -> list[str]:
    """Names that a loaded module registers without having an entry point for them."""
    listed = {entry.name for entry in _installed() if entry.module == module}
    return sorted(set(load_module(module)) - listed)


def cell(name: str) -> type[Cell]:
    """The cell class of that name. Raises UsageError if there is none, PluginError if its plugin is broken.

    Example:
        >>> cell("lstm").gates
        4
    """
    return load(owner(name))
