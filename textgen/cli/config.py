"""Settings from a file: one TOML table a verb, keys spelled as the long options; or a run's training_args.json."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from textgen.errors import TextgenError, UsageError, did_you_mean

LOCAL = "textgen.toml"


def defaults_from(path: str | None, group: click.Group, ctx: click.Context) -> dict[str, Any]:
    """The default values, verb by verb, that a file (or ./textgen.toml) gives. Raises UsageError for unknown keys.

    Only the verb at hand is looked into, so that no other needs importing.
    """
    file = Path(path) if path else Path(LOCAL)
    if path is None and not file.is_file():
        return {}
    tables = _read(file)
    for verb, table in tables.items():
        if verb not in group.list_commands(ctx):
            raise UsageError(f"{file}: there is no verb {verb!r}.{did_you_mean(verb, group.list_commands(ctx))}")
        if not isinstance(table, dict):
            raise UsageError(f"{file}: {verb!r} must be a table of options, not {table!r}.")
    at_hand = ctx.invoked_subcommand
    command = group.get_command(ctx, at_hand) if at_hand in tables else None
    return {at_hand: _named(tables[at_hand], command, str(file))} if at_hand and command else {}


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"config file {str(file)!r} does not exist.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TextgenError(f"config file {str(file)!r} cannot be read: {error}.") from None
    try:
        if file.suffix == ".json":
            return {"train": _arguments_of_a_run(json.loads(text))}
        return tomllib.loads(text)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TextgenError(f"config file {str(file)!r} is not what it should be: {error}.") from None


def _arguments_of_a_run(content: Mapping[str, Any]) -> dict[str, Any]:
    """The options stored with a run; steps stand for the minutes or epochs that they were planned from."""
    left_out = {"minutes", "epochs", "output_dir", "overwrite_output_dir", "cell_options"}
    options = {k: v for k, v in content["options"].items() if k not in left_out and v is not None}
    return {**options, "cell-options": content["options"]["cell_options"]}


def _named(table: Mapping[str, Any], command: click.Command, file: str) -> dict[str, Any]:
    """A table's values by parameter name; the cell's own options stand in a table `cell-options`."""
    known = {_plain(spelling): p.name for p in command.params for spelling in (*p.opts, p.name or "")}
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = _plain(key)
        if isinstance(value, dict) and name == "cell_options":
            values["cell_options"] = [(option, str(content)) for option, content in value.items()]
            continue
        if name not in known or known[name] is None:
            raise UsageError(f"{file}: {command.name} has no option {key!r}.{did_you_mean(name, known)}")
        values[str(known[name])] = value
    return values


def _plain(spelling: str) -> str:
    return spelling.lstrip("-").replace("-", "_")
