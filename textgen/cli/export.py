"""textgen export: write a model as a web page, a JavaScript module or an ONNX graph."""

from __future__ import annotations

from pathlib import Path

import click

from textgen.cli.model_folders import model_folder
from textgen.cli.params import output_file, overwrite_option
from textgen.export import DTYPES, FORMATS, export, format_of
from textgen.screen import Output, say
from textgen.storage import filesystem
from textgen.storage.outputs import GRAPH, PAGE, check_folder

KINDS = {"html": PAGE, "onnx": GRAPH}
SCRIPT = "textgen.js"


@click.command("export")
@click.argument("model")
@click.argument("output")
@click.option("--format", type=click.Choice(FORMATS), help="What to write.  [default: by the ending of OUTPUT]")
@click.option("--dtype", type=click.Choice(DTYPES), help="How to store the weights.  [default: as in the model]")
@click.option("--sequence", is_flag=True, help="ONNX: also write a graph that reads a whole sequence.")
@overwrite_option("--overwrite-output-dir")
def command(model: str, output: str, format: str | None, dtype: str | None, sequence: bool, overwrite: bool) -> int:
    """Write MODEL so that it runs elsewhere, with the step that every model folder holds.

    \b
    page.html      one file that writes text offline, in any browser; send it to a friend
    model.onnx     a graph for onnxruntime (pip install 'textgen-lm[onnx]')
    --format js    a folder with a JavaScript module for web pages and node
    """
    folder, path = model_folder(model), Path(output)
    form = format_of(path, format)
    if form in KINDS:
        output_file(output, "OUTPUT", KINDS[form], [folder], overwrite)
    else:
        check_folder(path, "OUTPUT", "an export", lambda manifest: SCRIPT in manifest["files"], [folder], overwrite)
    files = export(folder, path, form, dtype, sequence)
    if form in KINDS:
        places = (str(path.with_name(name)) for name in files)
        outputs = [output_file(place, "OUTPUT", KINDS[form], [folder], overwrite) for place in places]
        for each, content in zip(outputs, files.values(), strict=True):
            each.write(content)
    else:
        with filesystem.new_folder(path, overwrite) as new:
            for name, content in files.items():
                new.write(name, content)
    say(f"{form}: {sum(map(len, files.values())) / 1e6:,.2f} MB")
    Output().write(f"{output}\n")
    return 0
