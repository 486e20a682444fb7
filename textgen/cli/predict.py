"""textgen predict: what a model says of texts or series, for models that do not write text."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from textgen.cli.params import given, options_of, refuse_of_another_task, whole_number
from textgen.cli.screen import encodings_said, reading_said
from textgen.errors import TextgenError
from textgen.model_folder import remembered_reading, task_of
from textgen.series.settings import ForecastOptions
from textgen.text.corpus_settings import ReadingOptions
from textgen.text.reading import Reading

OTHER_TASKS = {"classify": "textgen.cli.predict_labels", "forecast": "textgen.cli.predict_series"}
"""The tasks whose models predict, and the module whose `predict` takes a `PredictionRequest`."""

OWN = {
    **{f.name: ("classify",) for f in fields(ReadingOptions) if f.name in ("text_column", "document_separator")},
    **{f.name: ("forecast",) for f in fields(ForecastOptions)},
    "whole_files": ("classify",),
    "output": ("forecast",),
    "plot": ("forecast",),
}
"""The options that not every task has, and the tasks that have them."""


@dataclass(frozen=True)
class PredictionRequest:
    """What was asked of a model."""

    folder: Path
    inputs: tuple[str, ...]
    threads: int | None
    as_json: bool
    reading: Reading
    forecasting: ForecastOptions
    output: str | None
    plot: str | None


@click.command("predict", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@click.option("-m", "--model", metavar="DIR", help="The model folder.  [default: $TEXTGEN_MODEL, or the latest run]")
@options_of(ReadingOptions)
@click.option(
    "--whole-files/--lines",
    default=None,
    help="A plain file is one text, or one a line.  [default: as in training; lines after tables]",
)
@click.option("--threads", type=whole_number(1, 1024), help="Processor threads.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("-o", "--output", metavar="FILE", help="Write to this file instead of standard output.")
@options_of(ForecastOptions)
@click.option("--plot", metavar="FILE", help="Draw the forecasts (PNG).")
@encodings_said()
def command(inputs: tuple[str, ...], model: str | None, threads: int | None, as_json: bool, **values: Any) -> int:
    """Say what a trained model makes of INPUT: the label of every text, or how every series goes on.

    INPUT is read as in training: with that encoding, document separator and columns, unless options given here say
    otherwise.
    """
    from textgen.cli.sample import model_folder

    folder = model_folder(model)
    task = task_of(folder)
    if task not in OTHER_TASKS:
        raise TextgenError(
            f"the model in {str(folder)!r} writes text.", hint=f'textgen sample -m {folder} --prompt "..."'
        )
    named, forecasting = given(Reading, values), given(ForecastOptions, values)
    others = {name: values[name] for name in ("output", "plot")}
    refuse_of_another_task(task, {**named, **forecasting, **others}, OWN)
    reading = remembered_reading(folder, named)
    request = PredictionRequest(folder, inputs, threads, as_json, reading, ForecastOptions(**forecasting), **others)
    with reading.explained(), reading_said(reading.said(inputs)):
        return import_module(OTHER_TASKS[task]).predict(request)  # type: ignore[no-any-return]
