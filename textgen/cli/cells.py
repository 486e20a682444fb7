"""textgen cells: the installed cells and their packages."""

from __future__ import annotations

import inspect
import json

import click

from textgen import plugins
from textgen.cli.params import json_option, whole_number
from textgen.cli.plugins import print_listed
from textgen.errors import require
from textgen.formatting import count
from textgen.screen import Output

SIZE = 256


@click.group("cells", invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the installed cells; `textgen cells show NAME` describes one."""
    ctx.obj = as_json
    if ctx.invoked_subcommand is None:
        _list(as_json)


@command.command("list")
@json_option
@click.pass_obj
def list_command(before: bool, as_json: bool) -> None:
    """List the installed cells."""
    _list(before or as_json)


def _list(as_json: bool) -> None:
    """Every cell by name."""
    print_listed("cells", as_json)


@command.command("show")
@click.argument("name")
@click.option(
    "--hidden-size",
    type=whole_number(1, 65_536),
    default=SIZE,
    help=f"Count parameters for this hidden size.  [default: {SIZE}]",
)
@json_option
@click.pass_obj
def show(before: bool, name: str, hidden_size: int, as_json: bool) -> None:
    """Describe a cell: equations, options, parameters."""
    entry = plugins.owner(name)
    require("torch", "describing a cell")
    import torch

    from textgen import cells

    cell, size = plugins.cell(name), hidden_size
    options = cells.describe(cell)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in plugins.make(cell, name, size, size, {}).parameters())
    content = {
        "cell": name,
        "kind": next(base.__name__ for base in cell.__mro__[1:] if base.__module__ == "textgen.cells"),
        "package": entry.distribution,
        "version": entry.version,
        "module": entry.module,
        "about": inspect.cleandoc(cell.__doc__ or entry.summary),
        "options": {o.name: {"default": o.default, "choices": list(o.choices) or o.kind.__name__} for o in options},
        "parameters": {"hidden_size": size, "input_size": size, "count": parameters},
    }
    if before or as_json:
        Output().write(json.dumps(content) + "\n")
        return
    lines = [
        f"{name}: a {content['kind']} from {entry.distribution} {entry.version} ({entry.module})",
        "",
        str(content["about"]),
        "",
        f"{count(parameters)} parameters for hidden size {size}",
    ]
    lines += [
        f"-o {o.name} {' | '.join(map(str, o.choices)) or o.kind.__name__}  [default: {o.default}]" for o in options
    ]
    Output().write("\n".join(lines) + "\n")
