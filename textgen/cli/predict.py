"""textgen predict: predict labels or forecasts, with models that do not generate text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from textgen.cli.models import request_options, requested
from textgen.cli.params import check_corpus, encodings_said, options_of, overwrite_option, quoted, reading_said
from textgen.errors import UsageError
from textgen.tasks import tasks

OPTIONS = {task.name: task.prediction for task in tasks() if task.prediction}


@click.command("predict", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@request_options
@options_of(*OPTIONS.values())
@overwrite_option()
@encodings_said()
def command(inputs: tuple[str, ...], **values: Any) -> int:
    """Predict the label of each text, or the next values of each series.

    INPUT is read with the encoding, document separator and columns of training, unless you give others.
    """
    _refuse_words(inputs)
    check_corpus("predict", inputs)
    task, request = requested(inputs, OPTIONS, values)
    with request.reading.explained(), reading_said(request.reading.said(inputs)):
        task.predict(request)
    return 0


def _refuse_words(inputs: tuple[str, ...]) -> None:
    """Raise UsageError for a text given instead of a file."""
    for typed in inputs:
        if len(typed.split()) > 2 and not Path(typed).exists():
            raise UsageError(f"there is no file {typed!r}.", hint=f"echo {quoted(typed)} | textgen predict -")
