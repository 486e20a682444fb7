"""textgen plugins new: create a plugin package, ready to install, train and publish."""

from __future__ import annotations

import shlex
from typing import Any

import click

from textgen.cli.params import given, options_of
from textgen.errors import UsageError
from textgen.options import from_mapping
from textgen.scaffold.kinds import KINDS
from textgen.scaffold.package import Package, create
from textgen.scaffold.settings import ScaffoldOptions
from textgen.screen import Output, say
from textgen.wording import table


@click.command("new", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("name", required=False)
@options_of(ScaffoldOptions)
@click.option("--list", "list_kinds", is_flag=True, help="Show the kinds of cell and when to use each.")
def command(name: str | None, list_kinds: bool, **values: Any) -> None:
    """Create a working package textgen-NAME with a cell called NAME."""
    if list_kinds:
        rows = [{"kind": kind.name, "you write": kind.writes, "when": kind.when} for kind in KINDS.values()]
        Output().write(table(rows, ["kind", "you write", "when"]) + "\n")
        return
    if name is None:
        raise UsageError("no name given.", hint="textgen plugins new mycell; --list shows the kinds of cell.")
    package = create(name, from_mapping(ScaffoldOptions, given(ScaffoldOptions, values)))
    names = package.names
    Output().write(f"{package.folder}\n")
    say(f"cell {names.cell}: {names.class_name}, a {package.kind.base}, in {names.module}.py")
    say("next:")
    for line in next_steps(package):
        say(f"  {line}")


def next_steps(package: Package) -> list[str]:
    """Commands that install the package, then check, train and sample its cell."""
    cell, folder = package.names.cell, package.folder
    place = shlex.quote(str(folder) if folder.is_absolute() else f"./{folder}")
    return [
        f"pip install -e {place}",
        f"textgen plugins check {cell}",
        f"textgen train --cell {cell} stories --minutes 1",
        "textgen sample",
    ]
