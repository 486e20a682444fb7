"""textgen evaluate: how good a model is, whatever its task."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import click

from textgen.cli.model_folders import options_of_model, requested
from textgen.cli.params import (
    check_corpus,
    layered,
    model_option,
    options_of,
    overwrite_option,
    threads_option,
)
from textgen.data import Reading
from textgen.errors import UsageError
from textgen.options import flag
from textgen.screen import encodings_said, reading_said
from textgen.tasks import built_in_tasks

COMMON = (
    *("model", "as_json", "plot", "per_token", "encoding", "text_column", "label_column", "prompt_column"),
    *("completion_column", "threshold", "horizon", "level", "threads", "backend", "overwrite"),
)
OPTIONS = {task.name: task.evaluation for task in built_in_tasks()}
READING = tuple(field.name for field in fields(Reading))


@click.command("evaluate", cls=layered(COMMON, *OPTIONS.values(), extra=options_of_model("evaluation")))
@click.argument("corpus", nargs=-1)
@model_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print the metrics as a JSON object; with --per-token, one more per token."
)
@options_of(*OPTIONS.values(), remembered=READING)
@overwrite_option()
@threads_option
@encodings_said()
def command(corpus: tuple[str, ...], **values: Any) -> int:
    """Measure how good a model is on CORPUS: loss, perplexity and bits per byte if it generates text, or the metrics of
    its task. Without CORPUS, the held-out part of the training data is used; of a corpus given by name, the test part.

    CORPUS is read with the encoding, document separator and columns of training, unless you give others. Every byte of
    a text counts once and the hidden state is carried; each lane first reads a thousand tokens that do not count.
    """
    reading = [name for name in READING if values.get(name) is not None]
    if not corpus and reading:
        raise UsageError(f"{flag(reading[0])} goes with a corpus.")
    if values["per_token"] and values["lanes"] not in (None, 1):
        raise UsageError(f"--per-token reads in one piece and excludes --lanes {values['lanes']}.")
    check_corpus("evaluate", corpus)
    task, request = requested(corpus, "evaluation", OPTIONS, values)
    with request.reading.explained(), reading_said(request.reading.said(corpus)):
        task.evaluate(request)
    return 0
