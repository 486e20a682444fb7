"""Plugins found by entry point, loaded one by one, and named when they are broken.

An entry point in the group `textgen` gives a name (or an alias) and the module that registers it. Listing reads
metadata only; a module is imported when something in it is needed. If it then fails to import, exits, misspells a hook
or claims a name that is taken, only this plugin fails.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from textgen import __version__, hookspecs
from textgen.errors import TextgenError, UsageError, brought, did_you_mean, out_of_memory, place_of, summary_of, text_of
from textgen.plugin_metadata import CELLS, GROUP, KINDS, Kind, installed_entries, normal, read_again
from textgen.plugin_metadata import OWN_DISTRIBUTION as OWN_DISTRIBUTION
from textgen.plugin_metadata import Entry as Entry

if TYPE_CHECKING:
    from textgen.cells import Cell

RESTRICT = "TEXTGEN_LOAD_PLUGINS"

BUILT_IN_TASKS: dict[str, str] = {
    "lm": "textgen.tasks.language",
    "complete": "textgen.tasks.completion",
    "classify": "textgen.tasks.classification",
    "forecast": "textgen.tasks.forecasting",
}
"""The tasks of this package by name, and the module that registers each."""

_BUILT_IN = {"tasks": BUILT_IN_TASKS}
"""What this package offers without an entry point, by kind."""

Accepts = type | Callable[[object], bool]
"""What may be registered: instances of a type, or whatever a function finds acceptable."""

_manager = pluggy.PluginManager(GROUP)
_manager.add_hookspecs(hookspecs)
_loading = threading.RLock()
_registered: dict[tuple[str, str], dict[str, Any]] = {}
"""What each module has registered, by module and kind."""
_loaded: dict[Entry, Any] = {}
"""The things that this process has loaded."""
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
    """A plugin that cannot be used, or that failed at work; the message names it and its package."""


def _allowed(entry: Entry) -> bool:
    """Ours always; others as TEXTGEN_LOAD_PLUGINS says (packages or names, by comma; empty means none)."""
    names = os.environ.get(RESTRICT)
    if names is None or entry.distribution == OWN_DISTRIBUTION:
        return True
    wanted = {name.strip() for name in names.split(",")}
    return entry.name in wanted or normal(entry.distribution) in {normal(name) for name in wanted}


def entries(kind: str = CELLS) -> dict[str, list[Entry]]:
    """Every name of a kind with the packages that claim it, built-in ones first; imports nothing."""
    own = [
        Entry(name, module, OWN_DISTRIBUTION, __version__, kind=kind)
        for name, module in _BUILT_IN.get(kind, {}).items()
    ]
    installed = [entry for entry in installed_entries() if entry.kind == kind and _allowed(entry)]
    found: dict[str, list[Entry]] = {}
    for entry in [*own, *sorted(installed, key=lambda e: (e.name, e.distribution))]:
        found.setdefault(entry.name, []).append(entry)
    return found


def names(kind: str) -> list[str]:
    """Every name of a kind, built-in ones first; imports nothing."""
    return list(entries(kind))


def owner(name: str, kind: str = CELLS) -> Entry:
    """The one plugin that a name belongs to. Raises UsageError if unknown, PluginError if two claim it.

    A built-in name stays ours, whoever else claims it.
    """
    found, noun = entries(kind), KINDS[kind].noun
    if name not in found:
        hint = f"installed: {', '.join(found)}." if found else f"no installed package offers a {noun}."
        raise UsageError(f"no {noun} named {name!r}.{did_you_mean(name, found)}", hint=hint)
    claims = _rivals(found[name])
    if len(claims) > 1:
        packages = " and ".join(entry.package for entry in claims)
        raise PluginError(f"{noun} {name!r} is claimed by {packages}.", hint=f"uninstall one, or set {RESTRICT}.")
    return claims[0]


def _rivals(claims: list[Entry]) -> list[Entry]:
    """Those of the packages with one name that have a claim to it: ours alone; else all usable ones."""
    own = [entry for entry in claims if entry.distribution == OWN_DISTRIBUTION]
    return own[:1] or [entry for entry in claims if not entry.problem] or claims[:1]


def refusals() -> list[tuple[Entry, str]]:
    """Entries of all kinds that cannot be used, as far as metadata tells, with the reason."""
    refused = []
    for name, claims in [each for kind in KINDS for each in entries(kind).items()]:
        rivals = _rivals(claims)
        for entry in claims:
            others = " and ".join(other.package for other in rivals if other != entry)
            taken = f"the name {name!r} is taken by {others}" if others else ""
            if reason := entry.problem or taken or entry.refusal:
                refused.append((entry, reason))
    return refused


def is_cell(thing: object) -> bool:
    """Whether this is a class of cells."""
    from textgen.cells import Cell

    return isinstance(thing, type) and issubclass(thing, Cell)


A_CELL = "a subclass of textgen.Cell"


def load_module(
    module: str, kind: str = CELLS, accepts: Accepts = is_cell, expected: str = A_CELL
) -> Mapping[str, Any]:
    """Import a plugin module and collect what it registers of one kind; what it prints goes to standard error. Raises
    PluginError for whatever is wrong with it."""
    with _loading:
        if (module, kind) not in _registered:
            _registered[module, kind] = _collected(module, KINDS[kind], accepts, expected)
        return _registered[module, kind]


def _collected(module: str, kind: Kind, accepts: Accepts, expected: str) -> dict[str, Any]:
    registered: dict[str, Any] = {}
    if isinstance(accepts, type):
        expected = expected or f"an instance of {accepts.__module__}.{accepts.__qualname__}"

    def register(name: str, thing: object, /) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(f"a {kind.noun}'s name must be text, not {name!r}")
        if not (isinstance(thing, accepts) if isinstance(accepts, type) else accepts(thing)):
            raise TypeError(f"{name!r} must be {expected}, not {thing!r}")
        if name in registered:
            raise ValueError(f"{name!r} is registered twice")
        registered[name] = thing

    try:
        with redirect_stdout(sys.stderr):
            _call(module, kind, register)
    except (Exception, SystemExit) as error:
        raise PluginError(_reason(error, module)) from error
    if not registered:
        _unregister(module)
        raise PluginError(f"it registers no {kind.noun} (is @textgen.hookimpl above {kind.hook}?)")
    return registered


def _call(module: str, kind: Kind, register: Callable[[str, object], None]) -> None:
    """Register a module with the manager, check all of its hooks, and call only its hook of this kind. A module that
    fails is unregistered."""
    plugin = import_module(module)
    try:
        if _manager.get_plugin(module) is not plugin:
            _unregister(module)
            _manager.register(plugin, name=module)
        _manager.check_pending()
        others = [other for other in _manager.get_plugins() if other is not plugin]
        _manager.subset_hook_caller(kind.hook, others)(register=register)
    except BaseException:
        _unregister(module)
        raise


def _unregister(module: str) -> None:
    if _manager.has_plugin(module):
        _manager.unregister(name=module)


def forget() -> None:
    """Forget every module that was loaded and all metadata: what is asked for next is read and loaded anew."""
    with _loading:
        for module, _ in _manager.list_name_plugin():
            _unregister(module)
        _registered.clear()
        _loaded.clear()
        read_again()


def _reason(error: BaseException, module: str) -> str:
    """What went wrong while a module was loaded, and where in it."""
    place = None if isinstance(error, (SyntaxError, TextgenError)) else place_of(error, [module])
    where = f" ({place})" if place else ""
    if isinstance(error, SystemExit):
        return f"it exits with {error.code!r}{where}"
    plain = isinstance(error, (ImportError, TextgenError)) and text_of(error)
    return f"{plain or summary_of(error)}{where}"


def load(entry: Entry, accepts: Accepts = is_cell, expected: str = A_CELL) -> Any:
    """What an entry point offers: for a cell, its class. Raises PluginError naming the plugin, its package and the
    reason."""
    if entry in _loaded:
        return _loaded[entry]
    if entry.refusal:
        raise _failed_to_load(entry, entry.refusal)
    try:
        registered = load_module(entry.module, entry.kind, accepts, expected)
    except PluginError as error:
        raise _failed_to_load(entry, f"{error}{f' ({entry.notice})' if entry.notice else ''}") from error
    if entry.name not in registered:
        raise PluginError(
            f"{entry.package} has an entry point for {entry.noun} {entry.name!r}, but {entry.module} "
            f"registers {', '.join(map(repr, registered))}.",
            hint=f"register it under this name, or uninstall {entry.distribution}.",
        )
    if entry.distribution != OWN_DISTRIBUTION and entry.kind == CELLS:
        brought(registered[entry.name], entry.package)
    _loaded[entry] = registered[entry.name]
    return _loaded[entry]


def _failed_to_load(entry: Entry, reason: str) -> PluginError:
    return PluginError(
        f"{entry.noun} {entry.name!r} comes from {entry.package}, which failed to load: {reason.removesuffix('.')}.",
        hint="textgen plugins shows every plugin; TEXTGEN_RAISE_ERRORS=1 shows where it failed.",
    )


def unlisted(module: str, kind: str = CELLS) -> list[str]:
    """Names of a kind that a loaded module registers without having an entry point for them."""
    claims = [entry for each in entries(kind).values() for entry in each]
    listed = {entry.name for entry in [*claims, *installed_entries()] if (entry.module, entry.kind) == (module, kind)}
    return sorted(_registered.get((module, kind), {}).keys() - listed)


def registered(kind: str, name: str, accepts: Accepts, expected: str = "") -> Any:
    """The thing of a kind that is registered under a name. Raises UsageError if there is none, PluginError if its
    plugin is broken or registers something that `accepts`, described by `expected`, does not accept."""
    return load(owner(name, kind), accepts, expected)


def cell(name: str) -> type[Cell]:
    """The cell class of that name. Raises UsageError if there is none, PluginError if its plugin is broken.

    Example:
        >>> cell("lstm").gates
        4
    """
    found: type[Cell] = registered(CELLS, name, is_cell, A_CELL)
    return found


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

    `using` is the cell that was running, if that is known; it is responsible for what it makes other code raise, too.
    None for an exception in which no plugin has a part, and for those that explain themselves: a command may exit, and
    may fail to open a file.
    """
    if isinstance(error, TextgenError) or out_of_memory(error):
        return None
    foreign = _foreign()
    by_module = {entry.module: entry for entry in foreign}
    place = place_of(error, by_module)
    entry = next((each for each in reversed(foreign) if using and _loaded[each] is using), None)
    if place and (entry is None or entry.module != place.module):
        entry = by_module[place.module]
    if entry is None or (entry.kind == "commands" and isinstance(error, (SystemExit, OSError))):
        return None
    law = _LAWS.get(place.entered) if place else None
    alone = f"textgen plugins check {entry.name}{f' --law {law}' if law else ''} tries the cell alone; "
    return PluginError(
        f"{entry.noun} {entry.name!r} of {entry.package} failed{f' at {place}' if place else ''}: "
        f"{summary_of(error).removesuffix('.')}.",
        hint=f"{alone if entry.kind == CELLS else ''}textgen --traceback COMMAND ... shows the whole traceback.",
    )


def _foreign() -> list[Entry]:
    """The plugins of other packages that this process has loaded."""
    return [entry for entry in _loaded if entry.distribution != OWN_DISTRIBUTION]


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
    return [entry for entry in _foreign() if entry.kind == CELLS]


A_FOLDER = "the path of a model folder, as text or as pathlib.Path"


def is_folder(thing: object) -> bool:
    """Whether this is the path of a folder that exists."""
    return isinstance(thing, (str, os.PathLike)) and Path(thing).is_dir()


def base_names() -> list[str]:
    """The pretrained models that installed packages offer; imports nothing."""
    return names("models")


def find(name: str) -> Path | None:
    """The folder of the pretrained model of that name; None if no package offers one. Raises PluginError if its
    package is broken."""
    if name not in base_names():
        return None
    return Path(registered("models", name, is_folder, A_FOLDER))
