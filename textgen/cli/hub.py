"""textgen pull and textgen push: models from and to the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

import click

from textgen.cli.model_folders import model_folder
from textgen.screen import Output, say


@click.command("pull")
@click.argument("name")
@click.argument("folder", required=False)
def pull_command(name: str, folder: str | None) -> int:
    """Download the model NAME, hub:owner/name or hub:owner/name@revision, into FOLDER, by default the cache.

    The model can then be used without a connection. Wherever a model is named, hub:owner/name works at once, too.
    Needs pip install 'textgen-lm[hub]'.
    """
    from textgen.hub import pull

    target = Path(folder) if folder is not None else None
    pulled = pull(name, target)
    say(f"{pulled.repository} at {pulled.commit[:12]}: {pulled.size / 1e6:,.2f} MB")
    Output().write(f"{os.fspath(pulled.folder)}\n")
    return 0


@click.command("push")
@click.argument("model")
@click.argument("name")
@click.option("--license", metavar="NAME", help="License of the model, written into its card: mit, cc-by-4.0, ...")
@click.option("--private", is_flag=True, help="Create the repository as a private one, if it does not exist.")
@click.option("--dry-run", is_flag=True, help="Show what would be uploaded, and upload nothing.")
def push_command(model: str, name: str, license: str | None, private: bool, dry_run: bool) -> int:
    """Upload MODEL to the Hub as NAME, hub:owner/name: weights, configuration, tokenizer and card; never checkpoints,
    metrics, or the options of the training, which hold paths of this machine.

    Log in first: hf auth login, or set HF_TOKEN. Needs pip install 'textgen-lm[hub]'.
    """
    from textgen.hub import parse, push
    from textgen.model.publishing import published

    folder, output = model_folder(model), Output()
    if dry_run:
        parse(name)
        for file, content in published(folder, license).items():
            output.write(f"{len(content):12,}  {file}\n")
        return 0
    output.write(f"{push(published(folder, license), name, private)}\n")
    return 0
