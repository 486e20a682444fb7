"""textgen quantize: write a model folder with int8 weights."""

from __future__ import annotations

from pathlib import Path

import click

from textgen.cli.models import model_folder
from textgen.cli.params import overwrite_option
from textgen.model import STEP
from textgen.screen import Output, say
from textgen.storage.outputs import check_folder


@click.command("quantize")
@click.argument("model")
@click.argument("output")
@overwrite_option("--overwrite-output-dir")
def command(model: str, output: str, overwrite: bool) -> int:
    """Write MODEL to the folder OUTPUT with int8 weights: a quarter of the size, and faster sampling with onnxruntime
    (pip install 'textgen-lm[int8]')."""
    from textgen.runtime import quantize

    folder = model_folder(model)
    check_folder(
        Path(output), "OUTPUT", "a model folder", lambda manifest: STEP in manifest["files"], [folder], overwrite
    )
    before, after = quantize(folder, Path(output), overwrite)
    say(f"weights: {before / 1e6:,.2f} MB -> {after / 1e6:,.2f} MB (int8)")
    Output().write(f"{output}\n")
    return 0
