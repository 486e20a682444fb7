"""Options from a file: a TOML table per command, keys spelled like long options; or the training_args.json of a run."""

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
    """The default values per command from a file, or from ./textgen.toml. Raises UsageError for unknown keys.

    Only the table of the current command is read, so that no other command is imported.
    """
    file = Path(path) if path else Path(LOCAL)
    if path is None and not file.is_file():
        return {}
    tables = _read(file)
    commands = group.list_commands(ctx)
    for name, table in tables.items():
        if name not in commands:
            raise UsageError(f"{file}: unknown command {name!r}.{did_you_mean(name, commands)}")
        if not isinstance(table, dict):
            raise UsageError(f"{file}: {name!r} must be a table of options, not {table!r}.")
    current = ctx.invoked_subcommand
    command = group.get_command(ctx, current) if current in tables else None
    return {current: _by_parameter(tables[current], command, str(file))} if current and command else {}


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
        raise TextgenError(f"config file {str(file)!r} is invalid: {error}.") from None


def _arguments_of_a_run(content: Mapping[str, Any]) -> dict[str, Any]:
    """The options stored with a run, with its steps instead of the minutes or epochs they were planned from."""
    left_out = {"minutes", "epochs", "output_dir", "overwrite_output_dir", "cell_options"}
    options = {k: v for k, v in content["options"].items() if k not in left_out and v is not None}
    return {**options, "cell-options": content["options"]["cell_options"]}


def _by_parameter(table: Mapping[str, Any], command: click.Command, file: str) -> dict[str, Any]:
    """A table's values by parameter name; the options of the cell are in a table `cell-options`."""
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
