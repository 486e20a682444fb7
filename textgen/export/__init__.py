"""Write a trained model in other forms: a web page that runs it offline, a JavaScript module, an ONNX graph.

All of them come from the stored step (`step.json`), which is data, so that they exist for every cell that can be
traced, those of other packages included. Imports neither numpy nor torch.
"""

from __future__ import annotations

from pathlib import Path

from textgen.errors import UsageError
from textgen.options import choice, named

FORMATS = ("html", "onnx", "js")
"""The forms of an export: a page, a graph, and a folder with a JavaScript module."""
DTYPES = ("float32", "float16", "int8")
"""How weights can be stored."""


def format_of(output: Path, given: str | None = None) -> str:
    """The form of an export: the given one, or what the file's ending says. Raises UsageError if neither does."""
    if given is not None:
        return choice("format", given, FORMATS)
    ending = output.suffix.lower().lstrip(".")
    if ending not in ("html", "onnx"):
        raise UsageError(
            f"{str(output)!r} does not say what to export.",
            hint=f"end it in .html or .onnx, or give {named('format', 'js')} for a folder.",
        )
    return ending


def export(
    folder: Path, output: Path, format: str | None = None, dtype: str | None = None, sequence: bool = False
) -> dict[str, bytes]:
    """The files of an export, by name: those of a folder for a JavaScript module, otherwise one file, or with
    `sequence` two ONNX graphs. `dtype` is how weights are stored, by default as in the model. Raises UsageError for
    options that do not fit, TextgenError for a model that cannot be exported."""
    form = format_of(output, format)
    if dtype is not None:
        choice("dtype", dtype, DTYPES)
    if sequence and form != "onnx":
        raise UsageError(f"{named('sequence')} is for ONNX, not for {form}.")
    if form == "onnx":
        from textgen.export.onnx import onnx, sequence_name
        from textgen.export.stored import facts_in, read_model

        graph, weights = read_model(folder)
        facts = facts_in(folder)
        files = {output.name: onnx(graph, weights, dtype, facts=facts)}
        return {**files, sequence_name(output): onnx(graph, weights, dtype, True, facts)} if sequence else files
    from textgen.export.bundle import bundle

    made = bundle(folder, dtype)
    if form == "js":
        from textgen.export.javascript import javascript

        return javascript(made)
    from textgen.export.html import html

    return {output.name: html(made)}
