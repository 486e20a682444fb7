"""Commands of installed packages: listed from their metadata, imported when they are called."""

from __future__ import annotations

from collections.abc import Collection

import click

from textgen import plugins
from textgen.plugins import Entry, PluginError

A_COMMAND = "a click.Command"


def listed(built_in: Collection[str]) -> dict[str, str]:
    """The commands of installed packages, with one line each; imports no plugin."""
    return {name: _line(name) for name in plugins.names("commands") if name not in built_in}


def _line(name: str) -> str:
    """The line on a command: the package's summary, else the first line of the module; or why it cannot be used."""
    try:
        entry = plugins.owner(name, "commands")
    except PluginError as error:
        return f"Cannot be used: {error}"
    return f"Cannot be used: {entry.refusal}." if entry.refusal else entry.about or entry.summary


def load(name: str) -> click.Command:
    """The command of that name. Raises UsageError if there is none, PluginError if its package is broken."""
    command: click.Command = plugins.registered("commands", name, click.Command, A_COMMAND)
    return command


def clashes(built_in: Collection[str]) -> list[tuple[Entry, str]]:
    """The entry points with the name of a built-in command, and what is wrong with that."""
    claims = [entry for each in plugins.entries("commands").values() for entry in each]
    reason = f"the name {{!r}} is taken by {plugins.OWN_DISTRIBUTION}"
    return [(entry, reason.format(entry.name)) for entry in claims if entry.name in built_in]
