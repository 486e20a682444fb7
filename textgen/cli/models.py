"""textgen models: the pretrained models that installed packages offer."""

from __future__ import annotations

import json

import click

from textgen import plugins, storage
from textgen.cli.params import json_option
from textgen.cli.plugins import print_listed
from textgen.errors import TextgenError, did_you_mean
from textgen.formatting import plural
from textgen.model import CARD, WEIGHTS, read_config, require_model
from textgen.screen import Output, say


@click.group("models", invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the pretrained models that installed packages offer; `textgen models show NAME` prints the card of one."""
    ctx.obj = as_json
    if ctx.invoked_subcommand is None:
        _list(as_json)


@command.command("list")
@json_option
@click.pass_obj
def list_command(before: bool, as_json: bool) -> None:
    """List the installed models."""
    _list(before or as_json)


def _list(as_json: bool) -> None:
    """Every model by name."""
    if not plugins.base_names() and not as_json:
        say("No pretrained models are installed; a package brings one: docs/write-a-cell.md.")
        return
    print_listed("models", as_json)


@command.command("show")
@click.argument("name")
@json_option
@click.pass_obj
def show(before: bool, name: str, as_json: bool) -> None:
    """Describe an installed model: its size, and its card with data, license and limits."""
    folder = plugins.find(name)
    if folder is None:
        near = did_you_mean(name, plugins.base_names())
        raise TextgenError(f"there is no installed model {name!r}.{near}", hint="textgen models lists them.")
    require_model(folder)
    manifest = storage.read_manifest(folder)
    config, files = read_config(folder, manifest), manifest["files"]
    card = storage.verified(folder, CARD, manifest).decode() if CARD in files else ""
    content = {
        "model": name,
        "folder": str(folder),
        "package": plugins.owner(name, "models").package,
        "task": config.task,
        "cell": config.cell,
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "weights_bytes": files[WEIGHTS]["size"],
    }
    if before or as_json:
        Output().write(json.dumps({**content, "card": card}) + "\n")
        return
    shape = f"{config.cell} {config.num_layers} x {config.hidden_size}"
    size = f"{files[WEIGHTS]['size'] / 1e6:,.1f} MB"
    parts = [content["package"], shape, plural(config.vocab_size, "token"), size, str(folder)]
    Output().write(f"{name}: {' · '.join(map(str, parts))}\n\n{_without_header(card).strip()}\n")


def _without_header(card: str) -> str:
    """A model card without the metadata at its beginning."""
    return card.partition("\n---\n")[2] if card.startswith("---\n") else card
