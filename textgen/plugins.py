"""Finding plugins by entry point, loading them one by one, and naming the broken ones.

An entry point in group `textgen` gives one cell name (or alias) and the module that registers it. Listing reads
installed metadata only; a module is imported when one of its cells is asked for, and whatever it does then (fail to
import, exit, misspell a hook, claim a name that is taken) is that plugin's failure and nobody else's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

import pluggy

from textgen import hookspecs
from textgen.attribution import brought, out_of_memory, place_of, summary_of, text_of
from textgen.errors import TextgenError, UsageError, did_you_mean
from textgen.plugin_metadata import GROUP, installed_entries, normal
from textgen.plugin_metadata import OWN_DISTRIBUTION as OWN_DISTRIBUTION
from textgen.plugin_metadata import Entry as Entry

if TYPE_CHECKING:
    from textgen.cell import Cell

RESTRICT = "TEXTGEN_LOAD_PLUGINS"
_strangers: dict[type[Cell], Entry] = {}
"""Cells of other packages that this process has loaded."""
_LAWS = {
    **{name: name for name in ("initial_state", "parameter_groups")},
    "__init__": "sizes",
    "backward": "gradcheck",
    "__deepcopy__": "copied",
    "forward": "forward_matches_step",
    **dict.fromkeys(("step", "activate", "coefficients", "readout"), "state_structure"),
}
"""The law of `textgen.testing` that tries a method of a cell first."""


class PluginError(TextgenError):
    """A plugin that cannot be used, or whose cell failed at work; the message names it and its package."""


def _allowed(entry: Entry) -> bool:
    """Ours always; others as TEXTGEN_LOAD_PLUGINS says (packages or cell names, by comma; empty means none)."""
    names = os.environ.get(RESTRICT)
    if names is None or entry.distribution == OWN_DISTRIBUTION:
        return True
    wanted = {name.strip() for name in names.split(",")}
    return entry.name in wanted or normal(entry.distribution) in {normal(name) for name in wanted}


def entries() -> dict[str, list[Entry]]:
    """Every installed cell name with the packages that claim it, by name; imports nothing."""
    found: dict[str, list[Entry]] = {}
    for entry in sorted(installed_entries(), key=lambda e: (e.name, e.distribution)):
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
    claims = _rivals(found[name])
    if len(claims) > 1:
        packages = " and ".join(entry.package for entry in claims)
        raise PluginError(f"cell {name!r} is claimed by {packages}.", hint=f"uninstall one, or set {RESTRICT}.")
    return claims[0]


def _rivals(claims: list[Entry]) -> list[Entry]:
    """Those of the packages with one cell name that have a claim to it: ours alone; else all usable ones."""
    own = [entry for entry in claims if entry.distribution == OWN_DISTRIBUTION]
    return own[:1] or [entry for entry in claims if not entry.problem] or claims[:1]


def refusals() -> list[tuple[Entry, str]]:
    """Entries that cannot be used, as far as metadata tells, with the reason."""
    refused = []
    for name, claims in entries().items():
        rivals = _rivals(claims)
        for entry in claims:
            others = " and ".join(other.package for other in rivals if other != entry)
            taken = f"the name {name!r} is taken by {others}" if others else ""
            if reason := entry.problem or taken or entry.refusal:
                refused.append((entry, reason))
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
        raise PluginError(_reason(error, module)) from error
    if not registered:
        raise PluginError("it registers no cell (is @textgen.hookimpl above register_cells?)")
    return registered


def _reason(error: BaseException, module: str) -> str:
    """What went wrong while a module was loaded, and where in it."""
    place = None if isinstance(error, (SyntaxError, TextgenError)) else place_of(error, [module])
    where = f" ({place})" if place else ""
    if isinstance(error, SystemExit):
        return f"it exits with {error.code!r}{where}"
    plain = isinstance(error, (ImportError, TextgenError)) and text_of(error)
    return f"{plain or summary_of(error)}{where}"


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
    if entry.refusal:
        raise _failed_to_load(entry, entry.refusal)
    try:
        registered = load_module(entry.module)
    except PluginError as error:
        raise _failed_to_load(entry, f"{error}{f' ({entry.notice})' if entry.notice else ''}") from error
    if entry.name not in registered:
        raise PluginError(
            f"{entry.package} has an entry point {entry.name!r}, but {entry.module} "
            f"registers {', '.join(map(repr, registered))}.",
            hint=f"register it under this name, or uninstall {entry.distribution}.",
        )
    if entry.distribution != OWN_DISTRIBUTION:
        _strangers[registered[entry.name]] = entry
        brought(registered[entry.name], entry.package)
    return registered[entry.name]


def _failed_to_load(entry: Entry, reason: str) -> PluginError:
    return PluginError(
        f"cell {entry.name!r} comes from {entry.package}, which failed to load: {reason.removesuffix('.')}.",
        hint="textgen plugins shows every plugin; TEXTGEN_RAISE_ERRORS=1 shows where it failed.",
    )


def unlisted(module: str) -> list[str]:
    """Names that a loaded module registers without having an entry point for them."""
    listed = {entry.name for entry in installed_entries() if entry.module == module}
    return sorted(set(load_module(module)) - listed)


def cell(name: str) -> type[Cell]:
    """The cell class of that name. Raises UsageError if there is none, PluginError if its plugin is broken.

    Example:
        >>> cell("lstm").gates
        4
    """
    return load(owner(name))


def make(
    cell: type[Cell], name: str, input_size: int, hidden_size: int, options: Mapping[str, bool | int | float | str]
) -> Cell:
    """A cell of these sizes and options. Raises UsageError where it refuses them with a ValueError, PluginError where
    its constructor fails in any other way."""
    construct: Callable[..., Cell] = cell
    with blamed(cell):
        try:
            return construct(input_size, hidden_size, **options)
        except TextgenError:
            raise
        except ValueError as error:
            raise UsageError(f"cell {name!r} refuses: {text_of(error).removesuffix('.')}.") from error


def attributed(error: BaseException, using: type[Cell] | None = None) -> PluginError | None:
    """The exception as the failure of the plugin whose code raised it: the package, the line and what to run.

    `using` is the cell that was at work, where that is known; it answers for what it makes other code raise, too.
    None for an exception in which no plugin has a part, and for those that explain themselves.
    """
    if isinstance(error, TextgenError) or out_of_memory(error):
        return None
    by_module = {entry.module: entry for entry in _strangers.values()}
    place = place_of(error, by_module)
    entry = _strangers.get(using) if using else None
    if place and (entry is None or entry.module != place.module):
        entry = by_module[place.module]
    if entry is None:
        return None
    law = _LAWS.get(place.entered) if place else None
    return PluginError(
        f"cell {entry.name!r} of {entry.package} failed{f' at {place}' if place else ''}: "
        f"{summary_of(error).removesuffix('.')}.",
        hint=f"textgen plugins check {entry.name}{f' --law {law}' if law else ''} tries the cell alone; "
        "textgen --traceback COMMAND ... shows the whole traceback.",
    )


@contextmanager
def blamed(using: type[Cell] | None = None) -> Iterator[None]:
    """Raise what a plugin's code raises inside as PluginError, its cause the original. Other exceptions pass."""
    try:
        yield
    except (Exception, SystemExit) as error:
        found = attributed(error, using)
        if found is None:
            raise
        raise found from error


def suspects() -> list[Entry]:
    """The plugins of other packages whose cells this process has loaded."""
    return list(dict.fromkeys(_strangers.values()))
