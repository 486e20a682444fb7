"""textgen predict: predictions of models that do not generate text."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from textgen.cli.model_folders import options_of_model, requested
from textgen.cli.params import (
    check_corpus,
    layered,
    model_option,
    options_of,
    overwrite_option,
    quoted,
    threads_option,
)
from textgen.data import ReadingOptions
from textgen.errors import UsageError
from textgen.screen import encodings_said, reading_said
from textgen.tasks import built_in_tasks

COMMON = (
    *("model", "as_json", "output", "plot", "whole_files", "threshold", "explain", "explain_html"),
    *("horizon", "level", "quantiles", "future", "samples"),
    *("encoding", "text_column", "threads", "overwrite"),
)
OPTIONS = {task.name: task.prediction for task in built_in_tasks() if task.prediction}


@click.command("predict", cls=layered(COMMON, *OPTIONS.values(), extra=options_of_model("prediction")))
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@model_option
@click.option("--json", "as_json", is_flag=True, help="Print each prediction as a JSON object on its own line.")
@options_of(*OPTIONS.values(), remembered=[field.name for field in fields(ReadingOptions)])
@overwrite_option()
@threads_option
@encodings_said()
def command(inputs: tuple[str, ...], **values: Any) -> int:
    """Predict with a model that does not generate text: a label for each text, the next values of each series, or what
    the task of an installed package predicts.

    INPUT is read with the encoding, document separator and columns of training, unless you give others.
    """
    for typed in inputs:
        if len(typed.split()) > 2 and not Path(typed).exists():  # a text instead of a file
            raise UsageError(f"there is no file {typed!r}.", hint=f"echo {quoted(typed)} | textgen predict -")
    check_corpus("predict", inputs)
    task, request = requested(inputs, "prediction", OPTIONS, values)
    with request.reading.explained(), reading_said(request.reading.said(inputs)):
        task.predict(request)
    return 0
