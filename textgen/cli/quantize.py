"""textgen quantize: a model folder with weights in eight bits."""

from __future__ import annotations

from pathlib import Path

import click

from textgen.cli.screen import Output, say


@click.command("quantize", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("model")
@click.argument("output")
def command(model: str, output: str) -> int:
    """Write folder OUTPUT: MODEL with weights in eight bits, a quarter of their size, to give away or to sample from
    faster (with onnxruntime: pip install 'textgen-lm[int8]')."""
    from textgen.cli.sample import model_folder
    from textgen.runtime.quantize import quantize

    before, after = quantize(model_folder(model), Path(output))
    say(f"{before / 1e6:,.2f} MB of weights · {after / 1e6:,.2f} MB in eight bits")
    Output().write(f"{output}\n")
    return 0
