"""textgen quantize: write a model folder with int8 or float16 weights."""

from __future__ import annotations

from pathlib import Path

import click

from textgen.cli.model_folders import model_folder
from textgen.cli.params import overwrite_option
from textgen.model import STEP, STORED_TYPES
from textgen.screen import Output, say
from textgen.storage.outputs import check_folder


@click.command("quantize")
@click.argument("model")
@click.argument("output")
@click.option(
    "--dtype",
    type=click.Choice(STORED_TYPES),
    default=STORED_TYPES[0],
    help="How to store the weights; training can go on only from float16.  [default: int8]",
)
@overwrite_option("--overwrite-output-dir")
def command(model: str, output: str, dtype: str, overwrite: bool) -> int:
    """Write MODEL to the folder OUTPUT with int8 weights: a quarter of the size, and faster sampling with onnxruntime
    (pip install 'textgen-lm[int8]'). Float16 weights take half the size and lose almost nothing."""
    from textgen.runtime import quantize

    folder = model_folder(model)
    check_folder(
        Path(output), "OUTPUT", "a model folder", lambda manifest: STEP in manifest["files"], [folder], overwrite
    )
    before, after = quantize(folder, Path(output), overwrite, dtype)
    say(f"weights: {before / 1e6:,.2f} MB -> {after / 1e6:,.2f} MB ({dtype})")
    Output().write(f"{output}\n")
    return 0
